"""The verdicts of a run in words: a sentence for each stage, number of steps and metric."""

from __future__ import annotations

from collections.abc import Sequence

from pandas import DataFrame

from .places import CONTROLS, label_of, step_group
from .rows import BOTH, COST_METRICS, STRUCTURE
from .tables import Table
from .verdicts import ALPHA, Verdict, sentence, verdicts

STAGES = {STRUCTURE: "structure", BOTH: "whole assets"}  # others have a stage that is the teacher's
METHOD = (
    f"Best mean against every other, in pairs; equal methods are all called so in {1 - ALPHA:.0%} of such comparisons. "
    "± is the standard error of a difference."
)
ONE_TRAINING = (
    "One training seed: what another training would change is not in it; more are trained with `--seeds 0,1,2`."
)
OF_DISTANCES = (
    "Of distances between distributions the chance is that of generation seeds; that of the choice of test assets is "
    "not in it."
)


def verdict_table(rows: DataFrame, assets: DataFrame) -> Table | None:
    """A table without lines, whose notes are the verdicts; None where no two methods race.

    Args:
        rows: of `frames`, of one run or several that are comparable. assets: likewise; may be empty.
    """
    shown = rows[rows["stage"].isin(STAGES) & ~rows["metric"].isin(COST_METRICS)]
    students = shown.loc[~shown["method"].isin(CONTROLS), ["method", "variant"]].drop_duplicates()
    race = list(students.itertuples(index=False, name=None))
    metrics = list(dict.fromkeys(shown["metric"]))
    found = list(verdicts(shown, assets, metrics, race))
    if not found:
        return None
    higher = dict(zip(shown["metric"], shown["higher_is_better"], strict=True))
    said = [_said(one, "↑" if higher[one.metric] else "↓") for one in _ordered(found)]
    return Table("verdicts", "Verdicts", (), (), (*said, *_cautions(found)))


def _ordered(found: Sequence[Verdict]) -> list[Verdict]:
    """Whole assets first, then by number of steps."""
    return sorted(found, key=lambda one: (one.stage != BOTH, one.steps))


def _said(verdict: Verdict, arrow: str) -> str:
    where = f"{STAGES[verdict.stage]}, {step_group(verdict.steps, verdict.stage)}"
    return f"{verdict.metric} {arrow}, {where}: {sentence(verdict, lambda who: label_of(*who))}"


def _cautions(found: Sequence[Verdict]) -> list[str]:
    cautions = [METHOD]
    cautions += [ONE_TRAINING] if min(one.trainings for one in found) < 2 else []
    return cautions + ([OF_DISTANCES] if any(one.over != "assets" for one in found) else [])
