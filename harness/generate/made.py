"""What a cell makes: latents of both stages, a shard of test assets at a time, each asset from its own noise.

Nothing but latents is kept: the decoders make pictures, points and files of them when somebody looks.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ...base.errors import AssetError
from ...base.files import digest_of
from ...flow.layout import Layout
from ...flow.samplers import Sampler
from ...geometry.gaussians import Gaussians
from ...geometry.mesh import Mesh
from ...render.appearance import coarse_coords
from ...trellis.end_time import add_end_time, has_end_time
from ...trellis.pipeline import StructurePipeline
from ...trellis.slat_pipeline import SlatPipeline
from ...trellis.sparse import Voxels
from ...trellis.weights import check_fit, read_tensors
from ..engine.files import load_tensors
from ..engine.jobs import Job, OneResult
from ..engine.store import Arrays
from ..inputs.cells import one_voxels, ragged
from ..inputs.subjects import Subject, conditioning_images
from ..inputs.world import load_cached
from ..protocol.rules import SHA256, noise_seed
from ..protocol.values import Stage, Values
from ..settings.contract import own_or_checked
from ..settings.methods import code_digest

SHARD = 16  # assets per entry: what an interruption can lose, per worker
VERSION = 2  # part of every address: raise it when what is made changes
EMPTY, NOT_FINITE = "the structure is empty", "the latent is not finite"


@dataclass(frozen=True)
class Maker:
    """Networks and where they are: the teacher's, or a student's in their place.

    Attributes:
        networks_sha: identity of the teacher's networks and of how they round.
        weights: file of the student's; None: the teacher. student: its identity.
    """

    world: Path
    device: str
    networks_sha: str
    stage: Stage
    weights: Path | None
    student: str
    sampler: Sampler

    @property
    def key(self) -> list[object]:
        computation = self.sampler.computation()
        sampled = {field.name: getattr(computation, field.name) for field in fields(computation)}
        return [self.networks_sha, self.stage, self.student, sampled, code_digest(self.sampler)]

    @property
    def affinity(self) -> str:
        """Of jobs that use these networks."""
        return digest_of([self.networks_sha, self.stage, self.student])

    @property
    def pipeline(self) -> StructurePipeline | SlatPipeline:
        return load_cached(self.world, self.device).stage(self.stage)

    @property
    def network(self) -> nn.Module:
        if self.weights is None:
            return self.pipeline.flow
        return _distilled(self.world, self.device, self.stage, self.weights, self.student)


@dataclass(frozen=True)
class StructuresJob(OneResult):
    """Structures of some test assets: latents [n, C, r, r, r], occupancy [n, R, R, R], ok [n], nfe.

    Attributes:
        seed: generation seed; with the asset it decides the noise, whatever the method.
        batch: assets handed to the networks at a time on a GPU; see `microbatches`.
    """

    root: Path
    maker: Maker
    subjects: tuple[Subject, ...]
    values: Values
    seed: int
    batch: int

    kind = entry = label = "structures"
    networks = True

    @property
    def units(self) -> int:
        return len(self.subjects)

    @property
    def affinity(self) -> str:  # type: ignore[override]
        return self.maker.affinity

    @property
    def seeds(self) -> list[int]:
        """Of the noise of each asset."""
        return [noise_seed(self.values, one.identity, self.seed, "structure") for one in self.subjects]

    @property
    def inputs(self) -> dict[str, Any]:
        shown = [[*one.key, seed] for one, seed in zip(self.subjects, self.seeds, strict=True)]
        batch = 1 if self.maker.device == "cpu" else self.batch
        return {"version": VERSION, "maker": self.maker.key, "shown": shown, "batch": batch}

    def result(self) -> Arrays:
        pipeline, images = self.maker.pipeline, conditioning_images(self.subjects)
        assert isinstance(pipeline, StructurePipeline)
        latents, occupancy, nfe = [], [], 0
        for rows in microbatches(len(self.subjects), self.batch, pipeline.device):
            made, nfe = structures(pipeline, self.maker.network, self.maker.sampler, images[rows], self.seeds[rows])
            latents.append(made.cpu())
            occupancy.append(pipeline.decode(made).cpu())
        stacked = torch.cat(latents)
        ok = torch.isfinite(stacked).flatten(1).all(1).numpy()
        return {
            "latents": torch.nan_to_num(stacked).numpy(),
            "occupancy": torch.cat(occupancy).numpy() & ok[:, None, None, None],
            "ok": ok,
            "nfe": np.array(nfe),
        }


@dataclass(frozen=True)
class AssetsJob(OneResult):
    """The second stage on structures: counts [n], coords [M, 3], latents [M, C], errors [n], nfe of this stage.

    One asset at a time, so that no bit depends on how the work is split.

    Attributes:
        structures: whose first assets these are.
    """

    root: Path
    maker: Maker
    structures: StructuresJob
    subjects: tuple[Subject, ...]
    values: Values
    seed: int

    kind = entry = label = "assets"
    networks = True

    @property
    def units(self) -> int:
        return len(self.subjects)

    @property
    def needs(self) -> tuple[Job, ...]:
        return (self.structures,)

    @property
    def affinity(self) -> str:  # type: ignore[override]
        return self.maker.affinity

    @property
    def seeds(self) -> list[int]:
        """Of the noise of each asset."""
        return [noise_seed(self.values, one.identity, self.seed, "slat") for one in self.subjects]

    @property
    def inputs(self) -> dict[str, Any]:
        structure = self.structures.place.digest
        return {"version": VERSION, "maker": self.maker.key, "structures": structure, "seeds": self.seeds}

    def result(self) -> Arrays:
        pipeline, made = self.maker.pipeline, self.structures.place.get()
        assert isinstance(pipeline, SlatPipeline)
        images, nfe = conditioning_images(self.subjects), 0
        coords, latents, errors = [], [], []
        for i, seed in enumerate(self.seeds):
            cells = coarse_coords(made["occupancy"][i], pipeline.resolution)
            found = torch.zeros(0, pipeline.flow.in_channels)
            if len(cells):
                found, nfe = slat(pipeline, self.maker.network, self.maker.sampler, cells, images[i], seed)
            finite = bool(torch.isfinite(found).all())
            errors.append(_error(bool(made["ok"][i]), len(cells), finite))
            coords.append(cells)
            latents.append(torch.nan_to_num(found).cpu().numpy())
        return packed(coords, latents, errors, nfe)


def packed(
    coords: Sequence[NDArray[np.int32]], latents: Sequence[NDArray[np.float32]], errors: Sequence[str], nfe: int
) -> Arrays:
    """The result of an `AssetsJob` from that of each asset."""
    return {
        "counts": np.array([len(cells) for cells in coords], np.int64),
        "coords": np.concatenate(coords),
        "latents": np.concatenate(latents),
        "errors": np.array(errors, str),
        "nfe": np.array(nfe),
    }


@dataclass(frozen=True)
class Decoded:
    """One asset's latents [N, C] on its cells [N, 3], and what the decoders make of them when it is asked for."""

    pipeline: SlatPipeline
    coords: NDArray[np.int32]
    latents: NDArray[np.float32]

    @cached_property
    def gaussians(self) -> Gaussians:
        """Raises AssetError when numbers are not finite."""
        [made] = self.pipeline.gaussians(*self._given)
        if not all(np.isfinite(getattr(made, field.name)).all() for field in fields(made)):
            raise AssetError("the decoded Gaussians are not finite")
        return made

    @cached_property
    def mesh(self) -> Mesh:
        """Raises AssetError when there is no surface, or numbers are not finite."""
        [mesh] = self.pipeline.meshes(*self._given)
        if not np.isfinite(mesh.corner_rgba).all():
            raise AssetError("the colours of the decoded mesh are not finite")
        return mesh

    @property
    def _given(self) -> tuple[Tensor, Voxels]:
        device = self.pipeline.device
        return torch.from_numpy(self.latents).to(device), one_voxels(self.coords).to(device)


