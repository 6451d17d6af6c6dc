"""Quality against cost in the page: each metric of a table against forward passes and against seconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from ..cells import Column
from ..figures.pareto import Pareto, draw_chart, name_of, pareto_of_spots
from ..figures.style import Looks
from ..leading import leading
from ..pareto import COSTS, Spot, races_of, spots_of
from ..tables import Table
from .asset_tables import spelled
from .inline_svg import inline_svg

NFE = "nfe"
WHOLE = "Whole assets"  # the title of Table 1's figures


@dataclass(frozen=True)
class Figure:
    """One metric of one table: a chart per cost. `beyond` tells the references that lie off the chart."""

    key: str
    metric: str
    heading: str
    charts: tuple[Markup, ...]
    beyond: tuple[str, ...]


@dataclass(frozen=True)
class Family:
    """The figures of one table, and the methods that they show."""

    title: str
    figures: tuple[Figure, ...]
    whos: tuple[tuple[str, str], ...]


def families(tables: Sequence[Table], looks: Looks) -> tuple[Family, ...]:
    """The figures of tables; none of a metric that too few lines have."""
    found = [Family(_title(table), _figures(table, looks), _whos(table, looks)) for table in tables]
    return tuple(family for family in found if family.figures)


def first_charts(tables: Sequence[Table], looks: Looks) -> tuple[Markup, ...]:
    """The leading metrics of the first table that has any against forward passes, for the head of the index."""
    for table in tables:
        spots = {column: spots_of(table, column.key, NFE) for column in table.columns if column.kind == "metric"}
        drawn = {column.key: (column, mine) for column, mine in spots.items() if len({spot.cost for spot in mine}) > 1}
        shown = [drawn[key] for key in leading({key: races_of(mine) for key, (_, mine) in drawn.items()})]
        if shown:
            charts = [(column, pareto_of_spots(table, column, NFE, mine)) for column, mine in shown]
            return tuple(_chart(f"first-{column.key}", data, looks) for column, data in charts)
    return ()


def _title(table: Table) -> str:
    return WHOLE if table.name == "table_1" else table.title


def _whos(table: Table, looks: Looks) -> tuple[tuple[str, str], ...]:
    return tuple(who for line in table.rows if (who := (line.method, line.variant)) in looks)


def _figures(table: Table, looks: Looks) -> tuple[Figure, ...]:
    made = [_figure(table, column, looks) for column in table.columns if column.kind == "metric"]
    return tuple(figure for figure in made if figure.charts)


def _figure(table: Table, column: Column, looks: Looks) -> Figure:
    key = f"{table.name}-{column.key}"
    by_cost = {cost: spots_of(table, column.key, cost) for cost in COSTS}
    drawn = [
        pareto_of_spots(table, column, cost, spots)
        for cost, spots in by_cost.items()
        if len({spot.cost for spot in spots}) > 1
    ]
    far = [one for data in drawn for one in data.references if not one.near]
    beyond = dict.fromkeys(f"{one.label}: {spelled(one.value)}, off the chart." for one in far)
    return Figure(key, column.key, column.heading, tuple(_chart(key, data, looks) for data in drawn), tuple(beyond))


def _chart(key: str, data: Pareto, looks: Looks) -> Markup:
    better = "higher" if data.metric.higher_is_better else "lower"
    best = "; ".join(name_of(data.spots[i]) for i in data.best) or "none"
    return inline_svg(
        draw_chart(data, looks),
        name=f"pareto-{key}-{data.cost}",
        title=f"{data.metric.key} against {COSTS[data.cost]}",
        description=f"{len(data.spots)} points; {better} is better. On the Pareto front: {best}.",
        notes={"front-0": "Pareto front", **{f"point-{i}": _told(spot) for i, spot in enumerate(data.spots)}},
    )


def _told(spot: Spot) -> str:
    return f"{name_of(spot)}: {spot.cell.text} at {spelled(spot.cost)}"
