"""Training curves in the page: a small chart per method's loss and per diagnostic of all methods."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from ..figures.choice import Choice
from ..figures.curves import Panel, by_stage, draw_panel, meaning, panels_of
from ..figures.style import Looks
from .inline_svg import inline_svg
from .logs import LOSS, TrainingLog


@dataclass(frozen=True)
class Chart:
    """One small chart. `note` explains the quantity."""

    title: str
    note: str
    drawn: Markup


@dataclass(frozen=True)
class Stage:
    """The charts of one stage: the loss per method, then one per diagnostic."""

    title: str
    losses: tuple[Chart, ...]
    diagnostics: tuple[Chart, ...]


def stages(logs: Sequence[TrainingLog], looks: Looks) -> tuple[Stage, ...]:
    """One per stage that was trained."""
    panels = panels_of(logs, Choice()) if logs else ()
    return tuple(
        Stage(
            title,
            tuple(_loss(panel, looks) for panel in mine if panel.quantity == LOSS),
            tuple(_diagnostic(panel, looks) for panel in mine if panel.quantity != LOSS),
        )
        for title, mine in by_stage(panels).items()
    )


def _loss(panel: Panel, looks: Looks) -> Chart:
    log, count = panel.logs[0], len(panel.logs)
    label = looks[log.method, log.variant].label
    drawn = _drawn(panel, looks, f"loss-{panel.stage}-{log.label}", f"Loss of {label}")
    return Chart(label, f"{count} training seeds" if count > 1 else "", drawn)


def _diagnostic(panel: Panel, looks: Looks) -> Chart:
    name = panel.quantity
    return Chart(name, meaning(name), _drawn(panel, looks, f"curve-{panel.stage}-{name}", name))


def _drawn(panel: Panel, looks: Looks, name: str, title: str) -> Markup:
    names = [f"{looks[log.method, log.variant].label}, seed {log.seed}" for log in panel.logs]
    notes = {f"curve-{i}": told for i, told in enumerate(names)}
    told = [f"{told}: {_ends(log, panel.quantity)}" for told, log in zip(names, panel.logs, strict=True)]
    description = f"Against training step. {'; '.join(told)}."
    return inline_svg(draw_panel(panel, looks), name, f"{title}, {panel.stage} stage", description, notes)


def _ends(log: TrainingLog, quantity: str) -> str:
    curve = log.curves[quantity]
    return f"from {curve[0][1]:.3g} to {curve[-1][1]:.3g}"
