"""MDT: velocity matching plus velocity distillation (VM + VD), the full method of MDT-dist."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..flow.layout import per_sample_mean, rms
from ..flow.path import diffuse
from ..flow.samplers import Renoise, Sampler
from .contract import METHODS, Distillation, Loss, Step
from .residual import backward_difference, bounded, velocity_residual
from .vm import matching_loss


@METHODS.register("mdt", version=1, source="MDT-dist, arXiv:2509.04406, Eq. 10-15")
@dataclass(frozen=True, kw_only=True)
class VelocityMatchingDistillation(Distillation):
    """L = L_VM + lambda L_VD.

    VD makes a sample x' = z' - phi(z', 1), re-noises it to x'_t, and pushes it along the residual there:
    grad = E[(1 - t) r'^T dphi(z', 1)] (Eq. 14).

    DEVIATION(paper Eq. 14): r' is bounded as in `vm`, so that lambda keeps its meaning.

    Attributes:
        lambda_vd: weight of VD against VM; VD alone has no anchor and may drift.
    """

    lr: float = 4e-4
    delta: float = 0.01
    bound: float = 0.1
    lambda_vd: float = 1.0

    def loss(self, step: Step) -> Loss:
        matching = matching_loss(step, self.cfg_strength, self.delta, self.bound)
        distillation = distillation_loss(step, self.cfg_strength, self.delta, self.bound)
        return Loss(
            matching.value + self.lambda_vd * distillation.value,
            {**matching.diagnostics, **distillation.diagnostics},
        )

    def sampler(self, n_steps: int) -> Sampler:
        return Renoise(n_steps, self.rescale_t)

    def cost(self) -> float:
        return 13  # vm, and on the student's own sample: teacher pair, two targets, one student, backward


def distillation_loss(step: Step, cfg_strength: float, delta: float, bound: float) -> Loss:
    """The VD term. Its value is a surrogate with Eq. 14's gradient; only the generator phi(z', 1) is differentiated."""
    layout = step.layout
    start = layout.randn([step.generator])
    phi_start = step.student(start, torch.ones_like(step.t))
    t, x_t = _renoised(step, (start - phi_start).detach())
    residual = _own_residual(step, x_t, t, cfg_strength, delta)
    push = layout.expand(1 - t) * bounded(residual, layout, bound)
    return Loss(per_sample_mean(layout, push * phi_start), {"rms_residual_own": rms(layout, residual).mean()})


def _renoised(step: Step, sample: Tensor) -> tuple[Tensor, Tensor]:
    """A fresh time of the training range and the sample diffused to it with fresh noise."""
    u = torch.rand(step.t.shape, generator=step.generator, dtype=step.t.dtype).to(step.t.device)
    t_min = step.t_min
    t = t_min + (1 - t_min) * u
    return t, diffuse(sample, step.layout.randn([step.generator]), t, step.layout)


@torch.no_grad()
def _own_residual(step: Step, x: Tensor, t: Tensor, cfg_strength: float, delta: float) -> Tensor:
    v = step.teacher(x, t, cfg_strength)
    derivative = backward_difference(step.target, delta, step.layout)
    return velocity_residual(step.target(x, t), x, t, v, derivative, step.layout)
