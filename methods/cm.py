"""Consistency distillation (CM): two neighbouring points of a teacher trajectory must map to the same data."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..flow.derivative import earlier_point
from ..flow.layout import rms
from ..flow.path import jump
from ..flow.samplers import Renoise, Sampler
from ..flow.times import LogitNormal
from .contract import EVERYWHERE, METHODS, Distillation, Loss, Step
from .distances import DISTANCES, Distance, SampleHuber, SquaredError, WeightedSquaredError
from .reduction import REDUCTIONS, PerSample, PerVoxel, Reduction

VARIANTS = {
    "": {},
    "sane": {},
    # The `cm` branch of the released MDT-dist. It ships no configuration for it, hence no learning rate here.
    "official": {
        "distance": SquaredError(),
        "times": LogitNormal(1.0, 1.0),
        "reduction": PerVoxel(),
        "cfg_interval": EVERYWHERE,
    },
    "weighted": {"distance": WeightedSquaredError()},
    "ema": {"target_decay": 0.95},
}


@METHODS.register(
    "cm", version=1, source="Song et al., Consistency Models, arXiv:2303.01469, Algorithm 2", variants=VARIANTS
)
@dataclass(frozen=True, kw_only=True)
class ConsistencyDistillation(Distillation):
    """L = distance(f(x_t, t), sg f(x', t')) with f(x, t) = x - t phi(x, t) and x' = x - delta v.

    Attributes:
        delta: distance of the two points, in time.
        distance: by default a pseudo-Huber distance per sample.
        reduction: how samples of different size weigh.
    """

    lr: float = 3e-4
    delta: float = 0.01
    # DEVIATION(MDT-dist's CM): its release uses a squared error; at tiny scale that needs a learning rate so small
    # that the student hardly moves. The target weights are the online ones, as there; an average of them
    # (variant `ema`) is too slow for a training of a few hundred steps.
    distance: Distance = field(default=SampleHuber(), metadata={"choices": DISTANCES})
    reduction: Reduction = field(default=PerSample(), metadata={"choices": REDUCTIONS})

    def loss(self, step: Step) -> Loss:
        layout, zero = step.layout, step.t.new_zeros(step.t.shape)
        v = step.teacher(step.x_t, step.t, self.cfg_strength)
        x_earlier, t_earlier = earlier_point(step.x_t, step.t, v, self.delta, layout)
        aim = jump(x_earlier, step.target(x_earlier, t_earlier), t_earlier, zero, layout)
        phi = step.student(step.x_t, step.t)
        gap = jump(step.x_t, phi, step.t, zero, layout) - aim
        value = self.distance(gap, step.t, step.t - t_earlier, layout, self.reduction)
        return Loss(value, {"rms_gap": rms(layout, gap.detach()).mean(), "rms_phi": rms(layout, phi.detach()).mean()})

    def sampler(self, n_steps: int) -> Sampler:
        return Renoise(n_steps, self.rescale_t)

    def cost(self) -> float:
        return 6  # teacher pair, student, target, backward
