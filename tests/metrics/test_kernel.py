from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mdtbench.base.errors import UsageError
from mdtbench.metrics.kernel import draw_subsets, kernel_distance, squared_mmd

GOLDEN = Path(__file__).parents[1] / "golden" / "distribution_metrics"
NAMES = ["dist_64d", "dist_256d_relu", "dist_256d_rank_deficient"]
DGM_EVAL_SEED, TORCH_FIDELITY_SEED = 1234, 2020


def generator(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


@pytest.fixture(params=NAMES)
def golden(request) -> tuple[dict, np.ndarray, np.ndarray]:
    arrays = np.load(GOLDEN / f"{request.param}.npz")
    return json.loads((GOLDEN / f"{request.param}.json").read_text()), arrays["real"], arrays["fake"]


def legacy_subsets(seed: int, settings: dict, real: np.ndarray, fake: np.ndarray) -> list:
    random = np.random.RandomState(seed)
    count, size = settings["n_subsets"], settings["subset_size"]
    return draw_subsets(random, len(real), len(fake), count=count, size=size)


# Tolerances are the fixtures' own. Observed: 4e-13 relative (float64).
@pytest.mark.parametrize("width", ["float64", "float32"])
def test_matches_dgm_eval_and_torch_fidelity_on_their_subsets(golden, width):
    sidecar, real, fake = golden
    expected = sidecar["results"][f"kernel_distance_{width}"]
    settings, tolerance = expected["settings"], sidecar["tolerance"]
    bounds = {"rel": tolerance["kernel_distance_float64_rtol"], "abs": 0}
    if width == "float32":
        bounds = {"rel": 0, "abs": tolerance["kernel_distance_float32_atol"]}
    found = kernel_distance(real, fake, legacy_subsets(DGM_EVAL_SEED, settings, real, fake))
    assert found.values.tolist() == pytest.approx(expected["dgm_eval_subset_values"], **bounds)
    assert found.mean == pytest.approx(expected["dgm_eval_subsets_mean"], **bounds)
    assert found.sd == pytest.approx(expected["dgm_eval_subsets_std"], **bounds)
    found = kernel_distance(real, fake, legacy_subsets(TORCH_FIDELITY_SEED, settings, real, fake))
    assert found.mean == pytest.approx(expected["torch_fidelity_mean"], **bounds)
    assert found.sd == pytest.approx(expected["torch_fidelity_std"], **bounds)
    n = settings["full_set_n"]
    whole = squared_mmd(real[:n], fake[:n])
    assert whole == pytest.approx(expected["full_set_polynomial_mmd_unbiased_first_n"], **bounds)


def test_equals_torch_fidelity(golden):
    import torch
    from torch_fidelity import metric_kid as theirs

    sidecar, real, fake = golden
    settings = sidecar["results"]["kernel_distance_float64"]["settings"]
    tensors = [torch.from_numpy(x.astype(np.float64)) for x in (real, fake)]
    asked = {"kid_subsets": settings["n_subsets"], "kid_subset_size": settings["subset_size"], "rng_seed": 7}
    kernel = {"kid_degree": 3, "kid_gamma": None, "kid_coef0": 1, "verbose": False}
    expected = theirs.kid_features_to_metric(*tensors, **asked, **kernel)
    found = kernel_distance(real, fake, legacy_subsets(7, settings, real, fake))
    assert found.mean == pytest.approx(expected[theirs.KEY_METRIC_KID_MEAN], rel=1e-6)
    assert found.sd == pytest.approx(expected[theirs.KEY_METRIC_KID_STD], rel=1e-6)


def test_by_hand():
    # D = 2, k(x, y) = (x.y / 2 + 1)^3. a: k = (0 + 1)^3 = 1. b: k = (2 / 2 + 1)^3 = 8 for its one pair.
    # across: x.y = 2, 0, 2, 0, halved + 1 = 2, 1, 2, 1, cubed and averaged: 4.5
    a, b = np.array([[2.0, 0.0], [0.0, 0.0]]), np.array([[1.0, 1.0], [1.0, 1.0]])
    assert squared_mmd(a, b) == pytest.approx(1 + 8 - 2 * 4.5, abs=1e-12)
    assert squared_mmd(a, b[:, :] * 2) == pytest.approx(1 + (8 / 2 + 1) ** 3 - (27 + 1), rel=1e-12)


def test_sides_of_different_size_weigh_their_own_pairs():
    random = generator(0)
    a, b = random.standard_normal((5, 3)), random.standard_normal((9, 3))
    kernel = lambda x, y: (x @ y / 3 + 1) ** 3  # noqa: E731
    pairs = [
        np.mean([kernel(x, y) for i, x in enumerate(side) for j, y in enumerate(side) if i != j]) for side in (a, b)
    ]
    expected = sum(pairs) - 2 * np.mean([kernel(x, y) for x in a for y in b])
    assert squared_mmd(a, b) == pytest.approx(expected, rel=1e-11)


def test_unbiased_for_the_same_distribution_and_positive_for_a_shift():
    random = generator(1)
    values = [squared_mmd(*random.standard_normal((2, 20, 4))) for _ in range(300)]
    error = np.std(values) / np.sqrt(len(values))
    assert abs(np.mean(values)) < 3 * error  # a biased one would give about 0.3, 10 errors and more
    assert min(values) < 0 < max(values)
    shifted = [squared_mmd(x, y + 1) for x, y in random.standard_normal((50, 2, 20, 4))]
    assert np.mean(shifted) > 10 * error


def test_subsets_are_seeded_and_without_repeats():
    first, again = (draw_subsets(generator(3), 40, 30, count=4, size=20) for _ in range(2))
    other = draw_subsets(generator(4), 40, 30, count=4, size=20)
    assert all(np.array_equal(x, y) for a, b in zip(first, again, strict=True) for x, y in zip(a, b, strict=True))
    assert not np.array_equal(first[0][0], other[0][0])
    assert not np.array_equal(first[0][0], first[1][0])
    for rows_a, rows_b in first:
        assert len(set(rows_a)) == len(set(rows_b)) == 20
        assert rows_a.max() < 40
        assert rows_b.max() < 30


def test_small_sides_make_the_subsets_smaller():
    subsets = draw_subsets(generator(0), 50, 8)
    assert len(subsets) == 100
    assert {len(rows) for subset in subsets for rows in subset} == {8}


def test_float32_is_summed_in_float64():
    x, y = (generator(seed).standard_normal((30, 4)).astype(np.float32) + 30 for seed in (0, 1))
    assert squared_mmd(x, y) == squared_mmd(x.astype(np.float64), y.astype(np.float64))


def test_refuses_what_has_no_distance():
    x = np.ones((4, 3))
    with pytest.raises(UsageError, match="different dimensions"):
        kernel_distance(x, np.ones((4, 2)), [])
    with pytest.raises(UsageError, match="not finite"):
        squared_mmd(x, x * np.nan)
    with pytest.raises(UsageError, match=r"subsets of 1 samples \(got 1 and 9"):
        draw_subsets(generator(0), 1, 9)
