"""Scores of shapes on arrays small enough to know the answer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mdtbench.metrics import METRICS, Comparison, NotMeasured, Score, Seen
from mdtbench.metrics.fidelity import iou
from mdtbench.metrics.frechet import Moments, frechet_distance

N, VIEWS, DIM = 4, 4, 3
PICTURES, POINTS, EMBEDDING = "voxels:tiny2d", "voxel_points:tiny3d", "voxel_points:ulip_tiny"


def shapes(seed: int, n: int = N) -> Seen:
    """Random shapes; those of different seeds have different means."""
    random = np.random.Generator(np.random.PCG64(seed))
    embedding = random.normal(size=(n, 1, 5))
    data = {
        "latents": random.normal(size=(n, 2, 2, 2, 2)).astype(np.float32),
        "occupancy": random.random((n, 3, 3, 3)) < 0.5,
        PICTURES: (seed + random.normal(size=(n, VIEWS, DIM))).astype(np.float32),
        POINTS: (seed + random.normal(size=(n, 1, DIM))).astype(np.float32),
        EMBEDDING: (embedding / np.linalg.norm(embedding, axis=-1, keepdims=True)).astype(np.float32),
    }
    return Seen(tuple(f"{i}" for i in range(n)), np.ones(n, bool), data)


def with_data(seen: Seen, name: str, value: np.ndarray) -> Seen:
    return replace(seen, data={**seen.data, name: value})


def failed(seen: Seen, *rows: int) -> Seen:
    """Some of them not made: empty, with latents of zeros."""
    ok = ~np.isin(np.arange(len(seen)), rows)
    data = {**seen.data, "occupancy": seen["occupancy"] & ok[:, None, None, None]}
    data["latents"] = seen["latents"] * ok[:, None, None, None, None]
    return Seen(seen.ids, ok, data)


def score(name: str, made: Seen, truth: Seen, teacher: Seen | None = None, pictures: np.ndarray | None = None) -> Score:
    """Of shapes that see only what the metric asks for; the population is the truth.

    Args:
        pictures: embeddings [N, 5] of the condition; the truth's.
    """
    metric = METRICS.get(name).value
    shown = truth[EMBEDDING] if pictures is None else pictures[:, None]
    condition = Seen(truth.ids, np.ones(len(shown), bool), {"condition:ulip_tiny": shown})
    sides = {"made": made, "truth": truth, "population": truth, "teacher": teacher, "condition": condition}
    given = {
        side: replace(seen, data={need: seen[need] for need in getattr(metric, side)})
        for side, seen in sides.items()
        if seen is not None
    }
    found = metric.score(given.pop("made"), Comparison(**given))
    assert found is not None
    return found


def average(found: Score) -> tuple[float, float | None]:
    return found.value, found.stderr


def cells(*indices: int) -> np.ndarray:
    """One grid of 2^3 cells with these occupied: [1, 2, 2, 2]."""
    grid = np.zeros(8, bool)
    grid[list(indices)] = True
    return grid.reshape(1, 2, 2, 2)


def test_iou_of_known_grids():
    a = np.concatenate([cells(0, 1, 2), cells(0, 1), cells(), cells(3)])
    b = np.concatenate([cells(1, 2, 3), cells(0, 1), cells(3), cells(4)])
    assert iou(a, b).tolist() == [2 / 4, 1, 0, 0]
    assert np.array_equal(iou(a, b), iou(b, a))


def test_two_empty_shapes_do_not_agree():
    assert iou(cells(), cells()).tolist() == [0]
    made, truth = (with_data(shapes(seed), "occupancy", np.repeat(cells(), N, 0)) for seed in (0, 1))
    assert score("IoU_truth", made, truth).value == 0
    assert score("IoU_teacher", made, truth, truth).value == 0


@pytest.mark.parametrize("name", ["IoU_truth", "IoU_teacher", "MSE_teacher", "ULIP_tiny"])
def test_an_average_is_the_mean_of_the_values_that_it_keeps(name: str):
    found = score(name, shapes(0), shapes(1), shapes(2))
    assert found.per_asset is not None
    assert found.per_asset.shape == (N,)
    assert found.value == pytest.approx(found.per_asset.mean(), rel=1e-12)
    assert found.n_ok == N


@pytest.mark.parametrize("name", ["FD_tiny2d", "FD_tiny3d"])
def test_distances_have_no_values_of_assets(name: str):
    assert score(name, shapes(0), shapes(1)).per_asset is None


def test_iou_scores_compare_with_their_own_reference():
    made = with_data(shapes(0), "occupancy", np.repeat(cells(0, 1), N, 0))
    truth = with_data(shapes(1), "occupancy", np.repeat(cells(1), N, 0))
    teacher = with_data(shapes(2), "occupancy", np.repeat(cells(0, 1, 2, 3), N, 0))
    assert average(score("IoU_truth", made, truth, teacher)) == (0.5, 0.0)
    assert average(score("IoU_teacher", made, truth, teacher)) == (0.5, 0.0)
    teacher = with_data(teacher, "occupancy", np.concatenate([cells(0, 1)] * 3 + [cells(5)]))
    assert score("IoU_teacher", made, truth, teacher).value == 0.75


def test_a_shape_that_failed_counts_as_zero():
    """Three perfect shapes and one that could not be made: 3/4 of the perfect score, not 3/3."""
    truth = shapes(3)
    made = failed(truth, 2)
    assert score("IoU_truth", made, truth).value == 0.75
    assert score("IoU_teacher", made, truth, truth).value == 0.75
    assert score("ULIP_tiny", truth, truth).value == pytest.approx(100, rel=1e-12)
    assert score("ULIP_tiny", made, truth).value == pytest.approx(75, rel=1e-12)  # whatever its embedding says
    full = replace(truth, ok=made.ok)  # nor does it matter what its cells say
    assert score("IoU_truth", full, truth).value == score("IoU_teacher", full, truth, truth).value == 0.75


def test_with_a_teacher_that_failed_there_is_nothing_to_agree_with():
    truth = shapes(3)
    found = score("IoU_teacher", failed(truth, 2), truth, failed(truth, 0))
    assert found.per_asset is not None
    assert np.array_equal(found.per_asset, [np.nan, 1, 0, 1], equal_nan=True)
    assert (found.value, found.n_ok) == (pytest.approx(2 / 3), 3)


def test_ulip_pairs_each_shape_with_its_own_picture():
    truth = with_data(shapes(0), EMBEDDING, np.eye(4, 5, dtype=np.float32)[:, None])
    images = np.eye(4, 5, dtype=np.float32)
    images[0] = [0.6, 0.8, 0, 0, 0]
    images[1] = [0, -1, 0, 0, 0]
    found = score("ULIP_tiny", truth, truth, pictures=images)
    per_asset = np.array([60, -100, 100, 100])
    assert found.value == pytest.approx(per_asset.mean(), rel=1e-6)  # 0.6 and 0.8 are float32
    assert found.stderr == pytest.approx(per_asset.std(ddof=1) / 2, rel=1e-6)


def test_mse_of_latents_to_the_teachers():
    teacher = shapes(0)
    gaps = np.array([0.0, 1.0, 2.0, -3.0], np.float32)
    made = with_data(teacher, "latents", teacher["latents"] + gaps[:, None, None, None, None])
    found = score("MSE_teacher", made, shapes(1), teacher)
    assert found.value == pytest.approx((0 + 1 + 4 + 9) / 4, rel=1e-5)  # the sum above is rounded to float32
    assert found.stderr == pytest.approx(np.array([0, 1, 4, 9]).std(ddof=1) / 2, rel=1e-5)


def test_a_failed_shape_is_no_pair_of_latents():
    """Its latents are zeros, from which the teacher's are about 1 away: a distance that nobody measured."""
    teacher = shapes(0)
    gaps = np.array([1.0, 2.0, 3.0, 4.0], np.float32)
    made = failed(with_data(teacher, "latents", teacher["latents"] + gaps[:, None, None, None, None]), 1)
    found = score("MSE_teacher", made, shapes(1), teacher)
    assert found.per_asset is not None
    assert found.per_asset == pytest.approx([1, np.nan, 9, 16], rel=1e-5, nan_ok=True)
    assert (found.value, found.n_ok) == (pytest.approx(26 / 3, rel=1e-5), 3)
    found = score("MSE_teacher", made, shapes(1), failed(teacher, 0))  # nor is one that the teacher did not make
    assert (found.value, found.n_ok) == (pytest.approx(25 / 2, rel=1e-5), 2)
    with pytest.raises(NotMeasured, match="no asset was made both here and by the teacher"):
        score("MSE_teacher", failed(teacher, 0, 1), shapes(1), failed(teacher, 2, 3))


