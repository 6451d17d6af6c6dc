"""What a family of problems with a known law offers, so that one runner trains and examines students on any of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ...base.seeds import seed_of
from ...flow.guidance import Guided, GuidedVelocity, Velocity
from ...flow.layout import DenseLayout
from ...flow.samplers import Sampler
from ..train.batch import Batch
from ..train.parts import WHOLE, Part, cut


@dataclass(frozen=True)
class Measure:
    """A metric of an exam. mapped: needs to know where a sample's own noise was taken to, so no fresh noise."""

    higher_is_better: bool
    unit: str = ""
    mapped: bool = False


class Family(Protocol):
    """P problems that train as one task: every batch holds P equal parts, one per problem.

    Attributes:
        names: of the problems.
        measures: by metric, in the order in which they are shown.
        identity: what decides results beside the configuration, as JSON.
        dim: D, numbers per sample.
    """

    @property
    def names(self) -> tuple[str, ...]: ...
    @property
    def measures(self) -> Mapping[str, Measure]: ...
    @property
    def identity(self) -> Sequence[Any]: ...
    @property
    def dim(self) -> int: ...

    def strength(self, name: str) -> float:
        """Guidance strength of the problem's teacher; 0 of one without guidance."""
        ...

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """`count` data of each problem without guidance, with their classes: [P count, D], [P count]."""
        ...

    def questions(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Noise and classes of an exam, `count` of each problem: [P count, D], [P count]."""
        ...

    def ends(self, noise: Tensor, classes: Tensor) -> Tensor:
        """Where the guided teacher's own flow takes noise: [P n, D] -> [P n, D]."""
        ...

    def student(self, seed: int) -> nn.Module:
        """A new student, which starts as the teacher: network(x, t, classes), with t_end after `add_end_time`."""
        ...

    def teacher(self, classes: Tensor) -> Guided: ...

    def scores(self, samples: Tensor, classes: Tensor, ends: Tensor | None) -> list[dict[str, float]]:
        """Of each problem, by metric. samples: [P n, D]. ends: None when fresh noise was drawn on the way."""
        ...

    def floor(self, classes: Tensor) -> list[dict[str, float]]:
        """Scores of exact data of these classes."""
        ...

    def panels(self, samples: Tensor, classes: Tensor, ends: Tensor) -> list[NDArray[np.uint8]]:
        """A picture per problem of what one step does."""
        ...


@dataclass(frozen=True)
class Exam:
    """The same noise, classes and exact answers for every student. noise, ends: [P n, D], classes: [P n]."""

    family: Family
    noise: Tensor
    classes: Tensor
    ends: Tensor

    def sample(self, velocity: GuidedVelocity, sampler: Sampler) -> Tensor:
        """[P n, D]. Fresh noise is the same for every student."""
        generator = torch.Generator().manual_seed(seed_of("oracle fresh noise"))
        return sampler.sample(velocity, self.noise, DenseLayout(tuple(self.noise.shape)), [generator])

    def scores(self, samples: Tensor, mapped: bool) -> list[dict[str, float]]:
        """mapped: each sample is where its own noise was taken to, without fresh noise."""
        return self.family.scores(samples, self.classes, self.ends if mapped else None)

    def velocity(self, network: nn.Module | None) -> GuidedVelocity:
        """Of a student's network, or of the teacher."""
        if network is None:
            return self.family.teacher(self.classes)
        return lambda x, t, cfg_strength, *t_end: network.eval()(x, t, self.classes, *t_end)


@dataclass(frozen=True)
class LawTask:
    """`batch_size` samples of each problem per step. seed: of the students' starting weights."""

    family: Family
    batch_size: int
    seed: int

    def draw(self, seed: int, index: int, part: Part = WHOLE) -> Batch:
        """Data of the classes as they are, without guidance: distillation has no other data."""
        generator = torch.Generator().manual_seed(seed_of("oracle batch", seed, index))
        x_0, classes = self.family.draw(self.batch_size, generator)
        layout = DenseLayout(tuple(x_0.shape))
        noise = layout.randn([generator])
        return cut(Batch(x_0, noise, torch.rand(len(x_0), generator=generator), classes, layout), part)

    def student(self) -> nn.Module:
        return self.family.student(seed_of("oracle student", self.seed))

    def bind(self, network: Callable[..., Tensor], batch: Batch) -> Velocity:
        return lambda x, t, *t_end: network(x, t, batch.cond, *t_end)

    def teacher(self, batch: Batch) -> Guided:
        return self.family.teacher(batch.cond)
