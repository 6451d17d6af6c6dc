"""What a planned run will be able to show: the smallest difference of two methods, and what would make it smaller."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from ...base.text import aligned
from ...metrics.contract import Level
from ...results.places import CONTROLS, step_group
from ...results.recorded import Record, Recording, file_of, read_recording
from ...results.rows import BOTH, STRUCTURE
from ...results.verdict_table import STAGES
from ...results.verdicts import ALPHA, number
from ..plan.plan import Plan

STAGE: dict[Level, str] = {"structure": STRUCTURE, "assets": BOTH}
UNKNOWN = "unknown"
MORE_ASSETS, MORE_TRAININGS = 2, 3
Hours = Callable[[Plan], list[tuple[str, float, float]]]


@dataclass(frozen=True)
class Size:
    """Of a run. trainings: training seeds. assets: by level."""

    trainings: int
    assets: Mapping[Level, int]
    generation_seeds: int


def power_section(plan: Plan, assets: Mapping[Level, int], hours: Hours) -> list[str]:
    """The lines of a dry run; none where no two methods are to be compared.

    Args:
        assets: test assets by level.
        hours: of a plan on each machine: its name and the time, and what of it grows with the assets, in one unit.
    """
    steps, methods = next((race for race in _races(plan) if race[1] > 1), (0, 0))
    if not steps:
        return []
    recording, size = read_recording(plan.preset), Size(len(plan.train_seeds), assets, len(plan.run_seeds))
    more_assets = replace(size, assets={level: MORE_ASSETS * n for level, n in assets.items()})
    more_trainings = replace(size, trainings=MORE_TRAININGS * size.trainings)
    rows: list[tuple[str, ...]] = [("", "as planned", f"{MORE_ASSETS}x assets", f"{MORE_TRAININGS}x training seeds")]
    known = []
    for metric in sorted(plan.metrics, key=lambda one: one.level):  # whole assets first
        stage = STAGE[metric.level]
        one = recording and recording.find(stage, steps, metric.name, metric.version, size.generation_seeds)
        found = [UNKNOWN, "", ""]
        if one:
            known.append(one)
            found = [_smallest(one, metric.level, of, methods) for of in (size, more_assets, more_trainings)]
        unit = f" ({metric.unit})" if metric.unit else ""
        rows.append((f"{metric.name}{unit}, {STAGES[stage]}", *found))
    larger = replace(plan, train_seeds=tuple(range(more_trainings.trainings)))
    for (name, total, growing), (_, longer, _) in zip(hours(plan), hours(larger), strict=True):
        rows.append((name, *(f"{value:,.1f}" for value in (total, total + (MORE_ASSETS - 1) * growing, longer))))
    title = (
        f"smallest difference that verdicts find in four of five such runs, of {methods} methods at {step_group(steps)}"
    )
    notes = _notes(plan, recording, known, unknown=len(known) < len(plan.metrics))
    return [title, *(f"  {line}" for line in (*aligned(rows), *notes))]


def _races(plan: Plan) -> Iterator[tuple[int, int]]:
    """Number of steps, and how many students have it."""
    labels = {(line.steps, line.label) for line in plan.lines if line.name not in CONTROLS}
    for steps in sorted({steps for steps, _ in labels}):
        yield steps, sum(one == steps for one, _ in labels)


def _smallest(record: Record, level: Level, size: Size, methods: int) -> str:
    units = size.assets[level] if record.over == "assets" else size.generation_seeds
    found = record.components(size.assets[level]).smallest(size.trainings, units, methods, ALPHA)
    return "-" if found is None else number(found)


def _notes(plan: Plan, recording: Recording | None, known: Sequence[Record], *, unknown: bool) -> Iterator[str]:
    if unknown:
        yield f"{UNKNOWN}: no recorded variances for this column"
    if recording is None:
        yield "`mdtbench report RUN --format power` records those of a finished run, see docs/compare.md."
        return
    where, methods = "/".join(file_of(plan.preset).parts[-2:]), ", ".join(recording.methods)
    yield f"variances: {where}, of run {recording.run_id} ({recording.date}; methods {methods})"
    if recording.world != plan.world.digest:
        yield "They are of other networks than this world's, so they tell no more than the order of magnitude."
    if any(one.training is None for one in known):
        yield "They are of one training seed: what another training changes is in none of these numbers."
    elif known and len(plan.train_seeds) == 1:
        yield "One training seed is planned: the numbers have its chance in them, the run's own verdicts will not."
