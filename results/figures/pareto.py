"""Quality against cost, at the width of a column: for papers with a legend below, for pages with names at the front."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...base.errors import UsageError, unknown_name
from ...base.groups import grouped
from ..cells import Column
from ..leading import leading
from ..pareto import COSTS, Reference, Spot, front_of, is_log, races_of, references_of, spots_of
from ..places import CONTROLS
from ..rows import LATENCY_METRIC
from ..tables import Line, Table
from .choice import Choice, chosen_methods, chosen_steps
from .names import write_names
from .style import COLUMN, GREY, INK, MARKER, RULE, SMALL, WHITE, Look, Looks, new_figure, sample, settings, shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.transforms import Bbox

AGAINST = {"nfe": "nfe", "seconds": LATENCY_METRIC}
HEIGHT = 2.3  # inches, of the axes and their labels
LEGEND_LINE = 0.15  # inches
LEGEND_LETTERS = {3: 20, 2: 26, 1: 56}  # how many letters a name may have in so many columns
DODGE = 3.2  # points between markers of equal cost, so that their bars do not hide each other
ROUND = 1e-9
ROOM = 0.09  # of the costs' range that is left free at either end


@dataclass(frozen=True)
class Pareto:
    """What is drawn: one metric against one cost, a key of `COSTS`. front: points of (cost, value)."""

    spots: tuple[Spot, ...]
    metric: Column
    cost: str
    front: tuple[tuple[float, float], ...]
    references: tuple[Reference, ...]

    @property
    def levels(self) -> dict[str, float]:
        """Values of references near the points, by name."""
        return {one.name: one.value for one in self.references if one.near}

    @property
    def best(self) -> tuple[int, ...]:
        """Which points are on the front, by rising cost."""
        return tuple(i for at in self.front for i, spot in enumerate(self.spots) if (spot.cost, spot.value) == at)


def pareto_of(tables: Sequence[Table], choice: Choice) -> Pareto:
    """The points of one metric: of the first table that has it, whole assets before stages alone.

    Args:
        tables: Of `plotted_tables`.

    Raises:
        UsageError: no table of quality against cost; an unknown metric, method, number of steps or cost; no point.
    """
    against = choice.against or "nfe"
    if against not in AGAINST:
        raise unknown_name("cost", against, AGAINST, "Use --against nfe or --against seconds.")
    table, metric = _table_and_metric(tables, choice.metric, AGAINST[against])
    lines = [line for line in table.rows if line.steps is not None or line.method not in CONTROLS]
    methods = chosen_methods(choice.methods, dict.fromkeys((line.method, line.variant) for line in lines))
    found = [line.steps for line in lines if line.steps is not None and line.method != "teacher"]
    steps = chosen_steps(choice.steps, found) if choice.steps else []
    kept = [line for line in lines if (line.method, line.variant) in methods and _is_kept(line, steps)]
    spots = [spot for spot in spots_of(table, metric.key, AGAINST[against]) if spot.line in kept]
    if not spots:
        raise UsageError(
            f"No point to draw (got {metric.key} against {against}) - one line with both is needed - choose another "
            f"--metric, --against, --methods or --steps."
        )
    return pareto_of_spots(table, metric, AGAINST[against], spots)


def pareto_of_spots(table: Table, metric: Column, cost: str, spots: Sequence[Spot]) -> Pareto:
    """The chart of at least one of a table's points."""
    front = front_of(spots, higher=bool(metric.higher_is_better))
    return Pareto(tuple(spots), metric, cost, tuple(front), tuple(references_of(table, metric.key, spots)))


def draw_pareto(data: Pareto, looks: Looks) -> Figure:
    """The figure of a paper: markers with bars of one sd, a line through the steps of each method, the front in grey.

    Markers of a method's fewest steps are filled, others open.
    """
    with settings():
        handles = _handles(data, looks)
        longest = max(len(str(handle.get_label())) for handle in handles)
        columns = next((n for n, letters in LEGEND_LETTERS.items() if longest <= letters), 1)
        legend = LEGEND_LINE * math.ceil(len(handles) / columns)
        figure, *_ = _drawn(data, looks, legend)
        figure.legend(
            handles=handles,
            loc="lower center",
            ncols=columns,
            frameon=False,
            handlelength=1.6,
            columnspacing=0.9,
            handletextpad=0.4,
            labelspacing=0.25,
            borderaxespad=0.1,
        )
    return figure


def draw_chart(data: Pareto, looks: Looks) -> Figure:
    """The chart of a page: the same with names at the points of the front, and without a legend.

    The artists of `spots[i]` have the gid point-i, the names label-i.
    """
    with settings():
        figure, axes, xs = _drawn(data, looks)
        points = [(x, spot.value) for x, spot in zip(xs, data.spots, strict=True)]
        write_names(axes, points, _names(data), _drawn_lines(data, points), _level_boxes(axes, data))
    return figure


