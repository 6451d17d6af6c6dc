"""The students of a run: trained in groups that share the teacher's passes, or taken from those who published them.

OUT/students/STAGE-LABEL-seedS-DIGEST/   what `train.loop.Student` writes; the digest is of all inputs
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import nn

from ...base.children import environment
from ...base.errors import MissingError
from ...base.files import digest_of, file_sha256, read_json, read_record, write_json, write_record
from ...base.limits import limits
from ...results.students import StudentRecord
from ...trellis.kernels import asked
from ...trellis.pipeline import FLOW, SLAT_FLOW
from ...trellis.students import SLAT_STUDENT, STRUCTURE_STUDENT, released_student
from ..engine.engine import Engine
from ..engine.files import intact, load_tensors
from ..engine.jobs import Job, Place
from ..engine.plugins import loaded
from ..engine.spec import to_spec
from ..engine.stop import CODE as STOPPED
from ..engine.stop import Stopped, careful, stopping
from ..engine.store import Arrays
from ..engine.tracking import Training
from ..engine.work import LostError
from ..inputs.world import load_cached
from ..plan.plan import Cell, Plan, Student
from ..protocol.values import Stage
from ..settings.config import Train
from ..settings.methods import Entrant
from ..train.accounts import Trained, student_record, written_account
from ..train.budget import BUDGET_FILE, TIMED_STEPS, step_seconds, timed_steps, to_time
from ..train.data import TrainingSet, unreadable_file
from ..train.ends import EndsJob, parts_of_set, stored_ends
from ..train.loop import ACCOUNT_FILE, Failure, begin_as, followed, student_file, train_together
from ..train.loop import Student as Trainee
from ..train.pairs import PairedTask, watching
from ..train.ranks import MEET, joined
from ..train.task import StageTask, Task

RAW = 0.0  # decay of the average that is the weights themselves: `train.more_ema` keeps it
WEIGHTS = {"average": None, "raw": RAW}  # of a student, by the decay in their file's name
FAILED_FILE = "failed.json"  # in a student's folder: the method's own failure, which the same code would repeat
PAIRS = "pairs"  # store of noises' ends in a run's folder
GANG_POLL_S = 0.1
RELEASED_FILES: dict[Stage, tuple[str, str]] = {
    "structure": (STRUCTURE_STUDENT, FLOW),
    "slat": (SLAT_STUDENT, SLAT_FLOW),
}


@dataclass(frozen=True)
class Weights:
    """Where the weights of students are, and what a reader must know of them.

    Attributes:
        out: folder of the run. root: of downloads, where published students are. average: whether the average is
            evaluated, or the raw weights.
    """

    out: Path
    root: Path
    world: Path
    average: bool

    def of(self, student: Student) -> tuple[Path, str]:
        """File and identity. Raises MissingError for a published student that is absent or damaged."""
        if not student.given:
            decay = None if self.average else RAW
            return student_file(self.out / student.folder, decay), f"{student.folder}/{decay}"
        name, key = RELEASED_FILES[student.stage]
        stem = released_student(self.root / student.given / name, flow_stem(self.world, key)).stem
        path = stem.with_name(f"{stem.name}.safetensors")
        return path, file_sha256(path)

    def notes(self, cell: Cell) -> list[str]:
        """Of a cell's row."""
        notes = [cell.own.sampler.note(), *(self._skipped(student) for student in cell.students)]
        notes += [self._changed(student) for student in cell.students]
        guided = max(cell.own.sampler.computation().strengths, default=0.0)
        if cell.own.student and guided:
            notes.append(f"sampled with guidance {guided:g} on top of what was distilled")
        return [note for note in dict.fromkeys(notes) if note]

    def _skipped(self, student: Student) -> str:
        written = written_account(self.out / student.folder)
        skipped, steps = written.get("skipped", 0), written.get("steps", 0)
        if not skipped:
            return ""
        return f"{student.stage}: {skipped / steps:.0%} of {steps} training steps were skipped (not finite)"

    def _changed(self, student: Student) -> str:
        kind = "average" if self.average else "raw"
        share = written_account(self.out / student.folder).get("changed", {}).get(kind)
        if share is None:
            return ""
        return f"{student.stage}: cast to the teacher's half precision, {share:.1%} of the weights differ from its own"


