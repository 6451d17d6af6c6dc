"""What students are distilled on: batches, and how networks are bound to a batch's condition."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from ...base.errors import UsageError
from ...base.seeds import seed_of
from ...flow.guidance import Guided, SharedTeacher, Velocity
from ...flow.layout import Layout
from ...flow.path import diffuse
from ...flow.times import TimeDensity
from ...trellis.pipeline import StructurePipeline
from ...trellis.precision import widened
from ...trellis.slat_pipeline import SlatPipeline
from ..engine.device import clock
from ..protocol.values import Stage
from ..settings.config import Precision
from .ahead import Ahead
from .batch import Batch
from .data import Data, Samples
from .parts import WHOLE, Part, share_of

BATCHES: dict[Stage, str] = {"structure": "batch", "slat": "slat batch"}  # names of draws
HALF = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class Task(Protocol):
    """A teacher and the data that its students learn on."""

    def draw(self, seed: int, index: int, part: Part = WHOLE) -> Batch:
        """A part of a training step's batch: a function of these arguments alone, the same whatever the device."""
        ...

    def student(self) -> nn.Module:
        """A new network with the teacher's weights."""
        ...

    def bind(self, network: Callable[..., Tensor], batch: Batch) -> Velocity:
        """Velocity of a student's network under a batch's condition."""
        ...

    def teacher(self, batch: Batch) -> Guided:
        """The guided teacher under a batch's condition."""
        ...


@dataclass
class Point:
    """Where on the path a batch is looked at: t [B], x_t, and the teacher, whose pair at (x_t, t) is kept.

    pair_s: seconds that the pair took; 0 while nobody has asked for it.
    """

    t: Tensor
    x_t: Tensor
    teacher: SharedTeacher
    pair_s: float = 0.0


class ChargedTeacher:
    """A point's teacher for one student, guided at the times of the student's method.

    Attributes:
        owed_s: seconds of the kept pair where another student asked first. So a student's time in a training together
            is what it would be alone, whatever the order of the students.
    """

    def __init__(self, point: Point, layout: Layout, cfg_interval: tuple[float, float]):
        self._point = point
        self._layout = layout
        self._interval = cfg_interval
        self._asked = False
        self.owed_s = 0.0

    def __call__(self, x: Tensor, t: Tensor, cfg_strength: float) -> Tensor:
        point, strength = self._point, self._strength(t, cfg_strength)
        if self._asked or x is not point.x_t or t is not point.t:
            return point.teacher(x, t, strength)
        self._asked, started = True, clock(x.device)
        v = point.teacher(x, t, strength)
        if point.pair_s:
            self.owed_s = point.pair_s
        else:
            point.pair_s = clock(x.device) - started
        return v

    def attached(self, x: Tensor, t: Tensor, cfg_strength: float) -> Tensor:
        """With the gradient to x."""
        return self._point.teacher.attached(x, t, self._strength(t, cfg_strength))

    def _strength(self, t: Tensor, cfg_strength: float) -> float | Tensor:
        """Of each sample at its own time; a number where guidance acts at all times."""
        low, high = self._interval
        if low <= 0 and high >= 1:
            return cfg_strength
        return self._layout.expand(cfg_strength * ((low <= t) & (t <= high)).to(t.dtype))


@dataclass
class Points:
    """The points of a batch, one per time density: methods of equal density share the teacher's pair there."""

    batch: Batch
    teacher: Guided
    t_min: float
    _known: dict[TimeDensity, Point] = field(default_factory=dict)

    def at(self, density: TimeDensity) -> Point:
        if density not in self._known:
            batch = self.batch
            t = density.times(batch.u, self.t_min)
            x_t = diffuse(batch.x_0, batch.noise, t, batch.layout)
            self._known[density] = Point(t, x_t, SharedTeacher(self.teacher, x_t, t))
        return self._known[density]


def student_of(teacher: nn.Module) -> nn.Module:
    """A copy with all parameters in at least float32: an update of 1e-8 is lost in the weights of a float16 torso."""
    network = copy.deepcopy(teacher)
    for parameter in network.parameters():
        parameter.data = widened(parameter.data)
    return network


