"""ULIP_I: points as the towers expect them, checkpoints that are and are not ULIP's, and the scores."""

from __future__ import annotations

import argparse
import zipfile
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from mdtbench.base.errors import AssetError, MissingError, UsageError
from mdtbench.metrics.official import resize, ulip
from mdtbench.metrics.official.networks import vision_transformer
from mdtbench.metrics.official.picture_extractors import SPECS
from mdtbench.metrics.official.pointbert import PointBertConfig, PointTower
from mdtbench.metrics.official.points import Preparation, in_unit_ball, prepared, z_up_to_y_up
from mdtbench.metrics.official.weights import without_memory

TINY = PointBertConfig(channels=6, depth=1, embedding=8, trans_dim=48, num_group=8, group_size=4)
TINY_TENSORS = 28 + 11 + 1  # outside the blocks, of one block, the projection
TINY_SPEC = replace(
    ulip.ULIP2_SPEC,
    config=TINY,
    preparation=Preparation(40),
    weights=replace(ulip.ULIP2_WEIGHTS, file="tiny.pt", keys=TINY_TENSORS),
)


def cloud(count: int = 40, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    return np.concatenate([random.uniform(-0.5, 0.5, (count, 3)), random.random((count, 3))], 1).astype(np.float32)


def tiny_tower() -> PointTower:
    """Weights that are all different, batch norm's statistics included."""
    tower = PointTower(TINY).eval()
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in tower.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=random) * 0.2 + 0.01)
    return tower


