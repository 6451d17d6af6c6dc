"""Distillation: the methods of a sweep train together on one stream of batches, each as if it were alone."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.func import functional_call

from ..base.files import write_text
from ..base.seeds import seed_of
from ..methods import Distillation, Step
from .config import Train
from .learner import Learner, Recipe, blend
from .pool import tick
from .storage import save_tensors
from .task import Points, Task

CHECKPOINT_EVERY_S = 20.0
LOG_EVERY = 10  # steps
GIVE_UP_AFTER = 10  # steps in a row without a finite loss and gradient


class Student:
    """One method's student: network, optimiser, target weights, log, checkpoint.

    Args:
        label: the method's name and variant; seeds its private draws, so it must not depend on the other methods.
        network: a copy of the teacher, made for this student (`Task.student`).
        steps: optimiser steps of this student.
        folder: where checkpoint, log and result are kept.
    """

    def __init__(self, label: str, method: Distillation, network: nn.Module, train: Train, steps: int, folder: Path):
        self.label = label
        self.method = method
        self.folder = folder
        self.network = network.train().requires_grad_(True)
        self.auxiliary = method.auxiliary()
        parts = {"network": self.network} | ({"auxiliary": self.auxiliary} if self.auxiliary is not None else {})
        recipe = Recipe(steps, train.lr or method.lr, train.warmup, train.clip, train.ema)
        self.learner = Learner(nn.ModuleDict(parts), recipe)
        self.target = {name: p.detach().clone() for name, p in self.network.named_parameters()}
        self.log: list[dict[str, float]] = []
        if self._checkpoint.exists():
            self._restore()

    @property
    def _checkpoint(self) -> Path:
        return self.folder / "checkpoint.safetensors"

    @property
    def remaining(self) -> bool:
        return self.learner.done < self.learner.recipe.steps

    def frozen(self) -> Callable[..., Tensor]:
        """The network with the target weights."""
        if self.method.target_decay == 0:
            return self.network

        def averaged(*args: Tensor) -> Tensor:
            return functional_call(self.network, self.target, args)

        return averaged

    def update(self, step: Step) -> None:
        started = time.perf_counter()
        loss = self.method.loss(step)
        norm = self.learner.step(loss.value)
        if self.method.target_decay:
            blend(self.target, dict(self.network.named_parameters()), self.method.target_decay)
        if step.index % LOG_EVERY == 0 or step.index == step.total - 1:
            values = {name: float(value) for name, value in loss.diagnostics.items()}
            entry = {"step": step.index, "loss": float(loss.value.detach()), "grad_norm": norm, **values}
            self.log.append(entry | {"step_s": time.perf_counter() - started})

    def save(self) -> None:
        """Checkpoint: log first, tensors last, so that a checkpoint is never ahead of its log."""
        self._write_log()
        targets = {f"target/{name}": value for name, value in self.target.items()}
        save_tensors(self._checkpoint, self.learner.state() | targets)

    def finish(self) -> None:
        """Write the averaged weights, the result of training."""
        self._write_log()
        self.learner.settle()
        save_tensors(student_file(self.folder), dict(self.network.state_dict()))
        self._checkpoint.unlink(missing_ok=True)

    def _write_log(self) -> None:
        write_text(self.folder / "log.jsonl", "".join(json.dumps(entry) + "\n" for entry in self.log))

    def _restore(self) -> None:
        state = load_file(self._checkpoint)
        self.target = {key.removeprefix("target/"): v for key, v in state.items() if key.startswith("target/")}
        self.learner.restore({key: v for key, v in state.items() if not key.startswith("target/")})
        lines = (self.folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
        self.log = [entry for entry in map(json.loads, lines) if entry["step"] < self.learner.done]


def student_file(folder: Path) -> Path:
    """Where the trained weights of a cell lie; the file exists when, and only when, training is complete."""
    return folder / "student.safetensors"


def train_together(students: Sequence[Student], task: Task, train: Train, seed: int) -> dict[str, str]:
    """Train all students to the end. Each gets the bits that it would get alone; the teacher's passes are shared.

    Students that are ahead (resumed from a later checkpoint) wait for the others. One whose method raises, or whose
    loss stays non-finite, is left out from there on; the others go on.

    Returns:
        Reason of the failure of each student that failed, by label.
    """
    saved = time.monotonic()
    going, failures = [student for student in students if student.remaining], {}
    index = min((student.learner.done for student in going), default=0)
    while going:
        batch = task.draw(seed, index)
        points = Points(batch, task.teacher(batch.cond), train.t_min)
        for student in going:
            if student.learner.done == index:
                error = _updated(student, _step(student, task, points, seed, index))
                failures |= {student.label: error} if error else {}
                if not student.remaining and not error:
                    student.finish()
                tick()
        index += 1
        going = [student for student in going if student.remaining and student.label not in failures]
        if time.monotonic() - saved > CHECKPOINT_EVERY_S:
            for student in going:
                student.save()
            saved = time.monotonic()
    return failures


def _updated(student: Student, step: Step) -> str:
    """One update; the reason when it failed, else ""."""
    try:
        student.update(step)
    except Exception as error:  # a method may be anybody's code: its failure is a row of the table, not the run's end
        write_text(student.folder / "failure.txt", traceback.format_exc())
        return f"{type(error).__name__}: {error} (step {step.index}, {student.folder / 'failure.txt'})"
    if student.learner.skipped_in_a_row >= GIVE_UP_AFTER:
        return f"loss or gradient not finite for {GIVE_UP_AFTER} steps up to step {step.index}"
    return ""


def _step(student: Student, task: Task, points: Points, seed: int, index: int) -> Step:
    batch, point = points.batch, points.at(student.method.times)
    return Step(
        index=index,
        total=student.learner.recipe.steps,
        x_0=batch.x_0,
        noise=batch.noise,
        t=point.t,
        t_min=points.t_min,
        x_t=point.x_t,
        layout=batch.layout,
        student=task.bind(student.network, batch.cond),
        frozen_student=task.bind(student.frozen(), batch.cond),
        teacher=point.teacher,
        generator=torch.Generator().manual_seed(seed_of("method", student.label, seed, index)),
        auxiliary=student.auxiliary,
    )
