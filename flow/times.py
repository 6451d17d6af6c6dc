"""Which times are trained on, and which a sampler visits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class TimeDensity(Protocol):
    def times(self, u: Tensor, t_min: float) -> Tensor:
        """Times in [t_min, 1] for uniform draws u in (0, 1): the quantile function of the density. [B]."""
        ...


@dataclass(frozen=True)
class Uniform:
    def times(self, u: Tensor, t_min: float) -> Tensor:
        return t_min + (1 - t_min) * u


UNIFORM = Uniform()


@dataclass(frozen=True)
class LogitNormal:
    """t = sigmoid(mean + std * standard normal). (1, 1) in TRELLIS and in the released MDT-dist."""

    mean: float = 1.0
    std: float = 1.0

    def times(self, u: Tensor, t_min: float) -> Tensor:
        gauss = torch.special.ndtri(u.double())
        return t_min + (1 - t_min) * torch.sigmoid(self.mean + self.std * gauss).to(u.dtype)


def rescale(t: float, rescale_t: float) -> float:
    """TRELLIS' time warp `s t / (1 + (s - 1) t)`: s > 1 spends more steps near noise."""
    return rescale_t * t / (1 + (rescale_t - 1) * t)


def sampling_times(steps: int, rescale_t: float = 1.0) -> list[float]:
    """The steps + 1 times from 1 (noise) to 0 (data) of TRELLIS' Euler sampler.

    Raises:
        ValueError: no step.
    """
    if steps < 1:
        raise ValueError(f"a sampler needs at least one step (got {steps})")
    # Rounded as TRELLIS' numpy.linspace does: a time on the edge of a guidance interval must fall on the same side.
    between = [rescale(1 - i * (1 / steps), rescale_t) for i in range(1, steps)]
    return [1.0, *between, 0.0]
