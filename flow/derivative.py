"""The derivative of a velocity along a trajectory: exact (forward mode) or by a backward difference."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from .guidance import Velocity
from .layout import Layout
from .path import jump


@contextmanager
def _kernels_with_derivative() -> Iterator[None]:
    """In forward mode neither fused attention has one, hence the math kernel, nor compiled blocks, hence without."""
    compiler = "torch._dynamo" in sys.modules  # a second to import, and nothing is compiled without
    with sdpa_kernel(SDPBackend.MATH), torch.compiler.set_stance("force_eager") if compiler else nullcontext():
        yield


def total_derivative(velocity: Velocity, x: Tensor, t: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """phi and dphi/dt along a trajectory of velocity v: JVP[phi; (x, t); (v, 1)].

    Call it without gradients, as `Step` does: torch's gradient of a JVP through layer_norm is wrong (seen with 2.13).
    Cost: about three forward passes.
    """
    with _kernels_with_derivative():
        phi, dphi = torch.func.jvp(velocity, (x, t), (v, torch.ones_like(t)))[:2]
    return phi, dphi


def end_derivative(
    flow_map: Callable[[Tensor, Tensor, Tensor], Tensor], x: Tensor, t: Tensor, t_end: Tensor
) -> tuple[Tensor, Tensor]:
    """phi(x, t, t_end) and its partial derivative in t_end. Call it without gradients, as `total_derivative`."""
    with _kernels_with_derivative():
        phi, dphi = torch.func.jvp(lambda end: flow_map(x, t, end), (t_end,), (torch.ones_like(t_end),))[:2]
    return phi, dphi


def earlier_point(x: Tensor, t: Tensor, v: Tensor, delta: float, layout: Layout) -> tuple[Tensor, Tensor]:
    """The point (x', t') one Euler step of length `delta` towards the data; t' is never below 0."""
    t_earlier = (t - delta).clamp(min=0)
    return jump(x, v, t, t_earlier, layout), t_earlier
