"""Truncated consistency models (TCM): a consistency model is trained on above a boundary, and kept below it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from ..flow.guidance import GuidedVelocity
from ..flow.layout import Layout, rms
from ..flow.path import jump
from ..flow.samplers import Computation, Sampler, renoised
from .contract import METHODS, Begins, Distillation, Loss, Network, Step
from .ect import APPROACHES, HUBER, Approach, Sigmoid, huber_norm
from .reduction import REDUCTIONS, PerSample, Reduction

FIRST = "first"  # the frozen consistency model


@dataclass(frozen=True)
class Above:
    """Uniform between `boundary` and 1; for a `share` of the samples the boundary itself."""

    boundary: float = 0.5
    share: float = 0.25

    def times(self, u: Tensor, t_min: float) -> Tensor:
        del t_min
        inside = self.boundary + (1 - self.boundary) * (u - self.share) / (1 - self.share)
        return torch.where(u < self.share, torch.full_like(u, self.boundary), inside)


@dataclass(frozen=True)
class Truncated:
    """Re-noising at times from 1 down to the boundary: below it nothing was trained on."""

    name: ClassVar[str] = "truncated"
    steps: int
    boundary: float

    def computation(self) -> Computation:
        span = (1 - self.boundary) / max(1, self.steps - 1)
        between = [1 - span * i for i in range(1, self.steps)]
        return Computation((1.0, *between, 0.0), (0.0,) * self.steps, fresh_noise=self.steps > 1)

    def sample(
        self, velocity: GuidedVelocity, noise: Tensor, layout: Layout, generators: Sequence[torch.Generator]
    ) -> Tensor:
        return renoised(velocity, noise, layout, generators, self.computation().times)

    def note(self) -> str:
        return ""


VARIANTS = {
    "": {},
    # CIFAR-10 of FastGen: the boundary is sigma = 1, pairs as near as the last stage of the first training.
    # DEVIATION(TCM): uniform times in place of a heavy-tailed density of log sigma.
    "paper": {"huber": 0.0, "apart": 1e-3, "boundary_weight": 0.1, "lr": 5e-5},
}


@METHODS.register(
    "tcm", version=2, source="Lee et al., Truncated Consistency Models, arXiv:2410.14895", variants=VARIANTS
)
@dataclass(frozen=True, kw_only=True)
class TruncatedConsistency(Distillation):
    """L = |f(x_t, t) - sg f'(x', t')| / (t - t') above the boundary b, with f' the frozen first student where t' < b.

    The student begins as a student of `first`, which has taken `first_share` of the budget. At b itself it is held to
    the frozen one, so that all its capacity goes to the times above.

    Attributes:
        first: label of the method of the first training.
        first_share: of the budget.
        apart: share of t between the points of a pair, times what `approach` says.
        boundary_weight: weight of the samples at the boundary.
        huber, approach, reduction: as in `ect`.
    """

    lr: float = 3e-4
    first: str = "ect"
    # DEVIATION(TCM): its second training is an addition to a finished first one; here both share one budget.
    first_share: float = 0.7
    times: Above = field(default=Above(), metadata={"choices": {"above": Above()}})
    apart: float = 2.0**-8
    boundary_weight: float = 0.1
    huber: float = HUBER
    approach: Approach = field(default=Sigmoid(), metadata={"choices": APPROACHES})
    reduction: Reduction = field(default=PerSample(), metadata={"choices": REDUCTIONS})

    def begins_as(self) -> Begins:
        return Begins(self.first, self.first_share)

    def networks(self) -> Mapping[str, Network]:
        return {FIRST: Network(rate=0)}

    def loss(self, step: Step) -> Loss:
        layout, t, zero = step.layout, step.t, torch.zeros_like(step.t)
        t_earlier = (t * (1 - self.apart * self.approach.share(t))).clamp(min=0)
        v = step.teacher(step.x_t, t, self.cfg_strength)
        x_earlier = jump(step.x_t, v, t, t_earlier, layout)
        aim = jump(x_earlier, self.lower(step, x_earlier, t_earlier), t_earlier, zero, layout)
        phi = step.student(step.x_t, t)
        gap = jump(step.x_t, phi, t, zero, layout) - aim
        errors = huber_norm(gap, self.huber, layout) / (t - t_earlier) * self.weights(t)
        value = self.reduction.average(errors, layout.count(gap))
        return Loss(value, {"rms_gap": rms(layout, gap.detach()).mean(), "rms_phi": rms(layout, phi.detach()).mean()})

    def lower(self, step: Step, x: Tensor, t: Tensor) -> Tensor:
        """phi of the earlier points: of the frozen student below the boundary, of this one's target above it."""
        below = step.layout.expand(t) < self.times.boundary
        return torch.where(below, step.networks[FIRST](x, t), step.target(x, t))

    def weights(self, t: Tensor) -> Tensor:
        """So that samples inside, and those at the boundary, are averaged apart: [B]."""
        share, ones = self.times.share, torch.ones_like(t)
        at_boundary = self.boundary_weight / share if share else 0.0
        return torch.where(t <= self.times.boundary, at_boundary * ones, ones / (1 - share))

    def sampler(self, n_steps: int) -> Sampler:
        return Truncated(n_steps, self.times.boundary)

    def cost(self) -> float:
        return 2 + 1 + 2 + 2  # teacher pair, student, target and frozen student, backward
