"""Variances of few seeds: closed forms, and that the prior of simulated lines is found."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest

from mdtbench.results.spread import (
    GENERATION,
    TRAINING,
    Prior,
    Variance,
    added,
    bound,
    level_variance,
    prior_of,
)


def test_the_variance_over_a_kind_of_seed_is_that_of_its_means():
    values = {(0, 0): 1.0, (0, 1): 3.0, (1, 0): 5.0, (1, 1): 11.0}
    assert level_variance(values, TRAINING) == Variance(statistics.variance([2.0, 8.0]), 1)
    assert level_variance(values, GENERATION) == Variance(statistics.variance([3.0, 7.0]), 1)
    assert level_variance({(0, 0): 1.0, (0, 1): 3.0}, TRAINING) is None


def test_terms_add_as_welch_and_satterthwaite_say():
    total = added([Variance(2.0, 4), Variance(1.0, 2)])
    assert total == Variance(3.0, 9 / (4 / 4 + 1 / 2))
    assert added([]) is None
    assert added([Variance(0.0, 3), Variance(0.0, 2)]) == Variance(0.0, 2)


@pytest.mark.parametrize(("df", "quantile"), [(2, 4.302653), (10, 2.228139), (math.inf, 1.959964)])
def test_bounds_are_those_of_tables_of_students_t(df: float, quantile: float):
    # Printed tables, six decimals.
    assert bound(Variance(4.0, df), 0.025) == pytest.approx(2 * quantile, abs=2e-6)


def test_lines_that_vary_alike_are_pooled():
    prior = prior_of([Variance(2.0, 2), *[Variance(1.0, 2)] * 9])
    assert prior == Prior(pytest.approx(1.1, rel=1e-12), math.inf, 20)
    prior = Prior(1.1, math.inf, 20)
    assert prior.moderated(Variance(5.0, 2)) == Variance(1.1, 20)
    assert prior.moderated(None) == Variance(1.1, 20)


def test_a_line_counts_beside_the_prior_by_its_degrees_of_freedom():
    prior = Prior(1.0, 6.0, 100.0)
    assert prior.moderated(Variance(5.0, 2)) == Variance((6 * 1.0 + 2 * 5.0) / 8, 8.0)


def test_few_lines_tell_nothing():
    prior = prior_of([Variance(1.0, 2)] * 4 + [Variance(0.0, 2)])
    assert prior.moderated(None) is None
    assert prior.moderated(Variance(3.0, 2)) == Variance(3.0, 2)


def test_the_prior_of_simulated_lines_is_found():
    rng = np.random.Generator(np.random.PCG64(0))
    true_df, scale, df = 6.0, 4.0, 2
    variances = scale * true_df / rng.chisquare(true_df, 5_000)
    prior = prior_of(Variance(float(v), df) for v in variances * rng.chisquare(df, 5_000) / df)
    # The upper end of the error of 5,000 lines is 10 % fewer degrees of freedom.
    assert 0.75 * true_df < prior.df < true_df
    assert prior.value == pytest.approx(scale, rel=0.1)