def name_of(spot: Spot) -> str:
    """A point's line as the table spells it, with its steps."""
    steps = f", {spot.line.cells[1].text}" if spot.line.steps is not None else ""
    return f"{spot.line.cells[0].text}{steps}"


def _names(data: Pareto) -> dict[int, str]:
    """Of the points of the front, the costliest first, as there is most room; of equal points together."""
    places = grouped(reversed(data.best), lambda i: (data.spots[i].cost, data.spots[i].value))
    names = {}
    for mine in places.values():
        first, *others = sorted(mine)
        if len(others) < 2:
            names |= {i: name_of(data.spots[i]) for i in mine}
        else:
            names[first] = f"{name_of(data.spots[first])} and {len(others)} more"
    return names


def _drawn_lines(data: Pareto, points: Sequence[tuple[float, float]]) -> list[list[tuple[float, float]]]:
    """Bars, the lines of methods and the front, as corners."""
    lines = [[(x, y - spot.sd), (x, y + spot.sd)] for (x, y), spot in zip(points, data.spots, strict=True) if spot.sd]
    for who, sampler in _entrants(data):
        mine = [i for i, spot in enumerate(data.spots) if (spot.who, _sampler(spot)) == (who, sampler)]
        lines.append([points[i] for i in sorted(mine, key=lambda i: data.spots[i].cost)])
    front = [points[i] for i in data.best]
    steps = [corner for (_, y), after in itertools.pairwise(front) for corner in ((after[0], y), after)]
    return [*lines, [*front[:1], *steps]]


def _level_boxes(axes: Axes, data: Pareto) -> list[Bbox]:
    """Where names of references stand, in points."""
    from matplotlib.transforms import Affine2D, Bbox

    scale = Affine2D().scale(72 / axes.figure.dpi)
    right = axes.bbox.transformed(scale).x1
    ys = (axes.transData + scale).transform([(0.0, value) for value in data.levels.values()] or [(0.0, 0.0)])[:, 1]
    widths = [0.58 * SMALL * len(name) for name in data.levels]
    return [Bbox.from_bounds(right - width, y, width, SMALL + 2) for y, width in zip(ys, widths, strict=False)]


def _table_and_metric(tables: Sequence[Table], metric: str, cost: str) -> tuple[Table, Column]:
    """metric: "" for the first leading one of the first table."""
    pairs = [(table, column) for table in tables for column in table.columns if column.kind == "metric"]
    if not pairs:
        raise UsageError(
            "This run has no table of quality against cost - runs that make assets have one - name another run."
        )
    first = pairs[0][0]
    found = {column.key: races_of(spots_of(first, column.key, cost)) for table, column in pairs if table is first}
    wanted = metric or leading(found)[0]
    for table, column in pairs:
        if column.key == wanted:
            return table, column
    raise unknown_name("metric", metric, {column.key for _, column in pairs})


def _is_kept(line: Line, steps: Sequence[int]) -> bool:
    """The teacher's steps are its own."""
    return not steps or line.method == "teacher" or line.steps in steps


def _drawn(data: Pareto, looks: Looks, legend: float = 0.0) -> tuple[Figure, Axes, list[float]]:
    """A figure with all but names and legend, and where along its axis each point is.

    Args:
        legend: The room that it takes at the bottom, in inches.
    """
    height = HEIGHT + legend
    figure = new_figure(COLUMN, height)
    bottom = (0.38 + legend) / height
    axes = figure.add_axes((0.145, bottom, 0.835, 1 - bottom - 0.06 / height))
    _label_axes(axes, data)
    xs = _side_by_side(axes, data)
    for who, sampler in _entrants(data):
        mine = [i for i, spot in enumerate(data.spots) if (spot.who, _sampler(spot)) == (who, sampler)]
        _draw_method(axes, data, xs, mine, looks[who])
    _draw_front(axes, data, xs)
    _draw_levels(axes, data)
    return figure, axes, xs


def _sampler(spot: Spot) -> str:
    """Another one than the method's own, which the table names; "" for that."""
    label, sampler = spot.line.cells[0].text, spot.line.sampler
    return label.rpartition(", ")[2] if sampler and label.endswith(sampler) else ""


def _entrants(data: Pareto) -> list[tuple[tuple[str, str], str]]:
    """Methods with their samplers, in the order of the points."""
    return list(dict.fromkeys((spot.who, _sampler(spot)) for spot in data.spots))


def _side_by_side(axes: Axes, data: Pareto) -> list[float]:
    """Where each point is drawn along the axis: at its cost, those of equal cost beside each other around it.

    Nearer to each other where they are so many that they would leave the axes.
    """
    costs = [round(spot.cost / ROUND) for spot in data.spots]
    places = [costs[:i].count(cost) - (costs.count(cost) - 1) / 2 for i, cost in enumerate(costs)]
    free = axes.bbox.width * ROOM / (1 + 2 * ROOM)
    step = min(DODGE / 72 * axes.figure.dpi, free / max(*places, 1.0))
    pixels = axes.transData.transform([(spot.cost, spot.value) for spot in data.spots])
    moved = axes.transData.inverted().transform(pixels + [(place * step, 0.0) for place in places])
    return [x if place else spot.cost for (x, _), place, spot in zip(moved, places, data.spots, strict=True)]


