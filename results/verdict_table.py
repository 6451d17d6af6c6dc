"""The verdicts of a run in words: a sentence for each stage, number of steps and metric."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from .places import label_of, problem_of, step_group
from .rows import BOTH, EVALUATION, STRUCTURE
from .tables import Table
from .verdicts import ALPHA, Verdict, sentence

VERDICTS: Final = "verdicts"  # the table's name
STAGES: Final = {BOTH: "whole assets", STRUCTURE: "structure", EVALUATION: "systems"}  # others have a teacher's stage
METHOD: Final = (
    "The best mean is held against every other in pairs; where all methods are equal, none is called worse in "
    f"{1 - ALPHA:.0%} of such comparisons. ± is the standard error of a difference."
)
ONE_TRAINING: Final = (
    "One training seed: what another training would change is not included; `--seeds 0,1,2` trains three."
)
OF_DISTANCES: Final = (
    "For distances between distributions chance is that of generation seeds; the choice of test assets is not included."
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
    order = [*STAGES, *dict.fromkeys(one.stage for one in found if problem_of(one.stage))]
    return sorted(
        (one for one in found if one.stage in order), key=lambda one: (order.index(one.stage), one.steps or 0)
    )


def _where(verdict: Verdict) -> str:
    place = STAGES.get(verdict.stage) or problem_of(verdict.stage)
    if verdict.steps is not None:
        place += f", {step_group(verdict.steps, verdict.stage)}"
    return f"{verdict.metric} {'↑' if verdict.higher_is_better else '↓'}, {place}"


def cautions(found: Sequence[Verdict]) -> list[str]:
    """What all of them mean, and what is not in them."""
    told = [METHOD]
    trained = [one.standing.trainings for one in found if one.stage != EVALUATION]
    told += [ONE_TRAINING] if trained and min(trained) < 2 else []
    distances = any(one.over != "assets" and not problem_of(one.stage) for one in found)
    return told + ([OF_DISTANCES] if distances else [])
