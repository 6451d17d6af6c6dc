"""Worst and best assets of each metric, over all students and per line of the tables."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pandas import DataFrame

from ...base.groups import grouped
from ..asset_values import AssetValue, Extremes, worst_and_best
from ..cells import Column
from ..frames import records
from ..places import CONTROLS, NO_STEPS, TEACHERS_PART, key_of, label_of, stage_order
from ..rows import BOTH, COST_METRICS, EVALUATION, WHOLE_ASSETS
from .asset_tables import maker_name

OF_ALL, PER_LINE = 5, 3  # assets at either end: over all students, and per line
SHOWN_CONTROLS = ("teacher", "none")  # they generate; the others have no assets of their own

LineKey = tuple[str, str, str, int]  # method, variant, other sampler, order of the steps


@dataclass(frozen=True)
class LineExtremes:
    """The ends of one line. label, steps: as in the tables. maker: its folder of exports, "" where there is none."""

    label: str
    steps: str
    maker: str
    ends: Extremes


@dataclass(frozen=True)
class MetricExtremes:
    """The ends of one metric in one stage. title: the stage in words."""

    title: str
    metric: str
    heading: str
    overall: Extremes | None
    lines: tuple[LineExtremes, ...]


def extremes(rows: DataFrame, values: Sequence[AssetValue]) -> tuple[MetricExtremes, ...]:
    """One per stage and metric that has values of single assets; seconds apart. Empty without such values."""
    found = []
    for stage in sorted({value.stage for value in values}, key=_rank):
        lines = _lines([value for value in values if value.stage == stage])
        students = [value for key, mine in lines.items() if key[0] not in CONTROLS for value in mine]
        overall = averaged(students)
        mine = rows[(rows["stage"] == stage) & ~rows["metric"].isin(COST_METRICS)].drop_duplicates("metric")
        found += [_of_metric(stage, row, overall, lines) for row in records(mine)]
    return tuple(one for one in found if one.lines)


def stage_title(stage: str) -> str:
    """A stage in words."""
    if stage not in (*WHOLE_ASSETS, EVALUATION):
        return f"{stage.capitalize()} stage"
    return ", ".join(part for part in ("Whole assets", TEACHERS_PART.get(stage)) if part)


def _rank(stage: str) -> tuple:
    """Whole assets first, as the tables are."""
    return stage not in (*WHOLE_ASSETS, EVALUATION), stage_order(stage), stage


def averaged(values: Iterable[AssetValue]) -> list[AssetValue]:
    """One per asset: the mean of each metric over cells. It is not ok where any cell's is not."""
    return [_merged(group) for group in grouped(values, lambda value: value.asset).values()]


def _merged(group: Sequence[AssetValue]) -> AssetValue:
    if len(group) == 1:
        return group[0]
    names = dict.fromkeys(name for value in group for name in value.values)
    means = {name: statistics.fmean(v.values[name] for v in group if name in v.values) for name in names}
    bad = next((value for value in group if not value.ok), None)
    # Not validated again: there may be a hundred thousand.
    return group[0].model_copy(update={"values": means, "ok": bad is None, "error": bad.error if bad else ""})


def _lines(values: Iterable[AssetValue]) -> dict[LineKey, list[AssetValue]]:
    """By line, students by rising steps first; an asset's value is its mean over seeds."""
    groups: dict[LineKey, list[AssetValue]] = {}
    for value in values:
        if value.method not in CONTROLS or value.method in SHOWN_CONTROLS:
            method, variant, order, other_sampler, _ = key_of(value)
            groups.setdefault((method, variant, other_sampler, order), []).append(value)

    ordered = sorted(groups, key=lambda key: (key[0] in CONTROLS, key[3]))
    return {key: averaged(groups[key]) for key in ordered}


def _of_metric(
    stage: str, row: Mapping[str, Any], overall: Sequence[AssetValue], lines: dict[LineKey, list[AssetValue]]
) -> MetricExtremes:
    name, higher = row["metric"], row["higher_is_better"]
    of_lines = [
        LineExtremes(
            label_of(*who),
            "" if order == NO_STEPS else str(order),
            _maker(stage, who, order),
            worst_and_best(mine, name, higher, PER_LINE),
        )
        for (*who, order), mine in lines.items()
        if any(name in value.values for value in mine)
    ]
    of_all = worst_and_best(overall, name, higher, OF_ALL) if overall else None
    heading = Column(name, name, "metric", higher, row["unit"]).heading
    return MetricExtremes(stage_title(stage), name, heading, of_all, tuple(of_lines))


def _maker(stage: str, who: Sequence[str], order: int) -> str:
    method, variant, other_sampler = who
    if other_sampler or stage not in (BOTH, EVALUATION):
        return ""
    return maker_name(method, variant, order, stage)