@dataclass(frozen=True)
class TrainJob(Job):
    """Students of one stage and training seed that train together.

    Attributes:
        pairs: the stored set that they learn from, if they do. ranks: processes that share each batch.
    """

    stage: Stage
    world: Path
    device: str
    data: TrainingSet
    train: Train
    students: tuple[Student, ...]
    out: Path
    label: str
    pairs: tuple[EndsJob, ...] = ()
    ranks: int = 1

    kind, networks, minutes = "train", True, 24 * 60.0

    @property
    def places(self) -> tuple[Place, ...]:
        """None: students have folders of their own."""
        return ()

    @cached_property
    def key(self) -> str:
        return f"train-{digest_of([str(self.out), self.label, *(student.folder for student in self.students)])[:20]}"

    @property
    def units(self) -> int:
        return sum(student.steps for student in self.students)

    @property
    def needs(self) -> Sequence[Job]:
        return (*self.data.jobs, *self.pairs)

    @property
    def todo(self) -> tuple[Student, ...]:
        """Those that are neither trained nor known to fail."""
        return tuple(student for student in self.students if not _ended(self.out / student.folder))

    @property
    def done(self) -> bool:
        return not self.todo

    def compute(self) -> Sequence[Arrays]:
        """Nothing for a store: see `perform`."""
        return ()

    def perform(self) -> None:
        """Train what is not trained yet. Raises LostError when the machine is to blame."""
        job = replace(self, students=self.todo)
        failures = run_gang(job) if job.ranks > 1 else run_train(job)
        for folder, failure in failures.items():
            if not failure.lost:
                write_record(self.out / folder / FAILED_FILE, {"reason": failure.reason, "mistake": failure.mistake})
        for failure in failures.values():
            if failure.lost:
                raise LostError(failure.reason)

    def digests(self, *, thorough: bool = False) -> dict[str, str]:
        files = [student_file(self.out / student.folder) for student in self.students]
        return {file.parent.name: file_sha256(file) for file in files if file.exists()}

    def task(self) -> StageTask:
        world = load_cached(self.world, self.device)
        data, train = self.data.open(world, self.out), self.train
        return StageTask(self.stage, world.stage(self.stage), data, train.batch, train.precision, train.compile_blocks)


@dataclass(frozen=True)
class TimeJob:
    """Methods whose training steps are to be timed."""

    train_job: TrainJob
    entrants: tuple[Entrant, ...]


def train_students(
    plan: Plan, students: Iterable[Student], out: Path, engine: Engine, label: str, ranks: int = 1
) -> dict[str, Failure]:
    """Train the students that are not trained yet. Returns failures by student folder.

    Args:
        label: for progress; {stage} stands for a student's. ranks: processes that share each batch; 1: none do.
    """
    unique = [student for student in dict.fromkeys(students) if not student.given]
    note = engine.networks.reporter.note
    todo = [student for student in unique if not _is_trained(plan, student, out, note)]
    failures = {student.folder: failure for student in todo if (failure := _known_failure(out, student, note))}
    todo = [student for student in todo if student.folder not in failures]
    if before := [student.before for student in todo if student.before]:
        failures |= _not_begun(todo, train_students(plan, before, out, engine, label, ranks))
        todo = [student for student in todo if student.folder not in failures]
    return failures | (_train(plan, todo, out, engine, label, ranks) if todo else {})


def _train(
    plan: Plan, todo: Sequence[Student], out: Path, engine: Engine, label: str, ranks: int
) -> dict[str, Failure]:
    """Train students whose beginnings are there. Returns failures by folder."""
    failures: dict[str, Failure] = {}
    stages: list[Stage] = list(dict.fromkeys(student.stage for student in todo))
    jobs: list[TrainJob] = []
    for stage, seed in product(stages, dict.fromkeys(student.seed for student in todo)):
        train = plan.config.stage(stage)
        mine = [student for student in todo if (student.stage, student.seed) == (stage, seed)]
        alike = [student for student in mine if not student.who.distillation.stored_pairs()]
        groups = [(group, ()) for group in grouped(alike, 1 if ranks > 1 else engine.slots, train.lockstep)]
        groups += [((student,), _pairs(plan, student, out)) for student in mine if student not in alike]
        jobs += [
            TrainJob(
                stage, plan.world.folder, plan.device, plan.sets[stage], train, group, out,
                label.format(stage=stage), pairs, ranks,
            )
            for group, pairs in groups
        ]  # fmt: skip
    jobs.sort(key=lambda job: sum(student.cost for student in job.students), reverse=True)  # else they end at odd times
    lost = engine.attempt(jobs)
    for job in jobs:
        failures |= {student.folder: Failure(lost[job.key], lost=True) for student in job.todo if job.key in lost}
        failed = [student for student in job.students if (out / student.folder / FAILED_FILE).is_file()]
        failures |= {one.folder: Failure(**read_record(out / one.folder / FAILED_FILE)) for one in failed}
    for path in (unreadable_file(out, stage) for stage in stages):
        if path.is_file():
            engine.networks.reporter.note(f"{len(read_json(path))} training instances could not be read, see {path}")
    return failures


def _not_begun(students: Sequence[Student], failed: Mapping[str, Failure]) -> dict[str, Failure]:
    """The students whose first training is among the failed ones."""
    found = {}
    for student in students:
        if student.before and (failure := failed.get(student.before.folder)):
            reason = f"the training that it begins with failed ({student.before.who.label}: {failure.reason})"
            found[student.folder] = Failure(reason, failure.lost)
    return found


