"""A sweep: one student per method and setting, judged by a column on validation assets, never on test assets.

A student with the chosen setting and the run's seed is the run's own student, bit for bit and on disk. Validation
assets are toys of the split that the floor row draws from, or held-out training instances; that row has no student, so
nothing is chosen on what it measures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ...base.errors import MissingError
from ...base.groups import grouped
from ...metrics import Metric
from ...results.sweep import SweepRecord, choose
from ...results.sweep import Trial as TrialRecord
from ..engine.engine import Engine
from ..inputs.subjects import HeldOut, TestSet
from ..measure.extractors import extractors_of
from ..plan.plan import Plan, Student, Trial, swept_metric
from ..protocol.values import Stage
from ..train.data import CHOICES, LatentSet, split_held_out
from ..train.loop import Failure
from .measuring import Measuring, extractor_names, held_out, validation_toys
from .students import Weights, train_students

Chosen = Mapping[tuple[Stage, str], Mapping[str, float]]


@dataclass(frozen=True)
class Swept:
    """What sweeps found.

    Attributes:
        records: one per stage that was swept. chosen: settings by stage and label.
        hopeless: by stage and label, why no setting of a method gave a student.
        failures: by folder, of the students that were trained beside those that were tried.
    """

    records: tuple[SweepRecord, ...] = ()
    chosen: Chosen = field(default_factory=dict)
    hopeless: Mapping[tuple[Stage, str], Failure] = field(default_factory=dict)
    failures: Mapping[str, Failure] = field(default_factory=dict)


def sweep(plan: Plan, out: Path, cache: Path, store: Path, weights: Weights, engine: Engine, ranks: int) -> Swept:
    """Try all settings of all stages that are swept, and choose; what is tried once is found again.

    Raises:
        MissingError: there is no asset to judge on.
    """
    stages: list[Stage] = [stage for stage in plan.stages if plan.trials(stage)]
    tests = {stage: _validation(plan, stage, cache, engine) for stage in stages}  # first: is there anything to judge on
    # All at once: where there are many GPUs, a stage that waits for another is a GPU that waits.
    students = [trial.student for stage in stages for trial in plan.trials(stage)]
    failures = train_students(plan, [*students, *_settled(plan)], out, engine, "try {stage} settings", ranks)
    records: dict[Stage, SweepRecord] = {
        stage: _judged(plan, stage, tests[stage], failures, cache, store, weights, engine) for stage in stages
    }
    chosen: dict[tuple[Stage, str], Mapping[str, float]] = {}
    hopeless: dict[tuple[Stage, str], Failure] = {}
    for stage, record in records.items():
        for label, mine in _by_label(record.trials).items():
            best = next((one for one in mine if one.chosen), None)
            if best:
                chosen[stage, label] = {"lr": best.lr, "cfg_strength": best.cfg_strength or 0.0}
            else:
                known = [failures[one.address] for one in mine if one.address in failures]
                lost, mistake = any(one.lost for one in known), any(one.mistake for one in known)
                hopeless[stage, label] = Failure(_why(mine), lost, mistake)
    others = {one.folder: failures[one.folder] for one in _settled(plan) if one.folder in failures}
    return Swept(tuple(records.values()), chosen, hopeless, others)


def _settled(plan: Plan) -> list[Student]:
    """The students of lines of which nothing is chosen, where something is of others."""
    swept = {(stage, trial.student.who.label) for stage in plan.stages for trial in plan.trials(stage)}
    mine = [one for one in plan.students if not one.before]  # the others may begin as one that is chosen
    return [one for one in mine if (one.stage, one.who.label) not in swept] if swept else []


def _judged(
    plan: Plan,
    stage: Stage,
    tests: TestSet,
    failures: Mapping[str, Failure],
    cache: Path,
    store: Path,
    weights: Weights,
    engine: Engine,
) -> SweepRecord:
    """The record of a stage whose students are trained, the best trial of each method marked."""
    trials, metric = plan.trials(stage), swept_metric(plan, stage)
    good = [trial for trial in trials if trial.student.folder not in failures]
    scores = _scores(plan, metric, good, tests, cache, store, weights, engine)
    tried = [_record(one, scores.get(one.student.folder), failures.get(one.student.folder)) for one in trials]
    marked = [choose(mine, higher=metric.higher_is_better) for mine in _by_label(tried).values()]
    return SweepRecord(
        stage=stage,
        metric=metric.name,
        unit=metric.unit,
        higher_is_better=metric.higher_is_better,
        steps=min(plan.config.evaluate.steps),
        assets=len(tests.subjects),
        seed=plan.config.sweep.seed,
        halving=plan.config.sweep.halving,
        trials=tuple(one for mine in marked for one in mine),
    )


def _by_label(trials: Sequence[TrialRecord]) -> dict[str, list[TrialRecord]]:
    return grouped(trials, lambda one: one.method + (f":{one.variant}" if one.variant else ""))


def _why(trials: Sequence[TrialRecord]) -> str:
    """Why none of them can be chosen."""
    reasons = "; ".join(f"lr {one.lr:g}, guidance {one.cfg_strength:g}: {one.error}" for one in trials)
    return f"no setting of the sweep trained: {reasons}"


def _validation(plan: Plan, stage: Stage, cache: Path, engine: Engine) -> TestSet:
    """Assets to judge students of a stage on: held-out training instances of latents on disk, else toys."""
    data = plan.sets[stage]
    if not isinstance(data, LatentSet):
        return validation_toys(plan, plan.config.sweep.assets, cache, engine)
    names, _ = split_held_out(data.source.instances(), data.held_out, data.seed)
    tests = held_out(plan, HeldOut(data.folders, CHOICES[stage], tuple(names), data.seed), cache, engine)
    if not tests.subjects:
        raise MissingError(
            f"None of the {tests.total} held-out instances has a picture to judge settings on. First reason: "
            f"{tests.failures[0][1]}. Make the pictures again, or raise sweep.assets."
        )
    return tests


def _scores(
    plan: Plan,
    metric: Metric,
    trials: Sequence[Trial],
    tests: TestSet,
    cache: Path,
    store: Path,
    weights: Weights,
    engine: Engine,
) -> dict[str, float | str]:
    """The value of each trial by its student's folder, or why there is none."""
    config, folder = plan.config, Path(plan.config.places.weights).expanduser()
    section = config.evaluate.model_copy(update={"whole": None})
    judged = replace(plan, config=config.model_copy(update={"evaluate": section}))
    extractors = extractors_of(extractor_names([metric]), config.protocol, plan.world, folder, plan.device)
    measuring = Measuring(judged, store, cache, tests, None, {}, extractors, weights)
    jobs = {trial.student.folder: replace(measuring.scores(trial.cell), metrics=(metric,)) for trial in trials}
    engine.do(jobs.values())
    found: dict[str, float | str] = {}
    for name, job in jobs.items():
        scored = job.read()[metric.name]
        found[name] = scored.score.value if scored.score else scored.error or "the column says nothing about it"
    return found


def _record(trial: Trial, found: float | str | None, failure: Failure | None) -> TrialRecord:
    student, method = trial.student, trial.student.who.distillation
    score = found if isinstance(found, float) else None
    error = failure.reason if failure else str(found)
    return TrialRecord(
        method=student.who.name,
        variant=student.who.variant,
        stage=student.stage,
        lr=method.lr,
        cfg_strength=method.cfg_strength,
        score=score,
        error=None if score is not None else error,
        address=student.folder,
    )
