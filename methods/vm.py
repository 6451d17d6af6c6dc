"""Velocity matching (VM): the student's implied marginal velocity must equal the teacher's."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from ..flow.samplers import Sampler
from ..flow.times import LogitNormal
from .contract import EVERYWHERE, METHODS, Distillation, Loss, Step
from .reduction import REDUCTIONS, PerSample, PerVoxel, Reduction, reduced_mean
from .residual import (
    DERIVATIVES,
    SCALINGS,
    BackwardDifference,
    DerivativeL2,
    DerivativeRule,
    ForwardMode,
    ResidualRms,
    Scaling,
    Unscaled,
    pushed,
)
from .sampling import SAMPLINGS, ByEuler, ByRenoising, Sampling

RELEASED_TIMES = LogitNormal(1.0, 1.0)
# What the structure configuration and trainer of Zanue/MDT-dist at 10faf36 run; shared with VM+VD.
RELEASED = {
    "lr": 4e-8,
    "cfg_strength": 40.0,
    "cfg_interval": EVERYWHERE,
    "times": RELEASED_TIMES,
    "scaling": DerivativeL2(0.1),
    "reduction": PerVoxel(),
    # DEVIATION(release): its snapshots guide the student (3 for structure); nobody trained its unconditional branch.
    # `student_cfg` = 3 gives them.
    "sampling": ByEuler(),
    "rescale_t": 1.0,
}
VARIANTS = {
    "": {},
    "sane": {},
    "paper": {"scaling": Unscaled()},
    "official": RELEASED,
    "cont": {"scaling": Unscaled(), "derivative": ForwardMode()},
    "resid": {"scaling": ResidualRms(0.1), "times": RELEASED_TIMES},
}


@METHODS.register("vm", version=1, source="MDT-dist, arXiv:2509.04406, Eq. 10-11", variants=VARIANTS)
@dataclass(frozen=True, kw_only=True)
class VelocityMatching(Distillation):
    """L = |phi - sg(phi - r / (rms(r) + c))|^2 with r = phi + t dphi/dt - v.

    Attributes:
        delta: step of the backward difference, in time; the exact derivative ignores it.
        derivative: how dphi/dt is computed.
        scaling: what bounds r, or dphi/dt.
        reduction: how samples of different size weigh.
        sampling: the sampler of the student.
        student_cfg: guidance strength on the student itself, for Euler sampling only.
    """

    # DEVIATION(release, learning rate 4e-8): a small network trained for minutes would not move.
    lr: float = 4e-4
    delta: float = 0.01
    derivative: DerivativeRule = field(default=BackwardDifference(), metadata={"choices": DERIVATIVES})
    # DEVIATION(paper Eq. 10): the paper's r has no bound; without one the student collapses at the learning
    # rates that train a small network in minutes. Bounding the whole residual keeps the paper's fixed point.
    scaling: Scaling = field(default=ResidualRms(), metadata={"choices": SCALINGS})
    # DEVIATION(release, sparse): its mean over the voxels of a batch lets large objects weigh more.
    reduction: Reduction = field(default=PerSample(), metadata={"choices": REDUCTIONS})
    # DEVIATION(release): Euler is biased for a perfect student beyond one step.
    sampling: Sampling = field(default=ByRenoising(), metadata={"choices": SAMPLINGS})
    student_cfg: float = 0.0

    def __post_init__(self) -> None:
        self.sampler(1)  # refuses a student_cfg that the sampler has no use for

    def loss(self, step: Step) -> Loss:
        return matching_loss(step, self)

    def sampler(self, n_steps: int) -> Sampler:
        return self.sampling.sampler(n_steps, self.rescale_t, self.student_cfg)

    def cost(self) -> float:
        return matching_cost(self.derivative)


class Matching(Protocol):
    """The parameters of the VM term; see `VelocityMatching`."""

    @property
    def cfg_strength(self) -> float: ...
    @property
    def delta(self) -> float: ...
    @property
    def derivative(self) -> DerivativeRule: ...
    @property
    def scaling(self) -> Scaling: ...
    @property
    def reduction(self) -> Reduction: ...


def matching_loss(step: Step, how: Matching) -> Loss:
    """The VM term, shared with VM+VD. The whole target is a constant, both phi of the derivative included."""
    v = step.teacher(step.x_t, step.t, how.cfg_strength)
    phi = step.student(step.x_t, step.t)
    at = pushed(step, step.x_t, step.t, v, rule=how.derivative, scaling=how.scaling, delta=how.delta, phi=phi.detach())
    value = reduced_mean(step.layout, (phi - (phi.detach() - at.push)).square(), how.reduction)
    return Loss(value, at.diagnostics(step.layout))


def matching_cost(rule: DerivativeRule) -> int:
    """Teacher pair, student, derivative, backward."""
    return 2 + 1 + rule.passes(known=True) + 2
