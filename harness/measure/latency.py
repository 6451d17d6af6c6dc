"""Seconds per asset, as a measurement of its own: one process, nothing beside it, cells by turns.

What a cell costs follows from its sampler, not from whose weights the networks have: students copy the teacher.
So each way of sampling is timed once, with the teacher's networks, on the first test asset. The encoding of the picture
is not in the seconds; loading and pictures are not either.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...base.errors import AssetError
from ...base.files import digest_of
from ...flow.samplers import Sampler
from ...render.appearance import coarse_coords
from ...trellis.slat_pipeline import SlatPipeline
from ..engine.device import clock
from ..engine.jobs import OneResult
from ..engine.store import Arrays
from ..generate.made import Decoded, condition, sampled
from ..inputs.cells import one_voxels
from ..inputs.subjects import Subject, conditioning_images
from ..inputs.world import World, load_cached
from ..protocol.rules import noise_seed
from ..protocol.values import Stage, Values

VERSION = 2  # part of every address: raise it when something else is timed
DECODE = "decode"


Ways = Mapping[str, tuple[Stage, Sampler]]  # by name, the stage and the sampler


def way(stage: Stage, sampler: Sampler) -> str:
    """Name of a way of sampling: equal ones cost the same."""
    return digest_of([stage, asdict(sampler.computation())])[:16]


@dataclass(frozen=True)
class LatencyJob(OneResult):
    """repeats [n] seconds by name of a way; of decoding a whole asset under `DECODE`.

    Attributes:
        ways: by name, the stage and the sampler. reference: makes the structure that the second stage is timed on.
        whole: whether the second stage is timed too; some way is of it then.
        machine: name of the device: seconds of another are no seconds of this one.
    """

    root: Path
    world: Path
    device: str
    machine: str
    networks_sha: str
    ways: Ways
    reference: Sampler
    subject: Subject
    values: Values
    whole: bool

    kind, entry, networks, alone, label = "scores", "seconds", True, True, "seconds, alone on the machine"

    @property
    def inputs(self) -> dict[str, Any]:
        speed = self.values.speed
        inputs = {
            "version": VERSION,
            "ways": sorted(self.ways),
            "reference": way("structure", self.reference),
            "networks": self.networks_sha,
            "machine": self.machine,
            "asset": self.subject.key,
            "repeats": [speed.warm_up, speed.repeats],
            "whole": self.whole,
            "torch": torch.__version__,
        }
        return inputs

    def result(self) -> Arrays:
        world, speed = load_cached(self.world, self.device), self.values.speed
        todo = self._todo(world)
        seconds: dict[str, list[float]] = {name: [] for name in todo}
        for turn in range(speed.warm_up + speed.repeats):
            for name, work in todo.items():
                started = clock(world.structure.device)
                work()
                if turn >= speed.warm_up:
                    seconds[name].append(clock(world.structure.device) - started)
        return {name: np.array(values) for name, values in seconds.items()}

    def _todo(self, world: World) -> dict[str, Callable[[], object]]:
        """What is timed, by name. Of a structure that is empty there is no second stage to time."""
        images = conditioning_images([self.subject])
        cond = condition(world.structure, images)
        todo: dict[str, Callable[[], object]] = {
            name: partial(self._structure, world, cond, sampler) for name, sampler in self._of("structure")
        }
        if not self.whole:
            return todo
        grid = self._structure(world, cond, self.reference)[0].cpu().numpy()
        coords = coarse_coords(grid, world.whole.resolution)
        if not len(coords):
            return todo
        cond = condition(world.whole, images[0])
        second = {name: partial(self._slat, world, cond, coords, sampler) for name, sampler in self._of("slat")}
        latents = next(iter(second.values()))().cpu().numpy()
        decode = partial(_decode, world.whole, coords, latents)
        try:
            decode()
        except AssetError:  # there is no surface, and nothing that would take the usual time
            return {**todo, **second}
        return {**todo, **second, DECODE: decode}

    def _of(self, stage: Stage) -> list[tuple[str, Sampler]]:
        return [(name, sampler) for name, (of, sampler) in self.ways.items() if of == stage]

    def _structure(self, world: World, cond: Tensor, sampler: Sampler) -> Tensor:
        pipeline = world.structure
        made, _ = sampled(pipeline, pipeline.flow, sampler, cond, pipeline.layout(1), [self._seed("structure")])
        return pipeline.decode(made)

    def _slat(self, world: World, cond: Tensor, coords: NDArray[np.int32], sampler: Sampler) -> Tensor:
        pipeline = world.whole
        layout = pipeline.layout(one_voxels(coords).to(pipeline.device))
        return sampled(pipeline, pipeline.flow, sampler, cond, layout, [self._seed("slat")])[0]

    def _seed(self, stage: Stage) -> int:
        return noise_seed(self.values, self.subject.identity, 0, stage)

    def read(self) -> dict[str, tuple[float, float]]:
        """Median and standard deviation by way, when it is done."""
        arrays = self.place.get()
        spread = {name: float(values.std(ddof=1)) if len(values) > 1 else 0.0 for name, values in arrays.items()}
        return {name: (float(np.median(values)), spread[name]) for name, values in arrays.items()}


def _decode(pipeline: SlatPipeline, coords: NDArray[np.int32], latents: NDArray[np.float32]) -> None:
    """By both decoders. Raises AssetError: there is no surface."""
    asset = Decoded(pipeline, coords, latents)
    _ = asset.gaussians, asset.mesh