def _error(structure_ok: bool, count: int, finite: bool) -> str:
    if not structure_ok:
        return "the latent of the structure is not finite"
    if not count:
        return EMPTY
    return "" if finite else "the latent of the second stage is not finite"


def decoded_assets(world: Path, device: str, made: Arrays) -> Iterator[Decoded | str]:
    """The assets of an `AssetsJob` one after the other; in place of a failed one, why."""
    pipeline = load_cached(world, device).whole
    for rows, error in zip(ragged(made["counts"]), made["errors"], strict=True):
        yield str(error) if error else Decoded(pipeline, made["coords"][rows], made["latents"][rows])


def structures(
    pipeline: StructurePipeline, network: nn.Module, sampler: Sampler, images: NDArray[np.uint8], seeds: Sequence[int]
) -> tuple[Tensor, int]:
    """Latents [B, C, r, r, r] for pictures [B, S, S, 3], and the forward passes that each took."""
    layout = pipeline.layout(len(seeds))
    return sampled(pipeline, network, sampler, condition(pipeline, images), layout, seeds)


def slat(
    pipeline: SlatPipeline,
    network: nn.Module,
    sampler: Sampler,
    coords: NDArray[np.int32],
    image: NDArray[np.uint8],
    seed: int,
) -> tuple[Tensor, int]:
    """Latents [n, C] on the cells [n, 3] of one structure, and the forward passes that they took."""
    layout = pipeline.layout(one_voxels(coords).to(pipeline.device))
    return sampled(pipeline, network, sampler, condition(pipeline, image), layout, [seed])


