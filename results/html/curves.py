"""Training curves: the loss of each method, and each diagnostic of all methods, as small charts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from .logs import LOSS, SLAT, Curve, TrainingLog
from .pareto import Styles
from .svg import Chart, Polyline, draw

MEANINGS = {  # in the order of the panels
    "rms_residual": "distance from the target that the loss pushes against, before scaling",
    "rms_gap": "distance of the two predictions that are to agree",
    "rms_error": "distance from the regression target",
    "rms_phi": "size of the student's velocity",
    "rms_dphi": "size of its derivative along the teacher's path",
    "grad_norm": "norm of the gradient before clipping",
}
OWN = "_own"  # ends the name of a diagnostic at the student's own samples
STAGE_NAMES = {SLAT: "SLAT"}  # others as they are
SIZE = (300.0, 190.0)
MARGINS = (10.0, 10.0, 24.0, 46.0)


@dataclass(frozen=True)
class Panel:
    """One small chart. `note` explains the quantity."""

    title: str
    note: str
    style: str
    chart: Markup


@dataclass(frozen=True)
class Stage:
    """The panels of one stage: the loss per method, then a panel per diagnostic."""

    name: str
    losses: tuple[Panel, ...]
    diagnostics: tuple[Panel, ...]


def stages(logs: Sequence[TrainingLog], styles: Styles) -> tuple[Stage, ...]:
    """One per stage that was trained."""
    names = dict.fromkeys(log.stage for log in logs)
    return tuple(_stage(name, [log for log in logs if log.stage == name], styles) for name in names)


def meaning(quantity: str) -> str:
    """What a diagnostic is, in words; empty for one that only its method knows."""
    text = MEANINGS.get(quantity.removesuffix(OWN), "")
    return f"{text}, at the student's own samples" if text and quantity.endswith(OWN) else text


def diagnostics_of(logs: Sequence[TrainingLog]) -> list[str]:
    """All quantities but the loss: known ones in their order, those at the student's own samples next to the others."""
    return sorted({name for log in logs for name in log.curves} - {LOSS}, key=_rank)


def _rank(quantity: str) -> tuple[int, str]:
    known = list(MEANINGS)
    base = quantity.removesuffix(OWN)
    return known.index(base) if base in known else len(known), quantity


def _stage(name: str, logs: Sequence[TrainingLog], styles: Styles) -> Stage:
    labels = dict.fromkeys(log.label for log in logs)
    losses = [_loss(name, [log for log in logs if log.label == label], styles) for label in labels]
    quantities = diagnostics_of(logs)
    diagnostics = [_diagnostic(name, quantity, logs, styles) for quantity in quantities]
    return Stage(
        STAGE_NAMES.get(name, name.capitalize()), tuple(panel for panel in losses if panel), tuple(diagnostics)
    )


def _loss(stage: str, logs: Sequence[TrainingLog], styles: Styles) -> Panel | None:
    log = logs[0]
    style, count = styles[log.method, log.variant], len(logs)
    lines = _lines(LOSS, logs, styles)
    if not lines:
        return None
    note = f"{count} training seeds" if count > 1 else ""
    chart = _small(f"loss-{stage}-{log.label}", f"Loss of {style.label}, {stage} stage", lines)
    return Panel(style.label, note, style.css, chart)


def _diagnostic(stage: str, quantity: str, logs: Sequence[TrainingLog], styles: Styles) -> Panel:
    lines = _lines(quantity, logs, styles)
    chart = _small(f"curve-{stage}-{quantity}", f"{quantity}, {stage} stage", lines)
    return Panel(quantity, meaning(quantity), "", chart)


def _lines(quantity: str, logs: Sequence[TrainingLog], styles: Styles) -> list[Polyline]:
    having = [log for log in logs if quantity in log.curves]
    return [
        Polyline(log.curves[quantity], f"curve {_style(log, styles)}", f"{_label(log, styles)}, seed {log.seed}")
        for log in having
    ]


def _style(log: TrainingLog, styles: Styles) -> str:
    return styles[log.method, log.variant].css


def _label(log: TrainingLog, styles: Styles) -> str:
    return styles[log.method, log.variant].label


def _small(name: str, title: str, lines: Sequence[Polyline]) -> Markup:
    described = "; ".join(f"{line.text}: {_ends(line.points)}" for line in lines)
    width, height = SIZE
    chart = Chart(
        name=name,
        title=title,
        description=f"Against training step. {described}.",
        x_label="",
        y_label="",
        lines=lines,
        width=width,
        height=height,
        margins=MARGINS,
        log_x=False,
    )
    return draw(chart)


def _ends(points: Curve | Sequence[tuple[float, float]]) -> str:
    return f"from {points[0][1]:.3g} to {points[-1][1]:.3g}"
