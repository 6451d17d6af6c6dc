"""MeanFlow by distillation: the student's average velocity over any stretch of the teacher's trajectories."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import ClassVar, Protocol

from torch import Tensor

from ..flow.layout import rms
from ..flow.samplers import FlowMap, Sampler
from ..flow.times import LogitNormal
from .contract import METHODS, Distillation, Loss, Step
from .jumps import ENDS, Ends, LogitNormalEnds, UniformEnds, jump_residual
from .reduction import REDUCTIONS, PerSample, Reduction


class Adaptation(Protocol):
    """What a sample's error is divided by."""

    def weight(self, errors: Tensor) -> Tensor:
        """[B] from the mean square errors [B], both without gradient."""
        ...


@dataclass(frozen=True)
class ByPower:
    """1 / (error + constant)^power; with power 1 MeanFlow's own.

    DEVIATION(MeanFlow): an error is a mean over elements, not a sum, so that the constant fits any resolution.
    """

    power: float = 1.0
    constant: float = 1e-3

    def weight(self, errors: Tensor) -> Tensor:
        return (errors + self.constant).pow(-self.power)


ADAPTATIONS: Mapping[str, Adaptation] = MappingProxyType(
    {"power1": ByPower(1.0), "power0.5": ByPower(0.5), "none": ByPower(0.0)}
)
VARIANTS = {
    "": {},
    "plain": {"adaptation": ByPower(0.0)},
    "adaptive": {"adaptation": ByPower(1.0)},
    # Times and shares of the ImageNet models of Geng et al.; in 3 of 4 samples nothing jumps.
    # DEVIATION(MeanFlow): t is of the density itself, and not the later one of a pair. A teacher in place of data.
    "paper": {"times": LogitNormal(-0.4, 1.0), "ends": LogitNormalEnds(-0.4, 1.0, 0.75)}
    | {"adaptation": ByPower(1.0), "lr": 1e-4},
}


@METHODS.register(
    "meanflow", version=1, source="Geng et al., Mean Flows, arXiv:2505.13447, Algorithm 1", variants=VARIANTS
)
@dataclass(frozen=True, kw_only=True)
class MeanFlowDistillation(Distillation):
    """L = w |phi(x_t, t, t_end) - sg(v - (t - t_end) dphi/dt)|^2 with w = 1 / (sg |...|^2 + c)^p.

    dphi/dt = JVP[phi; (x_t, t, t_end); (v, 1, 0)] along the guided teacher's v, which takes the place of MeanFlow's
    velocity through a datum.

    Attributes:
        ends: where jumps end.
        adaptation: what a sample's error is divided by.
        reduction: how samples of different size weigh.
    """

    two_times: ClassVar[bool] = True
    lr: float = 3e-4
    # DEVIATION(MeanFlow): uniform times, and nine of ten samples jump: what is trained is used at few steps alone.
    ends: Ends = field(default=UniformEnds(), metadata={"choices": ENDS})
    # DEVIATION(MeanFlow): power 1, with which samples that are nearly right push as long as the others. With 0 those
    # that are far off decide, and jumps of two and four steps stay noisy (docs/deviations.md).
    adaptation: Adaptation = field(default=ByPower(0.5), metadata={"choices": ADAPTATIONS})
    reduction: Reduction = field(default=PerSample(), metadata={"choices": REDUCTIONS})

    def loss(self, step: Step) -> Loss:
        layout, t_end = step.layout, self.ends.draw(step)
        v = step.teacher(step.x_t, step.t, self.cfg_strength)
        there = step.towards(t_end)
        _, dphi = there.target_derivative(step.x_t, step.t, v)
        phi = there.student(step.x_t, step.t)
        # The derivative is a constant: what is left of the residual is the student's own output.
        residual = jump_residual(phi, dphi, v, step.t - t_end, layout)
        counts = layout.count(residual)
        errors = layout.sum(residual.square()) / counts
        value = self.reduction.average(errors * self.adaptation.weight(errors.detach()), counts)
        sizes = {"rms_residual": residual, "rms_phi": phi, "rms_dphi": dphi}
        return Loss(value, {name: rms(layout, one.detach()).mean() for name, one in sizes.items()})

    def sampler(self, n_steps: int) -> Sampler:
        return FlowMap(n_steps, self.rescale_t)

    def cost(self) -> float:
        return 2 + 3 + 1 + 2  # teacher pair, JVP, student, backward