def _draw_method(axes: Axes, data: Pareto, xs: Sequence[float], mine: Sequence[int], look: Look) -> None:
    """The points of these numbers."""
    ordered = sorted(mine, key=lambda i: data.spots[i].cost)
    few = min((steps for i in mine if (steps := data.spots[i].steps) is not None), default=None)
    line = ":" if _sampler(data.spots[mine[0]]) else "-"
    style = {"color": look.colour, "linewidth": 0.7}
    if len(mine) > 1:
        path = [(xs[i], data.spots[i].value) for i in ordered]
        axes.plot(*zip(*path, strict=True), line, alpha=0.6, zorder=2, **style)
    for i in mine:
        spot = data.spots[i]
        axes.plot(
            [xs[i]] * 3,
            [spot.value - spot.sd, spot.value, spot.value + spot.sd],
            marker=look.marker,
            markevery=[1],
            markersize=MARKER,
            markeredgewidth=0.8,
            markerfacecolor=look.colour if spot.steps == few else WHITE,
            zorder=3,
            gid=f"point-{i}",
            **style,
        )


def _draw_front(axes: Axes, data: Pareto, xs: Sequence[float]) -> None:
    if len(data.front) > 1:
        style = {"color": GREY, "linewidth": 0.9, "drawstyle": "steps-post"}
        path = [(xs[i], data.spots[i].value) for i in data.best]
        axes.plot(*zip(*path, strict=True), "--", zorder=1, gid="front-0", **style)


def _draw_levels(axes: Axes, data: Pareto) -> None:
    for name, value in data.levels.items():
        axes.axhline(value, color=INK, linewidth=0.6, linestyle=":", zorder=1)
        axes.annotate(
            name, (1, value), (0, 2), xycoords=("axes fraction", "data"), textcoords="offset points", ha="right",
            fontsize=SMALL, color=GREY,
        )  # fmt: skip


def _handles(data: Pareto, looks: Looks) -> list[Line2D]:
    """Of the legend: methods first, then what is said of all."""
    from matplotlib.lines import Line2D

    handles = []
    for who, sampler in _entrants(data):
        handle = sample(looks[who], marker=True)
        name = f"{looks[who].label}, {sampler}" if sampler else looks[who].label
        handle.set_label(shortened(name, LEGEND_LETTERS[1]))
        handles.append(handle)
    if len(handles) < len(data.spots):
        more = Line2D([], [], color=GREY, label="open: more steps", marker="o", markersize=MARKER, linestyle="")
        more.set_markerfacecolor(WHITE)
        handles.append(more)
    if len(data.front) > 1:
        handles.append(Line2D([], [], color=GREY, linestyle="--", linewidth=0.9, label="Pareto front"))
    return handles


def _label_axes(axes: Axes, data: Pareto) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    costs = sorted({spot.cost for spot in data.spots})
    log = is_log(costs)
    if log:
        axes.set_xscale("log")
        room = (costs[-1] / costs[0]) ** ROOM
        axes.set_xlim(costs[0] / room, costs[-1] * room)
        axes.xaxis.set_major_locator(FixedLocator(_round_ticks(costs)))
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        room = ROOM * (costs[-1] - costs[0] or costs[0])
        axes.set_xlim(costs[0] - room, costs[-1] + room)
    if data.cost == "nfe":
        axes.xaxis.set_major_locator(FixedLocator(_ticks(costs)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ends = [end for spot in data.spots for end in (spot.value - spot.sd, spot.value + spot.sd)]
    low, high = min(*ends, *data.levels.values()), max(*ends, *data.levels.values())
    pad = 0.07 * (high - low) or abs(high) * 0.1 or 1.0
    axes.set_ylim(low - pad, high + pad)
    axes.set_xlabel(COSTS[data.cost] + (", log scale" if log else ""))
    axes.set_ylabel(data.metric.heading)
    axes.grid(axis="y", color=RULE, linewidth=0.5)
    axes.set_axisbelow(True)


def _ticks(costs: Sequence[float]) -> list[float]:
    """The costs themselves, but for those too near the one before."""
    kept: list[float] = []
    for cost in costs:
        if not kept or cost > kept[-1] * (costs[-1] / costs[0]) ** 0.06:
            kept.append(cost)
    return kept


def _round_ticks(costs: Sequence[float]) -> list[float]:
    """1, 2 and 5 of each decade."""
    powers = range(math.floor(math.log10(costs[0])), math.ceil(math.log10(costs[-1])) + 1)
    fine = [round(10.0**power * factor, 12) for power in powers for factor in (1, 2, 5)]
    return [value for value in fine if costs[0] * 0.9 <= value <= costs[-1] * 1.1]