def in_precision(network: nn.Module, precision: Precision) -> nn.Module:
    """The network for autocast in `precision`: a copy with that dtype where its torso has the other half precision.

    Autocast mixes float32 with either of them, and refuses to mix the two.
    """
    other = {"bfloat16": torch.float16, "float16": torch.bfloat16}.get(precision)
    if all(parameter.dtype != other for parameter in network.parameters()):
        return network
    made = copy.deepcopy(network)
    for parameter in made.parameters():
        if parameter.dtype == other:
            parameter.data = parameter.data.to(HALF[precision])
    return made


@dataclass(frozen=True)
class StageTask:
    """A stage of a world: latents under image conditions. Batches are drawn of `data`.

    Attributes:
        precision: that the teacher computes in beside its students. compiled: whether its blocks are, as theirs.
    """

    name: Stage
    pipeline: StructurePipeline | SlatPipeline
    data: Data
    batch_size: int
    precision: Precision = "float32"
    compiled: bool = False

    @cached_property
    def _teacher(self) -> nn.Module:
        network = in_precision(self.pipeline.flow, self.precision)
        if not self.compiled:
            return network
        own = copy.deepcopy(network)  # what is generated with the pipeline's must not hang on what was trained before
        compile_blocks(own)
        return own

    @cached_property
    def _ahead(self) -> Ahead[tuple[Samples, Tensor, Tensor]]:
        return Ahead()

    def draw(self, seed: int, index: int, part: Part = WHOLE) -> Batch:
        samples, noise, u = self._ahead.value(lambda step: self._drawn(seed, step, part), (seed, part), index)
        share = share_of(part.samples(self.batch_size), self.batch_size)
        return Batch(samples.x_0, noise, u, self.pipeline.condition(samples.images), samples.layout, share)

    def _drawn(self, seed: int, index: int, part: Part) -> tuple[Samples, Tensor, Tensor]:
        """Samples, noise and u of a part: all of its batch that no network makes."""
        source = np.random.Generator(np.random.PCG64(seed_of(BATCHES[self.name], seed, index)))
        tensors = torch.Generator().manual_seed(seed_of(f"{BATCHES[self.name]} noise", seed, index, *part.words))
        samples = self.data.drawn(self.batch_size, source, part.samples(self.batch_size))
        noise = samples.layout.randn([tensors])
        return samples, noise, torch.rand(samples.layout.batch_size, generator=tensors)

    def student(self) -> nn.Module:
        return student_of(self.pipeline.flow)

    def bind(self, network: Callable[..., Tensor], batch: Batch) -> Velocity:
        return self.pipeline.bind(network, batch.cond, batch.layout)

    def teacher(self, batch: Batch) -> Guided:
        return self.pipeline.velocity(self._teacher, batch.cond, batch.layout)


def compile_blocks(network: nn.Module) -> None:
    """Compile the transformer blocks of `network` when they are first called; weights and their names stay.

    Raises:
        UsageError: it has none.
    """
    blocks = getattr(network, "blocks", ())
    if not len(blocks):
        raise UsageError(f"train.compile_blocks: a {type(network).__name__} has no `blocks`. Set it to false.")
    for block in blocks:
        block.compile()


@contextmanager
def autocast(x: Tensor, precision: Precision) -> Iterator[None]:
    """Linear layers, convolutions and attention in `precision`; weights stay as they are."""
    if precision == "float32":
        yield
        return
    # No cache of cast weights: within a call none is used twice, and one made under a JVP must not outlive it.
    with torch.autocast(x.device.type, HALF[precision], cache_enabled=False):
        yield


def lowered(velocity: Callable[..., Tensor], precision: Precision) -> Callable[..., Tensor]:
    """A velocity computed in `precision` and returned in float32, so that differences of two are float32 too."""
    if precision == "float32":
        return velocity

    def half(x: Tensor, *times: Tensor) -> Tensor:
        with autocast(x, precision):
            return velocity(x, *times).float()

    return half


def lowered_teacher(teacher: Guided, precision: Precision) -> Guided:
    """As `lowered`, for a guided velocity."""
    if precision == "float32":
        return teacher

    def pair(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        with autocast(x, precision):
            v_cond, v_neg = teacher.pair(x, t)
        return v_cond.float(), v_neg.float()

    return Guided(lowered(lambda x, t: teacher(x, t, 0.0), precision), pair)
