"""The work of a run on problems with a known law, as plain data for worker processes. Every result is a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...base.files import write_record
from ...base.seeds import seed_of
from ...methods import StoredPairs
from ..engine.files import intact, load_tensors, save_tensors
from ..engine.store import to_stderr
from ..engine.workers import tick
from ..settings.methods import Entrant
from ..train.budget import timed_steps
from ..train.loop import Failure, Student, begin_as, student_file, train_together
from ..train.pairs import PairedTask, batches_of, ends_of, watching
from .config import OracleConfig
from .exam import answer
from .family import Exam, Family, LawTask
from .plan import TEST, Training, exam_file, family, pairs_folder

PARTS = 4  # files of a set of pairs


@dataclass(frozen=True)
class PairsJob:
    """The ends of some batches of a set of pairs; with None those of the exam of a split."""

    config: OracleConfig
    path: Path
    pairs: StoredPairs | None = None
    batches: tuple[int, ...] = (0,)
    split: str = TEST


@dataclass(frozen=True)
class TrainJob:
    """Students of one training seed that train together."""

    config: OracleConfig
    trainings: tuple[Training, ...]
    out: Path


@dataclass(frozen=True)
class TimeJob:
    """Methods whose training steps are to be timed."""

    config: OracleConfig
    entrants: tuple[Entrant, ...]


@dataclass(frozen=True)
class ScoreJob:
    """One student, or with None the teacher, to be measured."""

    config: OracleConfig
    entrant: Entrant
    training: Training | None
    out: Path
    path: Path
    split: str = TEST


def pairs_jobs(config: OracleConfig, sets: Sequence[StoredPairs], out: Path, split: str = TEST) -> list[PairsJob]:
    """What is not there of the exam's ends and of these sets."""
    jobs = [PairsJob(config, out / exam_file(config, split), split=split)]
    for pairs in sets:
        batches = range(batches_of(pairs, config.train.batch))
        paths = pairs_files(pairs, config, out)
        jobs += [PairsJob(config, path, pairs, tuple(batches[i::PARTS])) for i, path in enumerate(paths)]
    return [job for job in jobs if not intact(job.path, load_tensors, to_stderr)]


def pairs_files(pairs: StoredPairs, config: OracleConfig, out: Path) -> list[Path]:
    """Every file has every `PARTS`-th batch."""
    return [out / pairs_folder(pairs, config) / f"part{i}.safetensors" for i in range(PARTS)]


def run_pairs(job: PairsJob) -> None:
    """Make the ends of a job."""
    if job.pairs is None:
        problems = family(job.config)
        ends = problems.ends(*_questions(problems, job.config.evaluate.samples, job.split))
        save_tensors(job.path, {"ends": ends})
    else:
        task = LawTask(family(job.config), job.config.train.batch, 0)
        save_tensors(job.path, {str(index): ends_of(task, job.pairs.solver, index) for index in job.batches})
    tick(len(job.batches))


def run_time(job: TimeJob) -> dict[str, float]:
    """As `timed_steps`."""
    train = job.config.train.common()
    return timed_steps(job.entrants, LawTask(family(job.config), train.batch, 0), train)


def run_train(job: TrainJob) -> dict[str, Failure]:
    """Train the job's students. Returns failures by folder."""
    train, seed = job.config.train.common(), job.trainings[0].seed
    task = LawTask(family(job.config), train.batch, seed)
    failures: dict[str, Failure] = {}
    alone = [[training] for training in job.trainings if training.pairs]
    for trainings in [[training for training in job.trainings if not training.pairs], *alone]:
        if trainings:
            failures |= _train(job, trainings, task)
    folders = {Path(training.folder).name: training.folder for training in job.trainings}
    return {folders[name]: failure for name, failure in failures.items()}


def _train(job: TrainJob, trainings: Sequence[Training], task: LawTask) -> dict[str, Failure]:
    """Those that learn from the same batches."""
    train, seed, pairs = job.config.train.common(), trainings[0].seed, trainings[0].pairs
    paired = PairedTask(task, _ends(pairs, job)) if pairs else None
    students = [_student(t, task, paired, job) for t in trainings]
    return train_together(students, paired or task, train, seed)


def _student(training: Training, task: LawTask, paired: PairedTask | None, job: TrainJob) -> Student:
    method = training.entrant.distillation
    held_out = watching(method, paired or task, training.steps)
    folder, train = job.out / training.folder, job.config.train.common()
    network = task.student()
    if training.before:
        begin_as(network, student_file(job.out / training.before.folder))
    return Student(training.entrant.label, method, network, train, training.steps, folder, training.seed, held_out)


def _ends(pairs: StoredPairs, job: TrainJob) -> list[Tensor]:
    parts = [load_tensors(path) for path in pairs_files(pairs, job.config, job.out)]
    return [parts[index % PARTS][str(index)] for index in range(batches_of(pairs, job.config.train.batch))]


@torch.no_grad()
def run_score(job: ScoreJob) -> None:
    """Measure one student, or the teacher, at all numbers of steps."""
    paper, evaluate = exam(job.config, job.out, job.split), job.config.evaluate
    velocity = paper.velocity(network_of(job.config, job.out, job.training))
    others = evaluate.samplers if job.training else ()
    records: list[dict[str, Any]] = []
    seen = set()
    for steps in evaluate.steps:
        if (own := job.entrant.sampler(steps)) not in seen:  # `teacher` has one count, whatever is asked
            seen.add(own)
            records += answer(paper, velocity, job.entrant.method, steps, others)
    write_record(job.path, {"records": records})
    tick()


def network_of(config: OracleConfig, out: Path, training: Training | None) -> nn.Module | None:
    """A trained student; None for the teacher."""
    if training is None:
        return None
    network = family(config).student(0)
    begin_as(network, student_file(out / training.folder))
    return network


def exam(config: OracleConfig, out: Path, split: str = TEST) -> Exam:
    """The exam of a run whose ends are there; read once per process."""
    return _exam(family(config), config.evaluate.samples, out / exam_file(config, split), split)


@lru_cache(maxsize=1)
def _exam(problems: Family, samples: int, path: Path, split: str) -> Exam:
    return Exam(problems, *_questions(problems, samples, split), load_tensors(path)["ends"])


def _questions(problems: Family, samples: int, split: str) -> tuple[Tensor, Tensor]:
    """Their noise is another one for every split."""
    words = ("oracle noise",) if split == TEST else ("oracle noise", split)
    return problems.questions(samples, torch.Generator().manual_seed(seed_of(*words)))