def _is_trained(plan: Plan, student: Student, out: Path, tell: Callable[[str], None]) -> bool:
    """Whether all that its training leaves is there and intact; where not, nothing says so any more."""
    folder, last = out / student.folder, student_file(out / student.folder)
    averages = _recipe(plan.config.stage(student.stage)).more_ema
    files = {folder / ACCOUNT_FILE: read_record, last: load_tensors}
    files |= {student_file(folder, decay): load_tensors for decay in averages}
    if not last.exists():
        return False
    if all([intact(path, check, tell) for path, check in files.items()]):
        return True
    tell(f"{student.folder} is trained again.")
    last.unlink(missing_ok=True)
    return False


def run_train(job: TrainJob) -> dict[str, Failure]:
    """Train the job's students. Returns failures by folder."""
    task: Task = job.task()
    if job.pairs:
        task = PairedTask(task, stored_ends(job.pairs))
    trainees = [_trainee(job, student, task) for student in job.students]
    failures = train_together(trainees, task, job.train, job.students[0].seed)
    if joined().first:
        _note_changes(job, [trainee.folder for trainee in trainees if trainee.folder.name not in failures])
    folders = {Path(student.folder).name: student.folder for student in job.students}
    return {folders[name]: failure for name, failure in failures.items()}


def _note_changes(job: TrainJob, folders: Iterable[Path]) -> None:
    """In students' accounts: what is left of the training when weights are cast to the teacher's precision."""
    teacher = load_cached(job.world, job.device).stage(job.stage).flow
    for folder in folders:
        shares = {name: changed_share(teacher, student_file(folder, decay)) for name, decay in WEIGHTS.items()}
        found = {name: share for name, share in shares.items() if share is not None}
        if found:
            write_record(folder / ACCOUNT_FILE, written_account(folder) | {"changed": found})


def changed_share(teacher: nn.Module, weights: Path) -> float | None:
    """Of the weights that a teacher has in half precision, those that a student's cast to it are not equal to.

    An update of 1e-8 is less than half a step of float16 for most weights. None: the teacher has no such weights.
    """
    halves = {name: own for name, own in teacher.named_parameters() if own.dtype in (torch.float16, torch.bfloat16)}
    if not halves:
        return None
    tensors = load_tensors(weights)
    changed = sum(int((tensors[name].to(own) != own).sum()) for name, own in halves.items())
    return changed / sum(own.numel() for own in halves.values())


def trainings(plan: Plan, students: Iterable[Student], out: Path) -> list[Training]:
    """Those of students that are trained here, for trackers."""
    recipes = {stage: _recipe(plan.config.stage(stage)) for stage in plan.stages}
    return [
        followed(out / one.folder, one.who, recipes[one.stage], one.stage, one.seed, one.steps)
        for one in students
        if not one.given
    ]


def _pairs(plan: Plan, student: Student, out: Path) -> tuple[EndsJob, ...]:
    """The set that a student learns from, the same for all its training seeds."""
    pairs, train = student.who.distillation.stored_pairs(), plan.config.stage(student.stage)
    assert pairs is not None
    teacher = (plan.world.folder, plan.device, plan.networks_sha, student.stage, plan.sets[student.stage])
    parts = parts_of_set(pairs, train.batch)
    return tuple(EndsJob(out / PAIRS, *teacher, train.batch, pairs.solver, part, out) for part in parts)


