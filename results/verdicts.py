"""Which method is best in a column, which are not shown to be worse, and what difference the run could have shown.

Methods of one run share seeds, noise and assets, so they are compared pair by pair: the difference of two methods is
taken asset by asset (of distances between distributions, generation seed by generation seed) and training seed by
training seed. How far chance moves its mean is `crossed.mean_variance` of these differences. That is itself a guess
from few seeds, so a pair's variance is never taken below the median of all pairs, which is known better: its degrees of
freedom count once for each method but one. A larger one of the pair's own has, beside its own degrees of freedom, those
that the other pairs lend it (`spread.Prior`): with two alone, of three training seeds, it would have to be 50 standard
errors of the difference among fifteen methods.

The best mean of k methods is held against every other; as it is the best by chance too, each is a test at
ALPHA / k / (k - 1) on either side, as of all pairs. In simulated runs of equal methods any was called worse in 1 to 8
of 100 (1 or 3 training seeds, 1 to 24 assets, 3 to 15 methods, also where one varies four times as much as the others);
in 2 to 13 where three training seeds alone vary and methods do by a factor of two and more.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pandas import DataFrame

from .cells import decimals_of
from .crossed import mean_variance
from .places import CONTROLS, NO_STEPS
from .rows import COST_METRICS, EVALUATION
from .spread import Prior, Variance, bound, prior_of, shown_from
from .variances import Components, components, tail_of

ALPHA: Final = 0.05  # chance that of equal methods any is called worse, per block and column
TWO_DIGITS: Final = 3.5  # an sd of larger first digits is shown with one
NO_SEED: Final = -1  # of what has no training or generation seed

Who = tuple[str, str, int]  # method, variant, number of steps
Over = Literal["assets", "generation seeds"]
Values = Mapping[int, Mapping[Any, float]]  # by training seed, then by asset or generation seed

RACE: Final = ["stage", "block", "metric"]
WHO: Final = ["method", "variant", "order"]


@dataclass(frozen=True)
class Behind:
    """A method that is worse than the best. difference: in the metric's unit, positive. sd: its standard error."""

    who: Who
    difference: float
    sd: float


@dataclass(frozen=True)
class Standing:
    """How methods stand to each other in one metric.

    Attributes:
        best: the method with the best mean. tied: those that are not shown to be worse, best first. worse: in order.
        smallest: the difference of two methods, in the metric's unit, that is found with probability `spread.POWER`;
            None where one value per method tells nothing.
        alike: in words how all values of all methods are equal, so that no number of them shows a difference; or "".
        units: assets, or generation seeds, and trainings: training seeds, that all have in common; with one, another
            training is not in the chance.
    """

    best: Who
    tied: tuple[Who, ...]
    worse: tuple[Behind, ...]
    smallest: float | None
    units: int
    trainings: int
    alike: str = ""

    @property
    def top(self) -> tuple[Who, ...]:
        """All that may be the best."""
        return (self.best, *self.tied)

    @property
    def marked(self) -> tuple[Who, ...]:
        """What tables mark: `top`, and nothing where nothing can be told."""
        return () if self.smallest is None else self.top