def test_without_a_teacher_there_is_no_distance_to_it():
    for name in ("IoU_teacher", "MSE_teacher"):
        assert METRICS.get(name).value.score(shapes(1), Comparison(shapes(0))) is None


def test_fd_is_the_frechet_distance_of_all_samples_to_the_truth():
    made, truth, teacher = shapes(0, 9), shapes(1, 7), shapes(2, 9)
    for name, need in (("FD_tiny2d", PICTURES), ("FD_tiny3d", POINTS)):
        a, b = (seen[need].reshape(-1, DIM) for seen in (made, truth))
        assert len(a) == 9 * (VIEWS if name == "FD_tiny2d" else 1)
        expected = frechet_distance(Moments.of(a), Moments.of(b))
        assert score(name, made, truth, teacher) == Score(expected)
        assert expected > 1  # the means are 1 apart in each of 3 dimensions
        assert score(name, truth, truth).value == pytest.approx(0, abs=1e-9)


def test_distributions_are_held_against_the_population_alone():
    """Of all that there could be, which may be more than the test assets."""
    made, everything = shapes(0, 9), shapes(1, 30)
    for name in ("FD_tiny2d", "FD_tiny3d"):
        metric = METRICS.get(name).value
        assert metric.truth == ()
        assert metric.score(made, Comparison(truth=made, population=everything)) == score(name, made, everything)


def test_fd_of_one_dimensional_normals_is_the_closed_form():
    """Per dimension (mean difference)^2 + (difference of standard deviations)^2, dimensions uncorrelated."""
    corners = np.array([[x, y] for x in (-1, 1) for y in (-1, 1)], np.float32)[:, None]
    base = shapes(0)
    made = with_data(base, POINTS, 2 * corners + np.array([3, 0], np.float32))
    std = np.sqrt(4 / 3)  # of -1, -1, 1, 1 with n - 1
    assert score("FD_tiny3d", made, with_data(base, POINTS, corners)).value == pytest.approx(9 + 2 * std**2, rel=1e-9)


def test_a_failed_shape_moves_the_distance():
    """Its features, those of black pictures, stay among the samples."""
    truth = shapes(0, 20)
    features = truth[PICTURES].copy()
    features[0] = 30
    assert score("FD_tiny2d", with_data(truth, PICTURES, features), truth).value > 1
