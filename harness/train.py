"""Distillation: the methods of a sweep train together on one stream of batches, each as if it were alone."""

from __future__ import annotations

import copy
import json
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.func import functional_call

from ..base.files import write_text
from ..base.seeds import seed_of
from ..flow.guidance import SharedTeacher, Velocity
from ..flow.layout import DenseLayout
from ..flow.path import diffuse
from ..flow.times import Uniform
from ..methods import Distillation, Step
from ..trellis.adapter import bind
from ..trellis.pipeline import StructurePipeline
from .conditions import keep_window
from .config import Train
from .learner import Learner, Recipe, blend
from .pool import tick
from .storage import save_tensors

CHECKPOINT_EVERY_S = 20.0
LOG_EVERY = 10  # steps
GIVE_UP_AFTER = 10  # steps in a row without a finite loss and gradient


@dataclass(frozen=True)
class TrainingData:
    """latents: [N, C, r, r, r]; images: [N, views, S, S, 3] whole conditioning pictures; window: share of it shown."""

    latents: Tensor
    images: NDArray[np.uint8]
    window: tuple[float, float]


@dataclass(frozen=True)
class Batch:
    """What all methods of a step share. images: [B, 3, S, S] uint8; the rest as in `methods.Step`."""

    x_0: Tensor
    noise: Tensor
    t: Tensor
    x_t: Tensor
    layout: DenseLayout
    images: Tensor


def draw_batch(data: TrainingData, train: Train, seed: int, index: int) -> Batch:
    """The batch of a step: a function of (seed, index) alone."""
    source = np.random.Generator(np.random.PCG64(seed_of("batch", seed, index)))
    tensors = torch.Generator().manual_seed(seed_of("batch noise", seed, index))
    rows = source.integers(0, len(data.latents), train.batch)
    views = source.integers(0, data.images.shape[1], train.batch)
    shown = [keep_window(data.images[row, view], data.window, source) for row, view in zip(rows, views, strict=True)]
    x_0 = data.latents[torch.from_numpy(rows)]
    layout = DenseLayout(tuple(x_0.shape))
    noise = layout.randn([tensors])
    t = Uniform().times(torch.rand(train.batch, generator=tensors), train.t_min)
    images = torch.from_numpy(np.stack(shown)).permute(0, 3, 1, 2)
    return Batch(x_0, noise, t, diffuse(x_0, noise, t, layout), layout, images)


class Student:
    """One method's student: network, optimiser, target weights, log, checkpoint.

    Args:
        label: the method's name and variant; seeds its private draws, so it must not depend on the other methods.
        folder: where checkpoint, log and result are kept.
    """

    def __init__(self, label: str, method: Distillation, teacher: nn.Module, train: Train, folder: Path):
        self.label = label
        self.method = method
        self.folder = folder
        self.network = copy.deepcopy(teacher).train().requires_grad_(True)
        recipe = Recipe(train.steps, train.lr or method.lr, train.warmup, train.clip, train.ema)
        self.learner = Learner(self.network, recipe)
        self.target = {name: p.detach().clone() for name, p in self.learner.parameters.items()}
        self.log: list[dict[str, float]] = []
        if self._checkpoint.exists():
            self._restore()

    @property
    def _checkpoint(self) -> Path:
        return self.folder / "checkpoint.safetensors"

    def frozen(self, cond: Tensor) -> Velocity:
        """Velocity with the target weights."""
        if self.method.target_decay == 0:
            return bind(self.network, cond)

        def averaged(*args: Tensor) -> Tensor:
            return functional_call(self.network, self.target, args)

        return bind(averaged, cond)

    def update(self, step: Step) -> None:
        started = time.perf_counter()
        loss = self.method.loss(step)
        norm = self.learner.step(loss.value)
        if self.method.target_decay:
            blend(self.target, self.learner.parameters, self.method.target_decay)
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


def train_together(
    students: Sequence[Student], pipeline: StructurePipeline, data: TrainingData, train: Train, seed: int
) -> dict[str, str]:
    """Train all students to the end. Each gets the bits that it would get alone; the teacher's passes are shared.

    Students that are ahead (resumed from a later checkpoint) wait for the others. One whose method raises, or whose
    loss stays non-finite, is left out from there on; the others go on.

    Returns:
        Reason of the failure of each student that failed, by label.
    """
    saved = time.monotonic()
    going, failures = list(students), {}
    for index in range(min(student.learner.done for student in students), train.steps):
        batch = draw_batch(data, train, seed, index)
        cond = pipeline.condition(batch.images)
        teacher = SharedTeacher(pipeline.velocity(pipeline.flow, cond), batch.x_t, batch.t)
        for student in going:
            if student.learner.done == index:
                error = _updated(student, _step(student, batch, cond, teacher, train, seed, index))
                failures |= {student.label: error} if error else {}
            tick()
        going = [student for student in going if student.label not in failures]
        if time.monotonic() - saved > CHECKPOINT_EVERY_S and index + 1 < train.steps:
            for student in going:
                student.save()
            saved = time.monotonic()
    for student in going:
        student.finish()
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


def _step(
    student: Student, batch: Batch, cond: Tensor, teacher: SharedTeacher, train: Train, seed: int, index: int
) -> Step:
    private = torch.Generator().manual_seed(seed_of("method", student.label, seed, index))
    return Step(
        index=index,
        total=train.steps,
        x_0=batch.x_0,
        noise=batch.noise,
        t=batch.t,
        t_min=train.t_min,
        x_t=batch.x_t,
        layout=batch.layout,
        student=bind(student.network, cond),
        frozen_student=student.frozen(cond),
        teacher=teacher,
        generator=private,
    )
