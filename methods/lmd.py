"""Lagrangian map distillation (LMD): where a jump ends, it must move as the teacher does."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from ..flow.layout import rms
from ..flow.path import jump
from ..flow.samplers import FlowMap, Sampler
from .contract import METHODS, Distillation, Loss, Step
from .jumps import ENDS, Ends, UniformEnds
from .reduction import REDUCTIONS, PerSample, Reduction, reduced_mean


@METHODS.register("lmd", version=1, source="Boffi et al., Flow Map Matching, arXiv:2406.07507, Eq. 3.8")
@dataclass(frozen=True, kw_only=True)
class LagrangianMapDistillation(Distillation):
    """L = |phi(x_t, t, t_end) - sg((t - t_end) dphi/dt_end + v(X, t_end))|^2 with the jump X = x_t - (t - t_end) phi.

    What is squared is dX/dt_end - v(X, t_end). The teacher is asked where the student's jumps end, so that it runs once
    per student, and no derivative in x is needed.

    Attributes:
        ends: where jumps end.
        reduction: how samples of different size weigh.
    """

    two_times: ClassVar[bool] = True
    lr: float = 3e-4
    # None at the data itself: there the teacher takes whatever it is given for data, and does not pull it to the data.
    ends: Ends = field(default=UniformEnds(to_data=0.0), metadata={"choices": ENDS})
    reduction: Reduction = field(default=PerSample(), metadata={"choices": REDUCTIONS})

    def loss(self, step: Step) -> Loss:
        layout, t_end = step.layout, self.ends.draw(step)
        # DEVIATION(LMD): the gradient of the square itself would go through the teacher and the derivative.
        fixed, dphi = step.target_end_derivative(step.x_t, step.t, t_end)
        end = jump(step.x_t, fixed, step.t, t_end, layout)
        aim = layout.expand(step.t - t_end) * dphi + step.teacher(end, t_end, self.cfg_strength)
        phi = step.student(step.x_t, step.t, t_end)
        error = phi - aim
        value = reduced_mean(layout, error.square(), self.reduction)
        sizes = {"rms_residual": error, "rms_phi": phi, "rms_dphi": dphi}
        return Loss(value, {name: rms(layout, one.detach()).mean() for name, one in sizes.items()})

    def sampler(self, n_steps: int) -> Sampler:
        return FlowMap(n_steps, self.rescale_t)

    def cost(self) -> float:
        return 3 + 2 + 1 + 2  # JVP, teacher pair, student, backward
