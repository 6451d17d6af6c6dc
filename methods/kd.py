"""Knowledge distillation (KD): regression on where the teacher's many steps end. A control: what the network can do."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..flow.layout import rms
from ..flow.samplers import Euler, Phase, Sampler
from .contract import METHODS, Distillation, Loss, Step
from .reduction import REDUCTIONS, PerSample, Reduction, reduced_mean


@METHODS.register("kd", version=1, source="Luhman and Luhman, Knowledge Distillation in Iterative Models, 2101.02388")
@dataclass(frozen=True, kw_only=True)
class KnowledgeDistillation(Distillation):
    """L = |phi(z, 1) - (z - X(z))|^2 with X(z) the end of the teacher's guided Euler steps from the noise z.

    DEVIATION(Luhman and Luhman): pairs are made in the step, from the batch's noise, in place of a stored set.

    Attributes:
        teacher_steps: Euler steps from noise to data; the world's own number by default.
        reduction: how samples of different size weigh.
    """

    lr: float = 3e-4
    teacher_steps: int = 25
    reduction: Reduction = field(default=PerSample(), metadata={"choices": REDUCTIONS})

    def loss(self, step: Step) -> Loss:
        layout = step.layout
        phi = step.student(step.noise, torch.ones_like(step.t))
        error = phi - (step.noise - self.teacher_end(step))
        value = reduced_mean(layout, error.square(), self.reduction)
        return Loss(
            value, {"rms_error": rms(layout, error.detach()).mean(), "rms_phi": rms(layout, phi.detach()).mean()}
        )

    @torch.no_grad()
    def teacher_end(self, step: Step) -> Tensor:
        """X(z) of the batch's noise."""
        solver = Euler(self.teacher_steps, self.rescale_t, self.cfg_strength, self.cfg_interval)
        return solver.sample(step.teacher, step.noise, step.layout, [])

    def sampler(self, n_steps: int) -> Sampler:
        return Phase(n_steps, 1, self.rescale_t)  # one jump is all that is trained; more steps are noted as such

    def cost(self) -> float:
        return 2 * self.teacher_steps + 3  # teacher pair per step, student, backward
