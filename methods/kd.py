"""Knowledge distillation (KD): regression on where the teacher's many steps end. A control: what the network can do."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..flow.layout import rms
from ..flow.samplers import Euler, Phase, Sampler
from .contract import METHODS, Distillation, Loss, Step, StoredPairs
from .reduction import REDUCTIONS, PerSample, Reduction, reduced_mean


@METHODS.register("kd", version=2, source="Luhman and Luhman, Knowledge Distillation in Iterative Models, 2101.02388")
@dataclass(frozen=True, kw_only=True)
class KnowledgeDistillation(Distillation):
    """L = |phi(z, 1) - (z - X(z))|^2 with X(z) the end of the teacher's guided Euler steps from the noise z.

    By default pairs are made in the step, from the batch's noise; with `pairs` there is a stored set.

    Attributes:
        pairs: how many are stored, made once for all trainings; 0: none, every step makes its own.
        epochs: the most passes over stored pairs.
        teacher_steps: Euler steps from noise to data; the world's own number by default.
        reduction: how samples of different size weigh.
    """

    lr: float = 3e-4
    # DEVIATION(Luhman and Luhman): without a stored set, so that it trains for as many steps as the others.
    pairs: int = 0
    epochs: int = 40
    teacher_steps: int = 25
    reduction: Reduction = field(default=PerSample(), metadata={"choices": REDUCTIONS})

    def loss(self, step: Step) -> Loss:
        layout = step.layout
        phi = step.student(step.noise, torch.ones_like(step.t))
        end = step.x_0 if self.pairs else self.teacher_end(step)
        error = phi - (step.noise - end)
        value = reduced_mean(layout, error.square(), self.reduction)
        return Loss(
            value, {"rms_error": rms(layout, error.detach()).mean(), "rms_phi": rms(layout, phi.detach()).mean()}
        )

    @torch.no_grad()
    def teacher_end(self, step: Step) -> Tensor:
        """X(z) of the batch's noise."""
        return self._solver().sample(step.teacher, step.noise, step.layout, [])

    def stored_pairs(self) -> StoredPairs | None:
        return StoredPairs(self.pairs, self.epochs, self._solver()) if self.pairs else None

    def _solver(self) -> Sampler:
        return Euler(self.teacher_steps, self.rescale_t, self.cfg_strength, self.cfg_interval)

    def sampler(self, n_steps: int) -> Sampler:
        return Phase(n_steps, 1, self.rescale_t)  # one jump is all that is trained; more steps are noted as such

    def cost(self) -> float:
        made = 0 if self.pairs else 2 * self.teacher_steps  # teacher pair per step
        return made + 3  # student, backward
