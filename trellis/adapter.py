"""Binds a network to its condition, so that the rest of the tool sees `v = velocity(x, t)` with t in [0, 1]."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ..flow.guidance import Guided, Velocity
from .conditioner import negative
from .sparse import SparseTensor, Voxels

T_SCALE = 1000.0  # TRELLIS' networks take times on the scale of 0 to 1000


def bind(network: Callable[..., Tensor], cond: Tensor) -> Velocity:
    """Velocity of a dense flow network under `cond`. cond: [B, T, C]. One with two times takes t_end as a third."""

    def velocity(x: Tensor, t: Tensor, *t_end: Tensor) -> Tensor:
        return network(x, T_SCALE * t, cond, *(T_SCALE * end for end in t_end))

    return velocity


def bind_guided(network: Callable[..., Tensor], cond: Tensor) -> Guided:
    """Guided velocity: with the condition, and with the negative one."""
    return _guided(bind(network, cond), bind(network, negative(network, cond)))


def bind_sparse(network: Callable[..., SparseTensor], cond: Tensor, voxels: Voxels) -> Velocity:
    """As `bind`, of features [N, C] on `voxels`."""

    def velocity(x: Tensor, t: Tensor, *t_end: Tensor) -> Tensor:
        return network(SparseTensor(x, voxels), T_SCALE * t, cond, *(T_SCALE * end for end in t_end)).feats

    return velocity


def bind_guided_sparse(network: Callable[..., SparseTensor], cond: Tensor, voxels: Voxels) -> Guided:
    """As `bind_guided`, of features [N, C] on `voxels`."""
    return _guided(bind_sparse(network, cond, voxels), bind_sparse(network, negative(network, cond), voxels))


def _guided(positive: Velocity, negative: Velocity) -> Guided:
    return Guided(positive, lambda x, t: (positive(x, t), negative(x, t)))
