"""A method whose student is told where to jump, with a sampler of its own that stops on the way to draw new noise.

mdtbench run --plugin my_flow_map.py --methods leaps,leaps:six
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor

from mdtbench.flow.layout import Layout, per_sample_mean, rms
from mdtbench.flow.path import jump
from mdtbench.flow.samplers import Jumps, Sampler
from mdtbench.flow.times import sampling_times
from mdtbench.methods import METHODS, Distillation, Loss, Step


@dataclass(frozen=True)
class Stirred:
    """Every jump goes `below` further down than the next time, and new noise takes it back up."""

    name: ClassVar[str] = "stirred"
    steps: int
    rescale_t: float = 1.0
    below: float = 0.1

    def computation(self) -> Jumps:
        times = tuple(sampling_times(self.steps, self.rescale_t))
        return Jumps(times, (0.0,) * self.steps, fresh_noise=self.steps > 1)

    def sample(self, velocity: Any, noise: Tensor, layout: Layout, generators: Sequence[torch.Generator]) -> Tensor:
        x = noise
        for t, t_next in pairwise(sampling_times(self.steps, self.rescale_t)):
            low = max(0.0, t_next - self.below)
            start, end = (torch.full((layout.batch_size,), time).to(x) for time in (t, low))
            x = jump(x, velocity(x, start, 0.0, end), start, end, layout)  # without guidance: it is distilled
            if low:  # from (1 - low) x_0 + low z to the same of t_next, by as much noise as is missing
                kept = (1 - t_next) / (1 - low)
                x = kept * x + (t_next**2 - (kept * low) ** 2) ** 0.5 * layout.randn(generators)
        return x

    def note(self) -> str:
        return ""


@METHODS.register("leaps", version=1, source="example of the documentation", variants={"six": {"legs": 6}})
@dataclass(frozen=True, kw_only=True)
class Leaps(Distillation):
    """L = |phi(x_t, t, t_end) - (x_t - x_end) / (t - t_end)|^2, x_end after Euler steps of the teacher.

    Attributes:
        legs: how many steps.
    """

    two_times: ClassVar[bool] = True
    lr: float = 3e-4
    legs: int = 2

    def loss(self, step: Step) -> Loss:
        share = torch.rand(step.t.shape, generator=step.generator).to(step.t)
        t_end = 0.9 * share * step.t
        x, times = step.x_t, [torch.lerp(step.t, t_end, k / self.legs) for k in range(self.legs + 1)]
        for t, t_next in pairwise(times):
            x = jump(x, step.teacher(x, t, self.cfg_strength), t, t_next, step.layout)
        aim = (step.x_t - x) / step.layout.expand(step.t - t_end)
        error = step.student(step.x_t, step.t, t_end) - aim
        value = per_sample_mean(step.layout, error.square())
        return Loss(value, {"rms_error": rms(step.layout, error.detach()).mean()})

    def sampler(self, n_steps: int) -> Sampler:
        return Stirred(n_steps, self.rescale_t)

    def cost(self) -> float:
        return 2 * self.legs + 3  # teacher with and without condition, student, its backward pass (2)
