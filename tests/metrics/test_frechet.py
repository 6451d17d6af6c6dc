from __future__ import annotations

import inspect
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import linalg

from mdtbench.base.errors import UsageError
from mdtbench.harness.bench.fd import frechet_by_sqrtm
from mdtbench.metrics.frechet import Moments, frechet_distance

GOLDEN = Path(__file__).parents[1] / "golden" / "distribution_metrics"
few = settings(max_examples=15, deadline=None)
seeds = st.integers(0, 2**32 - 1)


def sample(rng: np.random.Generator, n: int = 60, dim: int = 7) -> np.ndarray:
    """Correlated features with an offset, [n, dim]."""
    return rng.standard_normal((n, dim)) @ rng.standard_normal((dim, dim)) + 3 * rng.standard_normal(dim)


def distance(a: np.ndarray, b: np.ndarray) -> float:
    return frechet_distance(Moments.of(a), Moments.of(b))


def scale(*sets: np.ndarray) -> float:
    return sum(float(np.trace(np.cov(x, rowvar=False))) for x in sets)


# The tolerances are the fixtures' own. Observed: 2e-10 (64d), 7e-14 (256d relu), 6e-8 (rank deficient)
# against the float64 references; 4e-8 against those that take the mean in float32.
@pytest.mark.parametrize("name", ["dist_64d", "dist_256d_relu", "dist_256d_rank_deficient"])
def test_matches_reference_implementations(name):
    sidecar = json.loads((GOLDEN / f"{name}.json").read_text())
    arrays = np.load(GOLDEN / f"{name}.npz")
    real, fake = Moments.of(arrays["real"]), Moments.of(arrays["fake"])
    kind = "rank_deficient" if "deficient" in name else "full_rank"
    rtol = sidecar["tolerance"][f"frechet_rtol_{kind}"]
    results = sidecar["results"]
    for group in ("frechet_float64", "frechet_float32", "frechet_exact"):
        for key, expected in results[group].items():
            if "sqrtm" in key or "eig" in key or "nuclear" in key:
                assert frechet_distance(real, fake) == pytest.approx(expected, rel=rtol), (group, key)
    parts = results["frechet_float64"]
    assert np.sum((real.mean - fake.mean) ** 2) == pytest.approx(parts["mean_term"], rel=1e-12)
    assert np.trace(real.covariance) == pytest.approx(parts["trace_1"], rel=1e-12)
    assert np.trace(fake.covariance) == pytest.approx(parts["trace_2"], rel=1e-12)
    # sqrt of eigenvalue rounding (1e-16) is 1e-8: the bound for a set against itself
    assert frechet_distance(real, real) < 1e-6 * parts["trace_1"]


def features(name: str) -> tuple[np.ndarray, np.ndarray]:
    arrays = np.load(GOLDEN / f"{name}.npz")
    return arrays["real"], arrays["fake"]


# Full rank: the root is accurate to about 1e-12, the bound is what we promise. Observed: 6e-11 and less.
@pytest.mark.parametrize("name", ["dist_64d", "dist_256d_relu"])
def test_equals_the_matrix_root(name):
    expected = json.loads((GOLDEN / f"{name}.json").read_text())["results"]["frechet_float64"]["pytorch_fid_sqrtm"]
    real, fake = (Moments.of(x) for x in features(name))
    assert frechet_by_sqrtm(real, fake) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(real, fake) == pytest.approx(frechet_by_sqrtm(real, fake), rel=1e-6)


@pytest.mark.parametrize("name", ["dist_64d", "dist_256d_relu"])
def test_equals_pytorch_fid(name):
    from pytorch_fid import fid_score as theirs

    if "disp" not in inspect.signature(linalg.sqrtm).parameters:
        pytest.skip("pytorch-fid cannot run with SciPy 1.18 and later")
    statistics = [part for x in features(name) for part in (x.mean(0, np.float64), np.cov(x, rowvar=False))]
    expected = theirs.calculate_frechet_distance(*statistics)
    real, fake = (Moments.of(x) for x in features(name))
    assert frechet_distance(real, fake) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", ["dist_64d", "dist_256d_relu"])
def test_equals_torch_fidelity(name):
    from torch_fidelity import metric_fid as theirs

    first, second = ({"mu": x.mean(0, np.float64), "sigma": np.cov(x, rowvar=False)} for x in features(name))
    found = theirs.fid_statistics_to_metric(first, second, False)[theirs.KEY_METRIC_FID]
    real, fake = (Moments.of(x) for x in features(name))
    assert frechet_distance(real, fake) == pytest.approx(found, rel=1e-6)


