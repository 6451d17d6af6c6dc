"""`mdtbench run --preset oracle`: distil and measure on problems whose answers are exact. Every result is a file."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from ...base.files import digest_of, read_json, write_json
from ...flow.guidance import GuidedVelocity
from ...methods import METHODS
from ...results.rows import Row, write_rows
from ...trellis.pipeline import SamplerParams
from ..engine.provenance import device_name, git_state, provenance
from ..engine.tracking import Board, tracking
from ..engine.workers import Workers, tick
from ..settings.methods import Entrant, entrant
from ..train.loop import Failure, Student, followed, student_file, train_together
from .config import OracleConfig
from .exam import SLICED_W2, TRANSPORT, Exam, answer, exam, samplers
from .figure import write_figure
from .problems import problem
from .task import BankStudent, OracleTask

REFERENCES = ("none", "none:cfg", "teacher")  # the teacher's own rows
TEACHER_STEPS = 25
GROUPS = 3  # parts that the methods of one training seed are split into, so that processes are done at one time
VERSION = 1  # part of the address of every result: raise it when problems, training or measures change


@dataclass(frozen=True)
class Training:
    """One student to train. folder: relative to the run's; its name is a digest of all inputs."""

    entrant: Entrant
    seed: int
    steps: int
    folder: str


@dataclass(frozen=True)
class OraclePlan:
    """An oracle run, resolved.

    Attributes:
        key: sha256 over everything that decides a result.
        preset: name or path of it. command: the words that began it.
    """

    config: OracleConfig
    entrants: tuple[Entrant, ...]
    trainings: tuple[Training, ...]
    key: str
    preset: str = ""
    command: tuple[str, ...] = ()

    @property
    def run_id(self) -> str:
        return self.key[:12]

    def sources(self) -> Iterator[tuple[Entrant, Training | None]]:
        """What is measured: every student, and the teacher's own rows."""
        for who in self.entrants:
            yield from ((who, t) for t in ([t for t in self.trainings if t.entrant is who] if who.trains else [None]))

    def scores_file(self, who: Entrant, training: Training | None) -> Path:
        """Where what `answer` finds is kept, relative to the run's folder."""
        origin = training.folder if training else [who.label, repr(who.method)]
        sha = digest_of([VERSION, origin, _problem_key(self.config), self.config.evaluate.model_dump()])
        seed = f"-seed{training.seed}" if training else ""
        return Path(f"scores/{who.file_name}{seed}-{sha[:12]}.json")


@dataclass(frozen=True)
class OracleOutcome:
    """What a run produced. failed_students: by folder."""

    rows: tuple[Row, ...]
    failed_students: dict[str, Failure]


@dataclass(frozen=True)
class TrainJob:
    """Students of one training seed that train together."""

    config: OracleConfig
    trainings: tuple[Training, ...]
    out: Path


@dataclass(frozen=True)
class ScoreJob:
    """One student, or with None the teacher, to be measured."""

    config: OracleConfig
    entrant: Entrant
    training: Training | None
    out: Path
    path: Path


def plan_oracle(config: OracleConfig, methods: Sequence[str] = (), train_seeds: Sequence[int] = ()) -> OraclePlan:
    """The plan of a run; empty arguments stand for the preset's.

    Raises:
        UsageError: unknown method, variant or parameter.
    """
    for name in config.methods:
        METHODS.get(name)
    labels = dict.fromkeys(label.removesuffix(":") for label in (*(methods or config.oracle.methods), *REFERENCES))
    entrants = tuple(_entrant(label, config) for label in labels)
    seeds = dict.fromkeys(train_seeds or config.oracle.seeds)
    trainings = tuple(_training(who, seed, config) for seed in seeds for who in entrants if who.trains)
    key = digest_of([VERSION, config.model_dump(mode="json"), [t.folder for t in trainings], list(labels)])
    return OraclePlan(config, entrants, trainings, key)


def run_oracle(plan: OraclePlan, out: Path, team: Workers, track: Sequence[str] = ()) -> OracleOutcome:
    """Train, measure, draw; a second call finds every result again. Writes rows, manifest and a figure per method.

    Args:
        track: trackers to write to.

    Raises:
        RunError: a worker was killed, or a tracker failed.
    """
    with tracking(track, out, plan.run_id) as board:
        return _run_oracle(plan, out, team, board)


