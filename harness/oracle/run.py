"""`mdtbench run` on problems with a known law: distil and measure. Every result is a file."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ...base.files import read_record, write_json
from ...results.grid import grid
from ...results.rows import Row, write_rows
from ...results.students import StudentRecord, write_students
from ...results.sums import SUMS, write_sums
from ..driver.lock import driving
from ..engine.files import intact, load_tensors
from ..engine.provenance import provenance
from ..engine.store import to_stderr
from ..engine.tracking import Board, tracking
from ..engine.workers import Workers
from ..settings.methods import Entrant
from ..train.accounts import Trained, student_record
from ..train.budget import BUDGET_FILE, TIMED_STEPS, step_seconds, to_time
from ..train.loop import Failure, followed, student_file
from .jobs import (
    ScoreJob,
    TimeJob,
    TrainJob,
    exam,
    network_of,
    pairs_jobs,
    run_pairs,
    run_score,
    run_time,
    run_train,
)
from .plan import OraclePlan, Training, exam_key, firsts, timed
from .rows import rows_of

STAGE = "oracle"  # in which a student learns all problems at once
GROUPS = 3  # parts that the methods of one training seed are split into, so that processes are done at one time


@dataclass(frozen=True)
class OracleOutcome:
    """What a run produced. students: what each got to train with. failed_students: by folder."""

    rows: tuple[Row, ...]
    students: tuple[StudentRecord, ...]
    failed_students: dict[str, Failure]


def run_oracle(plan: OraclePlan, out: Path, team: Workers, track: Sequence[str] = ()) -> OracleOutcome:
    """Train, measure, draw; a second call finds every result again. Writes rows, manifest and a figure per method.

    Args:
        track: trackers to write to.

    Raises:
        RunError: a worker was killed, or a tracker failed.
        UsageError: another process writes the folder.
    """
    with driving(out), tracking(track, out, plan.run_id) as board:
        return _run_oracle(plan, out, team, board)


def _run_oracle(plan: OraclePlan, out: Path, team: Workers, board: Board) -> OracleOutcome:
    started = time.time()
    (out / SUMS).unlink(missing_ok=True)  # until all files are those of this call
    _write_manifest(plan, out, {"started_s": started})
    board.settings(_manifest(plan))
    torch.set_num_threads(1)  # as the workers: what is measured here must round the same way everywhere
    recipe = plan.config.train.common()
    if recipe.budget == "seconds":
        plan = timed(plan, _step_seconds(plan, out, team))
    board.follow(followed(out / t.folder, t.entrant, recipe, "oracle", t.seed, t.steps) for t in plan.trainings)
    failed = _train(plan, out, team)
    done = [(who, t) for who, t in plan.sources() if not (t and t.folder in failed)]
    jobs = [ScoreJob(plan.config, who, t, out, out / plan.scores_file(who, t)) for who, t in done]
    todo = [job for job in jobs if not intact(job.path, read_record, to_stderr)]
    team.map(run_score, todo, "measure", len(todo))
    rows = tuple(rows_of(plan, exam(plan.config, out), out, failed))
    write_rows(out / "rows.jsonl", rows)
    students = tuple(_record(plan, training, out, failed.get(training.folder)) for training in plan.trainings)
    write_students(out, students)
    figures = _write_figures(plan, out, failed)
    _write_manifest(plan, out, {"started_s": started, "finished_s": time.time()})
    write_sums(out)
    for path in figures:
        board.picture(f"{path.parent.name}/{path.stem}", path)
    board.rows(rows)
    return OracleOutcome(rows, students, failed)


def _step_seconds(plan: OraclePlan, out: Path, team: Workers) -> dict[str, float]:
    """Of all that train, those among them that another begins as, and the budget's method: by label."""

    def measure(entrants: Sequence[Entrant]) -> dict[str, float]:
        count = (1 + TIMED_STEPS) * len(entrants)
        [measured] = team.map(run_time, [TimeJob(plan.config, tuple(entrants))], "time steps", count)
        return measured

    entrants = to_time(one.entrant for training in plan.trainings for one in training.chain)
    key = [plan.config.train.batch, exam_key(plan.config)]
    return step_seconds(out / BUDGET_FILE, entrants, lambda who: [who.identity, *key], measure, to_stderr)


