"""Quality against cost: each metric of a table against forward passes and against seconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from markupsafe import Markup

from ..cells import Cell, Column
from ..places import CONTROLS, label_of
from ..rows import LATENCY_METRIC, STRUCTURE
from ..tables import Line, Table
from .svg import COLOURS, MARKERS, Chart, Level, Point, Polyline, draw, number

COSTS = {"nfe": "NFE (network forward passes per asset)", LATENCY_METRIC: "seconds per asset"}
REFERENCES = {"floor": "floor", "truth": "ground truth"}  # controls without a cost: lines of reference
NEAR = 0.6  # of the points' range: a reference farther off would squash it, and is told in words instead
INK = ("teacher", "none")  # controls with a cost; they have no colour of their own
LOG_FROM = 4.0  # ratio of costs from which their axis is logarithmic
DODGE = 3.0  # pixels between points of equal cost


@dataclass(frozen=True)
class Style:
    """How a method looks in all charts. colour None: ink."""

    label: str
    colour: int | None
    marker: str

    @property
    def css(self) -> str:
        """Its classes: lines of a colour's second user are dashed."""
        colour = "ink" if self.colour is None else f"c{self.colour}"
        return colour if self.marker == MARKERS[0] else f"{colour} other"


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


Styles = Mapping[tuple[str, str], Style]


@dataclass(frozen=True)
class _Spot:
    """A line of a table as a point: its cost and its value."""

    line: Line
    cost: float
    cell: Cell
    value: float
    shift: float = 0.0


