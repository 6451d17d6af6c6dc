"""The residual that every method here reweights: r = phi + t dphi/dt - v, zero for the exact flow map.

dphi/dt is the total derivative along the guided teacher. Discretised with x' = x - delta v, t' = t - delta.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ..flow.derivative import earlier_point
from ..flow.guidance import Velocity
from ..flow.layout import Layout, rms

# A rule that gives dphi/dt at (x, t), where phi is known, along the teacher's velocity v.
Derivative = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def backward_difference(target: Velocity, delta: float, layout: Layout) -> Derivative:
    """dphi/dt ~ (phi(x, t) - phi(x - delta v, t - delta)) / delta. MDT-dist, Eq. 11."""

    def derivative(phi: Tensor, x: Tensor, t: Tensor, v: Tensor) -> Tensor:
        x_earlier, t_earlier = earlier_point(x, t, v, delta, layout)
        return (phi - target(x_earlier, t_earlier)) / layout.expand(t - t_earlier)

    return derivative


def velocity_residual(phi: Tensor, x: Tensor, t: Tensor, v: Tensor, derivative: Derivative, layout: Layout) -> Tensor:
    """r = phi + t dphi/dt - v. MDT-dist, Eq. 9 minus the teacher."""
    return phi + layout.expand(t) * derivative(phi, x, t, v) - v


def bounded(residual: Tensor, layout: Layout, constant: float) -> Tensor:
    """r / (rms(r) + c) per sample: the direction of r with a bounded length.

    The whole residual is scaled by a positive number, so that its zero, the flow map, stays where it is.
    (The released MDT-dist scales dphi/dt alone, which moves the zero: docs/deviations.md.)
    """
    return residual / layout.expand(rms(layout, residual) + constant)
