"""How much a line's mean varies with its seeds, told from few seeds per line and many lines.

A variance of three values is itself a guess: it has two degrees of freedom. Lines vary more or less alike, so each
line's variance is moderated by those of all: empirical Bayes with an inverse chi-square prior, as for gene expression
(Smyth 2004, Stat. Appl. Genet. Mol. Biol. 3(1):3; the degrees of freedom capped as in limma). How much lines differ
decides how much a line's own variance counts, and that too is a guess: it is taken at the upper end of its error,
as bounds far out in the tail would otherwise be crossed several times as often as they say.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from scipy.special import digamma, ndtri, stdtrit, zeta

Seeds = tuple[int | None, int | None]  # of training and of generation

TRAINING, GENERATION = FACTORS = (0, 1)  # places in Seeds: what values vary with
MIN_LINES: Final = 5  # fewer variances say too little of how variances vary
UPPER: Final = 1.645  # standard errors above the estimate: 95 % of estimates are below the truth with them added
POWER: Final = 0.8  # with which the smallest difference would have been found
LARGE_DF: Final = 1e6  # from here on Student's t is the normal distribution


@dataclass(frozen=True)
class Variance:
    """A variance and its degrees of freedom."""

    value: float
    df: float


@dataclass(frozen=True)
class Prior:
    """What the lines of one metric say of a variance. df 0: nothing; infinite: all lines vary alike.

    cap: degrees of freedom of all lines together, which no moderated variance can have more of.
    """

    value: float
    df: float
    cap: float

    def moderated(self, own: Variance | None) -> Variance | None:
        """The variance of a line, from its own (None: a single seed) and the prior; None when neither is known."""
        if own is None:
            return Variance(self.value, min(self.df, self.cap)) if self.df else None
        if math.isinf(self.df):
            return Variance(self.value, max(self.cap, own.df))
        df = self.df + own.df
        return Variance((self.df * self.value + own.df * own.value) / df, max(own.df, min(df, self.cap)))


NO_PRIOR: Final = Prior(0.0, 0.0, 0.0)


def prior_of(variances: Iterable[Variance]) -> Prior:
    """The prior that the variances of lines come from; lines that do not vary at all are left out."""
    known = [one for one in variances if one.value > 0]
    cap = sum(one.df for one in known)
    if len(known) < MIN_LINES:
        return NO_PRIOR
    logs = [math.log(one.value) - float(digamma(one.df / 2)) + math.log(one.df / 2) for one in known]
    excess = _upper_variance(logs) - statistics.fmean(_trigamma(one.df / 2) for one in known)
    if excess <= 0:
        # The mean, not the mean of logarithms: when all lines vary alike it is the pooled variance, which is exact.
        return Prior(sum(one.df * one.value for one in known) / cap, math.inf, cap)
    half = _inverse_trigamma(excess)
    return Prior(math.exp(statistics.fmean(logs) + float(digamma(half)) - math.log(half)), 2 * half, cap)


def _upper_variance(values: Sequence[float]) -> float:
    """The variance of values and UPPER of its standard errors (from the fourth moment)."""
    mean = statistics.fmean(values)
    squares = [(value - mean) ** 2 for value in values]
    return statistics.variance(values) + UPPER * math.sqrt(statistics.pvariance(squares) / len(values))


def levels(values: Mapping[Seeds, float], factor: int) -> int:
    """How many different seeds there are of a factor."""
    return len({seeds[factor] for seeds in values})


def level_variance(values: Mapping[Seeds, float], factor: int) -> Variance | None:
    """Of the means of each seed of a factor; None of a single seed."""
    by_seed: dict[int | None, list[float]] = {}
    for seeds, value in values.items():
        by_seed.setdefault(seeds[factor], []).append(value)
    if len(by_seed) < 2:
        return None
    return Variance(statistics.variance(map(statistics.fmean, by_seed.values())), len(by_seed) - 1)


def added(terms: Iterable[Variance]) -> Variance | None:
    """The variance of a sum of independent terms, its degrees of freedom after Welch and Satterthwaite."""
    terms = list(terms)
    total = sum(term.value for term in terms)
    if not terms:
        return None
    if not total:
        return Variance(0.0, min(term.df for term in terms))
    return Variance(total, total**2 / sum(term.value**2 / term.df for term in terms))


def bound(variance: Variance, tail: float) -> float:
    """What a deviation of this estimated variance exceeds with probability `tail` on either side."""
    quantile = ndtri(1 - tail) if variance.df > LARGE_DF else stdtrit(variance.df, 1 - tail)
    return float(quantile) * math.sqrt(variance.value)


def shown_from(variance: Variance, limit: float, power: float = POWER) -> float:
    """The true difference that is found beyond `limit` with probability `power`."""
    return limit + float(stdtrit(variance.df, power)) * math.sqrt(variance.value)


def _trigamma(x: float) -> float:
    return float(zeta(2, x))


def _inverse_trigamma(target: float) -> float:
    """By bisection of the logarithm: trigamma falls from infinity to 0."""
    low, high = -20.0, 20.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if _trigamma(math.exp(middle)) > target else (low, middle)
    return math.exp((low + high) / 2)
