"""Training on stored pairs: noises and the ends that the teacher takes them to, made once (`methods.StoredPairs`).

Only ends are stored: a task's batch is a function of seed and index, so noises and conditions of the pairs are drawn
again. The batches of a set are the same for every training; their order is the training's own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn

from ...base.seeds import seed_of
from ...flow.guidance import Guided, Velocity
from ...flow.samplers import Sampler
from ...methods import Distillation, Step, StoredPairs
from .batch import Batch
from .parts import WHOLE, Part, cut
from .task import Task

SEED = seed_of("stored pairs")  # of the batches whose noises are taken to their ends
HELD_OUT = 16  # one batch in so many is not learned from
CHECKS = 20  # in all epochs together
PATIENCE = 4  # checks in a row without a better error
GAIN = 1e-3  # of the error, by which it must fall to count as better


@torch.no_grad()
def ends_of(task: Task, solver: Sampler, index: int) -> Tensor:
    """The ends of the noises of one batch of the set, in its layout."""
    batch = task.draw(SEED, index)
    return solver.sample(task.teacher(batch), batch.noise, batch.layout, [])


@dataclass(frozen=True)
class PairedTask:
    """`task` with pairs for batches: x_0 is the end of the noise. ends: of each batch of the set."""

    task: Task
    ends: Sequence[Tensor]

    @property
    def learned(self) -> int:
        """Batches of an epoch; those after them are held out."""
        return learned_of(len(self.ends))

    def draw(self, seed: int, index: int, part: Part = WHOLE) -> Batch:
        """Parts are cut from the whole: an end belongs to the noise that it was made of."""
        epoch, place = divmod(index, self.learned)
        return cut(self.pairs(_order(seed, epoch, self.learned)[place]), part)

    def held_out(self) -> list[Batch]:
        return [self.pairs(index) for index in range(self.learned, len(self.ends))]

    def pairs(self, index: int) -> Batch:
        return replace(self.task.draw(SEED, index), x_0=self.ends[index])

    def student(self) -> nn.Module:
        return self.task.student()

    def bind(self, network: Callable[..., Tensor], batch: Batch) -> Velocity:
        return self.task.bind(network, batch)

    def teacher(self, batch: Batch) -> Guided:
        return self.task.teacher(batch)


def batches_of(pairs: StoredPairs, batch: int) -> int:
    """Of a set of pairs: at least one to learn from, and one that is held out."""
    return max(2, pairs.count // batch)


def learned_of(batches: int) -> int:
    """How many of the batches of a set are learned from."""
    return batches - max(1, batches // HELD_OUT)


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, count: int) -> list[int]:
    """Of the batches in an epoch."""
    source = np.random.Generator(np.random.PCG64(seed_of("order of pairs", seed, epoch)))
    return source.permutation(count).tolist()


class HeldOut:
    """Watches the loss on held-out pairs, and says when it no longer falls.

    Args:
        every: steps between two looks.
    """

    def __init__(self, method: Distillation, task: PairedTask, every: int):
        self.every = every
        self._method = method
        self._task = task
        self._batches = task.held_out()
        self._errors: list[float] = []

    @property
    def over(self) -> bool:
        """None of the last `PATIENCE` looks was better by `GAIN` than the best before them."""
        before, recent = self._errors[:-PATIENCE], self._errors[-PATIENCE:]
        return bool(before) and min(recent) > (1 - GAIN) * min(before)

    @torch.no_grad()
    def observe(self, network: Callable[..., Tensor]) -> None:
        """network: with the weights that would be kept if training ended now."""
        losses = [self._method.loss(self._step(network, batch)).value for batch in self._batches]
        self._errors.append(float(torch.stack(losses).mean()))

    def _step(self, network: Callable[..., Tensor], batch: Batch) -> Step:
        """With all of the path's points at t = 1, where a pair is known."""
        student, teacher = self._task.bind(network, batch), self._task.teacher(batch)
        return Step(
            index=0,
            total=1,
            x_0=batch.x_0,
            noise=batch.noise,
            t=torch.ones_like(batch.u),
            t_min=1.0,
            x_t=batch.noise,
            layout=batch.layout,
            student=student,
            frozen_student=student,
            teacher=teacher,
            attached_teacher=teacher,
            generator=torch.Generator().manual_seed(SEED),
        )

    def state(self) -> Tensor:
        return torch.tensor(self._errors, dtype=torch.float64)

    def restore(self, state: Tensor) -> None:
        self._errors = state.tolist()


def watching(method: Distillation, task: Task, steps: int) -> HeldOut | None:
    """What may end a training of so many steps before its last one; None where nothing does."""
    pairs = method.stored_pairs()
    if pairs is None or not pairs.watched or not isinstance(task, PairedTask):
        return None
    return HeldOut(method, task, max(1, steps // CHECKS))
