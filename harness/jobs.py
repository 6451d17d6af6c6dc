"""What a worker process does: encode, observe, train, generate. Jobs are plain data; results are files.

A job's device is where the networks of its world compute.
"""

from __future__ import annotations

import copy
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from ..flow.samplers import Sampler
from ..metrics.contract import Shapes
from ..trellis.weights import check_fit, read_tensors
from .config import Train
from .device import clock
from .generate import Generated, generate
from .parameters import Entrant
from .plan import Training
from .pool import tick
from .references import Truth, embed_pictures, reconstructed, shapes_of
from .storage import load_arrays, save_arrays
from .task import StructureTask, Task, TrainingData
from .train import Student, student_file, train_together
from .world import World, load_world

CALIBRATION_STEPS = 5  # timed, after one that is not
SHAPE_FIELDS = ("ok", "latents", "occupancy", "picture_features", "point_features", "embedding")


@dataclass(frozen=True)
class EncodeJob:
    world: Path
    occupancy: NDArray[np.bool_]
    path: Path
    device: str = "cpu"


@dataclass(frozen=True)
class ObserveJob:
    """Some assets themselves: occupancy [n, R, R, R] and whole conditioning pictures [n, S, S, 3]."""

    world: Path
    occupancy: NDArray[np.bool_]
    pictures: NDArray[np.uint8]
    asset_ids: tuple[str, ...]
    path: Path
    device: str = "cpu"


class TrainingSet(Protocol):
    """What students of a stage are distilled on, as plain data; `task` is called in the process that trains."""

    @property
    def train(self) -> Train: ...

    def task(self) -> Task: ...


@dataclass(frozen=True)
class StructureSet:
    """images: [N, views, S, S, 3]; latents: files of theirs, in order."""

    world: Path
    train: Train
    latents: tuple[Path, ...]
    images: NDArray[np.uint8]
    device: str = "cpu"

    def task(self) -> StructureTask:
        world = load_cached(self.world, self.device)
        latents = torch.from_numpy(np.concatenate([load_arrays(path)["latents"] for path in self.latents]))
        data = TrainingData(latents, self.images, world.file.window.share)
        return StructureTask(world.pipeline, data, self.train.batch)


@dataclass(frozen=True)
class TrainJob:
    """Students of one training seed that train together."""

    data: TrainingSet
    trainings: tuple[Training, ...]
    out: Path


@dataclass(frozen=True)
class CalibrateJob:
    """Methods whose training steps are to be timed."""

    data: TrainingSet
    entrants: tuple[Entrant, ...]


@dataclass(frozen=True)
class GenerateJob:
    """Some assets of one cell. weights: the student's file, None for the teacher. images: windowed, [n, S, S, 3]."""

    world: Path
    weights: Path | None
    sampler: Sampler
    images: NDArray[np.uint8]
    asset_ids: tuple[str, ...]
    seed: int
    batch: int
    path: Path
    device: str = "cpu"


@lru_cache(maxsize=1)
def load_cached(folder: Path, device: str) -> World:
    """The world of a folder, loaded once per process, on a device."""
    return load_world(folder, device)


def run_encode(job: EncodeJob) -> None:
    """Latents of occupancy grids, one at a time so that their bits do not depend on how they are split."""
    pipeline = load_cached(job.world, job.device).pipeline
    rows = [pipeline.encode(torch.from_numpy(grid)[None]) for grid in job.occupancy]
    save_arrays(job.path, {"latents": torch.cat(rows).cpu().numpy()})
    tick(len(job.occupancy))


def run_truth(job: ObserveJob) -> None:
    """What the extractors see of assets, and the embeddings of their pictures."""
    world = load_cached(job.world, job.device)
    shapes = shapes_of(world, job.occupancy, job.asset_ids)
    save_arrays(job.path, {**_arrays(shapes), "picture_embedding": embed_pictures(world.dual, job.pictures)})
    tick(len(job.asset_ids))


