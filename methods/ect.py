"""Easy consistency tuning (ECT): consistency distillation whose pairs begin far apart and come closer by stages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Protocol

import torch
from torch import Tensor

from ..flow.layout import Layout, rms
from ..flow.path import jump
from ..flow.samplers import Renoise, Sampler
from ..flow.times import LogitNormal
from .contract import METHODS, Distillation, Loss, Step
from .reduction import REDUCTIONS, PerSample, Reduction

HUBER = 0.00054  # of Song and Dhariwal (2023), as in `cm`


class Approach(Protocol):
    """How far below t the earlier time of a pair lies."""

    def share(self, t: Tensor) -> Tensor:
        """What the stage's share of t is multiplied by: [B]."""
        ...


@dataclass(frozen=True)
class Proportional:
    """t - t' = share t."""

    def share(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)


@dataclass(frozen=True)
class Sigmoid:
    """t - t' = share t (1 + height sigmoid(-slope t)): wider apart near the data (the release of ECT)."""

    height: float = 8.0
    slope: float = 1.0

    def share(self, t: Tensor) -> Tensor:
        return 1 + self.height * torch.sigmoid(-self.slope * t)


APPROACHES: Mapping[str, Approach] = MappingProxyType({"proportional": Proportional(), "sigmoid": Sigmoid()})
VARIANTS = {
    "": {},
    "constant": {"approach": Proportional()},
    # CIFAR-10 of locuslab/ect: its times are lognormal(-1.1, 2) in sigma = t / (1 - t), which is this density of t.
    # DEVIATION(ECT): pairs lie along the teacher, not along the path through a datum; times are those of the flow.
    "paper": {"huber": 0.0, "times": LogitNormal(-1.1, 2.0), "lr": 1e-4},
}


@METHODS.register(
    "ect", version=2, source="Geng et al., Consistency Models Made Easy, arXiv:2406.14548", variants=VARIANTS
)
@dataclass(frozen=True, kw_only=True)
class EasyConsistencyTuning(Distillation):
    """L = |f(x_t, t) - sg f(x', t')| / (t - t') with x' one Euler step of the teacher from t to t'.

    In stage k of K, counted from 0, t - t' is 2^-(k+1) t times what `approach` says. A first stage with t' = 0 learns
    the teacher's one-step prediction, guidance that is; without guidance it gives its steps to the one after it. Later
    ones ask for consistency between ever nearer points.

    Attributes:
        stages: K, of equal length.
        closest: least share of t between the points of a pair.
        huber: c / sqrt(D) of the pseudo-Huber distance; 0: the norm itself, but for a c of 1e-8.
        approach: how the distance depends on t.
        reduction: how samples of different size weigh.
    """

    lr: float = 3e-4
    stages: int = 8
    closest: float = 1e-3
    # DEVIATION(ECT): a pseudo-Huber constant as in `cm`. Of the norm itself a gap of rounding errors has the gradient
    # of a large one, and at the start, where student and teacher are equal, there is no other gap.
    huber: float = HUBER
    approach: Approach = field(default=Sigmoid(), metadata={"choices": APPROACHES})
    reduction: Reduction = field(default=PerSample(), metadata={"choices": REDUCTIONS})

    def loss(self, step: Step) -> Loss:
        layout, zero = step.layout, torch.zeros_like(step.t)
        t_earlier = self.earlier(step.t, step.index, step.total)
        v = step.teacher(step.x_t, step.t, self.cfg_strength)
        # DEVIATION(ECT, FastGen): where t' = 0 they aim at the datum; here at the end of the teacher's step.
        x_earlier = jump(step.x_t, v, step.t, t_earlier, layout)
        aim = jump(x_earlier, step.target(x_earlier, t_earlier), t_earlier, zero, layout)
        phi = step.student(step.x_t, step.t)
        gap = jump(step.x_t, phi, step.t, zero, layout) - aim
        value = self.reduction.average(huber_norm(gap, self.huber, layout) / (step.t - t_earlier), layout.count(gap))
        sizes = {"rms_gap": gap.detach(), "rms_phi": phi.detach(), "step": layout.expand(step.t - t_earlier)}
        return Loss(value, {name: rms(layout, one.expand_as(gap)).mean() for name, one in sizes.items()})

    def earlier(self, t: Tensor, index: int, total: int) -> Tensor:
        """t' of training step `index`: [B], never below 0."""
        stage = min(self.stages - 1, max(self._first_stage(), self.stages * index // total))
        share = max(self.closest, 2.0 ** -(stage + 1))
        return (t * (1 - share * self.approach.share(t))).clamp(min=0)

    def _first_stage(self) -> int:
        """The first in which there is something to learn."""
        # DEVIATION(ECT): without guidance a student that begins as its teacher has no gradient but rounding where all
        # t' are 0, of which Adam makes full steps.
        least = self.approach.share(torch.ones(1)).item()
        return 0 if self.cfg_strength else next((k for k in range(self.stages) if least < 2.0 ** (k + 1)), 0)

    def sampler(self, n_steps: int) -> Sampler:
        return Renoise(n_steps, self.rescale_t)

    def cost(self) -> float:
        return 6  # as cm


def huber_norm(gap: Tensor, huber: float, layout: Layout) -> Tensor:
    """sqrt(|gap|^2 + c^2) - c of each sample, c = huber sqrt(D), or 1e-8 where huber is 0: [B]."""
    counts = layout.count(gap)
    constant = huber * counts.sqrt() if huber else torch.full_like(counts, 1e-8)
    return (layout.sum(gap.square()) + constant.square()).sqrt() - constant
