"""Quality against cost, at the width of a column."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...base.errors import UsageError, unknown_name
from ..cells import Column
from ..pareto import COSTS, Spot, front_of, is_log, references_of, spots_of
from ..places import CONTROLS
from ..rows import LATENCY_METRIC
from ..tables import Line, Table
from .choice import Choice, chosen_methods, chosen_steps
from .style import COLUMN, GREY, INK, SMALL, Look, looks_of, new_figure, settings, shortened

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

AGAINST = {"nfe": "nfe", "seconds": LATENCY_METRIC}
HEIGHT = 2.3  # inches, of the axes and their labels
LEGEND_LINE = 0.15  # inches
LEGEND_LETTERS = {3: 20, 2: 26, 1: 56}  # how many letters a name may have in so many columns
DODGE = 3.2  # points between markers of equal cost, so that their bars do not hide each other
ROUND = 1e-9


@dataclass(frozen=True)
class Pareto:
    """What is drawn. levels: values of references near the points, by name."""

    spots: tuple[Spot, ...]
    metric: Column
    against: str
    front: tuple[tuple[float, float], ...]
    levels: dict[str, float]


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
    table, metric = _table_and_metric(tables, choice.metric)
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
    best = front_of(spots, higher=bool(metric.higher_is_better))
    return Pareto(tuple(spots), metric, against, tuple(best), _levels(table, metric.key, spots))


def draw_pareto(data: Pareto, tables: Sequence[Table]) -> Figure:
    """The figure: markers with bars of one sd, a line through the steps of each method, the Pareto front in grey.

    Markers of a method's fewest steps are filled, others open.

    Args:
        tables: All `plotted_tables` of the run, so that a method looks the same in all of its figures.
    """
    looks = looks_of([(line.method, line.variant) for table in tables for line in table.rows])
    with settings():
        shown = list(dict.fromkeys((spot.who, _sampler(spot)) for spot in data.spots))
        names = {(who, sampler): _name(looks[who], sampler) for who, sampler in shown}
        longest = max(map(len, names.values()))
        columns = next((n for n, letters in LEGEND_LETTERS.items() if longest <= letters), 1)
        legend = LEGEND_LINE * math.ceil((len(shown) + 2) / columns)
        height = HEIGHT + legend
        figure = new_figure(COLUMN, height)
        bottom = (0.38 + legend) / height
        axes = figure.add_axes((0.145, bottom, 0.835, 1 - bottom - 0.06 / height))
        for i, (who, sampler) in enumerate(shown):
            spots = [spot for spot in data.spots if (spot.who, _sampler(spot)) == (who, sampler)]
            _draw_method(axes, spots, looks[who], names[who, sampler], _shift(data, i, len(shown)))
        _draw_front(axes, data)
        _draw_levels(axes, data)
        _label_axes(axes, data)
        figure.legend(
            *_legend(axes),
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


def _table_and_metric(tables: Sequence[Table], metric: str) -> tuple[Table, Column]:
    pairs = [(table, column) for table in tables for column in table.columns if column.kind == "metric"]
    if not pairs:
        raise UsageError(
            "This run has no table of quality against cost - runs and evaluations of methods have one - name another."
        )
    for table, column in pairs:
        if metric in ("", column.key):
            return table, column
    raise unknown_name("metric", metric, {column.key for _, column in pairs})


def _is_kept(line: Line, steps: Sequence[int]) -> bool:
    """The teacher's steps are its own."""
    return not steps or line.method == "teacher" or line.steps in steps


def _levels(table: Table, metric: str, spots: Sequence[Spot]) -> dict[str, float]:
    return {one.name: one.value for one in references_of(table, metric, spots) if one.near}


def _sampler(spot: Spot) -> str:
    """Another one than the method's own, which the table names; "" for that."""
    label, sampler = spot.line.cells[0].text, spot.line.sampler
    return label.rpartition(", ")[2] if sampler and label.endswith(sampler) else ""


