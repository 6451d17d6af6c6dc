"""Quality against cost: each metric of a table against forward passes and against seconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from ..cells import Column
from ..pareto import COSTS, Spot, front_of, is_log, references_of, spots_of
from ..places import CONTROLS, label_of
from ..tables import Table
from .svg import COLOURS, MARKERS, Chart, Level, Point, Polyline, draw, number

WHOLE = "Whole assets"  # the title of Table 1's figures
INK = ("teacher", "none")  # controls with a cost; they have no colour of their own
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
class _Placed(Spot):
    """A point of a chart. shift: pixels to the right."""

    shift: float


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


def families(tables: Sequence[Table], styles: Styles) -> tuple[Family, ...]:
    """The figures of tables; none of a metric that too few lines have."""
    found = [Family(_title(table), _figures(table, styles), _whos(table, styles)) for table in tables]
    return tuple(family for family in found if family.figures)


def _title(table: Table) -> str:
    return WHOLE if table.name == "table_1" else table.title


def _whos(table: Table, styles: Styles) -> tuple[tuple[str, str], ...]:
    return tuple(who for line in table.rows if (who := (line.method, line.variant)) in styles)


def _figures(table: Table, styles: Styles) -> tuple[Figure, ...]:
    made = [_figure(table, column, styles) for column in table.columns if column.kind == "metric"]
    return tuple(figure for figure in made if figure.charts)


def _figure(table: Table, column: Column, styles: Styles) -> Figure:
    charts, beyond = [], {}
    for cost in COSTS:
        spots = _side_by_side(spots_of(table, column.key, cost))
        if len({spot.cost for spot in spots}) < 2:
            continue
        references = references_of(table, column.key, spots)
        levels = [Level(one.value, one.name) for one in references if one.near]
        charts.append(draw(_chart(table, column, cost, spots, levels, styles)))
        beyond |= {f"{one.label}: {number(one.value)}, off the chart.": None for one in references if not one.near}
    return Figure(f"{table.name}-{column.key}", column.key, column.heading, tuple(charts), tuple(beyond))


def _side_by_side(spots: Sequence[Spot]) -> list[_Placed]:
    """Those of equal cost shifted apart, so that their bars do not hide each other."""
    together: dict[float, list[Spot]] = {}
    for spot in spots:
        together.setdefault(spot.cost, []).append(spot)
    return [
        _Placed(**vars(spot), shift=(place - (len(mine) - 1) / 2) * DODGE)
        for mine in together.values()
        for place, spot in enumerate(mine)
    ]


def _chart(
    table: Table, column: Column, cost: str, spots: Sequence[_Placed], levels: Sequence[Level], styles: Styles
) -> Chart:
    best = front_of(spots, higher=bool(column.higher_is_better))
    better = "higher" if column.higher_is_better else "lower"
    return Chart(
        name=f"pareto-{table.name}-{column.key}-{cost}",
        title=f"{column.key} against {COSTS[cost]}",
        description=f"{len(spots)} points; {better} is better. On the Pareto front: {_told(best, spots)}.",
        x_label=COSTS[cost],
        y_label=column.heading,
        points=[_point(spot, best, styles[spot.who]) for spot in spots],
        lines=[*_paths(spots, styles), *_front_line(best, spots)],
        levels=levels,
        log_x=is_log([spot.cost for spot in spots]),
        log_y=False,
    )


def _front_line(best: Sequence[tuple[float, float]], spots: Sequence[_Placed]) -> list[Polyline]:
    shifts = {(spot.cost, spot.value): spot.shift for spot in spots}
    return [Polyline(best, "front", "Pareto front", [shifts[at] for at in best])] if len(best) > 1 else []


def _told(best: Sequence[tuple[float, float]], spots: Sequence[_Placed]) -> str:
    return "; ".join(_name(spot) for at in best for spot in spots if (spot.cost, spot.value) == at) or "none"


def _name(spot: _Placed) -> str:
    """The line as the table spells it, with its steps."""
    steps = f", {spot.line.cells[1].text}" if spot.line.steps is not None else ""
    return f"{spot.line.cells[0].text}{steps}"


def _point(spot: _Placed, best: Sequence[tuple[float, float]], style: Style) -> Point:
    """Those on the front have their name beside them."""
    text = f"{_name(spot)}: {spot.cell.text} at {number(spot.cost)}"
    label = _name(spot) if (spot.cost, spot.value) in best else ""
    return Point(spot.cost, spot.value, style.colour, style.marker, text, label, spot.sd, spot.shift)


def _paths(spots: Sequence[_Placed], styles: Styles) -> list[Polyline]:
    """A line through the steps of each method with its own sampler."""
    paths: dict[tuple[str, str, str], list[_Placed]] = {}
    for spot in spots:
        paths.setdefault((spot.line.method, spot.line.variant, spot.line.cells[0].text), []).append(spot)
    return [
        _path(sorted(mine, key=lambda spot: spot.cost), styles[method, variant])
        for (method, variant, _), mine in paths.items()
        if len(mine) > 1
    ]


def _path(spots: Sequence[_Placed], style: Style) -> Polyline:
    return Polyline([(s.cost, s.value) for s in spots], f"path {style.css}", shifts=[s.shift for s in spots])
