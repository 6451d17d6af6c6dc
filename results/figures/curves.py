"""Training curves as small charts: the loss of each method, and each diagnostic of all methods, of both stages.

For papers all charts in one figure, for pages each alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ...base.errors import MissingError, unknown_name
from ..html.logs import LOSS, SLAT, Curve, TrainingLog
from ..rows import STRUCTURE
from .choice import Choice, Who, chosen_methods
from .style import COLUMN, PAGE, RULE, Look, Looks, new_figure, sample, settings

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PER_LINE = 5  # panels
PANEL = 1.02  # inches: height of a panel with its title and numbers
STAGE_LINE, LEGEND_LINE, AXIS_LABEL = 0.24, 0.17, 0.2  # inches
LEGEND_COLUMNS = 6
ALONE = 2.0, 1.15  # inches: a chart of a page
DECADE, TWO_DECADES = 10.0, 100.0  # ratio of values: above the first their axis is logarithmic, with few ticks
TITLES = {STRUCTURE: "Structure stage", SLAT: "SLAT stage"}
MEANINGS = {  # in the order of the panels
    "rms_residual": "distance from the target that the loss pushes against, before scaling",
    "rms_gap": "distance of the two predictions that are to agree",
    "rms_error": "distance from the regression target",
    "rms_phi": "size of the student's velocity",
    "rms_dphi": "size of its derivative along the teacher's path",
    "grad_norm": "norm of the gradient before clipping",
}
SMOOTHING = 12  # a mean is of a twelfth of the curve on either side
OWN = "_own"  # ends the name of a diagnostic at the student's own samples


@dataclass(frozen=True)
class Panel:
    """One chart: of the logs of one stage, all of which have the quantity."""

    stage: str
    quantity: str
    logs: tuple[TrainingLog, ...]


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


def by_stage(panels: Sequence[Panel]) -> dict[str, list[Panel]]:
    """The panels under the titles of their stages."""
    stages = dict.fromkeys(panel.stage for panel in panels)
    titles = {stage: TITLES.get(stage, f"{stage.capitalize()} stage") for stage in stages}
    return {title: [panel for panel in panels if panel.stage == stage] for stage, title in titles.items()}


def meaning(quantity: str) -> str:
    """What a diagnostic is, in words; empty for one that only its method knows."""
    text = MEANINGS.get(quantity.removesuffix(OWN), "")
    return f"{text}, at the student's own samples" if text and quantity.endswith(OWN) else text


def smoothed(curve: Curve) -> Curve:
    """Means of neighbours, fewer at the ends; a curve of few points as it is."""
    reach = len(curve) // SMOOTHING
    if not reach:
        return curve
    values = np.array([value for _, value in curve])
    near = [values[max(0, i - reach) : i + reach + 1].mean() for i in range(len(curve))]
    return tuple((step, float(value)) for (step, _), value in zip(curve, near, strict=True))


def draw_curves(panels: Sequence[Panel], looks: Looks) -> Figure:
    """The figure of a paper, as wide as a page; as a column where there are no more than two panels."""
    stages = by_stage(panels)
    widest = max(len(mine) for mine in stages.values())
    width, columns = (COLUMN, widest) if widest <= 2 else (PAGE, min(widest, PER_LINE))
    whos = list(dict.fromkeys(_who(log) for panel in panels for log in panel.logs))
    legend = LEGEND_LINE * math.ceil(len(whos) / (LEGEND_COLUMNS if width == PAGE else 3))
    lines = sum(math.ceil(len(mine) / columns) for mine in stages.values())
    height = lines * PANEL + len(stages) * STAGE_LINE + AXIS_LABEL + legend + 0.04
    with settings():
        figure = new_figure(width, height)
        top = height
        for title, mine in stages.items():
            top -= STAGE_LINE
            figure.text(0.01, (top + 0.06) / height, title, fontweight="bold", fontsize=7.5)
            for i, panel in enumerate(mine):
                row, column = divmod(i, columns)
                box = _box(column, columns, width, top - (row + 1) * PANEL, height)
                axes = figure.add_axes(box)
                _draw_panel(axes, panel, looks)
                _title(axes, panel, looks)
            top -= math.ceil(len(mine) / columns) * PANEL
        figure.text(0.5, (legend + 0.07) / height, "training step", ha="center")
        _draw_legend(figure, [looks[who] for who in whos], LEGEND_COLUMNS if width == PAGE else 3)
    return figure


def draw_panel(panel: Panel, looks: Looks) -> Figure:
    """One chart of a page, without a title. The line of `logs[i]` has the gid curve-i."""
    width, height = ALONE
    with settings():
        figure = new_figure(width, height)
        _draw_panel(figure.add_axes((0.36 / width, 0.18 / height, 1 - 0.42 / width, 1 - 0.25 / height)), panel, looks)
    return figure


def _panels(logs: Sequence[TrainingLog], wanted: set[str], methods: Sequence[Who]) -> list[Panel]:
    stage, quantities = logs[0].stage, sorted({name for log in logs for name in log.curves} & wanted, key=_rank)
    losses = [_panel(stage, LOSS, [log for log in logs if _who(log) == who]) for who in methods if LOSS in quantities]
    others = [_panel(stage, name, logs) for name in quantities if name != LOSS]
    return [panel for panel in (*losses, *others) if panel.logs]


def _panel(stage: str, quantity: str, logs: Sequence[TrainingLog]) -> Panel:
    return Panel(stage, quantity, tuple(log for log in logs if quantity in log.curves))


def _rank(quantity: str) -> tuple[int, str]:
    """Known diagnostics in their order, those at the student's own samples next to the others; then all others."""
    known, base = list(MEANINGS), quantity.removesuffix(OWN)
    return known.index(base) if base in known else len(known), quantity