@few
@given(seeds, st.integers(2, 40))
def test_zero_for_the_same_set(seed, n):
    x = sample(np.random.default_rng(seed), n)
    assert distance(x, x) < 1e-6 * scale(x)


@few
@given(seeds)
def test_symmetric(seed):
    rng = np.random.default_rng(seed)
    a, b = sample(rng), sample(rng, 45)
    assert distance(a, b) == pytest.approx(distance(b, a), rel=1e-8)
    assert distance(a, b) > 0


@few
@given(seeds)
def test_mean_shift_adds_its_square(seed):
    rng = np.random.default_rng(seed)
    x, shift = sample(rng), rng.standard_normal(7)
    assert distance(x, x + shift) == pytest.approx(shift @ shift, abs=1e-7 * scale(x))


@few
@given(seeds)
def test_rotation_invariant(seed):
    rng = np.random.default_rng(seed)
    a, b = sample(rng), sample(rng)
    rotation, _ = np.linalg.qr(rng.standard_normal((7, 7)))
    assert distance(a @ rotation, b @ rotation) == pytest.approx(distance(a, b), rel=1e-8)


@few
@given(seeds, st.lists(st.integers(0, 60), max_size=4))
def test_chunking_does_not_matter(seed, cuts):
    x = sample(np.random.default_rng(seed)) + 1e4  # an offset that a sum of products would lose digits to
    streamed = Moments.empty(7)
    for chunk in np.split(x, sorted(cuts)):
        streamed = streamed.updated(chunk)
    assert streamed.count == len(x)
    np.testing.assert_allclose(streamed.mean, x.mean(0), rtol=1e-13)
    np.testing.assert_allclose(streamed.covariance, np.cov(x, rowvar=False), atol=1e-11 * scale(x))


def test_merging_is_streaming():
    x = sample(np.random.default_rng(0))
    merged = Moments.of(x[:10]).merged(Moments.of(x[10:]))
    streamed = Moments.empty(7).updated(x[:10]).updated(x[10:])
    np.testing.assert_array_equal(merged.scatter, streamed.scatter)


@few
@given(seeds)
def test_closed_form_of_diagonal_gaussians(seed):
    rng = np.random.default_rng(seed)
    sd_a, sd_b = rng.uniform(0, 3, 5), rng.uniform(0, 3, 5)
    mean_a, mean_b = rng.standard_normal(5), rng.standard_normal(5)
    a = Moments(11, mean_a, np.diag(sd_a**2) * 10)  # ddof=1: the scatter is 10 covariances
    b = Moments(21, mean_b, np.diag(sd_b**2) * 20)
    expected = np.sum((mean_a - mean_b) ** 2) + np.sum((sd_a - sd_b) ** 2)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)


def test_covariances_that_do_not_commute():
    # 2 x 2: tr sqrt(M) = sqrt(tr M + 2 sqrt(det M)); a wrong order of the product would differ
    a, b = np.array([[4.0, 0.0], [0.0, 1.0]]), np.array([[2.0, 1.5], [1.5, 3.0]])
    product = a @ b
    overlap = np.sqrt(np.trace(product) + 2 * np.sqrt(np.linalg.det(product)))
    expected = np.trace(a) + np.trace(b) - 2 * overlap
    got = frechet_distance(Moments(2, np.zeros(2), a), Moments(2, np.zeros(2), b))
    assert got == pytest.approx(expected, rel=1e-12)


def test_float32_features_are_summed_in_float64():
    x = (np.random.default_rng(1).standard_normal((200, 3)) + 1000).astype(np.float32)
    moments = Moments.empty(3).updated(x)
    np.testing.assert_allclose(moments.covariance, np.cov(x.astype(np.float64), rowvar=False), rtol=1e-11)


def test_refuses_what_has_no_distance():
    x = np.zeros((4, 3))
    with pytest.raises(UsageError, match="too few samples"):
        distance(x[:1], x)
    with pytest.raises(UsageError, match="different dimensions"):
        distance(x, np.zeros((4, 2)))
    with pytest.raises(UsageError, match=r"not finite \(got 1 of 4"):
        Moments.of(np.where(np.arange(12).reshape(4, 3) == 5, np.nan, 0.0))
    with pytest.raises(UsageError, match="wrong shape"):
        Moments.of(np.zeros(3))
