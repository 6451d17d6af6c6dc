"""A distillation method in one file, as another package would ship it: the student learns the guided velocity."""

from __future__ import annotations

from dataclasses import dataclass

from mdtbench.flow.layout import per_sample_mean, rms
from mdtbench.flow.samplers import Euler, Sampler
from mdtbench.methods import METHODS, Distillation, Loss, Step


@METHODS.register("mine", version=1, source="guidance distillation, in another package")
@dataclass(frozen=True, kw_only=True)
class GuidanceDistillation(Distillation):
    """L = |phi - v|^2 with v the guided teacher."""

    def loss(self, step: Step) -> Loss:
        residual = step.student(step.x_t, step.t) - step.teacher(step.x_t, step.t, self.cfg_strength)
        value = per_sample_mean(step.layout, residual.square())
        return Loss(value, {"rms_residual": rms(step.layout, residual.detach()).mean()})

    def sampler(self, n_steps: int) -> Sampler:
        return Euler(n_steps, self.rescale_t)

    def cost(self) -> float:
        return 5  # teacher pair, student, backward