def _shift(data: Pareto, i: int, n: int) -> float:
    """Points to the right; none where costs are all different."""
    costs = [round(spot.cost / ROUND) for spot in data.spots]
    return (i - (n - 1) / 2) * DODGE if len(set(costs)) < len(costs) else 0.0


def _name(look: Look, sampler: str) -> str:
    return shortened(f"{look.label}, {sampler}" if sampler else look.label, LEGEND_LETTERS[1])


def _draw_method(axes: Axes, spots: Sequence[Spot], look: Look, name: str, shift: float) -> None:
    from matplotlib.transforms import ScaledTranslation

    figure = axes.figure
    moved = axes.transData + ScaledTranslation(shift / 72, 0, figure.dpi_scale_trans)
    ordered = sorted(spots, key=lambda spot: spot.cost)
    few = min((spot.steps for spot in spots if spot.steps is not None), default=None)
    line = ":" if _sampler(spots[0]) else "-"
    path = [(spot.cost, spot.value) for spot in ordered]
    axes.plot(*zip(*path, strict=True), line, color=look.colour, linewidth=0.7, alpha=0.6, transform=moved, zorder=2)
    for filled in (True, False):
        mine = [spot for spot in ordered if (spot.steps == few) == filled]
        if not mine:
            continue
        axes.errorbar(
            [spot.cost for spot in mine],
            [spot.value for spot in mine],
            yerr=[spot.sd for spot in mine],
            fmt=look.marker,
            color=look.colour,
            markersize=4.2,
            markeredgewidth=0.8,
            markerfacecolor=look.colour if filled else "white",
            elinewidth=0.7,
            capsize=1.5,
            capthick=0.7,
            label=name if filled else "_open",
            transform=moved,
            zorder=3,
        )


def _draw_front(axes: Axes, data: Pareto) -> None:
    if len({(spot.who, _sampler(spot)) for spot in data.spots}) < len(data.spots):
        axes.plot([], [], "o", color=GREY, markersize=4.2, markerfacecolor="white", label="open: more steps")
    if len(data.front) > 1:
        xs, ys = zip(*data.front, strict=True)
        axes.plot(xs, ys, "--", color=GREY, linewidth=0.9, drawstyle="steps-post", label="Pareto front", zorder=1)


def _draw_levels(axes: Axes, data: Pareto) -> None:
    for name, value in data.levels.items():
        axes.axhline(value, color=INK, linewidth=0.6, linestyle=":", zorder=1)
        axes.annotate(
            name, (1, value), (0, 2), xycoords=("axes fraction", "data"), textcoords="offset points", ha="right",
            fontsize=SMALL, color=GREY,
        )  # fmt: skip


def _legend(axes: Axes) -> tuple[list[Artist], list[str]]:
    """Methods first, then what is said of all."""
    from matplotlib.container import ErrorbarContainer

    entries = list(zip(*axes.get_legend_handles_labels(), strict=True))
    entries.sort(key=lambda entry: not isinstance(entry[0], ErrorbarContainer))
    return [handle for handle, _ in entries], [name for _, name in entries]


def _label_axes(axes: Axes, data: Pareto) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    costs = sorted({spot.cost for spot in data.spots})
    log = is_log(costs)
    if log:
        axes.set_xscale("log")
        room = max((costs[-1] / costs[0]) ** 0.09, 1.1)
        axes.set_xlim(costs[0] / room, costs[-1] * room)
        axes.xaxis.set_major_locator(FixedLocator(_ticks(costs) if data.against == "nfe" else _round_ticks(costs)))
        axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ends = [end for spot in data.spots for end in (spot.value - spot.sd, spot.value + spot.sd)]
    low, high = min(*ends, *data.levels.values()), max(*ends, *data.levels.values())
    pad = 0.07 * (high - low) or abs(high) * 0.1 or 1.0
    axes.set_ylim(low - pad, high + pad)
    axes.set_xlabel(COSTS[AGAINST[data.against]] + (", log scale" if log else ""))
    axes.set_ylabel(data.metric.heading)
    axes.grid(axis="y", color="#ececec", linewidth=0.5)
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
