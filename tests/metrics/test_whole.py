"""Scores of whole assets on arrays small enough to know the answer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mdtbench.metrics import METRICS, Cells, Comparison, NotMeasured, Score, Seen
from mdtbench.metrics.frechet import Moments, frechet_distance

COUNTS = (2, 1, 3)
N, VIEWS, DIM = len(COUNTS), 4, 3
GAUSSIANS, MESH, EMBEDDING = "gaussians:tiny_rgb", "mesh:tiny_rgb", "points:ulip_tiny_mesh"


def assets(seed: int, counts: tuple[int, ...] = COUNTS) -> Seen:
    """Random assets; features of different seeds have different means."""
    random, n = np.random.Generator(np.random.PCG64(seed)), len(counts)
    data = {
        GAUSSIANS: (seed + random.normal(size=(n, VIEWS, DIM))).astype(np.float32),
        MESH: (seed + random.normal(size=(n, VIEWS, DIM))).astype(np.float32),
        EMBEDDING: random.normal(size=(n, 1, 5)).astype(np.float32),
        "cells": Cells(
            counts=np.array(counts),
            coords=np.arange(3 * sum(counts), dtype=np.int32).reshape(-1, 3),
            latents=random.normal(size=(sum(counts), 2)).astype(np.float32),
        ),
    }
    return Seen(tuple(f"{i}" for i in range(n)), np.array(counts) > 0, data)


def with_data(seen: Seen, name: str, value: Any) -> Seen:
    return replace(seen, data={**seen.data, name: value})


def with_cells(seen: Seen, **changes: np.ndarray) -> Seen:
    return with_data(seen, "cells", replace(seen["cells"], **changes))


def score(name: str, made: Seen, truth: Seen, teacher: Seen | None = None) -> Score | None:
    condition = replace(truth, data={"condition:ulip_tiny_mesh": truth[EMBEDDING]})
    return METRICS.get(name).value.score(made, Comparison(truth, truth, teacher, condition))


@pytest.mark.parametrize(("name", "need"), [("FD_tiny_gs", GAUSSIANS), ("FD_tiny_mesh", MESH)])
def test_fd_is_the_frechet_distance_of_the_same_representation(name: str, need: str):
    made, truth = assets(0), assets(1)
    a, b = (seen[need].reshape(-1, DIM) for seen in (made, truth))
    assert len(a) == N * VIEWS
    assert score(name, made, truth) == Score(frechet_distance(Moments.of(a), Moments.of(b)))
    other = MESH if need == GAUSSIANS else GAUSSIANS
    assert score(name, with_data(made, other, 0 * made[other]), truth) == score(name, made, truth)
    same = score(name, truth, truth)
    assert same is not None
    assert same.value == pytest.approx(0, abs=1e-9)


def test_ulip_pairs_assets_with_pictures_and_a_failed_one_is_zero():
    eye = np.eye(3, 5, dtype=np.float32)[:, None]
    truth = with_data(assets(0), EMBEDDING, eye)
    turned = eye.copy()
    turned[0] = [0.6, 0.8, 0, 0, 0]
    turned[1] *= -1
    found = score("ULIP_tiny_mesh", with_data(truth, EMBEDDING, turned), truth)
    per_asset = np.array([60.0, -100.0, 100.0])
    assert found is not None
    assert found.value == pytest.approx(per_asset.mean(), rel=1e-6)
    assert found.stderr == pytest.approx(per_asset.std(ddof=1) / np.sqrt(3), rel=1e-6)
    lower = score("ULIP_tiny_mesh", replace(truth, ok=np.array([True, False, True])), truth)  # whatever it embeds as
    assert lower is not None
    assert lower.value == pytest.approx(200 / 3, rel=1e-6)


def test_mse_is_a_mean_over_cells_then_over_assets():
    """By hand: gaps of 1, 2 in two channels; an asset of three cells weighs as much as one of one."""
    teacher = assets(0)
    gap = np.array([[1, 1], [2, 0], [3, 3], [0, 0], [0, 0], [0, 6]], np.float32)
    teacher = with_cells(teacher, latents=np.zeros_like(gap))
    found = score("MSE_slat", with_cells(teacher, latents=gap), assets(1), teacher)
    per_asset = np.array([(1 + 2) / 2, 9.0, (0 + 0 + 18) / 3])
    assert found is not None
    assert found.value == pytest.approx(per_asset.mean(), rel=1e-12)
    assert found.stderr == pytest.approx(per_asset.std(ddof=1) / np.sqrt(3), rel=1e-12)
    assert found.n_ok == 3
    assert score("MSE_slat", teacher, assets(1), teacher) == Score(0.0, 0.0, n_ok=3)


def test_a_failed_asset_is_no_pair_of_latents():
    """Its latents, whatever they are, are nobody's distance: neither a zero nor what stands in the arrays."""
    teacher = with_cells(assets(0), latents=np.zeros((6, 2), np.float32))
    made = with_cells(teacher, latents=np.array([[1], [1], [2], [3], [3], [3]]) * np.ones((6, 2), np.float32))
    for good, per_asset in (([1, 1, 0], [1, 4, np.nan]), ([0, 1, 1], [np.nan, 4, 9]), ([1, 0, 0], [1, np.nan, np.nan])):
        for mine, theirs in ((good, [1, 1, 1]), ([1, 1, 1], good)):  # failed here, or with the teacher
            sides = [replace(seen, ok=np.array(ok, bool)) for seen, ok in ((made, mine), (teacher, theirs))]
            found = score("MSE_slat", sides[0], assets(1), sides[1])
            assert found is not None
            assert found.per_asset is not None
            assert np.array_equal(found.per_asset, per_asset, equal_nan=True)
            assert (found.value, found.n_ok) == (np.nanmean(per_asset), sum(good))
    with pytest.raises(NotMeasured, match="no asset was made both here and by the teacher"):
        score("MSE_slat", replace(made, ok=np.zeros(3, bool)), assets(1), teacher)


def test_mse_says_nothing_where_cells_differ():
    teacher = assets(0)
    moved = teacher["cells"].coords.copy()
    moved[3, 2] += 1
    assert score("MSE_slat", teacher, teacher) is None  # no teacher
    assert score("MSE_slat", with_cells(teacher, coords=moved), teacher, teacher) is None
    as_many = with_cells(teacher, counts=np.array([1, 2, 3]))  # in all
    assert score("MSE_slat", as_many, teacher, teacher) is None
    assert score("MSE_slat", assets(1, (2, 1)), teacher, teacher) is None
    nothing = assets(2, (0, 0))
    assert score("MSE_slat", nothing, teacher, nothing) is None


def test_mse_is_over_the_assets_that_have_voxels():
    some, others = assets(2, (2, 0, 4)), assets(2, (2, 4))
    found = score("MSE_slat", with_cells(some, latents=some["cells"].latents + 3), others, some)
    assert found is not None
    assert (found.value, found.n_ok) == (pytest.approx(9.0, rel=1e-6), 2)
    assert found.per_asset is not None
    assert found.per_asset == pytest.approx([9, np.nan, 9], rel=1e-6, nan_ok=True)  # the second has no voxels
