"""Two methods of one run: by the verdicts of its report, so that both say the same of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Final

from .differences import MEASURING, MORE_ASSETS, MORE_TRAININGS, Comparison, Difference
from .places import step_order
from .spread import bound, shown_from
from .variances import Components, part_left
from .verdicts import ALPHA, Verdict, Who

NO_RACE: Final = "not among the run's verdicts: no values in common, or a line with a further sampler"


def within(comparison: Comparison, verdicts: Iterable[Verdict], names: Mapping[str, str]) -> Comparison:
    """The comparison of a run with itself, its methods judged as in the run's report; controls, all the same, left out.

    Args:
        verdicts: Of the run. names: The method, as name or name:variant, that each of the baseline is held against.
    """
    places = {(one.stage, one.steps, one.metric): one for one in verdicts}
    found = []
    for one in comparison.differences:
        if one.method in MEASURING:
            continue
        judged = one.verdict in ("worse", "better", "same") or one.reason == ""
        verdict = places.get((one.stage, one.steps, one.metric))
        if one.difference is None or not judged or one.verdict == "not judged":
            found.append(one)
        elif verdict is None or one.sampler or not {*_whos(one, names)} <= {*verdict.race.values}:
            found.append(replace(one, verdict="not comparable", reason=NO_RACE, tolerance=None, bound=None))
        else:
            found.append(_judged(one, verdict, names))
    return replace(comparison, differences=tuple(found), alpha=ALPHA, within=True, notes=())


def _whos(one: Difference, names: Mapping[str, str]) -> tuple[Who, Who]:
    """The run's method and the baseline's."""
    label = f"{one.method}:{one.variant}" if one.variant else one.method
    mine, _, variant = names[label].partition(":")
    order = step_order(one.steps)
    return (mine, variant, order), (one.method, one.variant, order)


def _judged(one: Difference, verdict: Verdict, names: Mapping[str, str]) -> Difference:
    race = verdict.race
    difference, chance = race.gap(*_whos(one, names))
    if chance is None:
        return replace(one, verdict="not comparable", reason="one value of each gives no uncertainty")
    limit, known = bound(chance, race.tail), race.components
    apart = abs(difference) > limit
    better = (difference > 0) == one.higher_is_better
    return replace(
        one,
        verdict=("better" if better else "worse") if apart else "same",
        reason="",
        difference=difference,
        stderr=math.sqrt(chance.value),
        tolerance=None,
        bound=limit,
        smallest=shown_from(chance, limit),
        more={} if known is None else _more(known, race.shape, verdict.over),
        pairing="assets" if verdict.over == "assets" else "seeds",
    )


def _more(known: Components, shape: tuple[int, int], over: str) -> dict[str, float]:
    trainings, units = shape
    now = known.of_mean(trainings, units)
    assets = known.of_mean(trainings, 2 * units) if over == "assets" else known.with_assets(2).of_mean(trainings, units)
    more = {MORE_ASSETS: part_left(now, assets)}
    if trainings > 1:
        more[MORE_TRAININGS] = part_left(now, known.of_mean(3 * trainings, units))
    return more
