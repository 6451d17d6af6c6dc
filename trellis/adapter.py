"""Binds a network to its condition, so that the rest of the tool sees `v = velocity(x, t)` with t in [0, 1]."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..flow.guidance import Guided, Velocity
from .conditioner import negative

T_SCALE = 1000.0  # TRELLIS' networks take times on the scale of 0 to 1000


def bind(network: Callable[..., Tensor], cond: Tensor) -> Velocity:
    """Velocity of a dense flow network under `cond`. cond: [B, T, C]."""

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        return network(x, T_SCALE * t, cond)

    return velocity


def bind_guided(network: Callable[..., Tensor], cond: Tensor) -> Guided:
    """Guided velocity: condition and negative condition go through the network as one batch."""
    both = torch.cat([cond, negative(cond)])

    def pair(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        v_cond, v_neg = network(torch.cat([x, x]), T_SCALE * torch.cat([t, t]), both).chunk(2)
        return v_cond, v_neg

    return Guided(bind(network, cond), pair)
