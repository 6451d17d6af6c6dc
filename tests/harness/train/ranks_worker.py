"""1, 2 and 4 processes that train together: `python ranks_worker.py FOLDER`, with the folder of tests on the path.

Forked, because importing torch takes longer than the training: its parent has no threads.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import torch
import torch._dynamo  # which every optimiser imports
from small_stage import small_task
from tapping import Tapping

from mdtbench.harness.protocol.values import Stage
from mdtbench.harness.settings.config import Train
from mdtbench.harness.settings.methods import entrant
from mdtbench.harness.train.loop import Student, train_together
from mdtbench.harness.train.ranks import MEET, joined, together
from mdtbench.harness.train.task import StageTask
from mdtbench.methods import Loss, Step
from mdtbench.methods.vm import VelocityMatching

# mdt, meanflow and dmd2 draw numbers of their own, mdt here with an averaged target; dmd2 has a critic,
# sid goes back through it, ladd has heads on features, tapping three networks, of which two return features.
NAMES = ("mdt", "cm", "meanflow", "dmd2", "sid", "ladd", "tapping")
SIZES = (1, 2, 4)
STAGES: tuple[Stage, ...] = ("structure", "slat")
CHANGES = {"mdt": {"target_decay": 0.9}}
TRAIN = Train(steps=3, batch=5, warmup=1, ema=0.5, parts=4)  # five samples cannot be cut in equal parts
SEED = 5


@dataclass(frozen=True, kw_only=True)
class Broken(VelocityMatching):
    """Has no memory left in the process `rank` alone."""

    rank: int

    def loss(self, step: Step) -> Loss:
        if joined().rank == self.rank:
            raise MemoryError
        return super().loss(step)


def of_batch(task: StageTask) -> StageTask:
    return replace(task, batch_size=TRAIN.batch)


def students(task: StageTask, folder: Path, train: Train = TRAIN, names: Sequence[str] = NAMES) -> list[Student]:
    methods = {
        name: Tapping(cfg_strength=1.0)
        if name == "tapping"
        else entrant(name, CHANGES, task.pipeline.sampler).distillation
        for name in names
    }
    return [
        Student(name, method, task.student(), train, train.steps, folder / name) for name, method in methods.items()
    ]


def train_all(folder: Path, stage: Stage) -> None:
    """Train one student of each method, in the group of processes if there is one."""
    task = of_batch(small_task(stage))
    failures = train_together(students(task, folder / stage), task, TRAIN, SEED)
    if failures:
        raise RuntimeError(str(failures))


def fail(folder: Path) -> None:
    """Train a student that one of two processes has no memory for, beside another; and note what came of it here."""
    task = of_batch(small_task("structure"))
    method = Broken(cfg_strength=1.0, rank=1)
    broken = Student("broken", method, task.student(), TRAIN, TRAIN.steps, folder / "broken")
    failures = train_together([broken, *students(task, folder, names=["vm"])], task, TRAIN, SEED)
    noted = [(name, asdict(failure)) for name, failure in failures.items()]
    (folder / f"failures-{joined().rank}.json").write_text(json.dumps(noted))


def work(folder: Path, rank: int, size: int) -> None:
    """One of `size` processes."""
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, MEET: folder / "meet"}
    os.environ |= {name: str(value) for name, value in place.items()}
    with together() as ranks:
        for stage in STAGES:
            train_all(folder, stage)
        if ranks.size == 2:
            fail(folder)


if __name__ == "__main__":
    torch.set_num_threads(1)
    fork = get_context("fork")
    started = []
    for size in SIZES:
        place = Path(sys.argv[1]) / str(size)
        place.mkdir()
        started += [fork.Process(target=work, args=(place, rank, size)) for rank in range(size)]
    for process in started:
        process.start()
    deadline = time.monotonic() + 200  # one may wait for another that has ended
    for process in started:
        process.join(max(0.0, deadline - time.monotonic()))
    codes = [process.exitcode for process in started]
    for process in started:
        process.kill()
    sys.exit(any(code != 0 for code in codes))
