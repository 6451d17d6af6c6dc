"""A run against a baseline: for each line of the tables and each metric the difference, and whether it counts.

Where both runs have the same seeds they start from the same noise, so differences are taken seed by seed; with a
single seed, asset by asset. One counts when it is greater than a tolerance, by default told from how much the baseline
varies with its seeds, and greater than chance would make it in one of 100 comparisons. docs/compare.md says why so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from pandas import DataFrame
from scipy.special import ndtri

from .asset_values import AssetValue
from .compare_assets import BothAssets, by_cell, paired_over_assets
from .compare_gaps import gap_of
from .compare_pairs import Pair, Place, by_place, good, kind_of, pair_of, parts_left, priors_of, spreads_of, variance_of
from .compare_rows import assets_of_methods, of_methods, of_metrics
from .differences import ALPHA, MEASURING, MORE_ASSETS, Comparison, Difference, Verdict
from .frames import latest, to_rows
from .places import NO_STEPS
from .rows import COST_METRICS, Row
from .spread import Variance, bound, shown_from
from .tolerances import CONTROLS, DEFAULT, Tolerance
from .variances import part_left

# Default tolerances, in sd of the metric over generation seeds.
SPREADS: Final = 0.5
# Of students of a single training seed, whose own chance no comparison of generation seeds sees: another training
# seed alone moved lines of the tiny table by up to 2.3.
BLIND_SPREADS: Final = 3.0
CONTROL_SPREADS: Final = 0.1  # a control may move by so little that no verdict can turn on it
CONTROL_ROUNDING: Final = 1e-3  # and by so much of its value, for the rounding of another machine
ONE_SEED: Final = "one seed gives no uncertainty: run more seeds or give a tolerance"


def compare(
    run: DataFrame,
    baseline: DataFrame,
    *,
    metrics: Sequence[str] = (),
    methods: Sequence[str] = (),
    tolerances: Mapping[str, Tolerance] | None = None,
    run_assets: Sequence[AssetValue] = (),
    baseline_assets: Sequence[AssetValue] = (),
) -> Comparison:
    """Hold a run against a baseline.

    Args:
        metrics: Only these; all by default.
        methods: Only these, as name or name:variant, and the controls; all by default. "mine=mdt" holds the run's
            `mine` against the baseline's `mdt`.
        tolerances: By metric; see `tolerances.read_tolerances`.
        run_assets, baseline_assets: What the rows are averages of: lines with a single seed are paired by asset.
    Raises:
        UsageError: a metric or method that there are no rows of.
    """
    run, baseline = latest(run), latest(baseline)
    spreads, tolerances = spreads_of(baseline), tolerances or {}
    mine, theirs, notes = of_methods(run, baseline, methods)
    mine, theirs = of_metrics(mine, theirs, metrics)
    runs, baselines = by_place(to_rows(mine)), by_place(to_rows(theirs))
    assets = BothAssets(by_cell(assets_of_methods(run_assets, methods)), by_cell(baseline_assets))
    places = list(dict.fromkeys((*baselines, *runs)))
    settled: dict[Place, Difference] = {}
    pairs: dict[Place, Pair] = {}
    for place in places:
        a, b = runs.get(place, []), baselines.get(place, [])
        frame = _frame(place, (b or a)[0])
        judged = _is_judged(frame, tolerances)
        gap = gap_of(frame, a, b, judged=judged)
        if gap is None:
            a, b = good(a), good(b)
            single = paired_over_assets(a, b, assets) if judged else None
            pairs[place] = pair_of(frame, a, b, spreads.get(kind_of(b[0])), single)
        else:
            settled[place] = gap
    moved = [pair for pair in pairs.values() if pair.moved and _is_judged(pair.frame, tolerances)]
    tests, priors = max(len(moved), 1), priors_of(moved)
    for place, pair in pairs.items():
        variance = variance_of(pair, priors)
        found = _judged(pair, tolerances, variance, tail=ALPHA / (2 * tests))
        settled[place] = _with_reach(found, variance, parts_left(pair, priors))
    return Comparison(tuple(settled[place] for place in places), len(moved), notes=notes)


def _is_judged(frame: Difference, tolerances: Mapping[str, Tolerance]) -> bool:
    """Seconds say more of the machine than of the code: they need a tolerance of their own."""
    return frame.metric not in COST_METRICS or frame.metric in tolerances


def _frame(place: Place, row: Row) -> Difference:
    (method, variant, order, sampler, stage), metric = place
    steps = None if order == NO_STEPS else order
    return Difference(stage, method, variant, sampler, steps, metric, row.unit, row.higher_is_better)


def _judged(pair: Pair, tolerances: Mapping[str, Tolerance], variance: Variance | None, *, tail: float) -> Difference:
    frame = pair.frame
    if not pair.moved:
        verdict = "same" if _is_judged(frame, tolerances) else "not judged"
        return replace(frame, verdict=verdict, tolerance=_tolerance(pair, tolerances), stderr=0.0)
    frame = replace(frame, stderr=None if variance is None else math.sqrt(variance.value))
    if not _is_judged(frame, tolerances):
        return replace(frame, verdict="not judged")
    lost = _lost(pair, tail)
    if lost:
        return replace(frame, verdict=lost[0], reason=lost[1])
    given = _given(frame, tolerances)
    chance = None if variance is None or (given and not given.chance) else bound(variance, tail)
    if chance is None and given is None and frame.method not in MEASURING:
        return replace(frame, verdict="not comparable", reason=ONE_SEED)
    return _held_against(frame, _tolerance(pair, tolerances), chance)


def _held_against(frame: Difference, tolerance: float | None, chance: float | None) -> Difference:
    frame, difference = replace(frame, tolerance=tolerance, bound=chance), frame.difference or 0.0
    if tolerance is None and chance is None:
        return replace(frame, verdict="not comparable", reason=ONE_SEED)
    if abs(difference) <= max(tolerance or 0.0, chance or 0.0):
        return replace(frame, verdict="same")
    if frame.method in MEASURING:
        return replace(frame, verdict="worse", reason="no method is in this line, so what measures has changed")
    return replace(frame, verdict="better" if (difference > 0) == frame.higher_is_better else "worse")


def _with_reach(one: Difference, variance: Variance | None, more: Mapping[str, float]) -> Difference:
    """With what could have been shown, and what more would bring, where chance decides."""
    if one.bound is None or variance is None:
        return one
    if one.assets:
        more = {MORE_ASSETS: part_left(1.0, 0.5)}
    return replace(one, smallest=shown_from(variance, max(one.tolerance or 0.0, one.bound)), more=more)


def _given(frame: Difference, tolerances: Mapping[str, Tolerance]) -> Tolerance | None:
    names = (CONTROLS,) if frame.method in MEASURING else (frame.metric, DEFAULT)
    return next((tolerances[name] for name in names if name in tolerances), None)


def _tolerance(pair: Pair, tolerances: Mapping[str, Tolerance]) -> float | None:
    value, given = pair.frame.baseline or 0.0, _given(pair.frame, tolerances)
    if given is not None:
        return given.of(value, pair.spread)
    if pair.frame.method in MEASURING:
        return max(CONTROL_ROUNDING * abs(value), CONTROL_SPREADS * (pair.spread or 0.0))
    return None if pair.spread is None else pair.spread * (BLIND_SPREADS if pair.blind else SPREADS)


def _lost(pair: Pair, tail: float) -> tuple[Verdict, str] | None:
    """A verdict when one run lost more assets than the other, beyond chance. An asset's seeds count as one trial."""
    (share, n), (share_before, n_before) = _measured_share(pair.run), _measured_share(pair.baseline)
    # One measured and one lost asset are added, so that "none lost" is no certainty.
    both = (share * n + share_before * n_before + 1) / (n + n_before + 2)
    sd = math.sqrt(both * (1 - both) * (1 / n + 1 / n_before))
    if abs(share - share_before) <= float(ndtri(1 - tail)) * sd:
        return None
    counts = f"{share:.0%} measured, baseline {share_before:.0%}"
    if share < share_before:
        return "worse", f"more assets lost: {counts}"
    return "not comparable", f"other n: {counts}"


def _measured_share(rows: Sequence[Row]) -> tuple[float, int]:
    """The part of the assets that was measured, over all seeds; the number of assets."""
    return sum(row.n_ok for row in rows) / max(sum(row.n_total for row in rows), 1), max(rows[0].n_total, 1)
