"""Shortcut models by distillation: a jump equals two of half its length, and the shortest ones are the teacher's."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from ..flow.layout import rms
from ..flow.path import jump
from ..flow.samplers import FlowMap, Sampler
from .contract import METHODS, Distillation, Loss, Step
from .jumps import uniform
from .reduction import REDUCTIONS, PerSample, Reduction, reduced_mean

VARIANTS = {
    "": {},
    # DEVIATION(shortcut models): its grid of 128 steps and share of 3 in 4; the targets of DiT-B are averaged at 0.999.
    "paper": {"halvings": 7, "share": 0.75, "target_decay": 0.999, "lr": 1e-4},
}


@METHODS.register(
    "shortcut", version=1, source="Frans et al., Shortcut Models, arXiv:2410.12557, Eq. 5", variants=VARIANTS
)
@dataclass(frozen=True, kw_only=True)
class ShortcutDistillation(Distillation):
    """L = |phi(x_t, t, t - d) - sg (phi(x_t, t, t - d/2) + phi(X, t - d/2, t - d)) / 2|^2, X where the first half ends.

    For a `share` of the samples d = 0, and the aim is the teacher's velocity. A half of the shortest length is one of
    d = 0, so that what is right there spreads to ever longer jumps.

    Attributes:
        halvings: lengths are 1, 1/2, ..., 2^-halvings, equally often; none longer than t.
        share: of the samples that learn the teacher's velocity.
        reduction: how samples of different size weigh.
    """

    two_times: ClassVar[bool] = True
    lr: float = 3e-4
    halvings: int = 5
    # DEVIATION(shortcut models): 3 in 4 learn from data; a student that begins as the teacher knows the shortest jumps.
    share: float = 0.25
    reduction: Reduction = field(default=PerSample(), metadata={"choices": REDUCTIONS})

    def loss(self, step: Step) -> Loss:
        layout, x, t = step.layout, step.x_t, step.t
        length = self.length(step)
        middle, t_end = t - length / 2, t - length
        short = length <= 2.0**-self.halvings
        first = step.target(x, t, torch.where(short, t, middle))
        there = jump(x, first, t, middle, layout)
        second = step.target(there, middle, torch.where(short, middle, t_end))
        v = step.teacher(x, t, self.cfg_strength)
        aim = torch.where(layout.expand(length) == 0, v, (first + second) / 2)
        phi = step.student(x, t, t_end)
        error = phi - aim
        value = reduced_mean(layout, error.square(), self.reduction)
        sizes = {"rms_error": error, "rms_phi": phi}
        return Loss(value, {name: rms(layout, one.detach()).mean() for name, one in sizes.items()})

    def length(self, step: Step) -> Tensor:
        """d of each sample, at most t: [B]."""
        which = (uniform(step) * (self.halvings + 1)).floor()
        length = torch.exp2(-which).minimum(step.t)
        return torch.where(uniform(step) < self.share, torch.zeros_like(length), length)

    def sampler(self, n_steps: int) -> Sampler:
        return FlowMap(n_steps, self.rescale_t)

    def cost(self) -> float:
        return 2 + 2 + 1 + 2  # teacher pair, two halves, student, backward
