"""ULIP's point tower against the public implementation's numbers, and its sampling against a slow reference."""

from __future__ import annotations

import golden_io
import numpy as np
import pytest
import torch

from mdtbench.base.errors import UsageError
from mdtbench.metrics.official.pointbert import (
    ULIP1,
    ULIP2_COLOURED,
    PointBertConfig,
    PointTower,
    furthest_points,
    grouped,
    nearest,
)

FIXTURES = golden_io.names("ulip2")
SMALL = PointBertConfig(channels=6, depth=2, embedding=16, trans_dim=48, num_group=32, group_size=8)


def golden_config(sidecar: dict) -> PointBertConfig:
    given = sidecar["constructor"]
    names = ("depth", "trans_dim", "num_heads", "num_group", "group_size", "encoder_dims")
    return PointBertConfig(channels=6, embedding=sidecar["embedding_dim"], **{name: given[name] for name in names})


def golden_tower(sidecar: dict) -> PointTower:
    tower = PointTower(golden_config(sidecar)).eval()
    golden_io.fill_w1(tower, sidecar["weights"]["salt"])
    return tower


def small_tower(config: PointBertConfig = SMALL) -> PointTower:
    tower = PointTower(config).eval()
    golden_io.fill_w1(tower, "small")
    return tower


def cloud(count: int, seed: int = 0) -> np.ndarray:
    """[count, 6] points in a cube of side 2 with colours."""
    random = np.random.default_rng(seed)
    return np.concatenate([random.uniform(-1, 1, (count, 3)), random.random((count, 3))], 1).astype(np.float32)


@pytest.mark.parametrize("name", FIXTURES)
def test_golden_numbers(name):
    sidecar, arrays = golden_io.load("ulip2", name)
    tower = golden_tower(sidecar)
    assert golden_io.layout(tower) == sidecar["state_dict"]
    assert golden_io.state_sha256(tower) == sidecar["weights"]["sha256_of_state_dict_bytes"]
    points = torch.from_numpy(arrays["points"])
    tolerance = {key: sidecar["tolerance"][key] for key in ("rtol", "atol")}
    with torch.inference_mode():
        encoder = tower.point_encoder
        groups, _ = grouped(points, encoder.config.num_group, encoder.config.group_size)
        tokens = encoder.encoder(groups)
        np.testing.assert_allclose(tokens.mean(1), arrays["out_group_tokens_mean"], **tolerance)
        feature = encoder(points)
        embedding = feature @ tower.pc_projection
    np.testing.assert_allclose(feature, arrays["out_feature"], **tolerance)
    np.testing.assert_allclose(embedding, arrays["out_embedding"], **tolerance)
    unit = embedding / embedding.norm(dim=-1, keepdim=True)
    # The stated tolerance is of the embedding, whose norm is above 10: a unit vector is held to a tenth of it.
    np.testing.assert_allclose(unit, arrays["out_embedding_normalised"], rtol=1e-3, atol=tolerance["atol"] / 10)


@pytest.mark.parametrize("name", FIXTURES)
def test_golden_centres_are_exact(name):
    sidecar, arrays = golden_io.load("ulip2", name)
    for points, expected in zip(arrays["points"], arrays["fps_indices"], strict=True):
        assert furthest_points(points[:, :3], sidecar["constructor"]["num_group"]).tolist() == expected.tolist()


def test_keys_of_the_published_checkpoint():
    sidecar, _ = golden_io.load("full_size_keys", "ulip2_pointbert_colored")
    tower = PointTower(ULIP2_COLOURED)
    assert golden_io.layout(tower) == [entry for entry in sidecar["state_dict"] if entry[0] != "logit_scale"]
    assert sum(key.startswith("point_encoder.") for key in tower.state_dict()) == 226


def test_ulip1_is_shallower_and_sees_no_colour():
    state = PointTower(ULIP1).state_dict()
    assert sum(key.startswith("point_encoder.") for key in state) == 160
    assert state["pc_projection"].shape == (768, 512)
    assert state["point_encoder.encoder.first_conv.0.weight"].shape == (128, 3, 1)


def reference_furthest(points: np.ndarray, count: int) -> list[int]:
    """Straight from the definition, in float64: largest distance to the nearest of those chosen."""
    points = points.astype(np.float64)
    chosen = [0]
    while len(chosen) < count:
        distance = np.linalg.norm(points[:, None] - points[chosen][None], axis=-1).min(1)
        distance[(points**2).sum(1) <= 1e-3] = -1
        chosen.append(int(distance.argmax()))
    return chosen


@pytest.mark.parametrize("scale", [1.0, 0.06])  # at 0.06 a third of the points is too near the origin
def test_furthest_points_by_brute_force(scale):
    points = scale * cloud(300)[:, :3]
    chosen = furthest_points(points, 40)
    assert chosen.tolist() == reference_furthest(points, 40)


def test_first_point_is_taken_even_near_the_origin_and_repeated_when_none_is_eligible():
    points = np.zeros((5, 3), np.float32)
    assert furthest_points(points, 3).tolist() == [0, 0, 0]
    points[3] = 1
    assert furthest_points(points, 3).tolist() == [0, 3, 3]


def test_nearest_by_brute_force():
    points, centres = torch.from_numpy(cloud(200)[None, :, :3]), torch.from_numpy(cloud(7, 1)[None, :, :3])
    distance = (points[0].double() - centres[0, :, None].double()).norm(dim=-1)
    expected = distance.argsort(1)[:, :9]
    assert nearest(points, centres, 9)[0].sort(1).values.tolist() == expected.sort(1).values.tolist()


def test_groups_hold_offsets_and_absolute_colours():
    points = torch.from_numpy(cloud(64)[None])
    groups, centres = grouped(points, 8, 4)
    rows = {tuple(row) for row in points[0].tolist()}
    back = torch.cat([groups[..., :3] + centres[:, :, None], groups[..., 3:]], -1)
    for row in back.reshape(-1, 6).tolist():
        assert any(np.allclose(row, other, atol=1e-6) for other in rows)
    assert torch.equal(groups[..., :3].norm(dim=-1).amin(-1), torch.zeros(1, 8))  # a centre is its own neighbour


def test_order_of_the_points_after_the_first_is_nothing():
    points = cloud(400)
    order = np.concatenate([[0], 1 + np.random.default_rng(1).permutation(399)])
    tower = small_tower()
    with torch.inference_mode():
        one, other = tower(torch.from_numpy(points[None])), tower(torch.from_numpy(points[order][None]))
    # The same centres and neighbours: only sums in another order differ (float32).
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


def test_a_tower_projects_its_encoder():
    points, tower = torch.from_numpy(cloud(100)[None]), small_tower()
    with torch.inference_mode():
        assert torch.equal(tower(points), tower.point_encoder(points) @ tower.pc_projection)


def test_colour_matters_only_to_a_coloured_tower():
    points = torch.from_numpy(cloud(200)[None])
    grey = torch.cat([points[..., :3], torch.full_like(points[..., 3:], 0.4)], -1)
    plain = small_tower(PointBertConfig(channels=3, depth=1, embedding=8, trans_dim=48, num_group=16, group_size=8))
    with torch.inference_mode():
        assert torch.equal(plain(points), plain(grey))
        assert (small_tower()(points) - small_tower()(grey)).abs().max() > 0.01


def test_too_few_points_are_refused():
    with pytest.raises(UsageError, match="31 points - at least 32"):
        small_tower()(torch.zeros(1, 31, 6))
