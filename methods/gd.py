"""Guidance distillation (GD): the student learns the guided velocity, and nothing about few steps. A control."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..flow.layout import rms
from ..flow.samplers import Euler, Sampler
from .contract import METHODS, Distillation, Loss, Step
from .reduction import REDUCTIONS, PerSample, Reduction, reduced_mean


@METHODS.register("gd", version=1, source="Meng et al., On Distillation of Guided Diffusion Models, arXiv:2210.03142")
@dataclass(frozen=True, kw_only=True)
class GuidanceDistillation(Distillation):
    """L = |phi - v|^2 with v the guided teacher: what the released MDT-dist nearly does (docs/deviations.md).

    DEVIATION(Meng et al.): one guidance strength, that of the sampler, in place of a range of them.

    Attributes:
        reduction: how samples of different size weigh.
    """

    lr: float = 3e-4
    reduction: Reduction = field(default=PerSample(), metadata={"choices": REDUCTIONS})

    def loss(self, step: Step) -> Loss:
        layout = step.layout
        v = step.teacher(step.x_t, step.t, self.cfg_strength)
        phi = step.student(step.x_t, step.t)
        error = phi - v
        value = reduced_mean(layout, error.square(), self.reduction)
        return Loss(
            value, {"rms_error": rms(layout, error.detach()).mean(), "rms_phi": rms(layout, phi.detach()).mean()}
        )

    def sampler(self, n_steps: int) -> Sampler:
        return Euler(n_steps, self.rescale_t)  # the student is a velocity, not an average of velocities

    def cost(self) -> float:
        return 5  # teacher pair, student, backward