@dataclass(frozen=True, eq=False)
class Race:
    """Two or more methods in one metric, compared in pairs."""

    values: Mapping[Who, Values]
    higher_is_better: bool

    @property
    def better(self) -> float:
        return 1.0 if self.higher_is_better else -1.0

    @cached_property
    def means(self) -> Mapping[Who, float]:
        """By method, the best first."""
        means = {
            who: statistics.fmean(v for of_seed in table.values() for v in of_seed.values())
            for who, table in self.values.items()
        }
        return dict(sorted(means.items(), key=lambda one: -self.better * one[1]))

    @cached_property
    def pairs(self) -> Mapping[tuple[Who, Who], Gaps]:
        """Of all, the better one first."""
        return {pair: Gaps.of(*(self.values[who] for who in pair)) for pair in combinations(self.means, 2)}

    @cached_property
    def usual(self) -> Variance | None:
        """The variance that a difference of two of these methods has."""
        known = [gaps.own for gaps in self.pairs.values() if gaps.own is not None]
        if not known:
            return None
        value, df = (statistics.median(parts) for parts in zip(*((one.value, one.df) for one in known), strict=True))
        return Variance(value, df * (len(self.values) - 1))

    @cached_property
    def prior(self) -> Prior:
        """What all pairs say of the variance of one."""
        return prior_of(gaps.own for gaps in self.pairs.values() if gaps.own is not None)

    @property
    def tail(self) -> float:
        return tail_of(len(self.values), ALPHA)

    @property
    def smallest(self) -> float | None:
        return None if self.usual is None else shown_from(self.usual, bound(self.usual, self.tail))

    @property
    def shape(self) -> tuple[int, int]:
        """Training seeds and units that all have in common."""
        trainings, units = (
            min(counts) for counts in zip(*(one.table.shape for one in self.pairs.values()), strict=True)
        )
        return trainings, units

    @property
    def components(self) -> Components | None:
        """What makes up the chance of a difference of two of these methods."""
        return components([gaps.table for gaps in self.pairs.values()])

    def gap(self, one: Who, other: Who) -> tuple[float, Variance | None]:
        """How far `one` lies above `other`, and the variance of that; None where nothing tells it."""
        ahead = (one, other) in self.pairs
        gaps = self.pairs[(one, other) if ahead else (other, one)]
        mean = gaps.mean if ahead else -gaps.mean
        if gaps.own is None or self.usual is None:
            return mean, None
        if gaps.own.value <= self.usual.value:
            return mean, self.usual
        df = min(gaps.own.df + self.prior.df, gaps.own.df * (len(self.values) - 1))
        return mean, Variance(gaps.own.value, df)

    @cached_property
    def alike(self) -> str:
        values = {v for table in self.values.values() for of_seed in table.values() for v in of_seed.values()}
        if len(values) == 1:
            return f"all are {number(values.pop())}"
        same = all(gaps.table.size and not gaps.table.any() for gaps in self.pairs.values())
        return "all are equal" if same else ""

    @cached_property
    def standing(self) -> Standing:
        best, *others = self.means
        tied, worse = [], []
        for who in others:
            mean, chance = self.gap(best, who)
            ahead = self.better * mean
            if chance is not None and ahead > bound(chance, self.tail):
                worse.append(Behind(who, ahead, math.sqrt(chance.value)))
            else:
                tied.append(who)
        trainings, units = self.shape
        return Standing(best, tuple(tied), tuple(worse), self.smallest, units, trainings, self.alike)


@dataclass(frozen=True, eq=False)
class Gaps:
    """Of two methods: differences [training seeds, units] of what both have, empty where that is nothing."""

    table: NDArray[np.float64]

    @property
    def mean(self) -> float:
        return float(self.table.mean()) if self.table.size else math.nan

    @cached_property
    def own(self) -> Variance | None:
        """Of the mean."""
        return mean_variance(self.table) if self.table.size else None

    @staticmethod
    def of(one: Values, other: Values) -> Gaps:
        seeds = [seed for seed in one if seed in other]
        shared = [one[seed].keys() & other[seed].keys() for seed in seeds]
        units = sorted(set.intersection(*map(set, shared))) if shared else []
        found = [[one[seed][unit] - other[seed][unit] for unit in units] for seed in seeds]
        return Gaps(np.array(found).reshape(len(seeds), len(units)))


@dataclass(frozen=True)
class Verdict:
    """One metric among the students of a stage and number of steps.

    Attributes:
        steps: None where systems race whatever their steps.
        over: what differences were taken over: "assets" or "generation seeds".
    """

    stage: str
    steps: int | None
    metric: str
    unit: str
    higher_is_better: bool
    over: Over
    race: Race

    @property
    def standing(self) -> Standing:
        return self.race.standing


