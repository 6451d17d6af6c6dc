"""Columns of distributions are what they compute, of all views of all assets, and say nothing of too few samples."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mdtbench.metrics import Comparison, Seen, distributions
from mdtbench.metrics.contract import check_metric
from mdtbench.metrics.distributions import (
    FrechetInfinity,
    KernelDistance,
    ManifoldShare,
    needed_for_infinity,
)
from mdtbench.metrics.fd import FrechetDistance, distance
from mdtbench.metrics.kernel import draw_subsets, kernel_distance
from mdtbench.metrics.manifold import NEIGHBOURS, manifold

NEED, VIEWS, DIM = "mesh:incep", 2, 3


def seen(seed: int, n: int = 8) -> Seen:
    features = np.random.default_rng(seed).normal(0.5 * seed, 1, (n, VIEWS, DIM)).astype(np.float32)
    return Seen(tuple(map(str, range(n))), np.ones(n, bool), {NEED: features})


MADE, TRUTH = seen(0), seen(1)
SAMPLES = [side[NEED].reshape(-1, DIM) for side in (MADE, TRUTH)]
AGAINST = Comparison(truth=TRUTH)


def test_they_ask_for_the_same_features_of_both_sides():
    for kind in (KernelDistance, ManifoldShare, FrechetInfinity):
        metric = kind("column", "mesh", "incep")
        assert metric.made == metric.truth == (NEED,)
        assert metric.population == metric.teacher == metric.condition == ()
        check_metric(metric)


def test_kd_is_that_of_the_subsets_that_its_seed_draws():
    metric = KernelDistance("KD", "mesh", "incep", subsets=5, subset_size=6, scale=100)
    drawn = draw_subsets(np.random.RandomState(0), 16, 16, count=5, size=6)
    expected = kernel_distance(*SAMPLES, drawn)
    found = metric.score(MADE, AGAINST)
    assert (found.value, found.stderr) == (100 * expected.mean, 100 * expected.sd)
    assert replace(metric, seed=1).score(MADE, AGAINST).value != found.value


def test_kd_of_all_there_is_has_no_spread():
    for size, count in ((1000, 5), (16, 5), (6, 1)):
        metric = KernelDistance("KD", "mesh", "incep", subsets=count, subset_size=size)
        assert metric.score(MADE, AGAINST).stderr is None


def test_four_shares_are_of_one_manifold(monkeypatch: pytest.MonkeyPatch):
    expected, calls = manifold(SAMPLES[1], SAMPLES[0]), []
    monkeypatch.setattr(distributions, "_last", [])
    monkeypatch.setattr(distributions, "manifold", lambda *args: calls.append(1) or manifold(*args))
    for part in ("precision", "recall", "density", "coverage"):
        found = ManifoldShare(f"{part}_incep", "mesh", "incep", part=part).score(MADE, AGAINST)
        assert found is not None
        assert found.value == getattr(expected, part)
    assert len(calls) == 1
    assert ManifoldShare("precision", "mesh", "incep").score(seen(3), AGAINST) is not None  # another cell's features
    assert len(calls) == 2


def test_too_few_samples_have_no_manifold():
    few = seen(0, NEIGHBOURS // VIEWS)
    assert ManifoldShare("precision", "mesh", "incep").score(few, Comparison(truth=few)) is None


def test_fd_infinity_needs_twice_what_makes_a_covariance_regular():
    assert needed_for_infinity(3, 2) == 8
    assert needed_for_infinity(4, 2) == 12
    metric = FrechetInfinity("FD_inf", "mesh", "incep")
    assert metric.score(seen(0, 3), Comparison(truth=seen(1, 3))) is None
    found = metric.score(seen(0, 400), Comparison(truth=seen(1, 400)))
    assert found is not None
    assert found.value == pytest.approx(3 * 0.25, abs=0.25)  # the means are 0.5 apart in each of 3 dimensions
    assert found == metric.score(seen(0, 400), Comparison(truth=seen(1, 400)))


def test_fd_says_when_bias_dominates_it():
    plain = FrechetDistance("FD", "mesh", "incep", "assets")
    wary = replace(plain, few="FD_incep")
    assert wary.score(MADE, AGAINST) == plain.score(MADE, AGAINST)
    one = seen(0, 1)
    found = wary.score(one, Comparison(truth=seen(1)))
    assert found.value == distance(one[NEED], TRUTH[NEED])
    assert found.note == "FD_incep: 2 pictures, fewer than its 3 features: dominated by bias"
