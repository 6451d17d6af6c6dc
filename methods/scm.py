"""Continuous-time consistency distillation (sCM), in the variables of the rectified flow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Protocol

import torch
from torch import Tensor, nn

from ..base.seeds import seed_of
from ..flow.layout import Layout
from ..flow.samplers import Renoise, Sampler
from ..flow.times import LogitNormal
from .contract import METHODS, Distillation, Loss, Step
from .reduction import REDUCTIONS, PerSample, Reduction
from .residual import (
    DERIVATIVES,
    BackwardDifference,
    DerivativeRule,
    ForwardMode,
    ResidualL2,
    ResidualRms,
    Scaling,
    Unscaled,
    faded_in,
    pushed,
)


class Weighting(Protocol):
    """Weight of a sample's loss by its time."""

    def network(self) -> nn.Module | None:
        """What is learned for it, if anything."""
        ...

    def weigh(self, errors: Tensor, t: Tensor, network: nn.Module | None) -> Tensor:
        """The loss of each sample [B] from its mean square error [B]."""
        ...


@dataclass(frozen=True)
class EqualWeights:
    def network(self) -> nn.Module | None:
        return None

    def weigh(self, errors: Tensor, t: Tensor, network: nn.Module | None) -> Tensor:
        del t, network
        return errors


@dataclass(frozen=True)
class AdaptiveWeights:
    """exp(w) error - w with a learned w(t), whose optimum is w = -log E[error | t] (Karras et al., 2024; sCM).

    Attributes:
        waves: number of Fourier frequencies of the angle tau.
        width: hidden units.
    """

    waves: int = 8
    width: int = 64

    def network(self) -> nn.Module:
        return TimeWeight(self.waves, self.width)

    def weigh(self, errors: Tensor, t: Tensor, network: nn.Module | None) -> Tensor:
        if network is None:
            raise ValueError("the adaptive weight of scm needs the step's auxiliary network (got none)")
        w = network(t)
        return w.exp() * errors - w


class TimeWeight(nn.Module):
    """w(t): [B] -> [B], zero at first; a network of one hidden layer on waves of tau = atan2(t, 1 - t)."""

    frequencies: Tensor  # [waves]

    def __init__(self, waves: int, width: int):
        super().__init__()
        self.register_buffer("frequencies", torch.arange(1.0, waves + 1), persistent=False)
        # Not nn.Linear, which draws from the global generator.
        generator = torch.Generator().manual_seed(seed_of("scm", "adaptive weight"))
        self.first = nn.Parameter(torch.randn(width, 2 * waves, generator=generator) / (2 * waves) ** 0.5)
        self.bias = nn.Parameter(torch.zeros(width))
        self.last = nn.Parameter(torch.zeros(width))
        self.offset = nn.Parameter(torch.zeros(()))

    def forward(self, t: Tensor) -> Tensor:
        angle = torch.atan2(t, 1 - t).to(self.first.dtype)[:, None] * self.frequencies
        waves = torch.cat([angle.cos(), angle.sin()], 1)
        hidden = nn.functional.silu(waves @ self.first.T + self.bias)
        return (hidden @ self.last + self.offset).to(t.dtype)


WEIGHTINGS: Mapping[str, Weighting] = MappingProxyType({"equal": EqualWeights(), "adaptive": AdaptiveWeights()})
# Here "l2" is sCM's own normalisation, of the whole tangent; that of MDT-dist's dphi/dt has no place in a tangent.
TANGENT_SCALINGS: Mapping[str, Scaling] = MappingProxyType(
    {"none": Unscaled(), "l2": ResidualL2(), "rms": ResidualRms()}
)
VARIANTS = {
    "": {},
    "sane": {},
    "fd": {"derivative": BackwardDifference()},
    "adaptive": {"weighting": AdaptiveWeights()},
    # The settings of Lu and Song (CIFAR-10), with the tangent norm as in the releases of SANA-Sprint and rCM.
    # DEVIATION(sCM): warm-up over a tenth of training instead of 10,000 steps; no prior weight 1 / tan tau.
    "paper": {
        "scaling": ResidualL2(0.1),
        "weighting": AdaptiveWeights(),
        "warmup": 0.1,
        "times": LogitNormal(-1.0, 1.4),
    },
}


@METHODS.register(
    "scm",
    version=2,
    source="Lu and Song, sCM, arXiv:2410.11081, through TrigFlow = rectified flow",
    variants=VARIANTS,
)
@dataclass(frozen=True, kw_only=True)
class ContinuousConsistencyDistillation(Distillation):
    """L = |F - sg(F + g / (rms(g) + c))|^2 with F the TrigFlow network and g the tangent (sigma_d = 1).

    Written in the student's own output: F = ((1 - 2t) x + n^2 phi) / n with n^2 = t^2 + (1 - t)^2, so that
    dF = n dphi and the wrapper never has to be built.

    Attributes:
        warmup: share of training over which the derivative term is faded in.
        delta: step of the backward difference, in time; the exact derivative ignores it.
        derivative: how dphi/dt is computed.
        scaling: what bounds the tangent. The default's norm is the root mean square, so that its constant does not
            depend on the resolution.
        weighting: weight of a sample by its time.
        reduction: how samples of different size weigh.
    """

    lr: float = 3e-4
    # DEVIATION(sCM): half of training instead of 10,000 steps, as a training here is shorter than that.
    warmup: float = 0.5
    delta: float = 0.01
    derivative: DerivativeRule = field(default=ForwardMode(), metadata={"choices": DERIVATIVES})
    scaling: Scaling = field(default=ResidualRms(), metadata={"choices": TANGENT_SCALINGS})
    # DEVIATION(sCM): no adaptive weight by default; the bound of the tangent has the same role at this scale.
    weighting: Weighting = field(default=EqualWeights(), metadata={"choices": WEIGHTINGS})
    reduction: Reduction = field(default=PerSample(), metadata={"choices": REDUCTIONS})

    def auxiliary(self) -> nn.Module | None:
        return self.weighting.network()

    def loss(self, step: Step) -> Loss:
        layout = step.layout
        v = step.teacher(step.x_t, step.t, self.cfg_strength)
        at = pushed(step, step.x_t, step.t, v, rule=self.derivative, scaling=Unscaled(), delta=self.delta)
        g = tangent(at.phi, v, at.residual, step.t, self.fade(step.index, step.total), layout)
        phi = step.student(step.x_t, step.t)
        n = layout.expand(trig_scale(step.t))
        # F - sg F = n (phi - sg phi): the part of F that depends on x alone cancels.
        square = (n * (phi - phi.detach()) - self.scaling.residual(g, layout)).square()
        counts = layout.count(square)
        errors = self.weighting.weigh(layout.sum(square) / counts, step.t, step.auxiliary)
        return Loss(self.reduction.average(errors, counts), at.diagnostics(layout))

    def fade(self, index: int, total: int) -> float:
        """r_w of sCM's tangent warm-up."""
        # DEVIATION(sCM): index 0 counts as 1.
        return faded_in(index, total, self.warmup)

    def sampler(self, n_steps: int) -> Sampler:
        return Renoise(n_steps, self.rescale_t)

    def cost(self) -> float:
        return 2 + self.derivative.passes(known=False) + 1 + 2  # teacher pair, phi and derivative, student, backward


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
