"""Quality against cost as points, for all charts of it: a line of a table, what it costs and one of its metrics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pandas import DataFrame

from ..base.groups import grouped
from .cells import Cell
from .places import label_of
from .rows import LATENCY_METRIC
from .tables import Line, Measured, Table
from .whole_tables import stage_table

COSTS = {"nfe": "NFE (network forward passes per asset)", LATENCY_METRIC: "seconds per asset"}
REFERENCES = {"floor": "floor", "truth": "ground truth"}  # controls without a cost: lines of reference
NEAR = 0.6  # of the points' range: a reference farther off would squash it
LOG_FROM = 4.0  # ratio of costs from which their axis is logarithmic


@dataclass(frozen=True)
class Spot:
    """A line of a table as a point."""

    line: Line
    cost: float
    cell: Cell
    value: float

    @property
    def who(self) -> tuple[str, str]:
        """Method and variant."""
        return self.line.method, self.line.variant

    @property
    def steps(self) -> int | None:
        return self.line.steps

    @property
    def sd(self) -> float:
        """Over generation seeds."""
        return self.cell.sd or 0.0


@dataclass(frozen=True)
class Reference:
    """A control's value beside points. near: it can be drawn among them."""

    name: str
    label: str
    value: float
    near: bool


def plotted_tables(rows: DataFrame, tables: Sequence[Table]) -> list[Table]:
    """Those of a run's tables that have points: quality against cost, each stage alone, systems.

    Of structures alone Table 2, which has not all methods, gives way to the table of that stage.
    """
    names = {table.name for table in tables}
    alone = [stage_table(Measured.of(rows))] if "table_2" in names and "table_1" not in names else []
    own = [table for table in tables if table.name in ("table_1", "evaluation") or table.name.startswith("stage_")]
    return [*alone, *own]


def spots_of(table: Table, metric: str, cost: str) -> list[Spot]:
    """The lines that have both, in their order.

    Args:
        metric, cost: keys of columns; a table without the column of the cost has no points.
    """
    keys = [column.key for column in table.columns]
    if cost not in keys:
        return []
    pairs = [(line, line.cells[keys.index(cost)].value, line.cells[keys.index(metric)]) for line in table.rows]
    return [Spot(line, at, cell, cell.value) for line, at, cell in pairs if at and cell.value is not None]


def races_of(spots: Sequence[Spot]) -> list[list[float]]:
    """What `leading` compares: the values of students by block; of one student alone all values."""
    students = [spot for spot in spots if spot.line.role == "student"]
    if len({spot.who for spot in students}) < 2:
        return [[spot.value for spot in spots]]
    blocks = grouped(students, lambda spot: spot.line.group)
    return [[spot.value for spot in block] for block in blocks.values()]


def front(points: Sequence[tuple[float, float]], *, higher: bool) -> list[tuple[float, float]]:
    """The points of (cost, value) that no other beats in both, by rising cost."""
    sign = -1 if higher else 1
    kept: list[tuple[float, float]] = []
    for cost, value in sorted(set(points), key=lambda point: (point[0], sign * point[1])):
        if not kept or sign * value < sign * kept[-1][1]:
            kept.append((cost, value))
    return kept


def front_of(spots: Sequence[Spot], *, higher: bool) -> list[tuple[float, float]]:
    """The front of those that are complete: a mean over the seeds that did not fail beats nobody."""
    return front([(spot.cost, spot.value) for spot in spots if not spot.cell.n_failed], higher=higher)


def references_of(table: Table, metric: str, spots: Sequence[Spot]) -> list[Reference]:
    """The controls of a table that have the metric and no cost."""
    low, high = min(spot.value for spot in spots), max(spot.value for spot in spots)
    room = NEAR * (high - low)
    return [
        Reference(
            name=REFERENCES[line.method],
            label=label_of(line.method, line.variant),
            value=cell.value,
            near=low - room <= cell.value <= high + room,
        )
        for line, cell in zip(table.rows, table.column(metric), strict=True)
        if line.method in REFERENCES and cell.value is not None
    ]


def is_log(costs: Sequence[float]) -> bool:
    """Whether an axis of these costs is logarithmic."""
    return max(costs) > LOG_FROM * min(costs)