def verdicts(rows: DataFrame, assets: DataFrame) -> Iterator[Verdict]:
    """A verdict per stage, number of steps and metric of quality in which two or more students have values.

    Systems of `mdtbench evaluate` race whatever their steps, lines with a further sampler do not race.

    Args:
        rows: of `frames`, of one run or several that are comparable. assets: likewise; may be empty.
    """
    rows, assets = _racing(rows), _racing(assets)
    tables: dict[Over, Any] = {"assets": _values(assets, "asset"), "generation seeds": _values(rows, "seed")}
    failed = {*rows.loc[rows["value"].isna(), [*RACE, *WHO]].itertuples(index=False, name=None)}
    members: dict[tuple, list[Any]] = {}
    for cell in rows[[*RACE, *WHO]].drop_duplicates().itertuples(index=False, name=None):
        if cell not in failed:
            members.setdefault(cell[:3], []).append(cell[3:])
    for about in rows.drop_duplicates(RACE).to_dict("records"):
        race = tuple(about[name] for name in RACE)
        for over, table in tables.items():
            values = {who: table[race, who] for who in members.get(race, ()) if (race, who) in table}
            if len(values) >= 2:
                stage, block, metric = race
                steps = None if block == NO_STEPS else block
                higher = bool(about["higher_is_better"])
                yield Verdict(stage, steps, metric, about["unit"], higher, over, Race(values, higher))
                break


def sentence(found: Standing, label: Callable[[Who], str]) -> str:
    """In words. label: a method's name in the tables."""
    if found.alike:
        return f"no difference shown: {found.alike}."
    names = " and ".join(filter(None, [", ".join(map(label, found.top[:-1])), label(found.top[-1])]))
    if not found.worse:
        said = f"no method is shown to be better: {names} lie within chance"
    elif found.tied:
        said = f"{names} are best, within chance of each other"
    else:
        said = f"{names} is best"
    if found.worse:
        said += "; worse: " + ", ".join(
            f"{label(one.who)} by {uncertain(one.difference, one.sd)}" for one in found.worse
        )
    shows = "" if found.smallest is None else f" This run shows differences of {number(found.smallest)} and more."
    return f"{said}.{shows}"


def uncertain(value: float, sd: float, plus_minus: str = " ± ") -> str:
    """With as many digits as the sd leaves certain: one or two of its own."""
    if not sd:
        return f"{number(value)}{plus_minus}0"
    leading = sd / 10 ** math.floor(math.log10(sd))
    decimals = decimals_of(sd, significant=2 if leading < TWO_DIGITS else 1)
    return f"{value:.{decimals}f}{plus_minus}{sd:.{decimals}f}"


def number(value: float) -> str:
    """Two significant digits."""
    return f"{value:.2g}" if abs(value) < 100 else f"{value:.0f}"


def _racing(frame: DataFrame) -> DataFrame:
    """Values of students, with the columns of `RACE` and `WHO`."""
    frame = frame[~frame["method"].isin(CONTROLS) & ~frame["metric"].isin(COST_METRICS) & ~frame["extra_sampler"]]
    frame = frame.fillna({"train_seed": NO_SEED, "seed": NO_SEED})
    order = frame["steps"].fillna(NO_STEPS).astype("int64")
    return frame.assign(order=order, block=order.where(frame["stage"] != EVALUATION, NO_STEPS))


def _values(frame: DataFrame, unit: str) -> Mapping[tuple[tuple, Who], Values]:
    """By race and method; unit: the column of assets or generation seeds."""
    found: dict[tuple[tuple, Who], dict[int, dict[Any, float]]] = {}
    keys = [*RACE, *WHO, "train_seed", unit]
    means = frame.dropna(subset=[*keys, "value"]).groupby(keys, sort=False)["value"].mean()
    for key, value in zip(means.index.to_list(), means.to_list(), strict=True):
        *cell, seed, one = key
        found.setdefault((tuple(cell[:3]), tuple(cell[3:])), {}).setdefault(seed, {})[one] = value
    return found