def training_checkpoint(state: dict[str, torch.Tensor]) -> dict:
    """What ULIP's training saves: prefixed tensors, an optimizer whose learning rates are numpy's, arguments."""
    layer = nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(layer.parameters())
    layer(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    optimizer.param_groups[0]["lr"] = np.float64(3e-3)
    return {
        "epoch": "last",
        "state_dict": {f"module.{key}": value for key, value in state.items()},
        "optimizer": optimizer.state_dict(),
        "scaler": {"scale": 65536.0},
        "best_acc1": np.float32(50.6),
        "args": argparse.Namespace(betas=(0.9, 0.98), model="ULIP2_PointBERT_Colored", gpu=None),
    }


def saved(path, state: dict[str, torch.Tensor]):
    torch.save(training_checkpoint({"logit_scale": torch.tensor(2.6), **state}), path)
    return path


# Points


def test_axes_by_hand():
    # Up (z) becomes y; what was towards y goes to -z. A mirror image would have the wrong sign of the determinant.
    assert z_up_to_y_up(np.eye(3)).tolist() == [[1, 0, 0], [0, 0, -1], [0, 1, 0]]
    assert np.linalg.det(z_up_to_y_up(np.eye(3))) == 1


def test_unit_ball_by_hand():
    # The mean, not the middle of the box: (1, 0, 0). Distances 1, 1, 2.
    points = np.array([[0.0, 0, 0], [0, 0, 0], [3, 0, 0]])
    assert in_unit_ball(points).tolist() == [[-0.5, 0, 0], [-0.5, 0, 0], [1, 0, 0]]


def test_prepared_for_the_main_variant_by_hand():
    points = np.array([[1, 2, 3, 0.1, 0.2, 0.3], [1, 2, 5, 0.7, 0.8, 0.9]], np.float32)
    grey = np.float32(0.4)
    assert prepared(points, Preparation(2)).tolist() == [[0, -1, 0, grey, grey, grey], [0, 1, 0, grey, grey, grey]]
    assert prepared(points, Preparation(2)).dtype == np.float32
    assert points[0].tolist() == np.float32([1, 2, 3, 0.1, 0.2, 0.3]).tolist()  # the input is left alone


def test_prepared_for_flashvdm_only_turns():
    points = cloud(8192)
    expected = np.concatenate([points[:, [0, 2]], -points[:, [1]], points[:, 3:]], 1)
    assert np.array_equal(prepared(points, ulip.ULIP1_SPEC.preparation), expected)


def test_specs_and_variants_of_the_protocol():
    assert ulip.ULIP2_SPEC.preparation == Preparation(10_000, y_up=True, unit_ball=True, grey=0.4)
    assert not ulip.ULIP2_ZUP_SPEC.preparation.y_up
    assert replace(ulip.ULIP2_ZUP_SPEC.preparation, y_up=True) == ulip.ULIP2_SPEC.preparation
    assert list(ulip.VARIANTS) == ["ulip2-4gt", "ulip2-cond", "ulip2-4gen", "ulip1-flashvdm", "ulip2-zup"]
    for variant in ulip.VARIANTS.values():
        dim = {**SPECS, "ulip1_slip": ulip.SLIP_SPEC}[variant.pictures].dim
        assert ulip.POINT_SPECS[variant.points].config.embedding == dim


def test_points_that_cannot_be_prepared():
    with pytest.raises(UsageError, match=r"shape \[39, 6\] - it must be \[40, 6\]"):
        prepared(cloud(39), Preparation(40))
    with pytest.raises(AssetError, match="NaN"):
        prepared(np.full((40, 6), np.nan, np.float32), Preparation(40))
    with pytest.raises(AssetError, match="All 40 points are the same"):
        prepared(np.full((40, 6), 0.3, np.float32), Preparation(40))


# Extractors


def test_embeddings_do_not_depend_on_the_batch():
    extractor = ulip.random_extractor(TINY_SPEC, 0)
    clouds = np.stack([cloud(seed=seed) for seed in range(3)])
    together = extractor(clouds)
    assert together.shape == (3, 8)
    assert together.dtype == np.float32
    assert np.array_equal(together, np.concatenate([extractor(one[None]) for one in clouds]))
    assert np.abs(together[0] - together[1]).max() > 1e-3 * np.abs(together).max()
    assert extractor(clouds[:0]).shape == (0, 8)


def test_embeddings_of_prepared_points():
    extractor = ulip.random_extractor(TINY_SPEC, 0)
    points = torch.from_numpy(prepared(cloud(), TINY_SPEC.preparation)[None])
    with torch.inference_mode():
        assert np.array_equal(extractor(cloud()[None]), extractor.network(points).numpy())


def test_random_weights_follow_from_the_seed_alone():
    one, same, other = (ulip.random_extractor(TINY_SPEC, seed) for seed in (0, 0, 1))
    torch.manual_seed(5)
    points = cloud()[None]
    assert np.array_equal(one(points), same(points))
    assert not np.array_equal(one(points), other(points))
    assert one.weights_sha256 == "random:0"
    assert one.version == "ulip2-1/40-y-up-pc_norm-grey0.4/float32/random:0"


# Checkpoints


def test_official_layout_loads(tmp_path):
    tower = tiny_tower()
    path = saved(tmp_path / "tiny.pt", tower.state_dict())
    with pytest.raises(Exception, match="weights_only"):  # what torch's default says to such a file
        torch.load(path, weights_only=True)
    extractor = ulip.load(TINY_SPEC, path)
    assert argparse.Namespace not in torch.serialization.get_safe_globals()  # let through here only
    for key, value in tower.state_dict().items():
        assert torch.equal(extractor.network.state_dict()[key], value), key
    assert not extractor.network.training
    assert extractor.version.endswith(extractor.weights_sha256[:16])


def test_scalars_pickled_before_numpy_2_load(tmp_path):
    path, old = saved(tmp_path / "new.pt", tiny_tower().state_dict()), tmp_path / "tiny.pt"
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(old, "w") as target:
        for name in source.namelist():
            target.writestr(name, source.read(name).replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert b"numpy.core.multiarray" in old.read_bytes()
    ulip.load(TINY_SPEC, old)


def test_a_file_that_would_run_code_is_refused(tmp_path):
    class Harm:
        def __reduce__(self):
            return print, ("run",)

    path = tmp_path / "tiny.pt"
    torch.save({"state_dict": tiny_tower().state_dict(), "args": Harm()}, path)
    with pytest.raises(MissingError, match=r"tiny\.pt is not a complete checkpoint"):
        ulip.load(TINY_SPEC, path)


def test_another_number_of_point_encoder_keys_is_refused(tmp_path):
    spec = ulip.ULIP2_SPEC
    state = {key: torch.ones(1) for key in without_memory(partial(PointTower, spec.config)).state_dict()}
    path = tmp_path / "ulip.pt"
    with pytest.raises(
        MissingError, match=r"found 1 pc_projection, 225 point_encoder and 0 unknown .*expected 1 pc_projection, 226 p"
    ):
        ulip.load(spec, saved(path, {key: state[key] for key in state if key != "point_encoder.norm.bias"}))
    with pytest.raises(
        MissingError, match=rf"{path} is not {spec.weights.file}: found 1 pc_projection, 227 point_encoder and"
    ):
        ulip.load(spec, saved(path, {**state, "point_encoder.cls_head.weight": torch.ones(2, 2)}))
    renamed = {key.replace("norm.bias", "norm.offset"): value for key, value in state.items()}
    with pytest.raises(
        MissingError, match=r"missing: point_encoder\.norm\.bias; unexpected: point_encoder\.norm\.offset"
    ):
        ulip.load(spec, saved(path, renamed))


def test_another_models_file_is_refused(tmp_path):
    path = tmp_path / "open_clip_pytorch_model.bin"
    torch.save(
        {"visual.conv1.weight": torch.ones(2, 2), "visual.proj": torch.ones(2), "logit_scale": torch.ones(())}, path
    )
    with pytest.raises(
        MissingError, match="found 0 pc_projection, 0 point_encoder and 2 unknown tensors, expected 1 pc"
    ):
        ulip.load(replace(TINY_SPEC, config=replace(TINY, depth=0)), path)
    with pytest.raises(MissingError, match="2 unknown"):  # a ULIP checkpoint that holds more than it should
        ulip.load(
            TINY_SPEC,
            saved(path, {**tiny_tower().state_dict(), "open_clip_model.a": torch.ones(1), "b": torch.ones(1)}),
        )


def test_other_shapes_and_other_contents_are_refused(tmp_path):
    path = tmp_path / "tiny.pt"
    state = {**tiny_tower().state_dict(), "pc_projection": torch.ones(96, 7)}
    with pytest.raises(MissingError, match=r"pc_projection \[96, 7\] instead of \[96, 8\]"):
        ulip.load(TINY_SPEC, saved(path, state))
    torch.save([1, 2], path)
    with pytest.raises(MissingError, match="holds no state dict"):
        ulip.load(TINY_SPEC, path)
    path.write_bytes(saved(tmp_path / "whole.pt", tiny_tower().state_dict()).read_bytes()[:5000])
    with pytest.raises(MissingError, match="not a complete checkpoint"):
        ulip.load(TINY_SPEC, path)
    with pytest.raises(MissingError, match="Missing file"):
        ulip.load(TINY_SPEC, tmp_path / "absent.pt")
    with pytest.raises(MissingError, match="expected 00"):
        ulip.load(TINY_SPEC, path, sha256="00")


def test_expected_keys_are_those_of_the_networks():
    for weights, network in (
        (ulip.ULIP2_WEIGHTS, partial(PointTower, ulip.ULIP2_COLOURED)),
        (ulip.ULIP1_WEIGHTS, partial(PointTower, ulip.ULIP1)),
        (ulip.SLIP_WEIGHTS, ulip.SlipTower),
        (TINY_SPEC.weights, partial(PointTower, TINY)),
    ):
        assert len(without_memory(network).state_dict()) == weights.keys


# The picture tower of ULIP-1


def test_slip_tower_comes_from_the_same_file(tmp_path, monkeypatch):
    small = partial(vision_transformer, embed_dim=16, depth=1, num_heads=2)
    monkeypatch.setattr(ulip, "vision_transformer", small)
    monkeypatch.setattr(ulip, "ULIP1", replace(TINY, channels=3))
    slip, points = ulip.SlipTower(), PointTower(ulip.ULIP1)
    nn.init.normal_(slip.image_projection)
    text = {"transformer.resblocks.0.ln_1.bias": torch.ones(2), "text_projection": torch.ones(2, 2)}
    path = saved(tmp_path / "ulip1.pt", {**slip.state_dict(), **points.state_dict(), **text})
    pictures = np.random.default_rng(0).integers(0, 256, (2, 3, 300, 300), np.uint8)
    with torch.inference_mode():
        expected = slip.visual(resize.slip_224(torch.from_numpy(pictures))) @ slip.image_projection
    extractor = replace(ulip.load_slip(path), dim=8)  # the spec's 512 are of the real tower
    # The same network on another batch: float32 rounding of values below 10.
    np.testing.assert_allclose(extractor(pictures), expected, rtol=1e-4, atol=1e-4)
    assert ulip.load(replace(ulip.ULIP1_SPEC, config=ulip.ULIP1), path).network.pc_projection.shape == (96, 8)
