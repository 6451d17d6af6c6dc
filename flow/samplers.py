"""From noise to data in a few steps. All samplers agree when they take one step.

A sampler gets a guided velocity `v(x, t, cfg_strength)`; distilled students are sampled with cfg_strength 0,
because guidance was distilled into them. Source of the formulas: TRELLIS
(`FlowEulerGuidanceIntervalSampler`) and of consistency models (Song et al., 2023, Algorithm 1).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Protocol, cast, runtime_checkable

import torch
from torch import Tensor

from ..base.errors import unknown_name
from .guidance import GuidedFlowMap, GuidedVelocity
from .layout import Layout
from .times import sampling_times


@dataclass(frozen=True)
class Computation:
    """What a sampler does, whatever it is called: equal computations turn the same noise into the same bits.

    Attributes:
        times: the steps + 1 times visited, from 1 to 0.
        strengths: guidance strength of each step.
        fresh_noise: whether a step begins from new noise, and not from where the last one ended.
    """

    times: tuple[float, ...]
    strengths: tuple[float, ...]
    fresh_noise: bool = False


@dataclass(frozen=True)
class Jumps(Computation):
    """Of a student that is told where each of its steps ends."""

    to_next: bool = True


@runtime_checkable
class Sampler(Protocol):
    """What turns noise into data. A method may have one of its own: these four are all that is asked of it.

    Attributes:
        name: as in `SAMPLERS` for those that are there.
        steps: network evaluations of a student, one after the other.
    """

    name: ClassVar[str]

    @property
    def steps(self) -> int: ...

    def computation(self) -> Computation:
        """What it does, under no name: cells whose computations are equal are made once."""
        ...

    def sample(
        self, velocity: GuidedVelocity, noise: Tensor, layout: Layout, generators: Sequence[torch.Generator]
    ) -> Tensor:
        """x_0 from noise; `generators` (one, or one per sample) feed the samplers that draw fresh noise."""
        ...

    def note(self) -> str:
        """What a reader of the table must know about this use of the sampler; usually empty."""
        ...


@dataclass(frozen=True)
class Euler:
    """TRELLIS' sampler. Guidance acts while cfg_interval[0] <= t <= cfg_interval[1].

    Biased for a perfect few-step student beyond one step: its output is an average velocity, not a velocity.
    """

    name: ClassVar[str] = "euler"
    steps: int
    rescale_t: float = 1.0
    cfg_strength: float = 0.0
    cfg_interval: tuple[float, float] = (0.0, 1.0)

    def computation(self) -> Computation:
        times = sampling_times(self.steps, self.rescale_t)
        low, high = self.cfg_interval
        return Computation(tuple(times), tuple(self.cfg_strength if low <= t <= high else 0.0 for t in times[:-1]))

    def sample(
        self, velocity: GuidedVelocity, noise: Tensor, layout: Layout, generators: Sequence[torch.Generator]
    ) -> Tensor:
        del generators
        x, what = noise, self.computation()
        for (t, t_next), strength in zip(pairwise(what.times), what.strengths, strict=True):
            x = x - (t - t_next) * velocity(x, _batch_of(t, x, layout), strength)
        return x

    def note(self) -> str:
        return ""


@dataclass(frozen=True)
class Renoise:
    """Jump to the data, add fresh noise of the next time, jump again (multistep consistency sampling).

    made_for: the one number of steps that the student was trained for; 0: it may take any.
    """

    name: ClassVar[str] = "renoise"
    steps: int
    rescale_t: float = 1.0
    made_for: int = 0

    def computation(self) -> Computation:
        times = sampling_times(self.steps, self.rescale_t)
        return Computation(tuple(times), (0.0,) * self.steps, fresh_noise=self.steps > 1)

    def sample(
        self, velocity: GuidedVelocity, noise: Tensor, layout: Layout, generators: Sequence[torch.Generator]
    ) -> Tensor:
        return renoised(velocity, noise, layout, generators, sampling_times(self.steps, self.rescale_t))

    def note(self) -> str:
        if self.made_for in (0, self.steps):
            return ""
        return f"{self.steps} step(s) of a student trained for {self.made_for}: out of its design"


@dataclass(frozen=True)
class Phase:
    """Deterministic jumps from phase edge to phase edge (phased consistency models).

    With `steps` = `phases` every jump is one that was trained. Fewer steps leap over edges: out of design.
    """

    name: ClassVar[str] = "phase"
    steps: int
    phases: int
    rescale_t: float = 1.0

    def computation(self) -> Computation:
        return Euler(self.steps, self.rescale_t).computation()

    def sample(
        self, velocity: GuidedVelocity, noise: Tensor, layout: Layout, generators: Sequence[torch.Generator]
    ) -> Tensor:
        return Euler(self.steps, self.rescale_t).sample(velocity, noise, layout, generators)

    def note(self) -> str:
        if self.steps == self.phases:
            return ""
        return f"{self.steps} step(s) of a student trained for {self.phases} phases: out of its design"


@dataclass(frozen=True)
class FlowMap:
    """Jumps of a student with two times, each told where it ends: x <- x - (t - t_next) phi(x, t, t_next).

    Exact for a perfect student at any number of steps. A network with one time is stepped as by Euler.
    Source: AYF (arXiv:2506.14603) and MeanFlow (arXiv:2505.13447).
    """

    name: ClassVar[str] = "flow_map"
    steps: int
    rescale_t: float = 1.0

    def computation(self) -> Computation:
        times = tuple(sampling_times(self.steps, self.rescale_t))
        # One jump to the data is what every student is asked for when nothing else is said.
        return (Jumps if self.steps > 1 else Computation)(times, (0.0,) * self.steps)

    def sample(
        self, velocity: GuidedVelocity, noise: Tensor, layout: Layout, generators: Sequence[torch.Generator]
    ) -> Tensor:
        del generators
        x, jump_to = noise, cast(GuidedFlowMap, velocity)
        for t, t_next in pairwise(sampling_times(self.steps, self.rescale_t)):
            ends = _batch_of(t_next, x, layout)
            x = x - (t - t_next) * jump_to(x, _batch_of(t, x, layout), 0.0, ends)
        return x

    def note(self) -> str:
        return ""


def renoised(
    velocity: GuidedVelocity,
    noise: Tensor,
    layout: Layout,
    generators: Sequence[torch.Generator],
    times: Sequence[float],
) -> Tensor:
    """Jump to the data from each of the `times` (from 1 to 0), with fresh noise of the next one in between.

    Raises:
        ValueError: there is no time to jump from.
    """
    x_t = noise
    for t, t_next in pairwise(times):
        x_0 = x_t - t * velocity(x_t, _batch_of(t, noise, layout), 0.0)
        if t_next == 0:
            return x_0
        x_t = (1 - t_next) * x_0 + t_next * layout.randn(generators)
    raise ValueError("a sampler needs at least one step")


def _batch_of(t: float, x: Tensor, layout: Layout) -> Tensor:
    return torch.full((layout.batch_size,), t, dtype=x.dtype, device=x.device)


@dataclass(frozen=True)
class SamplerEntry:
    """A sampler that any student can be sampled with. make: from the number of steps and rescale_t."""

    make: Callable[[int, float], Sampler]
    summary: str


SAMPLERS: dict[str, SamplerEntry] = {
    "euler": SamplerEntry(Euler, "straight steps along the output; biased for a perfect student beyond one step"),
    "renoise": SamplerEntry(Renoise, "jump to the data, add fresh noise, jump again; exact for a perfect student"),
    "phase": SamplerEntry(
        lambda steps, rescale_t: Phase(steps, steps, rescale_t), "pcm's own: computes what euler does, on phase edges"
    ),
    "flow_map": SamplerEntry(
        FlowMap, "jumps that are told where they end; exact for a perfect student with two times, euler for one"
    ),
}


def sampler_of(name: str, steps: int, rescale_t: float) -> Sampler:
    """Raises UsageError for a name that is not in `SAMPLERS`."""
    if name not in SAMPLERS:
        raise unknown_name("sampler", name, SAMPLERS)
    return SAMPLERS[name].make(steps, rescale_t)
