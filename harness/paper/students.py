"""The students of the tables: trained one after another, since each fills a GPU; those of a grid first.

OUT/students/STAGE-LABEL-seedS-DIGEST/   of each student what `train.Student` writes; the digest is of all inputs
OUT/grid.jsonl                           what each setting of a grid scored, and which were chosen
OUT/grid/                                what the teacher made of the held-out assets
OUT/unreadable-STAGE.json                training instances that were drawn and could not be read, with the reasons
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor, nn

from ...assets.trellis_latents import LatentSource, open_latents
from ...base.errors import MissingError
from ...base.files import digest_of
from ...flow.guidance import Guided, Velocity
from ..config import Train
from ..distributed import joined
from ..jobs import with_weights
from ..plan import TRAIN_VERSION, networks_sha
from ..progress import Reporter
from ..protocol.rules import euler
from ..protocol.values import Sampling, Stage
from ..slat_task import SlatTask
from ..task import Batch, StructureTask, Task
from ..train import Student as Trainee
from ..train import student_file, train_together
from .backbone import Backbone
from .data import CHOICES, Instances, SlatLatents, StructureLatents, Unreadable, data_digest, held_out
from .grid import GRID_FILE, Exam, Trial, chosen, judged, read_grid, write_grid
from .networks import RAW, evaluated
from .plan import STAGES, Student, TablesPlan

Key = tuple[str, Stage, int]


def train_students(plan: TablesPlan, backbone: Backbone, out: Path, device: str, report: Reporter) -> dict[Key, Path]:
    """Train all students of a plan that are not there yet; interrupted ones go on where they were.

    Args:
        out: folder of the run; finished students in it are found again by a digest of their inputs.

    Returns:
        (entrant's label, stage, training seed) -> student.safetensors, the averaged weights; the raw ones lie beside
        it (`networks.evaluated`). Students that failed are left out, and `report` says why. Of a method on the grid,
        the student of the grid's seed is the best trial itself.

    Raises:
        MissingError: no training latents are named, or a list or a result of an earlier call is absent or damaged.
        UsageError: a malformed metadata.csv, or no more instances than are held out.
        RunError: too many training instances in a row cannot be read.
    """
    made: dict[Key, Path] = {}
    for stage in STAGES:
        students = [student for student in plan.students if student.stage == stage]
        if students:
            made |= _opened(plan, backbone, stage, out, device, report).trained(students)
    return made


@dataclass(frozen=True)
class Watched:
    """A task that says which step of a training is drawn."""

    task: Task
    at: Callable[[int], None]

    def draw(self, seed: int, index: int) -> Batch:
        self.at(index)
        return self.task.draw(seed, index)

    def student(self) -> nn.Module:
        return self.task.student()

    def bind(self, network: Callable[..., Tensor], batch: Batch) -> Velocity:
        return self.task.bind(network, batch)

    def teacher(self, batch: Batch) -> Guided:
        return self.task.teacher(batch)


@dataclass(frozen=True)
class StageRoom:
    """One stage: what its students learn on, what they are compared by, and where they lie.

    Attributes:
        sampling: the protocol's, which says what weights are evaluated.
        inputs: digest of data and networks, part of every address.
    """

    stage: Stage
    task: StructureTask | SlatTask
    train: Train
    exam: Exam
    unreadable: Unreadable
    sampling: Sampling
    inputs: str
    out: Path
    report: Reporter

    def trained(self, students: Sequence[Student]) -> dict[Key, Path]:
        """Files of the stage's students."""
        on_grid = [student for student in students if student.on_grid]
        best = self._best(on_grid)
        made: dict[Key, Path] = {(label, self.stage, trial.seed): path for label, (trial, path) in best.items()}
        for student in self._others(students, {label: trial for label, (trial, _) in best.items()}):
            path, reason = self._student(student)
            if path:
                made[student.who.label, self.stage, student.seed] = path
            else:
                self.report.note(f"{_title(student)} failed: {reason}")
        self._account()
        return made

    def _best(self, students: Sequence[Student]) -> dict[str, tuple[Trial, Path]]:
        """The best trial of each method of the grid, by label, and its student's file."""
        trials: dict[str, Trial] = {}
        files = {self._address(student): student_file(self._folder(student)) for student in students}
        for student in students:
            trials[self._address(student)] = self._tried(student)
            if joined().first:
                write_grid(self.out, trials)
        best = {trial.method: trial for trial in chosen(trials.values()).values()}
        for label in dict.fromkeys(student.who.label for student in students):
            self.report.note(_verdict(label, self.stage, best.get(label)))
        return {label: (trial, files[trial.address]) for label, trial in best.items()}

    def _others(self, students: Sequence[Student], best: dict[str, Trial]) -> list[Student]:
        """Those that are not on the grid; of its methods at the settings that it chose, if it did."""
        swept = {student.who.label for student in students if student.on_grid}
        rest = [student for student in students if not student.on_grid and student.who.label not in swept - best.keys()]
        return [_at(student, best[student.who.label]) if student.who.label in swept else student for student in rest]

    def _tried(self, student: Student) -> Trial:
        """The trial of a student; a known failure is not repeated, as the same student would fail again."""
        address = self._address(student)
        known = read_grid(self.out).get(address)
        if known and known.error:
            return known
        path, reason = self._student(student)
        if known and path:
            return known
        trial = Trial(student.who.label, self.stage, student.lr, student.cfg_strength, student.seed, address)
        if path is None:
            return replace(trial, error=reason)
        return judged(trial, self.exam, with_weights(self.task.pipeline.flow, evaluated(path, self.sampling)))

    def _student(self, student: Student) -> tuple[Path | None, str]:
        """Its file, and the reason when there is none."""
        path = student_file(self._folder(student))
        reason = "" if path.exists() else self._train(student, path.parent)
        return (None if reason else path), reason

    def _train(self, student: Student, folder: Path) -> str:
        train, who = self._settings(student), student.who
        trainee = Trainee(who.label, who.distillation, self.task.student(), train, train.steps, folder)
        handle = self.report.start(f"train {_title(student)}", train.steps, trainee.learner.done)
        task = Watched(self.task, lambda index: self.report.update(handle, index))
        failures = train_together([trainee], task, train, student.seed)
        self.report.update(handle, trainee.learner.done)
        return failures.get(folder.name, "")

    def _settings(self, student: Student) -> Train:
        """With the student's own rate: `Train.lr` takes the place of the method's.

        Raw weights are kept beside the average, so that the protocol's other variant needs no other training.
        """
        more = tuple(dict.fromkeys((*self.train.more_ema, RAW)))
        return self.train.model_copy(update={"lr": student.lr, "more_ema": more})

    def _folder(self, student: Student) -> Path:
        who = student.who
        settings = self._settings(student).model_dump(exclude={"budget"})
        made_of = [TRAIN_VERSION, self.stage, who.label, who.version, repr(who.method), student.seed, settings]
        sha = digest_of([*made_of, self.inputs])
        return self.out / "students" / f"{self.stage}-{who.file_name}-seed{student.seed}-{sha[:12]}"

    def _address(self, student: Student) -> str:
        return f"{self._folder(student).name}/{self.exam.address}"

    def _account(self) -> None:
        reasons = self.unreadable.reasons
        if reasons:
            self.report.note(
                f"{self.stage}: {len(reasons)} instances could not be read and were replaced by others "
                f"(unreadable-{self.stage}.json), for example: {next(iter(reasons.values()))}"
            )


def _opened(plan: TablesPlan, backbone: Backbone, stage: Stage, out: Path, device: str, report: Reporter) -> StageRoom:
    source = _source(plan, stage)
    grid, train, sampling = plan.config.grid, plan.train(stage), plan.protocol.values.sampler
    held, names = held_out(source.instances(), grid.assets, grid.seed)
    unreadable = Unreadable(out / f"unreadable-{stage}.json" if joined().first else None)
    task, data = _task(stage, backbone, source, names, unreadable, train.batch)
    inputs = digest_of([data_digest(source, names), networks_sha(backbone.digest, device)])
    exam = Exam(
        task=task,
        data=data,
        held=held,
        unreadable=unreadable,
        teacher=euler(sampling.teacher, stage, sampling.teacher.steps[0]),
        student=euler(sampling.student, stage, min(sampling.student.steps)),
        seed=grid.seed,
        folder=out / "grid",
        inputs=digest_of([stage, inputs, sampling.weights]),
    )
    report.note(f"{stage}: {len(names)} training instances, {len(held)} held out")
    return StageRoom(stage, task, train, exam, unreadable, sampling, inputs, out, report)


def _source(plan: TablesPlan, stage: Stage) -> LatentSource:
    folders = [Path(folder).expanduser() for folder in plan.config.places.latents]
    if not folders:
        raise MissingError(
            "No training latents: places.latents names no folder. docs/paper_preset.md says how to make them, "
            "then --set 'places.latents=[\"FOLDER\"]'."
        )
    return open_latents(folders, CHOICES[stage])


def _task(
    stage: Stage, backbone: Backbone, source: LatentSource, names: Sequence[str], unreadable: Unreadable, batch: int
) -> tuple[StructureTask, StructureLatents] | tuple[SlatTask, SlatLatents]:
    if stage == "ss":
        structures = StructureLatents(Instances(source, names, source.structure_latent, unreadable))
        return StructureTask(backbone.structure, structures, batch), structures
    pipeline = backbone.slat
    slats = SlatLatents(Instances(source, names, source.slat, unreadable), pipeline.mean.cpu(), pipeline.std.cpu())
    return SlatTask(pipeline, slats, batch), slats


def _at(student: Student, trial: Trial) -> Student:
    """A student at the setting that the grid chose."""
    method = replace(student.who.distillation, lr=trial.lr, cfg_strength=trial.cfg_strength)
    return replace(student, who=replace(student.who, method=method), lr=trial.lr, cfg_strength=trial.cfg_strength)


def _verdict(label: str, stage: Stage, best: Trial | None) -> str:
    if best is None:
        return f"{label} {stage}: no setting of the grid gave a student; to try again, remove its {GRID_FILE} lines"
    return f"{label} {stage}: the best of the grid is lr {best.lr:g}, guidance {best.cfg_strength:g}"


def _title(student: Student) -> str:
    setting = f"lr {student.lr:g}, guidance {student.cfg_strength:g}, seed {student.seed}"
    return f"{student.who.label} {student.stage}, {setting}"