def _run_oracle(plan: OraclePlan, out: Path, team: Workers, board: Board) -> OracleOutcome:
    started = time.time()
    _write_manifest(plan, out, {"started_s": started})
    board.settings(_manifest(plan))
    recipe = plan.config.train.common()
    board.follow(followed(out / t.folder, t.entrant, recipe, "oracle", t.seed, t.steps) for t in plan.trainings)
    torch.set_num_threads(1)  # as the workers: what is measured here must round the same way everywhere
    failed = _train(plan, out, team)
    done = [(who, t) for who, t in plan.sources() if not (t and t.folder in failed)]
    jobs = [ScoreJob(plan.config, who, t, out, out / plan.scores_file(who, t)) for who, t in done]
    todo = [job for job in jobs if not job.path.exists()]
    team.map(run_score, todo, "measure", len(todo))
    rows = tuple(_rows(plan, out, failed))
    write_rows(out / "rows.jsonl", rows)
    figures = _write_figures(plan, out, failed)
    _write_manifest(plan, out, {"started_s": started, "finished_s": time.time()})
    for path in figures:
        board.picture(f"{path.parent.name}/{path.stem}", path)
    board.rows(rows)
    return OracleOutcome(rows, failed)


def run_train(job: TrainJob) -> dict[str, Failure]:
    """Train the job's students. Returns failures by folder."""
    train, seed = job.config.train.common(), job.trainings[0].seed
    task = oracle_task(job.config, seed)
    students = [
        Student(t.entrant.label, t.entrant.distillation, task.student(), train, t.steps, job.out / t.folder, seed)
        for t in job.trainings
    ]
    failures = train_together(students, task, train, seed)
    folders = {Path(training.folder).name: training.folder for training in job.trainings}
    return {folders[name]: failure for name, failure in failures.items()}


@torch.no_grad()
def run_score(job: ScoreJob) -> None:
    """Measure one student, or the teacher, at all numbers of steps."""
    paper, evaluate = _exam(job.config), job.config.evaluate
    velocity = _velocity(job.config, paper, job.out, job.training)
    others = evaluate.samplers if job.training else ()
    records: list[dict[str, Any]] = []
    seen = set()
    for steps in evaluate.steps:
        if (own := job.entrant.method.sampler(steps)) not in seen:  # `teacher` has one count, whatever is asked
            seen.add(own)
            records += answer(paper, velocity, job.entrant.method, steps, others)
    write_json(job.path, records)
    tick()


def oracle_task(config: OracleConfig, seed: int) -> OracleTask:
    """What the students of one training seed learn on."""
    paper = _exam(config)
    return OracleTask(paper.problems, paper.bank, config.train.batch, config.oracle.width, seed)


def _entrant(label: str, config: OracleConfig) -> Entrant:
    """The method with the problems' guidance strength in place of its variant's: another strength, another answer."""
    strength, name = config.oracle.cfg_strength, label.partition(":")[0]
    strengths = dict.fromkeys(["cfg_strength", *_strengths_of(label)], strength)
    changes = {name: {**strengths, **config.methods.get(name, {})}}
    return entrant(label, changes, SamplerParams(TEACHER_STEPS, strength, (0.0, 1.0), 1.0))


def _strengths_of(label: str) -> list[str]:
    """The guidance strengths that a variant sets."""
    name, _, variant = label.partition(":")
    return [key for key in METHODS.get(name).variants.get(variant, {}) if key.endswith("cfg_strength")]


def _training(who: Entrant, seed: int, config: OracleConfig) -> Training:
    key = [*who.identity, seed, config.train.model_dump(), _problem_key(config)]
    sha = digest_of([VERSION, *key, config.oracle.width])
    return Training(who, seed, config.train.steps, f"students/{who.file_name}-seed{seed}-{sha[:12]}")


def _problem_key(config: OracleConfig) -> list[Any]:
    return [list(config.oracle.problems), config.oracle.cfg_strength]


def _exam(config: OracleConfig) -> Exam:
    return exam(config.oracle.problems, config.oracle.cfg_strength, config.evaluate.samples)


def _train(plan: OraclePlan, out: Path, team: Workers) -> dict[str, Failure]:
    todo = [training for training in plan.trainings if not student_file(out / training.folder).exists()]
    jobs = []
    for seed in dict.fromkeys(training.seed for training in todo):
        ours = sorted((t for t in todo if t.seed == seed), key=lambda t: t.entrant.distillation.cost(), reverse=True)
        jobs += [TrainJob(plan.config, tuple(ours[i::GROUPS]), out) for i in range(min(GROUPS, len(ours)))]
    failures = team.map(run_train, jobs, "distil", plan.config.train.steps * len(todo))
    return {folder: failure for failed in failures for folder, failure in failed.items()}


