"""What methods share that jump: a student's sample; with two times where jumps end, and what exact ones leave."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

import torch
from torch import Tensor

from ..flow.layout import Layout
from ..flow.path import diffuse, jump
from ..flow.times import sampling_times
from .contract import Step


class Ends(Protocol):
    """Where the jumps of a step's samples end."""

    def draw(self, step: Step) -> Tensor:
        """t_end in [0, t], with the step's private generator: [B]."""
        ...


@dataclass(frozen=True)
class UniformEnds:
    """Uniform below t for most samples; t itself, where phi is the teacher's velocity, and 0 for some.

    Attributes:
        share: of samples that do not jump. to_data: of samples that jump to 0, as a one-step student does.
    """

    share: float = 0.1
    to_data: float = 0.3

    def draw(self, step: Step) -> Tensor:
        which, u = uniform(step), uniform(step)
        ends = torch.where(which > 1 - self.to_data, torch.zeros_like(u), u * step.t)
        return torch.where(which < self.share, step.t, ends)


@dataclass(frozen=True)
class LogitNormalEnds:
    """A logit-normal below t; for a `share` of the samples t itself (MeanFlow)."""

    mean: float = -0.4
    std: float = 1.0
    share: float = 0.75

    def draw(self, step: Step) -> Tensor:
        which, u = uniform(step).double(), uniform(step).double()
        at = torch.special.ndtr((torch.logit(step.t.double(), eps=1e-6) - self.mean) / self.std)
        gauss = torch.special.ndtri((u * at).clamp(min=1e-12))
        ends = torch.sigmoid(self.mean + self.std * gauss).to(step.t.dtype).minimum(step.t)
        return torch.where(which < self.share, step.t, ends)


@dataclass(frozen=True)
class SpanEnds:
    """t less a logit-normal length of the jump; 0 where that is below it (AYF)."""

    mean: float = -0.8
    std: float = 1.0

    def draw(self, step: Step) -> Tensor:
        span = torch.sigmoid(self.mean + self.std * torch.special.ndtri(uniform(step).double()))
        return (step.t - span.to(step.t.dtype)).clamp(min=0)


ENDS: Mapping[str, Ends] = MappingProxyType(
    {
        "uniform": UniformEnds(),
        "inside": UniformEnds(to_data=0.0),
        "logit_normal": LogitNormalEnds(),
        "span": SpanEnds(),
    }
)


def uniform(step: Step) -> Tensor:
    """A private number in [0, 1) of each sample: [B]."""
    return torch.rand(step.t.shape, generator=step.generator, dtype=step.t.dtype).to(step.t.device)


def student_sample(step: Step, jumps: int, rescale_t: float, first: float = 0.0) -> Tensor:
    """What the student makes of noise, with its gradient.

    Args:
        jumps: steps of the sampler that it is made for. With more than one it begins at a random one of their times,
            from data that is diffused to it.
        first: share of the samples that begin at noise whatever is drawn for the others.
    """
    layout = step.layout
    x, t = layout.randn([step.generator]), torch.ones_like(step.t)
    if jumps > 1:
        times = torch.tensor(sampling_times(jumps, rescale_t)[:-1], dtype=t.dtype, device=t.device)
        others = (uniform(step) - first) / (1 - first)  # below 0 for the first
        t = times[(others.clamp(min=0) * jumps).long()]
        x = torch.where(layout.expand(t) < 1, diffuse(step.x_0, x, t, layout), x)
    return jump(x, step.student(x, t), t, torch.zeros_like(t), layout)


def jump_residual(phi: Tensor, dphi: Tensor, v: Tensor, length: Tensor, layout: Layout) -> Tensor:
    """phi + (t - t_end) dphi/dt - v, zero for the exact average velocity: the Eulerian equation of the flow map.

    Args:
        phi, dphi: phi(x, t, t_end) and its total derivative in t along v, t_end held.
        length: [B] t - t_end.
    """
    return phi + layout.expand(length) * dphi - v
