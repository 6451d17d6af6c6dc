"""Phased consistency distillation (PCM): consistency inside each of K phases of the trajectory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Protocol

import torch
from torch import Tensor

from ..flow.layout import rms
from ..flow.path import jump
from ..flow.samplers import Phase, Sampler
from ..flow.times import LogitNormal, sampling_times
from .contract import EVERYWHERE, METHODS, Distillation, Loss, Step
from .distances import DISTANCES, Distance, ElementHuber, SquaredError, WeightedSquaredError
from .reduction import REDUCTIONS, PerSample, PerVoxel, Reduction


class Pairing(Protocol):
    def pair(self, t: Tensor, delta: float, edges: Tensor) -> tuple[Tensor, Tensor]:
        """(t', e): the earlier time of a pair, and the phase edge that both of its points jump to. [B] each.

        edges: [K + 1] ascending, from 0 to 1.
        """
        ...


@dataclass(frozen=True)
class Clamped:
    """e is the edge below t, and t' stops there: no pair straddles an edge; at the edge the target is x' itself."""

    def pair(self, t: Tensor, delta: float, edges: Tensor) -> tuple[Tensor, Tensor]:
        edge = edge_below(t, edges)
        return torch.maximum(t - delta, edge), edge


@dataclass(frozen=True)
class Straddling:
    """e is the edge at or below t' = t - delta (the released MDT-dist, `multiphase`).

    Pairs with t just above an edge and t' just below it jump past that edge: (K - 1) delta of all pairs.
    """

    def pair(self, t: Tensor, delta: float, edges: Tensor) -> tuple[Tensor, Tensor]:
        # Never below 0, as in cm; times of training are at least delta.
        t_earlier = (t - delta).clamp(min=0)
        index = (torch.searchsorted(edges, t_earlier, right=True) - 1).clamp(max=len(edges) - 2)
        return t_earlier, edges[index]


PAIRINGS: Mapping[str, Pairing] = MappingProxyType({"clamped": Clamped(), "straddling": Straddling()})


@dataclass(frozen=True)
class ShiftedUniform:
    """The density of PCM's Stable Diffusion 3 grid: uniform u, t = shift u / (1 + (shift - 1) u)."""

    shift: float = 3.0

    def times(self, u: Tensor, t_min: float) -> Tensor:
        return t_min + (1 - t_min) * (self.shift * u / (1 + (self.shift - 1) * u))


VARIANTS = {
    "": {},
    "sane": {},
    "k1": {"phases": 1},
    "k4": {"phases": 4},
    "weighted": {"distance": WeightedSquaredError()},
    "ema": {"target_decay": 0.95},
    # DEVIATION(PCM's SD3 release): pairs at continuous times instead of its 100-step grid, all weights instead of
    # LoRA, no GAN term. Guidance 3, shift 3 and the learning rate are those it runs with.
    "sd3": {"phases": 4, "lr": 5e-6, "cfg_strength": 3.0, "rescale_t": 3.0, "times": ShiftedUniform(3.0)},
    # The released MDT-dist's `cm` with `multiphase` = 4; its configuration says 1, which is cm:official.
    "official": {
        "cfg_interval": EVERYWHERE,
        "phases": 4,
        "rescale_t": 1.0,
        "pairing": Straddling(),
        "distance": SquaredError(),
        "times": LogitNormal(1.0, 1.0),
        "reduction": PerVoxel(),
    },
}


@METHODS.register(
    "pcm", version=1, source="Wang et al., Phased Consistency Models, arXiv:2405.18407", variants=VARIANTS
)
@dataclass(frozen=True, kw_only=True)
class PhasedConsistencyDistillation(Distillation):
    """L = distance(f_e(x_t, t), sg f_e(x', t')), f_e the jump to the lower edge e of t's phase.

    Attributes:
        delta: distance of the two points, in time; less where t' stops at an edge.
        phases: K. Edges are the sampler's times, so K steps of the sampler jump from edge to edge.
        distance: by default a pseudo-Huber distance per element.
        pairing: which phase a pair belongs to.
        reduction: how samples of different size weigh.
    """

    lr: float = 3e-4
    delta: float = 0.01
    phases: int = 2
    distance: Distance = field(default=ElementHuber(), metadata={"choices": DISTANCES})
    # DEVIATION(MDT-dist's `multiphase`): it takes the edge of t', so that pairs near an edge belong to two phases.
    pairing: Pairing = field(default=Clamped(), metadata={"choices": PAIRINGS})
    reduction: Reduction = field(default=PerSample(), metadata={"choices": REDUCTIONS})

    def loss(self, step: Step) -> Loss:
        layout = step.layout
        t_earlier, edge = self.pairing.pair(step.t, self.delta, self.edges(step.t))
        v = step.teacher(step.x_t, step.t, self.cfg_strength)
        x_earlier = jump(step.x_t, v, step.t, t_earlier, layout)
        aim = jump(x_earlier, step.target(x_earlier, t_earlier), t_earlier, edge, layout)
        phi = step.student(step.x_t, step.t)
        gap = jump(step.x_t, phi, step.t, edge, layout) - aim
        # Just above an edge the span goes to 0: floored, so that a weight by its inverse stays finite.
        span = (step.t - edge).clamp(min=self.delta)
        value = self.distance(gap, span, step.t - t_earlier, layout, self.reduction)
        return Loss(value, {"rms_gap": rms(layout, gap.detach()).mean(), "rms_phi": rms(layout, phi.detach()).mean()})

    def edges(self, like: Tensor) -> Tensor:
        """The K + 1 edges from 0 to 1, in the type of `like`."""
        return torch.tensor(sampling_times(self.phases, self.rescale_t)[::-1], dtype=like.dtype, device=like.device)

    def lower_edge(self, t: Tensor) -> Tensor:
        """The largest edge below t (0 for the first phase). [B]."""
        return edge_below(t, self.edges(t))

    def sampler(self, n_steps: int) -> Sampler:
        return Phase(n_steps, self.phases, self.rescale_t)

    def cost(self) -> float:
        return 6  # as cm


def edge_below(t: Tensor, edges: Tensor) -> Tensor:
    """The largest of the ascending `edges` below t, the first one if none is. [B]."""
    return edges[(torch.searchsorted(edges, t) - 1).clamp(min=0)]