def run_reconstruction(job: ObserveJob) -> None:
    """What the extractors see of assets that went through the VAE."""
    save_arrays(job.path, _arrays(reconstructed(load_cached(job.world, job.device), job.occupancy, job.asset_ids)))
    tick(len(job.asset_ids))


def run_train(job: TrainJob) -> dict[str, str]:
    """Train the job's students. Returns the failed ones' reasons, by folder."""
    task, train = job.data.task(), job.data.train
    students = [_student(t.entrant, t.steps, job.out / t.folder, task, train) for t in job.trainings]
    failures = train_together(students, task, train, job.trainings[0].seed)
    folders = {Path(training.folder).name: training.folder for training in job.trainings}
    return {folders[name]: reason for name, reason in failures.items()}


def run_calibrate(job: CalibrateJob) -> dict[str, float]:
    """Median seconds of a training step of each method alone, by label; a method that fails has none."""
    task = job.data.task()
    timed = {who.label: _step_seconds(who, task, job.data.train) for who in job.entrants}
    return {label: seconds for label, seconds in timed.items() if seconds is not None}


def _step_seconds(who: Entrant, task: Task, train: Train) -> float | None:
    seconds = []
    with TemporaryDirectory() as folder:
        for index in range(1 + CALIBRATION_STEPS):
            student = _student(who, 1, Path(folder) / str(index), task, train)
            started = clock(student.device)
            if train_together([student], task, train, index):
                return None
            seconds.append(clock(student.device) - started)
    return statistics.median(seconds[1:])


def _student(who: Entrant, steps: int, folder: Path, task: Task, train: Train) -> Student:
    return Student(who.label, who.distillation, task.student(), train, steps, folder)


def run_generate(job: GenerateJob) -> None:
    world = load_cached(job.world, job.device)
    network = world.pipeline.flow if job.weights is None else _distilled(job.world, job.device, job.weights)
    generated = generate(world, network, job.sampler, job.images, job.asset_ids, job.seed, job.batch)
    save_generated(job.path, generated, job.asset_ids)
    tick(len(job.asset_ids))


@lru_cache(maxsize=2)
def _distilled(world: Path, device: str, weights: Path) -> torch.nn.Module:
    return with_weights(load_cached(world, device).pipeline.flow, weights)


def with_weights(teacher: torch.nn.Module, weights: Path) -> torch.nn.Module:
    """A copy of a teacher with a student's weights. Raises MissingError when they do not fit."""
    network = copy.deepcopy(teacher)
    tensors = read_tensors(weights)
    check_fit(weights, network, tensors)
    network.load_state_dict(tensors)
    return network.eval()


def save_generated(path: Path, generated: Generated, asset_ids: Sequence[str]) -> None:
    extra = {"nfe": generated.nfe, "seconds": generated.seconds, "errors": np.array(generated.errors, str)}
    save_arrays(path, {**_arrays(generated.shapes), **extra, "ids": np.array(asset_ids, str)})


def load_generated(path: Path) -> Generated:
    arrays = load_arrays(path)
    errors = tuple(str(error) for error in arrays["errors"])
    return Generated(_shapes(arrays), arrays["nfe"], arrays["seconds"], errors)


def load_shapes(paths: Sequence[Path]) -> Shapes:
    """The shapes of all files, in order."""
    parts = [load_arrays(path) for path in paths]
    return _shapes({name: np.concatenate([part[name] for part in parts]) for name in SHAPE_FIELDS})


def load_truth(paths: Sequence[Path]) -> Truth:
    embedding = np.concatenate([load_arrays(path)["picture_embedding"] for path in paths])
    return Truth(load_shapes(paths), embedding)


def _arrays(shapes: Shapes) -> dict[str, NDArray]:
    return {name: getattr(shapes, name) for name in SHAPE_FIELDS}


def _shapes(arrays: Mapping[str, NDArray]) -> Shapes:
    return Shapes(**{name: arrays[name] for name in SHAPE_FIELDS})


def is_trained(out: Path, training: Training) -> bool:
    return student_file(out / training.folder).exists()
