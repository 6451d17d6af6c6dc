"""The rectified-flow path between data (t = 0) and noise (t = 1)."""

from __future__ import annotations

from torch import Tensor

from .layout import Layout

# TRELLIS keeps a trace of noise at t = 0. It enters the path only; samplers ignore it, as TRELLIS does.
SIGMA_MIN = 1e-5


def diffuse(x_0: Tensor, noise: Tensor, t: Tensor, layout: Layout) -> Tensor:
    """x_t of the path. t: [B] in [0, 1]. Source: TRELLIS `FlowMatchingTrainer.diffuse`."""
    time = layout.expand(t)
    return (1 - time) * x_0 + (SIGMA_MIN + (1 - SIGMA_MIN) * time) * noise


def conditional_velocity(x_0: Tensor, noise: Tensor) -> Tensor:
    """dx_t/dt of the path through one pair, the regression target of flow matching."""
    return (1 - SIGMA_MIN) * noise - x_0


def jump(x: Tensor, v: Tensor, t: Tensor, t_end: Tensor, layout: Layout) -> Tensor:
    """`x - (t - t_end) v`: the point that velocity `v`, held from t to t_end, leads to. t, t_end: [B]."""
    return x - layout.expand(t - t_end) * v
