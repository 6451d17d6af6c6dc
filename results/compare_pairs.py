"""The rows of both runs at one place of the tables, and the variance of their difference."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from pandas import DataFrame

from ..base.groups import grouped
from .compare_assets import OverAssets
from .differences import MEASURING, MORE_TRAININGS, Difference, Pairing
from .frames import to_rows
from .places import Key, key_of
from .rows import COST_METRICS, Row
from .spread import (
    FACTORS,
    GENERATION,
    NO_PRIOR,
    TRAINING,
    Prior,
    Seeds,
    Variance,
    added,
    level_variance,
    levels,
    prior_of,
)
from .variances import part_left

Place = tuple[Key, str]  # a line of a table and a metric
Kind = tuple[str, str]  # stage and metric: values that vary alike
Pool = tuple[Pairing, int, str]  # pairing, factor, stage: variances that are alike, in spreads
KERNEL_DISTANCES = "KD_"
MORE_SEEDS = {TRAINING: MORE_TRAININGS, GENERATION: "3 times the generation seeds"}


@dataclass(frozen=True)
class Term:
    """What one kind of seed adds to the variance of a difference: `own` over `count` (None: of one seed only)."""

    own: Variance | None
    count: int
    factor: int


@dataclass(frozen=True)
class Pair:
    """The good rows of both runs at one place.

    Attributes:
        spread: sd of the metric over generation seeds, from all lines of the baseline.
        terms: of the variance of the difference, in squares of the spread.
        over_assets: that variance of averages of a single seed, in the metric's unit.
    """

    frame: Difference
    run: list[Row]
    baseline: list[Row]
    spread: float | None
    terms: tuple[Term, ...] = ()
    over_assets: Variance | None = None

    @property
    def moved(self) -> bool:
        """Whether any seed's value is another."""
        return values_of(self.run) != values_of(self.baseline)

    @property
    def blind(self) -> bool:
        """Whether there are students, and of one training seed only, so that its chance is not seen."""
        seeds = [{row.train_seed for row in rows} for rows in (self.run, self.baseline)]
        return any(one != {None} and len(one) < 2 for one in seeds)

    def pool(self, factor: int) -> Pool:
        """Where its variances belong."""
        return self.frame.pairing, factor, self.frame.stage


def kind_of(row: Row) -> Kind:
    return row.stage, row.metric


def by_place(rows: Iterable[Row]) -> dict[Place, list[Row]]:
    return grouped(rows, lambda row: (key_of(row), row.metric))


def good(rows: Iterable[Row]) -> list[Row]:
    return [row for row in rows if row.value is not None]


def values_of(rows: Iterable[Row]) -> dict[Seeds, float]:
    return {(row.train_seed, row.seed): row.value for row in rows if row.value is not None}


def spreads_of(baseline: DataFrame) -> dict[Kind, float]:
    """The sd of each metric over generation seeds, of all lines together; where there is one, over training seeds."""
    kinds = grouped(by_place(to_rows(baseline)).values(), lambda rows: kind_of(rows[0]))
    found: dict[Kind, float] = {}
    for kind, lines in kinds.items():
        for factor in (TRAINING, GENERATION):
            known = [one for rows in lines if (one := level_variance(values_of(rows), factor)) is not None]
            total = sum(one.value * one.df for one in known)
            if total:
                found[kind] = math.sqrt(total / sum(one.df for one in known))
    return found


def pair_of(
    frame: Difference, run: list[Row], baseline: list[Row], spread: float | None, assets: OverAssets | None = None
) -> Pair:
    """`assets`: what pairs of assets say, instead of seeds."""
    a, b = values_of(run), values_of(baseline)
    means = statistics.fmean(a.values()), statistics.fmean(b.values())
    frame = replace(frame, run=means[0], baseline=means[1], difference=means[0] - means[1], n=len(a))
    if frame.method in MEASURING:
        return Pair(frame, run, baseline, spread)
    if assets is not None:
        frame = replace(frame, pairing="assets", assets=assets.count)
        return Pair(frame, run, baseline, spread, over_assets=assets.variance)
    if a.keys() == b.keys():
        pairing, samples = "seeds", [{seeds: a[seeds] - b[seeds] for seeds in a}]
    else:
        pairing, samples = "none", [a, b]
    terms = tuple(term for values in samples for term in _terms(values, spread))
    if not terms:
        pairing = "assets"
    over_assets = None if terms else _over_assets(run, baseline)
    return Pair(replace(frame, pairing=pairing), run, baseline, spread, terms, over_assets)


def _terms(values: Mapping[Seeds, float], spread: float | None) -> list[Term]:
    """Of the variance of a mean, when training and generation are to be seeded anew.

    With several seeds of both, what is neither's alone counts twice: the variance is never too small.
    """
    if spread is None:
        return []
    varied = [factor for factor in FACTORS if levels(values, factor) > 1] or [GENERATION]
    terms = [Term(level_variance(values, factor), levels(values, factor), factor) for factor in varied]
    return [replace(t, own=Variance(t.own.value / spread**2, t.own.df)) if t.own else t for t in terms]


def _over_assets(run: Sequence[Row], baseline: Sequence[Row]) -> Variance | None:
    """Of averages with one value each and no values of assets, which are then not paired: wider than it need be."""
    rows = [*run, *baseline]
    # The stderr of kernel distances is the sd over subsets of features, that of seconds the sd over repeats.
    if rows[0].metric.startswith(KERNEL_DISTANCES) or rows[0].metric in COST_METRICS:
        return None
    if len(rows) != 2 or any(row.stderr is None or row.n_ok < 2 for row in rows):
        return None
    return added(Variance((row.stderr or 0.0) ** 2, row.n_ok - 1) for row in rows)


def priors_of(pairs: Iterable[Pair]) -> dict[Pool, Prior]:
    """What all differences that are not exactly 0 say of the variance of each."""
    pools: dict[Pool, list[Variance]] = {}
    for pair in pairs:
        for term in pair.terms:
            if term.own is not None:
                pools.setdefault(pair.pool(term.factor), []).append(term.own)
    return {pool: prior_of(variances) for pool, variances in pools.items()}


def variance_of(pair: Pair, priors: Mapping[Pool, Prior]) -> Variance | None:
    """Of the difference, in the metric's unit; None when nothing tells it."""
    if pair.spread is None or not pair.terms:
        return pair.over_assets
    terms = _added_terms(pair, priors)
    return None if terms is None else added(terms)


def parts_left(pair: Pair, priors: Mapping[Pool, Prior]) -> dict[str, float]:
    """The part of the standard error that is left with three times the seeds of each kind that varies, by its name."""
    terms = _added_terms(pair, priors)
    total = sum(term.value for term in terms or ())
    if not terms or not total:
        return {}
    return {
        name: part_left(
            total, sum(v.value / (3 if t.factor == factor else 1) for t, v in zip(pair.terms, terms, strict=True))
        )
        for factor, name in MORE_SEEDS.items()
        if any(term.factor == factor and term.count > 1 for term in pair.terms)
    }


def _added_terms(pair: Pair, priors: Mapping[Pool, Prior]) -> list[Variance] | None:
    """What each kind of seed adds to the variance, in the metric's unit; None when nothing tells it."""
    terms = []
    for term in pair.terms:
        moderated = priors.get(pair.pool(term.factor), NO_PRIOR).moderated(term.own)
        if moderated is None or pair.spread is None:
            return None
        terms.append(Variance(moderated.value / term.count * pair.spread**2, moderated.df))
    return terms
