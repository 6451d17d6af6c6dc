"""The verdicts of a run in words: a sentence for each stage, number of steps and metric."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from .places import label_of, step_group
from .rows import BOTH, EVALUATION, STRUCTURE
from .tables import Table
from .verdicts import ALPHA, Verdict, sentence

VERDICTS: Final = "verdicts"  # the table's name
STAGES: Final = {BOTH: "whole assets", STRUCTURE: "structure", EVALUATION: "systems"}  # others have a teacher's stage
LEADING: Final = 2  # columns of each that summaries show, the first of the protocol's
METHOD: Final = (
    f"Best mean against every other, in pairs; equal methods are all called so in {1 - ALPHA:.0%} of such comparisons. "
    "± is the standard error of a difference."
)
ONE_TRAINING: Final = (
    "One training seed: what another training would change is not in it; more are trained with `--seeds 0,1,2`."
)
OF_DISTANCES: Final = (
    "Of distances between distributions the chance is that of generation seeds; that of the choice of test assets is "
    "not in it."
)


def verdict_table(found: Sequence[Verdict]) -> Table | None:
    """A table without lines, whose notes are the verdicts; None where no two methods race."""
    shown = said(found)
    return Table(VERDICTS, "Verdicts", (), (), (*sentences(shown), *cautions(shown))) if shown else None


def sentences(found: Sequence[Verdict]) -> list[str]:
    """One of each verdict."""
    return [f"{_where(one)}: {sentence(one.standing, lambda who: label_of(*who[:2]))}" for one in found]


def said(found: Sequence[Verdict]) -> list[Verdict]:
    """Those that are told in words: whole assets first, then by number of steps."""
    order = list(STAGES)
    return sorted(
        (one for one in found if one.stage in order), key=lambda one: (order.index(one.stage), one.steps or 0)
    )


def _where(verdict: Verdict) -> str:
    place = STAGES[verdict.stage]
    if verdict.steps is not None:
        place += f", {step_group(verdict.steps, verdict.stage)}"
    return f"{verdict.metric} {'↑' if verdict.higher_is_better else '↓'}, {place}"


def cautions(found: Sequence[Verdict]) -> list[str]:
    """What all of them mean, and what is not in them."""
    told = [METHOD]
    trained = [one.standing.trainings for one in found if one.stage != EVALUATION]
    told += [ONE_TRAINING] if trained and min(trained) < 2 else []
    return told + ([OF_DISTANCES] if any(one.over != "assets" for one in found) else [])
