"""One of two processes that train together, or one alone: `python ranks_worker.py FOLDER`.

With RANK and WORLD_SIZE in the environment, as torchrun sets them, it joins the others.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

from mdtbench.harness.config import Train
from mdtbench.harness.distributed import together
from mdtbench.harness.parameters import entrant
from mdtbench.harness.task import StructureTask, TrainingData
from mdtbench.harness.train import Student, train_together
from mdtbench.harness.world import load_world, world_folder

# mdt draws times and noise of its own, here with an averaged target; scm differentiates forward
NAMES = ("mdt", "scm")
CHANGES = {"mdt": {"target_decay": 0.9}}
TRAIN = Train(steps=2, batch=5, warmup=1, ema=0.5)  # five samples cannot be cut in equal parts
SEED = 5


def task() -> StructureTask:
    pipeline = load_world(world_folder("tiny")).pipeline
    latents = torch.randn(9, *pipeline.latent_shape, generator=torch.Generator().manual_seed(1))
    images = np.random.Generator(np.random.PCG64(2)).integers(0, 256, (9, 1, 64, 64, 3), np.uint8)
    return StructureTask(pipeline, TrainingData(latents, images, (0.3, 0.55)), TRAIN.batch)


def train_all(folder: Path, train: Train = TRAIN) -> list[Student]:
    """Train one student of each method, in the group of processes if there is one."""
    made = task()
    methods = {name: entrant(name, CHANGES, made.pipeline.sampler).distillation for name in NAMES}
    students = [
        Student(name, method, made.student(), train, train.steps, folder / name) for name, method in methods.items()
    ]
    failures = train_together(students, made, train, SEED)
    if failures:
        raise RuntimeError(str(failures))
    return students


if __name__ == "__main__":
    torch.set_num_threads(1)
    with together():
        train_all(Path(sys.argv[1]))
