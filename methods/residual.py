"""The residual that every method here reweights: r = phi + t dphi/dt - v, zero for the exact flow map.

dphi/dt is the total derivative along the guided teacher. What a method does about it is a parameter: the rule that
gives the derivative, and the scaling of the derivative or of the whole residual.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

from torch import Tensor

from ..flow.derivative import earlier_point
from ..flow.guidance import Velocity
from ..flow.layout import Layout, norm, rms
from .contract import Step


def faded_in(index: int, total: int, warmup: float) -> float:
    """How far a term is faded in at a training step: it rises to 1 over `warmup`, a share of the training.

    The first step has the value of the second: at 0 and without guidance nothing of the gradient but rounding is left,
    as the student begins as its teacher, and Adam would make of it a step of full length in a random direction.
    """
    return 1.0 if warmup == 0 else min(1.0, max(index, 1) / (warmup * total))


def velocity_residual(phi: Tensor, dphi: Tensor, v: Tensor, t: Tensor, layout: Layout) -> Tensor:
    """r = phi + t dphi/dt - v. MDT-dist, Eq. 9 minus the teacher."""
    return phi + layout.expand(t) * dphi - v


def backward_difference(
    target: Velocity, phi: Tensor, x: Tensor, t: Tensor, v: Tensor, delta: float, layout: Layout
) -> Tensor:
    """dphi/dt ~ (phi(x, t) - phi(x - delta v, t - delta)) / delta, phi(x, t) given. MDT-dist, Eq. 11."""
    x_earlier, t_earlier = earlier_point(x, t, v, delta, layout)
    return (phi - target(x_earlier, t_earlier)) / layout.expand(t - t_earlier)


class DerivativeRule(Protocol):
    """Where dphi/dt along the teacher comes from. No gradient flows through it."""

    def at(
        self, step: Step, x: Tensor, t: Tensor, v: Tensor, delta: float, phi: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """phi and dphi/dt at (x, t) along v: the `phi` that is given, or else the target's."""
        ...

    def passes(self, known: bool) -> int:
        """What a call costs in network forward passes, when phi is given (`known`) and when it is not."""
        ...


@dataclass(frozen=True)
class BackwardDifference:
    """The difference to the target's phi one Euler step of length `delta` earlier."""

    def at(
        self, step: Step, x: Tensor, t: Tensor, v: Tensor, delta: float, phi: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        phi = step.target(x, t) if phi is None else phi
        return phi, backward_difference(step.target, phi, x, t, v, delta, step.layout)

    def passes(self, known: bool) -> int:
        return 1 if known else 2


@dataclass(frozen=True)
class ForwardMode:
    """The exact derivative, JVP[phi; (x, t); (v, 1)]; `delta` has no part in it."""

    def at(
        self, step: Step, x: Tensor, t: Tensor, v: Tensor, delta: float, phi: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        del delta
        phi_target, dphi = step.target_derivative(x, t, v)
        return (phi_target if phi is None else phi), dphi

    def passes(self, known: bool) -> int:
        del known  # the JVP computes phi again
        return 3


DERIVATIVES: Mapping[str, DerivativeRule] = MappingProxyType({"difference": BackwardDifference(), "jvp": ForwardMode()})


class Scaling(Protocol):
    """What keeps the push of a step at a bounded size."""

    def derivative(self, dphi: Tensor, layout: Layout) -> Tensor:
        """Applied to dphi/dt before it enters the residual."""
        ...

    def residual(self, r: Tensor, layout: Layout) -> Tensor:
        """Applied to the whole residual (in sCM: to the whole tangent)."""
        ...


@dataclass(frozen=True)
class Unscaled:
    def derivative(self, dphi: Tensor, layout: Layout) -> Tensor:
        del layout
        return dphi

    def residual(self, r: Tensor, layout: Layout) -> Tensor:
        del layout
        return r


@dataclass(frozen=True)
class DerivativeL2(Unscaled):
    """dphi/dt / (its L2 norm over a sample + c), nothing else: the released MDT-dist (`d_norm`).

    It scales one of three terms and so moves the zero away from the flow map: the RMS of the term becomes at most
    1 / sqrt(D), and the loss nearly regresses phi on the teacher's velocity.

    Attributes:
        constant: c.
        ref_dim: behave as at this number of elements D, e.g. 32768, the structure latent of TRELLIS; None: as it is.
    """

    constant: float = 0.1
    ref_dim: int | None = None

    def derivative(self, dphi: Tensor, layout: Layout) -> Tensor:
        size = norm(layout, dphi)
        if self.ref_dim is not None:
            size = math.sqrt(self.ref_dim) * size / layout.count(dphi).sqrt()
        return dphi / layout.expand(size + self.constant)


@dataclass(frozen=True)
class ResidualRms(Unscaled):
    """r / (rms(r) + c) per sample: the direction of r with a bounded length.

    The whole residual is scaled by a positive number, so that its zero, the flow map, stays where it is.
    """

    constant: float = 0.1

    def residual(self, r: Tensor, layout: Layout) -> Tensor:
        return r / layout.expand(rms(layout, r) + self.constant)


@dataclass(frozen=True)
class ResidualL2(Unscaled):
    """r / (||r||_2 + c) per sample, the tangent normalisation of sCM as SANA-Sprint and rCM release it."""

    constant: float = 0.1

    def residual(self, r: Tensor, layout: Layout) -> Tensor:
        return r / layout.expand(norm(layout, r) + self.constant)


SCALINGS: Mapping[str, Scaling] = MappingProxyType(
    {"none": Unscaled(), "l2": DerivativeL2(), "rms": ResidualRms(), "residual_l2": ResidualL2()}
)


@dataclass(frozen=True)
class Pushed:
    """A residual at one point, without gradient. All in the layout of the batch.

    Attributes:
        phi, dphi: the student's velocity and its derivative along the teacher, unscaled.
        residual: r, unscaled: what the diagnostics report.
        push: the scaled residual, that the student is moved against.
    """

    phi: Tensor
    dphi: Tensor
    residual: Tensor
    push: Tensor

    def diagnostics(self, layout: Layout, suffix: str = "") -> dict[str, Tensor]:
        values = {"rms_residual": self.residual, "rms_phi": self.phi, "rms_dphi": self.dphi}
        return {name + suffix: rms(layout, value).mean() for name, value in values.items()}


def pushed(
    step: Step,
    x: Tensor,
    t: Tensor,
    v: Tensor,
    *,
    rule: DerivativeRule,
    scaling: Scaling,
    delta: float,
    phi: Tensor | None = None,
) -> Pushed:
    """The residual at (x, t) along the teacher's v; of the `phi` that is given, or of the target's."""
    layout = step.layout
    phi, dphi = rule.at(step, x, t, v, delta, phi)
    residual = velocity_residual(phi, dphi, v, t, layout)
    scaled = velocity_residual(phi, scaling.derivative(dphi, layout), v, t, layout)
    return Pushed(phi, dphi, residual, scaling.residual(scaled, layout))
