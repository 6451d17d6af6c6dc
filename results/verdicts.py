"""Which method is best in a column, which are not shown to be worse, and what difference the run could have shown.

Methods of one run share seeds, noise and assets, so they are compared pair by pair: the difference of two methods is
taken asset by asset (of distances between distributions, generation seed by generation seed) and training seed by
training seed. How far chance moves its mean is `crossed.mean_variance` of these differences. That is itself a guess
from few seeds, so a pair's variance is never taken below the median of all pairs, which is known better: its degrees of
freedom count once for each method but one.

The best mean of k methods is held against every other; as it is the best by chance too, each is a test at
ALPHA / k / (k - 1) on either side, as of all pairs. In simulated runs of equal methods any was called worse in 1 to 6
of 100 (1 or 3 training seeds, 3 to 48 assets, 3 to 9 methods, also where one varies four times as much as the others).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Final

import numpy as np
from pandas import DataFrame
from scipy.special import stdtrit

from .crossed import mean_variance
from .spread import Variance, bound

ALPHA: Final = 0.05  # chance that of equal methods any is called worse, per block and column
POWER: Final = 0.8  # with which the smallest difference would have been found

Who = tuple[str, str]  # method and variant
Values = dict[int, dict[Any, float]]  # by training seed, then by asset or generation seed

PLACE: Final = ["stage", "steps", "metric"]
WHO: Final = ["method", "variant"]


@dataclass(frozen=True)
class Behind:
    """A method that is worse than the best. difference: in the metric's unit, positive. sd: its standard error."""

    who: Who
    difference: float
    sd: float


@dataclass(frozen=True)
class Verdict:
    """One metric among the students of a stage and number of steps.

    Attributes:
        best: the method with the best mean. tied: those that are not shown to be worse, best first. worse: in order.
        smallest: the difference of two methods, in the metric's unit, that this run finds with probability `POWER`;
            None where one value per method tells nothing.
        over: what differences were taken over: "assets" or "generation seeds". units: their number.
        trainings: training seeds that all have in common; with one, another training is not in the chance.
    """

    stage: str
    steps: int
    metric: str
    unit: str
    best: Who
    tied: tuple[Who, ...]
    worse: tuple[Behind, ...]
    smallest: float | None
    over: str
    units: int
    trainings: int

    @property
    def top(self) -> tuple[Who, ...]:
        """All that may be the best."""
        return (self.best, *self.tied)


def verdicts(rows: DataFrame, assets: DataFrame, metrics: Sequence[str], students: Sequence[Who]) -> Iterator[Verdict]:
    """A verdict per stage, number of steps and metric in which two or more methods have values.

    Args:
        rows: of `frames`, of one run. assets: likewise; may be empty.
        metrics: quality, not cost. students: those that race.
    """
    rows, assets = (frame[frame["metric"].isin(metrics) & ~frame["extra_sampler"]] for frame in (rows, assets))
    tables = {"assets": _values(assets, "asset"), "generation seeds": _values(rows, "seed")}
    failed = {*rows.loc[rows["value"].isna(), [*PLACE, *WHO]].itertuples(index=False, name=None)}
    for about in rows.drop_duplicates(PLACE).dropna(subset="steps").to_dict("records"):
        place = tuple(about[name] for name in PLACE)
        race = [who for who in students if (*place, *who) not in failed]
        for over, table in tables.items():
            values = {who: table[place, who] for who in race if (place, who) in table}
            if len(values) >= 2:
                better = 1.0 if about["higher_is_better"] else -1.0
                yield _verdict((*place, about["unit"]), values, better, over)
                break


def sentence(verdict: Verdict, label: Callable[[Who], str]) -> str:
    """The verdict in words. label: a method's name in the tables."""
    names = " and ".join(filter(None, [", ".join(map(label, verdict.top[:-1])), label(verdict.top[-1])]))
    if not verdict.worse:
        said = f"no method is shown to be better: {names} lie within chance"
    elif verdict.tied:
        said = f"{names} are best, within chance of each other"
    else:
        said = f"{names} is best"
    if verdict.worse:
        said += "; worse: " + ", ".join(
            f"{label(one.who)} by {_number(one.difference)} ± {_number(one.sd)}" for one in verdict.worse
        )
    shows = "" if verdict.smallest is None else f" This run shows differences from {_number(verdict.smallest)} on."
    return f"{said}.{shows}"


def _number(value: float) -> str:
    return f"{value:.2g}" if abs(value) < 100 else f"{value:.0f}"


def _values(frame: DataFrame, unit: str) -> dict[tuple[tuple, Who], Values]:
    """By place and method; unit: the column of assets or generation seeds."""
    found: dict[tuple[tuple, Who], Values] = {}
    keys = [*PLACE, *WHO, "train_seed", unit]
    means = frame.dropna(subset=[*keys, "value"]).groupby(keys, sort=False)["value"].mean()
    for key, value in zip(means.index.to_list(), means.to_list(), strict=True):
        *place, method, variant, seed, one = key
        found.setdefault((tuple(place), (method, variant)), {}).setdefault(seed, {})[one] = value
    return found


def _verdict(place: tuple[str, int, str, str], values: Mapping[Who, Values], better: float, over: str) -> Verdict:
    means = {
        who: statistics.fmean(v for of_seed in table.values() for v in of_seed.values())
        for who, table in values.items()
    }
    ranked = sorted(means, key=lambda who: -better * means[who])
    pairs = {pair: _Gaps.of(*(values[who] for who in pair)) for pair in combinations(ranked, 2)}
    known = [gaps.chance for gaps in pairs.values() if gaps.chance is not None]
    usual = _usual(known, len(ranked))
    tail = ALPHA / (len(ranked) * (len(ranked) - 1))
    tied, worse = [], []
    for who in ranked[1:]:
        gaps = pairs[ranked[0], who]
        if gaps.chance is None or usual is None:
            tied.append(who)
            continue
        chance = max(gaps.chance, usual, key=lambda one: one.value)
        if better * gaps.mean > bound(chance, tail):
            worse.append(Behind(who, better * gaps.mean, math.sqrt(chance.value)))
        else:
            tied.append(who)
    units, trainings = (min(counts) for counts in zip(*(gaps.shape for gaps in pairs.values()), strict=True))
    smallest = None if usual is None else bound(usual, tail) + float(stdtrit(usual.df, POWER)) * math.sqrt(usual.value)
    return Verdict(*place, ranked[0], tuple(tied), tuple(worse), smallest, over, units, trainings)


@dataclass(frozen=True)
class _Gaps:
    """Of two methods. shape: assets (or generation seeds) and training seeds that both have."""

    mean: float
    chance: Variance | None
    shape: tuple[int, int]

    @staticmethod
    def of(one: Values, other: Values) -> _Gaps:
        seeds = [seed for seed in one if seed in other]
        shared = [one[seed].keys() & other[seed].keys() for seed in seeds]
        units = sorted(set.intersection(*map(set, shared))) if shared else []
        if not units:
            return _Gaps(math.nan, None, (0, 0))
        gaps = np.array([[one[seed][unit] - other[seed][unit] for unit in units] for seed in seeds])
        return _Gaps(float(gaps.mean()), mean_variance(gaps), (len(units), len(seeds)))


def _usual(known: Sequence[Variance], methods: int) -> Variance | None:
    """The variance that a difference of two methods of this run has."""
    if not known:
        return None
    value, df = (statistics.median(parts) for parts in zip(*((one.value, one.df) for one in known), strict=True))
    return Variance(value, df * (methods - 1))
