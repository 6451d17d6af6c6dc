"""Where float16 torsos compute in float32, and how a torso becomes float16."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .sparse_convolution import SparseKernel

LINEAR_LAYERS = nn.Linear | nn.Conv3d | SparseKernel


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    """float32 for half precision, else `dtype` itself: a float64 network stays float64 throughout."""
    return torch.promote_types(dtype, torch.float32)


def widened(x: Tensor) -> Tensor:
    """`x` in at least float32; no copy when it already is."""
    return x.to(at_least_float32(x.dtype))


def half_torso(module: nn.Module) -> None:
    """Store the linear and convolution weights inside `module` as float16, all norms in float32.

    Source: TRELLIS trellis/modules/utils.py, whose checkpoints have these dtypes.
    """
    for part in module.modules():
        if isinstance(part, LINEAR_LAYERS):
            part.half()


def linear_dtype(module: nn.Module) -> torch.dtype:
    """Dtype in which the linear and convolution layers inside `module` compute (float32 if it has none)."""
    for part in module.modules():
        if isinstance(part, LINEAR_LAYERS):
            return part.weight.dtype
    return torch.float32