def styles_of(whos: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Style]:
    """A colour and a marker for each method and variant, in the given order; ink for teacher and undistilled.

    Controls that generate nothing have none.
    """
    distinct = [who for who in dict.fromkeys(whos) if who[0] not in CONTROLS or who[0] in INK]
    coloured = [who for who in distinct if who[0] not in INK]
    styles = {
        who: Style(label_of(*who), i % COLOURS, MARKERS[(i // COLOURS) % len(MARKERS)])
        for i, who in enumerate(coloured)
    }
    inks = [who for who in distinct if who[0] in INK]
    return styles | {who: Style(label_of(*who), None, MARKERS[(i + 1) % len(MARKERS)]) for i, who in enumerate(inks)}


def shown_tables(tables: Sequence[Table]) -> list[Table]:
    """Those that have points: quality against cost, each stage alone, systems; Table 2 where there is no Table 1."""
    names = [table.name for table in tables]
    first = "table_1" if "table_1" in names else "table_2"
    return [table for table in tables if table.name in (first, "evaluation") or table.name.startswith("stage_")]


def families(tables: Sequence[Table], styles: Styles) -> tuple[Family, ...]:
    """The figures of a run's tables; none of a metric that too few lines have."""
    found = [
        Family(_stage_title(table), _figures(table, styles), _whos(table, styles)) for table in shown_tables(tables)
    ]
    return tuple(family for family in found if family.figures)


def front(spots: Sequence[tuple[float, float]], *, higher: bool) -> list[tuple[float, float]]:
    """The points of (cost, value) that no other beats in both, by rising cost."""
    sign = -1 if higher else 1
    kept: list[tuple[float, float]] = []
    for cost, value in sorted(set(spots), key=lambda spot: (spot[0], sign * spot[1])):
        if not kept or sign * value < sign * kept[-1][1]:
            kept.append((cost, value))
    return kept


def _stage_title(table: Table) -> str:
    titles = {"table_1": "Whole assets", "table_2": f"{STRUCTURE.capitalize()} stage alone"}
    return titles.get(table.name, table.title)


def _whos(table: Table, styles: Styles) -> tuple[tuple[str, str], ...]:
    return tuple(who for line in table.rows if (who := (line.method, line.variant)) in styles)


def _figures(table: Table, styles: Styles) -> tuple[Figure, ...]:
    made = [_figure(table, column, styles) for column in table.columns if column.kind == "metric"]
    return tuple(figure for figure in made if figure.charts)


def _figure(table: Table, column: Column, styles: Styles) -> Figure:
    charts, beyond = [], {}
    for cost in COSTS:
        spots = _spots(table, column.key, cost)
        if len({spot.cost for spot in spots}) < 2:
            continue
        near, far = _references(table, column.key, [spot.value for spot in spots])
        charts.append(draw(_chart(table, column, cost, spots, near, styles)))
        beyond |= dict.fromkeys(far)
    return Figure(f"{table.name}-{column.key}", column.key, column.heading, tuple(charts), tuple(beyond))


def _spots(table: Table, metric: str, cost: str) -> list[_Spot]:
    keys = [column.key for column in table.columns]
    if cost not in keys:
        return []
    pairs = [(line, line.cells[keys.index(cost)].value, line.cells[keys.index(metric)]) for line in table.rows]
    return _side_by_side(
        [_Spot(line, at, cell, cell.value) for line, at, cell in pairs if at and cell.value is not None]
    )


def _side_by_side(spots: Sequence[_Spot]) -> list[_Spot]:
    """Those of equal cost shifted apart, so that their bars do not hide each other."""
    together: dict[float, list[_Spot]] = {}
    for spot in spots:
        together.setdefault(spot.cost, []).append(spot)
    return [
        replace(spot, shift=(place - (len(mine) - 1) / 2) * DODGE)
        for mine in together.values()
        for place, spot in enumerate(mine)
    ]


def _references(table: Table, metric: str, values: Sequence[float]) -> tuple[list[Level], list[str]]:
    """Lines of reference near the values, and what is to be said of those that are not."""
    room = NEAR * (max(values) - min(values))
    near, far = [], []
    for line, cell in zip(table.rows, table.column(metric), strict=True):
        if line.method not in REFERENCES or cell.value is None:
            continue
        if min(values) - room <= cell.value <= max(values) + room:
            near.append(Level(cell.value, REFERENCES[line.method]))
        else:
            far.append(f"{label_of(line.method, line.variant)}: {number(cell.value)}, off the chart.")
    return near, far


def _chart(
    table: Table, column: Column, cost: str, spots: Sequence[_Spot], levels: Sequence[Level], styles: Styles
) -> Chart:
    costs = [spot.cost for spot in spots]
    raced = [(spot.cost, spot.value) for spot in spots if not spot.cell.n_failed]
    best = front(raced, higher=bool(column.higher_is_better))
    better = "higher" if column.higher_is_better else "lower"
    return Chart(
        name=f"pareto-{table.name}-{column.key}-{cost}",
        title=f"{column.key} against {COSTS[cost]}",
        description=f"{len(spots)} points; {better} is better. On the Pareto front: {_told(best, spots)}.",
        x_label=COSTS[cost],
        y_label=column.heading,
        points=[_point(spot, best, styles[spot.line.method, spot.line.variant]) for spot in spots],
        lines=[*_paths(spots, styles), *_front_line(best, spots)],
        levels=levels,
        log_x=max(costs) > LOG_FROM * min(costs),
        log_y=False,
    )


def _front_line(best: Sequence[tuple[float, float]], spots: Sequence[_Spot]) -> list[Polyline]:
    shifts = {(spot.cost, spot.value): spot.shift for spot in spots}
    return [Polyline(best, "front", "Pareto front", [shifts[at] for at in best])] if len(best) > 1 else []


def _told(best: Sequence[tuple[float, float]], spots: Sequence[_Spot]) -> str:
    return "; ".join(_name(spot) for at in best for spot in spots if (spot.cost, spot.value) == at) or "none"


def _name(spot: _Spot) -> str:
    """The line as the table spells it, with its steps."""
    steps = f", {spot.line.cells[1].text}" if spot.line.steps is not None else ""
    return f"{spot.line.cells[0].text}{steps}"


def _point(spot: _Spot, best: Sequence[tuple[float, float]], style: Style) -> Point:
    """Those on the front have their name beside them."""
    error = spot.cell.sd or 0.0
    text = f"{_name(spot)}: {spot.cell.text} at {number(spot.cost)}"
    label = _name(spot) if (spot.cost, spot.value) in best else ""
    return Point(spot.cost, spot.value, style.colour, style.marker, text, label, error, spot.shift)


def _paths(spots: Sequence[_Spot], styles: Styles) -> list[Polyline]:
    """A line through the steps of each method with its own sampler."""
    paths: dict[tuple[str, str, str], list[_Spot]] = {}
    for spot in spots:
        paths.setdefault((spot.line.method, spot.line.variant, spot.line.cells[0].text), []).append(spot)
    return [
        _path(sorted(mine, key=lambda spot: spot.cost), styles[method, variant])
        for (method, variant, _), mine in paths.items()
        if len(mine) > 1
    ]


def _path(spots: Sequence[_Spot], style: Style) -> Polyline:
    return Polyline([(s.cost, s.value) for s in spots], f"path {style.css}", shifts=[s.shift for s in spots])
