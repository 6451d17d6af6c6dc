"""What a page says of one asset in numbers: a table per stage, a line per method, a column per metric."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pandas import DataFrame

from ...base.groups import grouped
from ..asset_values import AssetValue
from ..cells import NO_VALUE, Column
from ..frames import records
from ..places import ALL_METHODS, Key, Place, block_places, control_places, key_of, keyed, other_methods
from ..rows import BOTH, COST_METRICS, EVALUATION, STRUCTURE, STRUCTURE_THEN_TEACHER, TEACHER_THEN_SLAT

STAGE_TITLES = {
    BOTH: "Whole assets",
    STRUCTURE_THEN_TEACHER: "Whole assets, SLAT by the teacher",
    TEACHER_THEN_SLAT: "Whole assets, structure by the teacher",
    STRUCTURE: "Structures",
    EVALUATION: "Whole assets",
}


@dataclass(frozen=True)
class ValueCell:
    """text: the mean over seeds. title: of how many, and from where to where."""

    text: str
    title: str = ""


@dataclass(frozen=True)
class ValueLine:
    """failed: how many seeds lost the asset, and why; empty where none did."""

    label: str
    steps: str
    cells: tuple[ValueCell, ...]
    failed: str = ""


@dataclass(frozen=True)
class ValueTable:
    """One stage."""

    title: str
    heads: tuple[str, ...]
    lines: tuple[ValueLine, ...]

    @property
    def has_failures(self) -> bool:
        return any(line.failed for line in self.lines)


@dataclass(frozen=True)
class Layout:
    """Places in the order of the run's tables; columns: of each metric by name."""

    places: tuple[Place, ...]
    columns: Mapping[str, Column]

    @staticmethod
    def of(rows: DataFrame) -> Layout:
        rows, methods = keyed(rows), [*ALL_METHODS, *other_methods(rows)]
        found = rows.drop_duplicates("metric")[["metric", "higher_is_better", "unit"]]
        ordered = found.sort_values("metric", key=lambda names: names.isin(COST_METRICS), kind="stable")  # costs last
        about = [tuple(one.values()) for one in records(ordered)]
        columns = {name: Column(name, name, "metric", higher, unit) for name, higher, unit in about}
        return Layout((*block_places(rows, methods), *control_places(rows)), columns)

    def stage_places(self, stage: str) -> list[Place]:
        return [place for place in self.places if place.stage == stage]

    @property
    def whole(self) -> list[Place]:
        """Lines of whole assets that somebody made, with the protocol's sampler."""
        places = [*self.stage_places(BOTH), *(one for one in self.stage_places(EVALUATION) if one.role == "student")]
        return [place for place in places if not place.other_sampler]

    @property
    def stages(self) -> list[str]:
        """Whole assets first."""
        order = [*STAGE_TITLES, *dict.fromkeys(place.stage for place in self.places)]
        return [stage for stage in dict.fromkeys(order) if self.stage_places(stage)]


def maker_of(place: Place) -> str:
    """The folder of exports of a line's whole assets."""
    return maker_name(place.method, place.variant, place.steps, place.stage)


def maker_name(method: str, variant: str, steps: int | None, stage: str) -> str:
    """The folder of exports of a method's whole assets; of a system that was evaluated its name."""
    name = f"{method}_{variant}" if variant else method
    return name if stage == EVALUATION else f"{name}-{steps}x2"


def by_place(values: Iterable[AssetValue]) -> dict[Key, list[AssetValue]]:
    """The values of one asset."""
    return grouped(values, key_of)


def mean(values: Sequence[AssetValue], metric: str) -> float | None:
    """Over seeds; None where no seed has a value."""
    known = [value.values[metric] for value in values if metric in value.values]
    return statistics.fmean(known) if known else None


def failure(values: Sequence[AssetValue]) -> str:
    """How many of an asset's seeds failed and the first reason; empty where none did."""
    lost = [value for value in values if not value.ok]
    if not lost:
        return ""
    reason = next((value.error for value in lost if value.error), "")
    share = "failed" if len(lost) == len(values) else f"{len(lost)} of {len(values)} failed"
    return f"{share}: {reason}" if reason else share


def value_tables(values: Iterable[AssetValue], layout: Layout) -> list[ValueTable]:
    """The tables of one asset, those of stages without values left out."""
    found = by_place(values)
    tables = [_table(stage, found, layout) for stage in layout.stages]
    return [table for table in tables if table.lines]


def _table(stage: str, found: Mapping[Key, Sequence[AssetValue]], layout: Layout) -> ValueTable:
    places = [place for place in layout.stage_places(stage) if place.key in found]
    present = {metric for place in places for value in found[place.key] for metric in value.values}
    columns = [column for metric, column in layout.columns.items() if metric in present]
    lines = [
        ValueLine(
            place.label,
            place.sampling,
            tuple(_cell(found[place.key], column.key) for column in columns),
            failure(found[place.key]),
        )
        for place in places
    ]
    return ValueTable(STAGE_TITLES.get(stage, stage), tuple(column.heading for column in columns), tuple(lines))


def _cell(values: Sequence[AssetValue], metric: str) -> ValueCell:
    known = [value.values[metric] for value in values if metric in value.values]
    if not known:
        return ValueCell(NO_VALUE)
    span = f"mean of {len(known)} seeds, {spelled(min(known))} to {spelled(max(known))}" if len(known) > 1 else ""
    return ValueCell(spelled(statistics.fmean(known)), span)


def spelled(value: float) -> str:
    """Four significant digits."""
    return f"{value:.4g}"
