from __future__ import annotations

import numpy as np
import pytest

from mdtbench.base.errors import UsageError
from mdtbench.metrics.extrapolation import fit_line, frechet_infinity, subset_sizes
from mdtbench.metrics.frechet import Moments, frechet_distance

DIM = 24


def generator(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def gaussian(mean: float = 0, sd: float = 1) -> Moments:
    """The exact moments of a Gaussian, as a reference of infinitely many samples would have them."""
    return Moments(2, np.full(DIM, mean), sd**2 * np.eye(DIM))


# FD of N(0, 1) to N(mean, sd) is DIM (mean^2 + (sd - 1)^2)
@pytest.mark.parametrize(("mean", "sd"), [(0.0, 1.0), (0.2, 1.5)])
def test_the_truth_of_gaussians(mean, sd):
    truth = DIM * (mean**2 + (sd - 1) ** 2)
    plain, found = [], []
    for seed in range(12):
        x = generator(seed).standard_normal((480, DIM))
        plain.append(frechet_distance(gaussian(mean, sd), Moments.of(x)) - truth)
        found.append(frechet_infinity(gaussian(mean, sd), x, generator(100 + seed)).value - truth)
    # FD at n is DIM/n + DIM^2/(4n) sd-ish too large; at least four fifths of that must go, and the rest be within
    # 4 standard errors of the mean or the second-order part that a line leaves (a few percent of the bias)
    bias = float(np.mean(plain))
    assert bias > 0.2
    assert abs(np.mean(found)) < 0.2 * bias + 4 * np.std(found) / np.sqrt(len(found))
    assert abs(np.mean(found)) < 0.5 * bias


def test_the_error_of_the_fit_is_that_of_the_draws():
    x = generator(0).standard_normal((600, DIM))
    fits = [frechet_infinity(gaussian(), x, generator(seed)) for seed in range(20)]
    spread = np.std([fit.value for fit in fits], ddof=1)
    # The points' errors differ (the last has none), which least squares does not know: a factor of two
    assert 0.5 < np.mean([fit.stderr for fit in fits]) / spread < 2
    assert all(fit.slope > 0 for fit in fits)


def test_views_of_an_asset_stay_together():
    """Four views that share most of what they show: single pictures are extrapolated to far too large an FD."""
    whole, single = [], []
    for seed in range(8):
        random = generator(seed)
        shared, own = random.standard_normal((240, 1, DIM)), random.standard_normal((240, 4, DIM))
        x = (np.sqrt(0.9) * shared + np.sqrt(0.1) * own).reshape(-1, DIM)
        whole.append(frechet_infinity(gaussian(), x, generator(50 + seed), views=4).value)
        single.append(frechet_infinity(gaussian(), x, generator(50 + seed)).value)
    assert abs(np.mean(whole)) < 0.25 * np.mean(single)


def test_seeded():
    x = generator(0).standard_normal((100, DIM))
    again = [frechet_infinity(gaussian(), x, generator(seed)) for seed in (1, 1, 2)]
    assert again[0] == again[1] != again[2]


def test_all_samples_are_the_last_point(monkeypatch):
    x = generator(0).standard_normal((120, DIM))
    seen = []
    monkeypatch.setattr("mdtbench.metrics.extrapolation.fit_line", lambda n, distances: seen.extend([n, distances]))
    frechet_infinity(gaussian(), x, generator(0), views=2, points=4)
    assert (1 / seen[0]).tolist() == pytest.approx([26, 56, 88, 120])
    assert seen[1][-1] == pytest.approx(frechet_distance(gaussian(), Moments.of(x)), rel=1e-12)


def test_subset_sizes():
    assert subset_sizes(3218, 4, 2048).tolist()[::14] == [513, 3218]  # 4 * 512 would be 2048: singular
    assert subset_sizes(100_000, 1, 63, 3).tolist() == [10_000, 55_000, 100_000]


def test_a_line_and_its_errors():
    fit = fit_line([1, 2, 3], [5, 7, 9])
    assert (fit.value, fit.slope) == pytest.approx((3, 2))
    assert fit.stderr == pytest.approx(0, abs=1e-12)
    # residuals 1/6, -1/3, 1/6: variance 1/6; intercept variance 1/6 (1/3 + 2^2 / 2) = 7/18
    fit = fit_line([1, 2, 3], [1, 1, 2])
    assert (fit.value, fit.slope, fit.stderr) == pytest.approx((1 / 3, 1 / 2, np.sqrt(7 / 18)))


def test_refuses_too_little():
    x = np.zeros((40, DIM))
    with pytest.raises(UsageError, match=r"got 40 of dimension 24\) - at least 50 "):
        frechet_infinity(gaussian(), x, generator(0))
    with pytest.raises(UsageError, match=r"got 40 of dimension 24\) - at least 56 "):
        frechet_infinity(gaussian(), x, generator(0), views=4)
    with pytest.raises(UsageError, match="not whole assets"):
        frechet_infinity(gaussian(), x, generator(0), views=3)
    with pytest.raises(UsageError, match="Too few points"):
        subset_sizes(100, 1, 10, 2)
