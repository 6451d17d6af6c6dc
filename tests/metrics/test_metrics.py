"""Scores of shapes on arrays small enough to know the answer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mdtbench.base.errors import UsageError
from mdtbench.metrics import METRICS, Comparison, Metric, Score, Shapes
from mdtbench.metrics.contract import CONTROLS, mean_score
from mdtbench.metrics.fidelity import iou
from mdtbench.metrics.frechet import Moments, frechet_distance

N, VIEWS, DIM = 4, 4, 3


def shapes(seed: int, n: int = N) -> Shapes:
    """Random shapes; those of different seeds have different means."""
    random = np.random.Generator(np.random.PCG64(seed))
    embedding = random.normal(size=(n, 5))
    return Shapes(
        ok=np.ones(n, bool),
        latents=random.normal(size=(n, 2, 2, 2, 2)).astype(np.float32),
        occupancy=random.random((n, 3, 3, 3)) < 0.5,
        picture_features=(seed + random.normal(size=(n, VIEWS, DIM))).astype(np.float32),
        point_features=(seed + random.normal(size=(n, DIM))).astype(np.float32),
        embedding=(embedding / np.linalg.norm(embedding, axis=1, keepdims=True)).astype(np.float32),
    )


def score(name: str, made: Shapes, truth: Shapes, teacher: Shapes | None = None, images: Shapes | None = None) -> Score:
    found = METRICS.get(name).value.score(made, Comparison(truth, (images or truth).embedding, teacher))
    assert found is not None
    return found


def cells(*indices: int) -> np.ndarray:
    """One grid of 2^3 cells with these occupied: [1, 2, 2, 2]."""
    grid = np.zeros(8, bool)
    grid[list(indices)] = True
    return grid.reshape(1, 2, 2, 2)


def test_metrics_say_what_they_are():
    expected = {"FD_tiny2d": False, "FD_tiny3d": False, "IoU_teacher": True, "IoU_truth": True, "MSE_teacher": False}
    found = {name: METRICS.get(name).value.higher_is_better for name in METRICS.names()}
    assert found == expected | {"ULIP_tiny": True}
    for name in METRICS.names():
        entry = METRICS.get(name)
        assert (entry.value.name, entry.value.version) == (name, entry.version)


def test_controls_have_the_metrics_that_they_say_something_of():
    found = {one: {name for name in METRICS.names() if one in METRICS.get(name).value.controls} for one in CONTROLS}
    assert found == {
        "reconstruction": {"FD_tiny2d", "FD_tiny3d", "ULIP_tiny", "IoU_truth"},
        "truth": {"ULIP_tiny"},
        "shuffled": {"ULIP_tiny"},
        "floor": {"FD_tiny2d", "FD_tiny3d"},
    }


def test_a_control_that_there_is_not_is_refused():
    with pytest.raises(UsageError, match="Did you mean 'floor'"):

        class Mine(Metric[Shapes]):
            controls = ("truth", "flor")


def test_iou_of_known_grids():
    a = np.concatenate([cells(0, 1, 2), cells(0, 1), cells(), cells(3), cells()])
    b = np.concatenate([cells(1, 2, 3), cells(0, 1), cells(3), cells(4), cells()])
    assert iou(a, b).tolist() == [2 / 4, 1, 0, 0, 1]
    assert np.array_equal(iou(a, b), iou(b, a))


def test_the_mean_and_its_standard_error():
    found = mean_score(np.array([1.0, 2.0, 3.0, 6.0], np.float32))
    assert found.value == 3.0
    assert found.stderr == pytest.approx(np.sqrt(14 / 3) / 2)  # variance (4 + 1 + 0 + 9) / 3, over n = 4
    assert mean_score(np.array([2.0])) == Score(2.0, None)


def test_a_mean_keeps_what_it_is_of():
    found = mean_score(np.array([1, 2, 3], np.float32))
    assert found.per_asset is not None
    assert (found.per_asset.dtype, found.per_asset.tolist()) == (np.float64, [1, 2, 3])
    some = mean_score(np.array([1.0, 7.0, 4.0]), np.array([True, False, True]))
    assert some.value == 2.5
    assert some.stderr == pytest.approx(1.5, rel=1e-12)  # of 1 and 4 alone: sd sqrt(4.5), over sqrt(2)
    assert some.per_asset is not None
    assert np.array_equal(some.per_asset, [1, np.nan, 4], equal_nan=True)


@pytest.mark.parametrize("name", ["FD_tiny2d", "FD_tiny3d"])
def test_distances_have_no_values_of_assets(name: str):
    assert score(name, shapes(0), shapes(1)).per_asset is None


def test_iou_scores_compare_with_their_own_reference():
    made = replace(shapes(0), occupancy=np.repeat(cells(0, 1), N, 0))
    truth = replace(shapes(1), occupancy=np.repeat(cells(1), N, 0))
    teacher = replace(shapes(2), occupancy=np.repeat(cells(0, 1, 2, 3), N, 0))
    assert score("IoU_truth", made, truth, teacher) == Score(0.5, 0.0)
    assert score("IoU_teacher", made, truth, teacher) == Score(0.5, 0.0)
    teacher = replace(teacher, occupancy=np.concatenate([cells(0, 1)] * 3 + [cells(5)]))
    assert score("IoU_teacher", made, truth, teacher).value == 0.75


def test_a_shape_that_failed_counts_as_zero():
    """Three perfect shapes and one that could not be made: 3/4 of the perfect score, not 3/3."""
    truth = shapes(3)
    ok = np.array([True, True, False, True])
    made = replace(truth, ok=ok, occupancy=truth.occupancy & ok[:, None, None, None])
    assert score("IoU_truth", made, truth).value == 0.75
    assert score("IoU_teacher", made, truth, truth).value == 0.75
    assert score("ULIP_tiny", truth, truth).value == pytest.approx(100, rel=1e-6)  # float32 unit vectors
    assert score("ULIP_tiny", made, truth).value == pytest.approx(75, rel=1e-6)
    zeroed = replace(made, embedding=truth.embedding * ok[:, None])
    assert score("ULIP_tiny", zeroed, truth) == score("ULIP_tiny", made, truth)


def test_ulip_pairs_each_shape_with_its_own_picture():
    truth = replace(shapes(0), embedding=np.eye(4, dtype=np.float32))
    images = np.eye(4, dtype=np.float32)
    images[0] = [0.6, 0.8, 0, 0]
    images[1] = [0, -1, 0, 0]
    found = score("ULIP_tiny", truth, truth, images=replace(truth, embedding=images))
    per_asset = np.array([60, -100, 100, 100])
    assert found.value == pytest.approx(per_asset.mean(), rel=1e-6)
    assert found.stderr == pytest.approx(per_asset.std(ddof=1) / 2, rel=1e-6)


def test_mse_of_latents_to_the_teachers():
    teacher = shapes(0)
    gaps = np.array([0.0, 1.0, 2.0, -3.0], np.float32)
    made = replace(teacher, latents=teacher.latents + gaps[:, None, None, None, None])
    found = score("MSE_teacher", made, shapes(1), teacher)
    assert found.value == pytest.approx((0 + 1 + 4 + 9) / 4, rel=1e-5)  # the sum above is rounded to float32
    assert found.stderr == pytest.approx(np.array([0, 1, 4, 9]).std(ddof=1) / 2, rel=1e-5)


def test_without_a_teacher_there_is_no_distance_to_it():
    against = Comparison(shapes(0), shapes(0).embedding, None)
    for name in ("IoU_teacher", "MSE_teacher"):
        assert METRICS.get(name).value.score(shapes(1), against) is None


def test_fd_is_the_frechet_distance_of_all_samples_to_the_truth():
    made, truth, teacher = shapes(0, 9), shapes(1, 7), shapes(2, 9)
    for name, array in (("FD_tiny2d", "picture_features"), ("FD_tiny3d", "point_features")):
        a, b = (getattr(s, array).reshape(-1, DIM) for s in (made, truth))
        assert len(a) == 9 * (VIEWS if name == "FD_tiny2d" else 1)
        expected = frechet_distance(Moments.of(a), Moments.of(b))
        assert score(name, made, truth, teacher) == Score(expected, None)
        assert expected > 1  # the means are 1 apart in each of 3 dimensions
        assert score(name, truth, truth).value == pytest.approx(0, abs=1e-9)


def test_fd_of_one_dimensional_normals_is_the_closed_form():
    """Per dimension (mean difference)^2 + (difference of standard deviations)^2, dimensions uncorrelated."""
    corners = np.array([[x, y] for x in (-1, 1) for y in (-1, 1)], np.float32)
    base = shapes(0)
    made = replace(base, point_features=2 * corners + np.array([3, 0], np.float32))
    truth = replace(base, point_features=corners)
    std = np.sqrt(4 / 3)  # of -1, -1, 1, 1 with n - 1
    assert score("FD_tiny3d", made, truth).value == pytest.approx(9 + 2 * std**2, rel=1e-9)


def test_a_failed_shape_moves_the_distance():
    """Its features, those of black pictures, stay among the samples."""
    truth = shapes(0, 20)
    features = truth.picture_features.copy()
    features[0] = 30
    assert score("FD_tiny2d", replace(truth, picture_features=features), truth).value > 1
