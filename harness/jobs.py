"""What a worker process does: encode, train, generate. Jobs are plain data; results are files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ..flow.samplers import Sampler
from ..methods import Distillation
from ..metrics.contract import Shapes
from ..trellis.weights import check_fit, read_tensors
from .config import Train
from .generate import Generated, generate
from .plan import Training
from .pool import tick
from .storage import load_arrays, save_arrays
from .task import StructureTask, Task, TrainingData
from .train import Student, student_file, train_together
from .world import World, load_world

SHAPE_FIELDS = ("ok", "latents", "occupancy", "picture_features", "point_features", "embedding")


@dataclass(frozen=True)
class EncodeJob:
    world: Path
    occupancy: NDArray[np.bool_]
    path: Path


@dataclass(frozen=True)
class TrainJob:
    """Students of one training seed that train together."""

    world: Path
    trainings: tuple[Training, ...]
    train: Train
    latents: tuple[Path, ...]
    images: NDArray[np.uint8]
    out: Path


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


@lru_cache(maxsize=1)
def _world(folder: Path) -> World:
    return load_world(folder)


def run_encode(job: EncodeJob) -> None:
    """Latents of occupancy grids, one at a time so that their bits do not depend on how they are split."""
    pipeline = _world(job.world).pipeline
    rows = [pipeline.encode(torch.from_numpy(grid)[None]) for grid in job.occupancy]
    save_arrays(job.path, {"latents": torch.cat(rows).numpy()})
    tick(len(job.occupancy))


def run_train(job: TrainJob) -> dict[str, str]:
    """Train the job's students. Returns the failed ones' reasons, by folder."""
    world = _world(job.world)
    latents = torch.from_numpy(np.concatenate([load_arrays(path)["latents"] for path in job.latents]))
    data = TrainingData(latents, job.images, world.file.window.share)
    task = StructureTask(world.pipeline, data, job.train.batch)
    students = [_student(training, task, job) for training in job.trainings]
    failures = train_together(students, task, job.train, job.trainings[0].seed)
    return {t.folder: failures[t.entrant.label] for t in job.trainings if t.entrant.label in failures}


def _student(training: Training, task: Task, job: TrainJob) -> Student:
    method = training.entrant.method
    if not isinstance(method, Distillation):
        raise TypeError(f"{training.entrant.label} does not train")
    folder = job.out / training.folder
    return Student(training.entrant.label, method, task.student(), job.train, job.train.steps, folder)


def run_generate(job: GenerateJob) -> None:
    world = _world(job.world)
    network = world.pipeline.flow if job.weights is None else _distilled(job.world, job.weights)
    generated = generate(world, network, job.sampler, job.images, job.asset_ids, job.seed, job.batch)
    save_generated(job.path, generated, job.asset_ids)
    tick(len(job.asset_ids))


@lru_cache(maxsize=2)
def _distilled(world: Path, weights: Path) -> torch.nn.Module:
    import copy

    network = copy.deepcopy(_world(world).pipeline.flow)
    tensors = read_tensors(weights)
    check_fit(weights, network, tensors)
    network.load_state_dict(tensors)
    return network.eval()


def save_generated(path: Path, generated: Generated, asset_ids: Sequence[str]) -> None:
    shapes = {name: getattr(generated.shapes, name) for name in SHAPE_FIELDS}
    extra = {"nfe": generated.nfe, "seconds": generated.seconds, "errors": np.array(generated.errors, str)}
    save_arrays(path, {**shapes, **extra, "ids": np.array(asset_ids, str)})


def load_generated(path: Path) -> Generated:
    arrays = load_arrays(path)
    shapes = Shapes(**{name: arrays[name] for name in SHAPE_FIELDS})
    return Generated(shapes, arrays["nfe"], arrays["seconds"], tuple(str(error) for error in arrays["errors"]))


def is_trained(out: Path, training: Training) -> bool:
    return student_file(out / training.folder).exists()
