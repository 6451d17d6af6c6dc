"""Scores of whole assets on arrays small enough to know the answer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mdtbench.metrics import Comparison, WholeAssets
from mdtbench.metrics.contract import ASSET_METRICS, CONTROLS, Score
from mdtbench.metrics.frechet import Moments, frechet_distance

COUNTS = (2, 1, 3)
N, VIEWS, DIM = len(COUNTS), 4, 3


def assets(seed: int, counts: tuple[int, ...] = COUNTS) -> WholeAssets:
    """Random assets; features of different seeds have different means."""
    random, n = np.random.Generator(np.random.PCG64(seed)), len(counts)
    embedding = random.normal(size=(n, 5))
    return WholeAssets(
        ok=np.array(counts) > 0,
        gaussian_features=(seed + random.normal(size=(n, VIEWS, DIM))).astype(np.float32),
        mesh_features=(seed + random.normal(size=(n, VIEWS, DIM))).astype(np.float32),
        embedding=(embedding / np.linalg.norm(embedding, axis=1, keepdims=True)).astype(np.float32),
        counts=np.array(counts),
        coords=np.arange(3 * sum(counts), dtype=np.int32).reshape(-1, 3),
        latents=random.normal(size=(sum(counts), 2)).astype(np.float32),
    )


def score(name: str, made: WholeAssets, truth: WholeAssets, teacher: WholeAssets | None = None) -> Score | None:
    return ASSET_METRICS.get(name).value.score(made, Comparison(truth, truth.embedding, teacher))


def test_metrics_say_what_they_are():
    found = {name: ASSET_METRICS.get(name).value.higher_is_better for name in ASSET_METRICS.names()}
    assert found == {"FD_tiny_gs": False, "FD_tiny_mesh": False, "MSE_slat": False, "ULIP_tiny_mesh": True}
    for name in ASSET_METRICS.names():
        entry = ASSET_METRICS.get(name)
        assert (entry.value.name, entry.value.version) == (name, entry.version)


def test_controls_have_the_metrics_that_they_say_something_of():
    metrics = [ASSET_METRICS.get(name).value for name in ASSET_METRICS.names()]
    assert {one: {metric.name for metric in metrics if one in metric.controls} for one in CONTROLS} == {
        "reconstruction": {"FD_tiny_gs", "FD_tiny_mesh", "ULIP_tiny_mesh"},
        "truth": {"ULIP_tiny_mesh"},
        "shuffled": {"ULIP_tiny_mesh"},
        "floor": {"FD_tiny_mesh"},
    }


@pytest.mark.parametrize(("name", "array"), [("FD_tiny_gs", "gaussian_features"), ("FD_tiny_mesh", "mesh_features")])
def test_fd_is_the_frechet_distance_of_the_same_representation(name: str, array: str):
    made, truth = assets(0), assets(1)
    a, b = (getattr(x, array).reshape(-1, DIM) for x in (made, truth))
    assert len(a) == N * VIEWS
    assert score(name, made, truth) == Score(frechet_distance(Moments.of(a), Moments.of(b)), None)
    other = "mesh_features" if array == "gaussian_features" else "gaussian_features"
    assert score(name, replace(made, **{other: 0 * getattr(made, other)}), truth) == score(name, made, truth)
    same = score(name, truth, truth)
    assert same is not None
    assert same.value == pytest.approx(0, abs=1e-9)


def test_ulip_pairs_assets_with_pictures_and_a_failed_one_is_zero():
    eye = np.eye(3, 5, dtype=np.float32)
    truth = replace(assets(0), embedding=eye)
    turned = eye.copy()
    turned[0] = [0.6, 0.8, 0, 0, 0]
    turned[1] *= -1
    found = score("ULIP_tiny_mesh", replace(truth, embedding=turned), truth)
    per_asset = np.array([60.0, -100.0, 100.0])
    assert found is not None
    assert found.value == pytest.approx(per_asset.mean(), rel=1e-6)
    assert found.stderr == pytest.approx(per_asset.std(ddof=1) / np.sqrt(3), rel=1e-6)
    failed = replace(truth, ok=np.array([True, False, True]))  # whatever its embedding says
    lower = score("ULIP_tiny_mesh", failed, truth)
    assert lower is not None
    assert lower.value == pytest.approx(200 / 3, rel=1e-6)


def test_mse_is_a_mean_over_cells_then_over_assets():
    """By hand: gaps of 1, 2 in two channels; an asset of three cells weighs as much as one of one."""
    teacher = assets(0)
    gap = np.array([[1, 1], [2, 0], [3, 3], [0, 0], [0, 0], [0, 6]], np.float32)
    teacher = replace(teacher, latents=np.zeros_like(gap))
    found = score("MSE_slat", replace(teacher, latents=gap), assets(1), teacher)
    per_asset = np.array([(1 + 2) / 2, 9.0, (0 + 0 + 18) / 3])
    assert found is not None
    assert found.value == pytest.approx(per_asset.mean(), rel=1e-12)
    assert found.stderr == pytest.approx(per_asset.std(ddof=1) / np.sqrt(3), rel=1e-12)
    assert score("MSE_slat", teacher, assets(1), teacher) == Score(0.0, 0.0)


def test_mse_says_nothing_where_cells_differ():
    teacher = assets(0)
    moved = teacher.coords.copy()
    moved[3, 2] += 1
    assert score("MSE_slat", teacher, teacher) is None  # no teacher
    assert score("MSE_slat", replace(teacher, coords=moved), teacher, teacher) is None
    assert score("MSE_slat", replace(teacher, counts=np.array([1, 2, 3])), teacher, teacher) is None  # as many in all
    assert score("MSE_slat", assets(1, (2, 1)), teacher, teacher) is None
    nothing = assets(2, (0, 0))
    assert score("MSE_slat", nothing, teacher, nothing) is None


def test_mse_is_over_the_assets_that_have_voxels():
    some, others = assets(2, (2, 0, 4)), assets(2, (2, 4))
    found = score("MSE_slat", replace(some, latents=some.latents + 3), others, some)
    assert found is not None
    assert found.value == pytest.approx(9.0, rel=1e-6)
    assert found.per_asset is not None
    assert found.per_asset == pytest.approx([9, np.nan, 9], rel=1e-6, nan_ok=True)  # the second has no voxels