def _record(plan: OraclePlan, training: Training, out: Path, failure: Failure | None) -> StudentRecord:
    chain = [Trained(one.entrant, one.steps, out / one.folder) for one in training.chain]
    return student_record(chain, plan.config.train.common(), STAGE, training.seed, failure)


def _train(plan: OraclePlan, out: Path, team: Workers) -> dict[str, Failure]:
    todo = [t for t in plan.trainings if not intact(student_file(out / t.folder), load_tensors, to_stderr)]
    sets = dict.fromkeys(training.pairs for training in todo if training.pairs)
    pairs = pairs_jobs(plan.config, list(sets), out)
    team.map(run_pairs, pairs, "pairs", sum(len(job.batches) for job in pairs))
    failures: dict[str, Failure] = {}
    if first := firsts(todo, out):
        begun = _distilled(plan, first, out, team)
        failures = {t.folder: begun[t.before.folder] for t in todo if t.before and t.before.folder in begun}
        todo = [training for training in todo if training.folder not in failures]
    return failures | _distilled(plan, todo, out, team)


def _distilled(plan: OraclePlan, todo: list[Training], out: Path, team: Workers) -> dict[str, Failure]:
    """Train, in parallel. Returns failures by folder."""
    found = team.map(run_train, _groups(plan, todo, out), "distil", sum(training.steps for training in todo))
    return {folder: failure for failed in found for folder, failure in failed.items()}


def _groups(plan: OraclePlan, todo: list[Training], out: Path) -> list[TrainJob]:
    """Of one seed each, the dearest methods spread over groups; those with pairs first, as their steps are many."""
    jobs = []
    for seed in dict.fromkeys(training.seed for training in todo):
        ours = [training for training in todo if training.seed == seed]
        alone = [training for training in ours if training.pairs]
        jobs += [TrainJob(plan.config, (training,), out) for training in alone]
        shared = sorted((t for t in ours if not t.pairs), key=lambda t: t.entrant.distillation.cost(), reverse=True)
        jobs += [TrainJob(plan.config, tuple(shared[i::GROUPS]), out) for i in range(min(GROUPS, len(shared)))]
    return jobs


@torch.no_grad()
def _write_figures(plan: OraclePlan, out: Path, failed: Mapping[str, Failure]) -> list[Path]:
    """One step of every student of the first training seed, a panel per problem."""
    paper, paths = exam(plan.config, out), []
    for training in plan.trainings:
        if training.seed != plan.trainings[0].seed or training.folder in failed:
            continue
        who = training.entrant
        velocity = paper.velocity(network_of(plan.config, out, training))
        panels = paper.family.panels(paper.sample(velocity, who.sampler(1)), paper.classes, paper.ends)
        paths.append(out / "figures" / f"{who.file_name}.png")
        grid([panels], [f"{who.label}, 1 step"], paper.family.names, paths[-1])
    return paths


def _write_manifest(plan: OraclePlan, out: Path, times: dict[str, float]) -> None:
    write_json(out / "manifest.json", {**_manifest(plan), **provenance(), **times})


def _manifest(plan: OraclePlan) -> dict[str, Any]:
    return {
        "run_id": plan.run_id,
        "key": plan.key,
        "preset": plan.preset,
        "command": list(plan.command),
        "config": plan.config.model_dump(mode="json"),
        "methods": {e.label: {"version": e.version, "parameters": repr(e.method)} for e in plan.entrants},
        "train_seeds": sorted({training.seed for training in plan.trainings}),
    }
