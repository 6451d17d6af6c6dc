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
    if not shown:
        return None
    sentences = [f"{_where(one)}: {sentence(one.standing, lambda who: label_of(*who[:2]))}" for one in shown]
    return Table(VERDICTS, "Verdicts", (), (), (*sentences, *_cautions(shown)))


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


def _cautions(found: Sequence[Verdict]) -> list[str]:
    cautions = [METHOD]
    trained = [one.standing.trainings for one in found if one.stage != EVALUATION]
    cautions += [ONE_TRAINING] if trained and min(trained) < 2 else []
    return cautions + ([OF_DISTANCES] if any(one.over != "assets" for one in found) else [])
