"""Velocity matching (VM): the student's implied marginal velocity must equal the teacher's."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..flow.layout import per_sample_mean, rms
from ..flow.samplers import Renoise, Sampler
from .contract import METHODS, Distillation, Loss, Step
from .residual import backward_difference, bounded, velocity_residual


@METHODS.register("vm", version=1, source="MDT-dist, arXiv:2509.04406, Eq. 10-11")
@dataclass(frozen=True, kw_only=True)
class VelocityMatching(Distillation):
    """L = |phi - sg(phi - r / (rms(r) + c))|^2 with r = phi + t dphi/dt - v.

    DEVIATION(paper Eq. 10): the paper's r has no bound; without one the student collapses at the learning
    rates that train a small network in minutes. Bounding the whole residual keeps the paper's fixed point.

    Attributes:
        delta: step of the backward difference, in time.
        bound: the constant c of the bound, in units of velocity.
    """

    lr: float = 4e-4
    delta: float = 0.01
    bound: float = 0.1

    def loss(self, step: Step) -> Loss:
        return matching_loss(step, self.cfg_strength, self.delta, self.bound)

    def sampler(self, n_steps: int) -> Sampler:
        return Renoise(n_steps, self.rescale_t)

    def cost(self) -> float:
        return 6  # teacher pair, student, target at the earlier point, backward


def matching_loss(step: Step, cfg_strength: float, delta: float, bound: float) -> Loss:
    """The VM term, shared with VM+VD."""
    v = step.teacher(step.x_t, step.t, cfg_strength)
    phi = step.student(step.x_t, step.t)
    derivative = backward_difference(step.target, delta, step.layout)
    residual = velocity_residual(phi.detach(), step.x_t, step.t, v, derivative, step.layout)
    value = per_sample_mean(step.layout, (phi - (phi.detach() - bounded(residual, step.layout, bound))).square())
    return Loss(value, {"rms_residual": _mean_rms(step, residual), "rms_phi": _mean_rms(step, phi.detach())})


def _mean_rms(step: Step, x: Tensor) -> Tensor:
    return rms(step.layout, x).mean()