def _velocity(config: OracleConfig, paper: Exam, out: Path, training: Training | None) -> GuidedVelocity:
    if training is None:
        return paper.bank.teacher(paper.classes)
    network = BankStudent(paper.bank, config.oracle.width, 0)
    network.load_state_dict(load_file(student_file(out / training.folder)))
    return lambda x, t, cfg_strength: network.eval()(x, t, paper.classes)


def _rows(plan: OraclePlan, out: Path, failed: Mapping[str, Failure]) -> Iterator[Row]:
    common = _common(plan)
    for who, training in plan.sources():
        if training and training.folder in failed:
            yield from _failed_rows(plan, who, training, failed[training.folder], common)
            continue
        for record in read_json(out / plan.scores_file(who, training)):
            if who.label != "none:cfg" or problem(record["problem"]).guided:  # without guidance: `none` again
                yield _scored_row(plan, who, training, record, common)
    paper = _exam(plan.config)
    for one, scores in zip(paper.problems, paper.scores(paper.others, mapped=False), strict=True):
        measured = _of_problem(plan, one.name) | {"n_ok": common["n_total"], "status": "ok", "metric": SLICED_W2}
        yield Row(**common, **measured, method="floor", method_version=1, value=scores[SLICED_W2])


def _scored_row(
    plan: OraclePlan, who: Entrant, training: Training | None, record: dict[str, Any], common: dict[str, Any]
) -> Row:
    scored = {key: value for key, value in record.items() if key != "problem"}
    scored["note"] = " ".join(part for part in (record["note"], _note(who)) if part)
    place = _of_problem(plan, record["problem"]) | _of_entrant(who, training)
    return Row(**common, **place, **scored, status="ok", n_ok=common["n_total"])


def _failed_rows(
    plan: OraclePlan, who: Entrant, training: Training, failure: Failure, common: dict[str, Any]
) -> Iterator[Row]:
    failed = {"status": "lost" if failure.lost else "failed", "error": failure.reason, "n_ok": 0, "note": _note(who)}
    for name in plan.config.oracle.problems:
        for steps in plan.config.evaluate.steps:
            for sampler, own in samplers(who.method, steps, plan.config.evaluate.samplers):
                place = _of_problem(plan, name) | _of_entrant(who, training)
                place |= {"steps": steps, "sampler": sampler.name, "own_sampler": own, "extra_sampler": not own}
                metrics = (SLICED_W2,) if sampler.computation().fresh_noise else (SLICED_W2, TRANSPORT)
                for metric in metrics:
                    yield Row(**common, **place, **failed, metric=metric)


def _of_problem(plan: OraclePlan, name: str) -> dict[str, Any]:
    strength = plan.config.oracle.cfg_strength if problem(name).guided else 0.0
    return {"stage": f"oracle/{name}", "cfg_strength": strength}


def _of_entrant(who: Entrant, training: Training | None) -> dict[str, Any]:
    return {
        "method": who.name,
        "variant": who.variant,
        "method_version": who.version,
        "train_seed": training.seed if training else None,
        "seed": 0,  # of the noise, which is the same for all
    }


def _note(who: Entrant) -> str:
    if not _strengths_of(who.label):
        return ""
    return "with the problem's guidance strength and the preset's learning rate in place of its own."


def _common(plan: OraclePlan) -> dict[str, Any]:
    commit, dirty = git_state()
    return {
        "run_id": plan.run_id,
        "split": "test",
        "metric_version": 1,
        "higher_is_better": False,
        "n_total": plan.config.evaluate.samples,
        "config_sha": plan.key,
        "git_commit": commit,
        "git_dirty": dirty,
        "torch": torch.__version__,
        "device": device_name(),
        "created_utc": datetime.now(UTC).isoformat(timespec="seconds"),
    }


@torch.no_grad()
def _write_figures(plan: OraclePlan, out: Path, failed: Mapping[str, Failure]) -> list[Path]:
    """One step of every student of the first training seed."""
    paper, paths = _exam(plan.config), []
    for training in plan.trainings:
        if training.seed != plan.trainings[0].seed or training.folder in failed:
            continue
        velocity = _velocity(plan.config, paper, out, training)
        samples = paper.sample(velocity, training.entrant.method.sampler(1))
        paths.append(out / "figures" / f"{training.entrant.file_name}.png")
        write_figure(paths[-1], training.entrant.label, paper, samples)
    return paths


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


def _write_manifest(plan: OraclePlan, out: Path, times: dict[str, float]) -> None:
    write_json(out / "manifest.json", {**_manifest(plan), **provenance(), **times})
