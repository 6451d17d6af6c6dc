"""Consistency distillation (CM): two neighbouring points of a teacher trajectory must map to the same data."""

from __future__ import annotations

from dataclasses import dataclass

from ..flow.derivative import earlier_point
from ..flow.layout import rms
from ..flow.path import jump
from ..flow.samplers import Renoise, Sampler
from .contract import METHODS, Distillation, Loss, Step


@METHODS.register("cm", version=1, source="Song et al., Consistency Models, arXiv:2303.01469, Algorithm 2")
@dataclass(frozen=True, kw_only=True)
class ConsistencyDistillation(Distillation):
    """L = pseudo-Huber(f(x_t, t), sg f(x', t')) with f(x, t) = x - t phi(x, t) and x' = x - delta v.

    DEVIATION(MDT-dist's CM): its release uses a squared error; at tiny scale that needs a learning rate so small
    that the student hardly moves. The target weights are the online ones, as there; an average of them
    (`target_decay`) is too slow for a training of a few hundred steps.

    Attributes:
        delta: distance of the two points, in time.
        huber: the constant c of sqrt(|.|^2 + c^2) - c per sample is `huber` * sqrt(D) (Song and Dhariwal, 2023).
    """

    lr: float = 3e-4
    delta: float = 0.01
    huber: float = 0.00054

    def loss(self, step: Step) -> Loss:
        layout, zero = step.layout, step.t.new_zeros(step.t.shape)
        v = step.teacher(step.x_t, step.t, self.cfg_strength)
        x_earlier, t_earlier = earlier_point(step.x_t, step.t, v, self.delta, layout)
        aim = jump(x_earlier, step.target(x_earlier, t_earlier), t_earlier, zero, layout)
        phi = step.student(step.x_t, step.t)
        gap = jump(step.x_t, phi, step.t, zero, layout) - aim
        constant = self.huber * layout.count(gap).sqrt()
        # Not norm(gap)^2: where the gap is exactly zero its gradient is NaN.
        value = ((layout.sum(gap.square()) + constant.square()).sqrt() - constant).mean()
        return Loss(value, {"rms_gap": rms(layout, gap.detach()).mean(), "rms_phi": rms(layout, phi.detach()).mean()})

    def sampler(self, n_steps: int) -> Sampler:
        return Renoise(n_steps, self.rescale_t)

    def cost(self) -> float:
        return 6  # teacher pair, student, target, backward