def grouped(students: Sequence[Student], processes: int, most: int | None) -> list[tuple[Student, ...]]:
    """Groups of similar cost (longest first onto the lightest), as many as processes, or more where `most` says so."""
    count = min(processes, len(students))
    if most is not None:
        count = max(count, -(-len(students) // most))
    parts: list[list[Student]] = [[] for _ in range(count)]
    for student in sorted(students, key=lambda one: one.cost, reverse=True):
        open_parts = [part for part in parts if most is None or len(part) < most]
        min(open_parts, key=lambda part: sum(one.cost for one in part)).append(student)
    return [tuple(part) for part in parts if part]


def stage_seconds(plan: Plan, out: Path, engine: Engine) -> dict[Stage, dict[str, float]]:
    """Seconds of a training step by stage and label, of all that train and of the budget's method."""
    return {stage: _stage_seconds(plan, stage, out, engine) for stage in plan.stages}


def _stage_seconds(plan: Plan, stage: Stage, out: Path, engine: Engine) -> dict[str, float]:
    train = plan.config.stage(stage)

    def measure(entrants: Sequence[Entrant]) -> dict[str, float]:
        engine.do(plan.sets[stage].jobs)
        job = TrainJob(stage, plan.world.folder, plan.device, plan.sets[stage], train, (), out, "time")
        count = (1 + TIMED_STEPS) * len(entrants)
        [measured] = engine.networks.map(run_time, [TimeJob(job, tuple(entrants))], f"time {stage} steps", count)
        return measured

    entrants = to_time(line.who[stage] for line in plan.lines if line.trains)
    return step_seconds(
        out / BUDGET_FILE,
        entrants,
        lambda who: [stage, who.identity, train.batch, plan.networks_sha],
        measure,
        engine.networks.reporter.note,
    )


def run_time(job: TimeJob) -> dict[str, float]:
    """As `timed_steps`."""
    return timed_steps(job.entrants, job.train_job.task(), job.train_job.train)


def records(plan: Plan, out: Path, failures: Mapping[str, Failure]) -> list[StudentRecord]:
    """What each student of the tables got: from its own account where it has one, else from the plan."""
    return [_record(student, plan, out, failures.get(student.folder)) for student in plan.trained]


def flow_stem(folder: Path, key: str) -> Path:
    """Checkpoint of a flow network of a world. Raises MissingError."""
    try:
        return folder / read_json(folder / "pipeline.json")["args"]["models"][key]
    except (KeyError, TypeError) as error:
        raise MissingError(f"{folder / 'pipeline.json'} has no {error}. Restore the file.") from error


def _trainee(job: TrainJob, student: Student, task: Task) -> Trainee:
    who, train = student.who, _recipe(job.train)
    folder, method = job.out / student.folder, who.distillation
    held_out = watching(method, task, student.steps)
    network = task.student()
    if student.before:
        begin_as(network, student_file(job.out / student.before.folder))
    return Trainee(who.label, method, network, train, student.steps, folder, student.seed, held_out)


def _recipe(train: Train) -> Train:
    """Raw weights are kept beside the average, so that a protocol's other choice of weights needs no other training."""
    more = tuple(dict.fromkeys((*train.more_ema, RAW)))
    return train.model_copy(update={"more_ema": more, "lr": None})  # the method has the rate


def _ended(folder: Path) -> bool:
    return student_file(folder).exists() or (folder / FAILED_FILE).is_file()


def _known_failure(out: Path, student: Student, tell: Callable[[str], None]) -> Failure | None:
    path = out / student.folder / FAILED_FILE
    if not intact(path, read_record, tell):
        return None
    found = read_record(path)
    reason = f"{found['reason']} - known from an earlier call; remove {path} to try again"
    return Failure(reason, mistake=found["mistake"])


def _record(student: Student, plan: Plan, out: Path, failure: Failure | None) -> StudentRecord:
    trials = {
        trial.student.who.distillation.lr
        for trial in plan.trials(student.stage)
        if trial.student.who.label == student.who.label
    }
    chain = [Trained(one.who, one.steps, out / one.folder) for one in student.chain]
    train = plan.config.stage(student.stage)
    return student_record(chain, train, student.stage, student.seed, failure, len(trials))


# ---------------------------------------------------------------------------------------------------------------- ranks


def run_gang(job: TrainJob) -> dict[str, Failure]:
    """Train with as many processes as the job says, which share every batch; all of them on this machine.

    Raises:
        LostError: one of them was killed.
    """
    with TemporaryDirectory() as folder:
        given, taken = Path(folder) / "job.json", Path(folder) / "failures.json"
        write_json(given, to_spec((asked(), limits(), job)))
        command = [sys.executable, "-m", "mdtbench.harness.driver.gang", str(given), str(taken), *loaded()]
        variables = environment() | {"WORLD_SIZE": str(job.ranks), MEET: str(Path(folder) / "meet")}
        variables["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)  # where plug-ins are found
        processes = [
            subprocess.Popen(  # an interrupt is for the parent, which ends them
                command,
                stdin=subprocess.PIPE,
                process_group=0,
                env={**variables, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            )
            for rank in range(job.ranks)
        ]
        codes = _codes(processes)
        if STOPPED in codes:
            raise Stopped("stopped, and its checkpoint was written")
        if any(codes) or not taken.is_file():
            raise LostError(f"a process that trains with others ended (exit codes {', '.join(map(str, codes))})")
        return {name: Failure(**values) for name, values in read_json(taken).items()}


def _codes(processes: Sequence[subprocess.Popen]) -> list[int]:
    """Exit codes when all have ended; the others are ended when one fails, as they would wait for it."""
    told = False
    try:
        with careful():
            while any(process.poll() is None for process in processes):
                # One that was stopped ends before the first has written the checkpoint.
                if any(process.poll() not in (None, 0, STOPPED) for process in processes):
                    break
                if stopping() and not told:
                    told = True
                    for process in processes:
                        process.terminate()
                time.sleep(GANG_POLL_S)
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
    return [process.wait() for process in processes]
