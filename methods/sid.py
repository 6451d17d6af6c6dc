"""Score identity distillation (SiD): how far apart two scores are, with the gradient through both networks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..flow.path import diffuse, jump
from .contract import METHODS, Step
from .dmd2 import CRITIC, Judged, Matching

VARIANTS = {
    "": {},
    # DEVIATION(SiD): times up to 1 (there 0.8 or all of its scale), AdamW's first average is kept (there it is not).
    "paper": {"alpha": 1.2, "period": 1, "critic_rate": 1.0, "lr": 1e-5},
}


@METHODS.register("sid", version=1, source="Zhou et al., SiD, arXiv:2404.04057, Eq. 23 and Alg. 1", variants=VARIANTS)
@dataclass(frozen=True, kw_only=True)
class ScoreIdentity(Matching):
    """The student learns (x0_T - x0_F) . (x0_T - x' - alpha (x0_T - x0_F)) / mean|x' - x0_T|, as `dmd2` when.

    x0_T and x0_F are what teacher and critic predict as the data of a diffused sample x'_t; unlike in `dmd2` the
    gradient goes through both. In expectation over x' and an exact critic (x0_T - x0_F) . (x0_T - x') is
    |x0_T - x0_F|^2, the distance of the scores; alpha of that is taken away, as its gradient through a critic that
    follows the student is wrong.

    Attributes:
        alpha: 0 is the plain distance.
    """

    # DEVIATION(SiD): 1.2 or 1. The less, the better was a student of a few hundred steps, down to 0.5.
    alpha: float = 0.5

    def push(self, step: Step, sample: Tensor, at: Judged) -> tuple[Tensor, Tensor]:
        layout, t, zero = step.layout, at.t, torch.zeros_like(at.t)
        still = sample.detach()
        with torch.enable_grad():
            x = still.clone().requires_grad_()
            x_t = at.x_t + diffuse(x - still, torch.zeros_like(x), t, layout)
            velocities = step.attached_teacher(x_t, t, self.cfg_strength), step.networks[CRITIC](x_t, t)
            real, fake = (jump(x_t, v, t, zero, layout) for v in velocities)
            scale = layout.sum((still - real.detach()).abs()) / layout.count(x)
            distance = layout.sum((real - fake) * (real - x - self.alpha * (real - fake)))
            (push,) = torch.autograd.grad((distance / (scale + 1e-6)).sum(), x)
        return push, (velocities[0] - velocities[1]).detach()

    def cost(self) -> float:
        sampled, judged = 1, 1 + 2  # student; critic and backward
        pushed = (2 + 1) * (1 + 2) + 2  # teacher's pair and critic, back through them; back through the student
        return sampled + judged + pushed / self.period
