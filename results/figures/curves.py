"""Training curves as small charts: the loss of each method, and each diagnostic of all methods, of both stages."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...base.errors import MissingError, unknown_name
from ..html.curves import diagnostics_of
from ..html.logs import LOSS, Curve, TrainingLog
from .choice import Choice, Who, chosen_methods
from .style import COLUMN, PAGE, Look, looks_of, new_figure, settings

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PER_LINE = 5  # panels
PANEL = 1.02  # inches: height of a panel with its title and numbers
STAGE_LINE, LEGEND_LINE, AXIS_LABEL = 0.24, 0.17, 0.2  # inches
LEGEND_COLUMNS = 6
LOG_SPAN = 30.0  # ratio of values from which their axis is logarithmic
TITLES = {"structure": "Structure stage", "slat": "SLAT stage"}


@dataclass(frozen=True)
class Panel:
    """One chart. curves: whose, of each training seed."""

    stage: str
    title: str
    curves: tuple[tuple[Who, Curve], ...]


def panels_of(logs: Sequence[TrainingLog], choice: Choice) -> list[Panel]:
    """By stage: the loss of each method, as losses of methods are not comparable; then each diagnostic of all methods.

    Raises:
        MissingError: no logs. UsageError: an unknown method or quantity.
    """
    if not logs:
        raise MissingError("This run has no training logs (students/*/log.jsonl). Name a run that trained students.")
    methods = chosen_methods(choice.methods, dict.fromkeys((log.method, log.variant) for log in logs))
    logs = [log for log in logs if (log.method, log.variant) in methods]
    names = {name for log in logs for name in log.curves}
    if choice.metric and choice.metric not in names:
        raise unknown_name("training quantity", choice.metric, names)
    wanted = {choice.metric} if choice.metric else names
    stages = dict.fromkeys(log.stage for log in logs)
    return [
        panel for stage in stages for panel in _panels([log for log in logs if log.stage == stage], wanted, methods)
    ]


def draw_curves(panels: Sequence[Panel], logs: Sequence[TrainingLog]) -> Figure:
    """The figure, as wide as a page; as a column where there are no more than two panels.

    Args:
        logs: All of the run, so that a method looks the same in all of its figures.
    """
    looks = looks_of([(log.method, log.variant) for log in logs])
    stages = {
        stage: [panel for panel in panels if panel.stage == stage] for stage in dict.fromkeys(p.stage for p in panels)
    }
    widest = max(len(mine) for mine in stages.values())
    width, columns = (COLUMN, widest) if widest <= 2 else (PAGE, min(widest, PER_LINE))
    whos = list(dict.fromkeys(who for panel in panels for who, _ in panel.curves))
    legend = LEGEND_LINE * math.ceil(len(whos) / (LEGEND_COLUMNS if width == PAGE else 3))
    lines = sum(math.ceil(len(mine) / columns) for mine in stages.values())
    height = lines * PANEL + len(stages) * STAGE_LINE + AXIS_LABEL + legend + 0.04
    with settings():
        figure = new_figure(width, height)
        top = height
        for stage, mine in stages.items():
            top -= STAGE_LINE
            figure.text(0.01, (top + 0.06) / height, TITLES.get(stage, stage), fontweight="bold", fontsize=7.5)
            for i, panel in enumerate(mine):
                row, column = divmod(i, columns)
                box = _box(column, columns, width, top - (row + 1) * PANEL, height)
                _draw_panel(figure.add_axes(box), panel, looks)
            top -= math.ceil(len(mine) / columns) * PANEL
        figure.text(0.5, (legend + 0.07) / height, "training step", ha="center")
        _draw_legend(figure, [looks[who] for who in whos], LEGEND_COLUMNS if width == PAGE else 3)
    return figure


def _panels(logs: Sequence[TrainingLog], wanted: set[str], methods: Sequence[Who]) -> list[Panel]:
    stage, panels = logs[0].stage, []
    for who in methods if LOSS in wanted else ():
        mine = _curves([log for log in logs if (log.method, log.variant) == who], LOSS)
        if mine:
            panels.append(Panel(stage, LOSS, mine))
    others = [name for name in diagnostics_of(logs) if name in wanted]
    return [*panels, *(Panel(stage, name, _curves(logs, name)) for name in others)]


def _curves(logs: Sequence[TrainingLog], name: str) -> tuple[tuple[Who, Curve], ...]:
    return tuple(((log.method, log.variant), log.curves[name]) for log in logs if name in log.curves)


def _box(column: int, columns: int, width: float, bottom: float, height: float) -> tuple[float, float, float, float]:
    """Of a panel's axes, in parts of the figure, with room for numbers at the left and below, a title above."""
    each = width / columns
    left, right, below, above = 0.36, 0.06, 0.18, 0.17
    x, y = column * each + left, bottom + below
    return x / width, y / height, (each - left - right) / width, (PANEL - below - above) / height


def _draw_panel(axes: Axes, panel: Panel, looks: Mapping[Who, Look]) -> None:
    from matplotlib.ticker import NullFormatter

    for who, curve in panel.curves:
        look = looks[who]
        axes.plot(*zip(*curve, strict=True), look.line, color=look.colour, linewidth=0.9, label=look.label)
        if len(curve) <= 3:
            axes.plot(*zip(*curve, strict=True), look.marker, color=look.colour, markersize=2)
    values = [value for _, curve in panel.curves for _, value in curve]
    if min(values) > 0 and max(values) > LOG_SPAN * min(values):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.locator_params(axis="y", nbins=3)
    axes.locator_params(axis="x", nbins=3, integer=True)
    whose = {looks[who].label for who, _ in panel.curves}
    axes.set_title(f"{panel.title}, {whose.pop()}" if panel.title == LOSS else panel.title, pad=2.5, fontsize=6.5)
    axes.tick_params(length=2, pad=1.5, labelsize=5.5)
    axes.grid(axis="y", color="#ececec", linewidth=0.4)


def _draw_legend(figure: Figure, looks: Sequence[Look], columns: int) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=look.colour, linestyle=look.line, label=look.label) for look in looks]
    figure.legend(
        handles=handles,
        loc="lower center",
        ncols=columns,
        frameon=False,
        borderaxespad=0.1,
        labelcolor=None,
        handlelength=1.8,
    )
