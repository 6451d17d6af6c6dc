"""Continuous-time consistency distillation (sCM), in the variables of the rectified flow."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..flow.layout import Layout, per_sample_mean, rms
from ..flow.samplers import Renoise, Sampler
from .contract import METHODS, Distillation, Loss, Step
from .residual import bounded


@METHODS.register("scm", version=1, source="Lu and Song, sCM, arXiv:2410.11081, through TrigFlow = rectified flow")
@dataclass(frozen=True, kw_only=True)
class ContinuousConsistencyDistillation(Distillation):
    """L = |F - sg(F + g / (rms(g) + c))|^2 with F the TrigFlow network and g the tangent (sigma_d = 1).

    Written in the student's own output: F = ((1 - 2t) x + n^2 phi) / n with n^2 = t^2 + (1 - t)^2, so that
    dF = n dphi and the wrapper never has to be built.

    DEVIATION(sCM): no adaptive weight; the bound of the tangent has the same role at this scale.

    Attributes:
        warmup: share of training over which the derivative term is faded in.
        bound: the constant c; the norm is the root mean square, so that c does not depend on the resolution.
    """

    lr: float = 3e-4
    warmup: float = 0.5
    bound: float = 0.1

    def loss(self, step: Step) -> Loss:
        layout = step.layout
        v = step.teacher(step.x_t, step.t, self.cfg_strength)
        phi_target, dphi = step.target_derivative(step.x_t, step.t, v)
        residual = phi_target + layout.expand(step.t) * dphi - v
        g = tangent(phi_target, v, residual, step.t, self.fade(step.index, step.total), layout)
        phi = step.student(step.x_t, step.t)
        n = layout.expand(trig_scale(step.t))
        # F - sg F = n (phi - sg phi): the part of F that depends on x alone cancels.
        value = per_sample_mean(layout, (n * (phi - phi.detach()) - bounded(g, layout, self.bound)).square())
        return Loss(value, {"rms_residual": rms(layout, residual).mean(), "rms_phi": rms(layout, phi_target).mean()})

    def fade(self, index: int, total: int) -> float:
        """r_w of sCM's tangent warm-up: 0 at the first step, 1 from `warmup` of the training on."""
        return 1.0 if self.warmup == 0 else min(1.0, index / (self.warmup * total))

    def sampler(self, n_steps: int) -> Sampler:
        return Renoise(n_steps, self.rescale_t)

    def cost(self) -> float:
        return 8  # teacher pair, JVP, student, backward


def trig_scale(t: Tensor) -> Tensor:
    """n(t) = sqrt(t^2 + (1 - t)^2): x_rf = n x_trig at sigma_d = 1."""
    return (t.square() + (1 - t).square()).sqrt()


def tangent(phi: Tensor, v: Tensor, residual: Tensor, t: Tensor, fade: float, layout: Layout) -> Tensor:
    """sCM's tangent at sigma_d = 1 in closed form, nowhere singular.

    g = -(1 - r_w) ((1 - t)^2 / n) (phi - v) - r_w (1 - t) n r, with r_w = `fade`.
    """
    n = trig_scale(t)
    guidance = layout.expand((1 - t).square() / n) * (phi - v)
    consistency = layout.expand((1 - t) * n) * residual
    return -(1 - fade) * guidance - fade * consistency