def _who(log: TrainingLog) -> Who:
    return log.method, log.variant


def _box(column: int, columns: int, width: float, bottom: float, height: float) -> tuple[float, float, float, float]:
    """Of a panel's axes, in parts of the figure, with room for numbers at the left and below, a title above."""
    each = width / columns
    left, right, below, above = 0.36, 0.06, 0.18, 0.17
    x, y = column * each + left, bottom + below
    return x / width, y / height, (each - left - right) / width, (PANEL - below - above) / height


def _draw_panel(axes: Axes, panel: Panel, looks: Looks) -> None:
    from matplotlib.ticker import LogLocator, NullLocator

    curves = [log.curves[panel.quantity] for log in panel.logs]
    for i, (log, curve) in enumerate(zip(panel.logs, curves, strict=True)):
        look = looks[_who(log)]
        few = {"marker": look.marker, "markersize": 2} if len(curve) <= 3 else {}
        line: dict[str, Any] = {"color": look.colour, "linestyle": look.line}
        shown = smoothed(curve)
        if shown != curve:
            axes.plot(*zip(*curve, strict=True), linewidth=0.5, alpha=0.35, zorder=1, **line)
        axes.plot(*zip(*shown, strict=True), gid=f"curve-{i}", linewidth=1.1, **line, **few)
    values = [value for curve in curves for _, value in curve]
    if min(values) > 0 and max(values) > DECADE * min(values):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if max(values) < TWO_DECADES * min(values) else (1,)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        axes.locator_params(axis="y", nbins=3)
    axes.locator_params(axis="x", nbins=3, integer=True)
    axes.tick_params(length=2, pad=1.5, labelsize=5.5)
    axes.grid(axis="y", color=RULE, linewidth=0.4)


def _title(axes: Axes, panel: Panel, looks: Looks) -> None:
    whose = f", {looks[_who(panel.logs[0])].label}" if panel.quantity == LOSS else ""
    axes.set_title(f"{panel.quantity}{whose}", pad=2.5, fontsize=6.5)


def _draw_legend(figure: Figure, looks: Sequence[Look], columns: int) -> None:
    handles = [sample(look, marker=False) for look in looks]
    style = {"loc": "lower center", "frameon": False, "borderaxespad": 0.1, "handlelength": 1.8}
    figure.legend(handles=handles, ncols=columns, **style)
