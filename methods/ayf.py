"""Align Your Flow (AYF-EMD): Eulerian distillation of the flow map between any two times."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from ..flow.layout import rms
from ..flow.samplers import FlowMap, Sampler
from .contract import METHODS, Distillation, Loss, Step
from .jumps import ENDS, Ends, SpanEnds, UniformEnds, jump_residual
from .reduction import REDUCTIONS, PerSample, Reduction, reduced_mean
from .residual import ResidualL2, ResidualRms, Scaling, faded_in
from .scm import TANGENT_SCALINGS

VARIANTS = {
    "": {},
    "rms": {"scaling": ResidualRms()},
    # Sabour et al. for ImageNet: length of jumps, bound of the tangent, rate and warm-up of 10,000 steps.
    # DEVIATION(AYF): the warm-up takes a tenth of training; no autoguidance, whose weaker teacher no world has.
    "paper": {"ends": SpanEnds(-0.8, 1.0), "scaling": ResidualL2(0.1), "warmup": 0.1, "lr": 1e-4},
}


@METHODS.register(
    "ayf", version=2, source="Sabour et al., Align Your Flow, arXiv:2506.14603, Algorithm 1", variants=VARIANTS
)
@dataclass(frozen=True, kw_only=True)
class EulerianMapDistillation(Distillation):
    """L = |phi - sg(phi - g / (rms(g) + c))|^2 with the tangent g = phi - v + r_w (t - t_end) dphi/dt.

    phi(x, t, t_end) is the average velocity of the jump X = x - (t - t_end) phi, and -g is dX/dt along the teacher:
    where a jump lands must not change as its beginning moves along the trajectory.

    Attributes:
        warmup: share of training over which r_w, and with it the derivative, is faded in.
        ends: where jumps end.
        scaling: what bounds the tangent.
        reduction: how samples of different size weigh.
    """

    two_times: ClassVar[bool] = True
    lr: float = 3e-4
    # DEVIATION(AYF): a share of training in place of 10,000 steps.
    warmup: float = 0.25
    # DEVIATION(AYF): uniform times and ends, and a part of the jumps to the data, as one-step students jump.
    ends: Ends = field(default=UniformEnds(), metadata={"choices": ENDS})
    scaling: Scaling = field(default=ResidualRms(), metadata={"choices": TANGENT_SCALINGS})
    reduction: Reduction = field(default=PerSample(), metadata={"choices": REDUCTIONS})

    def loss(self, step: Step) -> Loss:
        layout, t_end = step.layout, self.ends.draw(step)
        v = step.teacher(step.x_t, step.t, self.cfg_strength)
        there, length = step.towards(t_end), step.t - t_end
        _, dphi = there.target_derivative(step.x_t, step.t, v)
        phi = there.student(step.x_t, step.t)
        fixed = phi.detach()
        tangent = jump_residual(fixed, dphi, v, self.fade(step.index, step.total) * length, layout)
        push = self.scaling.residual(tangent, layout)
        value = reduced_mean(layout, (phi - (fixed - push)).square(), self.reduction)
        residual = jump_residual(fixed, dphi, v, length, layout)
        sizes = {"rms_residual": residual, "rms_phi": fixed, "rms_dphi": dphi}
        return Loss(value, {name: rms(layout, one).mean() for name, one in sizes.items()})

    def fade(self, index: int, total: int) -> float:
        """r_w of the tangent warm-up."""
        # DEVIATION(AYF): index 0 counts as 1.
        return faded_in(index, total, self.warmup)

    def sampler(self, n_steps: int) -> Sampler:
        return FlowMap(n_steps, self.rescale_t)

    def cost(self) -> float:
        return 2 + 3 + 1 + 2  # teacher pair, JVP, student, backward
