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
from typing import Final

from pandas import DataFrame
from scipy.special import stdtrit

from .crossed import mean_variance
from .spread import Variance, bound

ALPHA: Final = 0.05  # chance that of equal methods any is called worse, per block and column
POWER: Final = 0.8  # with which the smallest difference would have been found

Who = tuple[str, str]  # method and variant


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
    for _, of_rows in rows.groupby(["stage", "steps", "metric"], sort=False):
        first = of_rows.iloc[0]
        stage, steps, metric = first["stage"], first["steps"], first["metric"]
        of_assets = assets[(assets["stage"] == stage) & (assets["steps"] == steps) & (assets["metric"] == metric)]
        failed = {*of_rows.loc[of_rows["value"].isna(), ["method", "variant"]].itertuples(index=False, name=None)}
        race = [who for who in students if who not in failed]
        for over, frame, unit in (("assets", of_assets, "asset"), ("generation seeds", of_rows, "seed")):
            values = {who: found for who in race if (found := _values(frame, who, unit)) is not None}
            if len(values) >= 2:
                better = 1.0 if first["higher_is_better"] else -1.0
                yield _verdict((str(stage), int(steps), str(metric), str(first["unit"])), values, better, over)
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


def _values(frame: DataFrame, who: Who, unit: str) -> DataFrame | None:
    """A line per training seed, a column per asset or generation seed; None where there are none."""
    mine = frame[(frame["method"] == who[0]) & (frame["variant"] == who[1])]
    if mine.empty:
        return None
    return mine.pivot_table(index="train_seed", columns=unit, values="value", aggfunc="mean", dropna=False)


def _verdict(place: tuple[str, int, str, str], values: Mapping[Who, DataFrame], better: float, over: str) -> Verdict:
    ranked = sorted(values, key=lambda who: -better * float(values[who].to_numpy().mean()))
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
    def of(one: DataFrame, other: DataFrame) -> _Gaps:
        mine, theirs = one.align(other, join="inner")  # the seeds and assets that both have
        gaps = (mine - theirs).dropna(axis=1).to_numpy(dtype=float)
        if not gaps.size:
            return _Gaps(math.nan, None, (0, 0))
        return _Gaps(float(gaps.mean()), mean_variance(gaps), gaps.T.shape)


def _usual(known: Sequence[Variance], methods: int) -> Variance | None:
    """The variance that a difference of two methods of this run has."""
    if not known:
        return None
    value, df = (statistics.median(parts) for parts in zip(*((one.value, one.df) for one in known), strict=True))
    return Variance(value, df * (methods - 1))