def condition(pipeline: StructurePipeline | SlatPipeline, images: NDArray[np.uint8]) -> Tensor:
    """Tokens of pictures [B, S, S, 3], or of one [S, S, 3]. Their strides differ, by which convolutions round."""
    given = torch.from_numpy(images)
    return pipeline.condition(given.permute(2, 0, 1)[None] if given.ndim == 3 else given.permute(0, 3, 1, 2))


@torch.inference_mode()
def sampled(
    pipeline: StructurePipeline | SlatPipeline,
    network: nn.Module,
    sampler: Sampler,
    cond: Tensor,
    layout: Layout,
    seeds: Sequence[int],
) -> tuple[Tensor, int]:
    """Latents under a condition, each from the noise of its seed, and the forward passes that each took."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    velocity = pipeline.velocity(network, cond, layout)
    noise = layout.randn(generators)
    return own_or_checked(sampler, noise, lambda: sampler.sample(velocity, noise, layout, generators)), velocity.nfe


def microbatches(count: int, batch: int, device: torch.device) -> Iterator[slice]:
    """Rows that go through the networks together.

    On a CPU always one: the rounding of a matrix product depends on its number of rows, and a result must not
    depend on the batch size.
    """
    size = 1 if device.type == "cpu" else batch
    yield from (slice(i, min(i + size, count)) for i in range(0, count, size))


@lru_cache(maxsize=2)
def _distilled(world: Path, device: str, stage: Stage, weights: Path, student: str) -> nn.Module:
    published = SHA256.fullmatch(student)  # the file's, which was compared when the run began
    flow = load_cached(world, device).stage(stage).flow
    return with_weights(flow, weights, read_tensors if published else load_tensors)


def with_weights(
    teacher: nn.Module, weights: Path, read: Callable[[Path], Mapping[str, Tensor]] = read_tensors
) -> nn.Module:
    """A copy of a teacher with a student's weights. Raises MissingError when they do not fit."""
    network, tensors = copy.deepcopy(teacher), read(weights)
    if has_end_time(tensors):
        add_end_time(network)
    check_fit(weights, network, tensors)
    network.load_state_dict(tensors)
    return network.eval()
