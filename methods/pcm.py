"""Phased consistency distillation (PCM): consistency inside each of K phases of the trajectory."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..flow.layout import per_sample_mean, rms
from ..flow.path import jump
from ..flow.samplers import Phase, Sampler
from ..flow.times import sampling_times
from .contract import METHODS, Distillation, Loss, Step


@METHODS.register("pcm", version=1, source="Wang et al., Phased Consistency Models, arXiv:2405.18407")
@dataclass(frozen=True, kw_only=True)
class PhasedConsistencyDistillation(Distillation):
    """L = element-wise pseudo-Huber(f_e(x_t, t), sg f_e(x', t')), f_e the jump to the lower edge e of t's phase.

    DEVIATION(MDT-dist's `multiphase`): it takes the edge of t' = t - delta, so that pairs near an edge belong to
    two phases. Here t' stops at the edge of t, where the target is x' itself.

    Attributes:
        phases: K. Edges are the sampler's times, so K steps of the sampler jump from edge to edge.
        huber: the constant c of sqrt(a^2 + c^2) - c per element.
    """

    lr: float = 3e-4
    delta: float = 0.01
    phases: int = 2
    huber: float = 1e-3

    def loss(self, step: Step) -> Loss:
        layout = step.layout
        edge = self.lower_edge(step.t)
        t_earlier = torch.maximum(step.t - self.delta, edge)
        v = step.teacher(step.x_t, step.t, self.cfg_strength)
        x_earlier = jump(step.x_t, v, step.t, t_earlier, layout)
        aim = jump(x_earlier, step.target(x_earlier, t_earlier), t_earlier, edge, layout)
        phi = step.student(step.x_t, step.t)
        gap = jump(step.x_t, phi, step.t, edge, layout) - aim
        value = per_sample_mean(layout, (gap.square() + self.huber**2).sqrt() - self.huber)
        return Loss(value, {"rms_gap": rms(layout, gap.detach()).mean(), "rms_phi": rms(layout, phi.detach()).mean()})

    def lower_edge(self, t: Tensor) -> Tensor:
        """The largest edge below t (0 for the first phase). [B]."""
        edges = torch.tensor(sampling_times(self.phases, self.rescale_t)[::-1], dtype=t.dtype, device=t.device)
        return edges[(torch.searchsorted(edges, t) - 1).clamp(min=0)]

    def sampler(self, n_steps: int) -> Sampler:
        return Phase(n_steps, self.phases, self.rescale_t)

    def cost(self) -> float:
        return 6  # as cm
