from __future__ import annotations

import numpy as np
import pytest

from mdtbench.base.errors import UsageError
from mdtbench.metrics.bootstrap import (
    Interval,
    basic_interval,
    mean_interval,
    resampled_assets,
    resampled_frechet,
    resampled_means,
    weighted_moments,
)
from mdtbench.metrics.frechet import Moments, frechet_distance


def generator(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def test_the_basic_interval_mirrors_the_percentiles():
    # quantiles 2.5 % and 97.5 % of 0..40 are 1 and 39
    assert basic_interval(10, np.arange(41)) == Interval(20 - 39, 20 - 1)
    assert basic_interval(10, np.arange(41), level=0.5) == Interval(20 - 30, 20 - 10)


def test_the_interval_of_a_mean_covers_it():
    """A skewed distribution, 60 assets: 95 % of intervals should hold the truth, somewhat fewer for such."""
    random = generator(0)
    covered = 0
    for _ in range(600):
        found = mean_interval(random.exponential(2, 60), random)
        covered += found.low < 2 < found.high
    # binomial error of 600 is 0.9 %; a skewed mean at n = 60 and 200 resamples loses one to three percent
    assert 0.89 < covered / 600 < 0.97


def test_the_interval_is_basic_not_percentile():
    values = np.concatenate([np.zeros(30), [10.0]])
    found = mean_interval(values, generator(0))
    assert found.low < 0  # the percentiles of a mean of what is at least 0 are at least 0
    assert found.low < values.mean() < found.high


def test_resamples_are_seeded_and_of_whole_sets():
    draws = resampled_assets(generator(5), 9)
    assert draws.shape == (200, 9)
    assert np.array_equal(draws, resampled_assets(generator(5), 9))
    assert not np.array_equal(draws, resampled_assets(generator(6), 9))
    assert (draws.min(), draws.max()) == (0, 8)
    assert any(len(set(row)) < 9 for row in draws)  # with replacement
    assert resampled_means(np.arange(9.0), draws)[3] == pytest.approx(draws[3].mean())


def test_the_protocol_generator_gives_one_result_for_ever():
    # numpy.random.RandomState is frozen by NEP 19, so the protocol's resamples are these
    assert resampled_assets(np.random.RandomState(0), 5, 2).tolist() == [[4, 0, 3, 3, 3], [1, 3, 2, 4, 0]]


def test_weights_are_repetitions():
    x = generator(0).standard_normal((6, 4, 3)) + 5
    weights = np.array([0, 3, 1, 0, 2, 1])
    found, expected = weighted_moments(x, weights), Moments.of(np.repeat(x, weights, axis=0).reshape(-1, 3))
    assert found.count == expected.count == 28
    np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-13)
    np.testing.assert_allclose(found.covariance, expected.covariance, rtol=1e-11)


def test_a_resample_of_fd_takes_the_same_assets_with_all_views_on_both_sides():
    real, fake = generator(1).standard_normal((2, 20, 3))
    draws = np.array([[0, 0, 3, 4, 1], [2, 2, 2, 2, 1]])
    found = list(resampled_frechet(real, fake, draws, views=4))
    for value, drawn in zip(found, draws, strict=True):
        rows = np.concatenate([np.arange(4 * i, 4 * i + 4) for i in drawn])
        expected = frechet_distance(Moments.of(real[rows]), Moments.of(fake[rows]))
        assert value == pytest.approx(expected, rel=1e-9)


def test_the_basic_interval_of_fd_holds_the_truth_and_the_percentiles_do_not():
    """Two sides of one distribution: the FD of infinitely many is 0, and all that is found is bias."""
    covered, contained = 0, 0
    for seed in range(20):
        random = generator(seed)
        real, fake = random.standard_normal((2, 150, 12))
        estimate = frechet_distance(Moments.of(real), Moments.of(fake))
        values = np.array(list(resampled_frechet(real, fake, resampled_assets(random, 150, 60))))
        found = basic_interval(estimate, values)
        covered += found.low < 0 < found.high
        contained += np.quantile(values, 0.025) < estimate
    assert covered >= 14
    assert contained == 0  # the percentile interval misses the estimate itself, let alone the truth below it


def test_refuses_what_cannot_be_resampled():
    x = np.zeros((8, 3))
    with pytest.raises(UsageError, match=r"Too few assets to resample \(got 1\)"):
        mean_interval([1.0], generator(0))
    with pytest.raises(UsageError, match=r"Sides of different assets \(got 2 and 1, 2 drawn\)"):
        list(resampled_frechet(x, x[:4], np.zeros((1, 2), int), views=4))
    with pytest.raises(UsageError, match="not whole assets"):
        list(resampled_frechet(x, x, np.zeros((1, 2), int), views=3))
