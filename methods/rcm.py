"""Score-regularised continuous-time consistency (rCM): sCM with distribution matching as its regulariser."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..flow.path import diffuse, jump
from ..flow.samplers import Renoise, Sampler
from ..flow.times import LogitNormal
from .contract import METHODS, STUDENT, Distillation, Loss, Step
from .dmd2 import Criticised
from .jumps import uniform
from .residual import DERIVATIVES, DerivativeRule, ForwardMode, ResidualL2, ResidualRms, Scaling
from .scm import TANGENT_SCALINGS, ContinuousConsistencyDistillation

VARIANTS = {
    "": {},
    # Wan 2.1 1.3B of NVlabs/rcm: times, periods, rates of student and critic, steps that are simulated.
    # DEVIATION(rCM): its weights, 100 for sCM with a tangent of length 1 and 1 for sums over all elements, are this
    # `weight` at 2 million elements; warm-up over a tenth of training; times of the critic as those of sCM.
    "paper": {
        "times": LogitNormal(0.7, 1.6),
        "scaling": ResidualL2(0.1),
        "weight": 0.02,
        "warmup": 0.1,
        "period": 5,
        "critic_rate": 0.2,
        "simulated": 4,
        "lr": 2e-6,
    },
}


@METHODS.register("rcm", version=2, source="Zheng et al., rCM, arXiv:2510.08431, Eq. 8 and 9", variants=VARIANTS)
@dataclass(frozen=True, kw_only=True)
class RegularisedConsistency(Criticised):
    """L = L_sCM + weight L_DMD, every `period`-th step; the critic of L_DMD learns in all of them.

    sCM covers the modes of the data and blurs them, distribution matching sharpens what there is.

    Attributes:
        weight: of the distribution matching, from the end of the warm-up on.
        warmup, delta, derivative, scaling: as in `scm`.
        simulated: the student's samples are made in 1 to so many steps by turns, at random times, of which the last
            is differentiated.
    """

    weight: float = 1.0
    warmup: float = 0.25
    delta: float = 0.01
    derivative: DerivativeRule = field(default=ForwardMode(), metadata={"choices": DERIVATIVES})
    scaling: Scaling = field(default=ResidualRms(), metadata={"choices": TANGENT_SCALINGS})
    # DEVIATION(rCM): samples of up to 4 steps; one step is what is compared first.
    simulated: int = 1

    def loss(self, step: Step) -> Loss:
        moves = self.updates(STUDENT, step.index)
        matches = moves and step.index >= self.warmup * step.total
        matched = self.matched(step, self.sampled(step, matches), weight=self.weight if matches else 0.0)
        if not moves:
            return matched
        consistency = self.consistency().loss(step)
        return Loss(matched.value + consistency.value, matched.diagnostics | consistency.diagnostics)

    def consistency(self) -> Distillation:
        """sCM with the settings that both have."""
        scm: type[Any] = ContinuousConsistencyDistillation  # to the registry, which returns it, a method like any other
        return scm(
            cfg_strength=self.cfg_strength,
            warmup=self.warmup,
            delta=self.delta,
            derivative=self.derivative,
            scaling=self.scaling,
            reduction=self.reduction,
        )

    def sample(self, step: Step) -> Tensor:
        """What the student makes of noise, in as many steps as it is the turn of."""
        layout, t, zero = step.layout, torch.ones_like(step.t), torch.zeros_like(step.t)
        x = layout.randn([step.generator])
        for _ in range(step.index // self.period % self.simulated):
            with torch.no_grad():
                sample = jump(x, step.student(x, t), t, zero, layout)
                t = self.times.times(uniform(step), step.t_min).minimum(t)
                x = diffuse(sample, layout.randn([step.generator]), t, layout)
        return jump(x, step.student(x, t), t, zero, layout)

    def sampler(self, n_steps: int) -> Sampler:
        return Renoise(n_steps, self.rescale_t)

    def cost(self) -> float:
        sampled, judging = 1 + (self.simulated - 1) / 2, 1 + 2  # student; critic and its backward pass
        return sampled + judging + (2 + 2 + self.consistency().cost()) / self.period  # teacher pair and backward, sCM
