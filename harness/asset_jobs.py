"""What a worker process does for whole assets: encode cells, look at references, assemble. As in `jobs`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ..flow.samplers import Sampler
from ..metrics.contract import WholeAssets
from .appearance import Appearances
from .assemble import Assembled, assemble, one_voxels, reassemble, seen
from .config import Train
from .jobs import load_cached, load_generated, with_weights
from .pool import tick
from .references import embed_pictures
from .slat_task import SlatData, SlatTask
from .storage import load_arrays, save_arrays
from .world import SecondStage

ASSET_FIELDS = tuple(field.name for field in fields(WholeAssets))


@dataclass(frozen=True)
class SlatSet:
    """What students of the second stage are distilled on.

    images: [N, views, S, S, 3]; counts: [N] cells of each object; coords: [M, 3]; latents: files of all cells, in
    order.
    """

    world: Path
    train: Train
    images: NDArray[np.uint8]
    counts: NDArray[np.int64]
    coords: NDArray[np.int32]
    latents: tuple[Path, ...]
    device: str = "cpu"

    def task(self) -> SlatTask:
        world = load_cached(self.world, self.device)
        latents = torch.from_numpy(np.concatenate([load_arrays(path)["latents"] for path in self.latents]))
        data = SlatData(self.counts, self.coords, latents, self.images, world.file.window.share)
        return SlatTask(world.whole.pipeline, data, self.train.batch)


@dataclass(frozen=True)
class CellsJob:
    """Some objects' cells. seen: their appearance; pictures: [n, S, S, 3] whole conditioning pictures."""

    world: Path
    seen: Appearances
    pictures: NDArray[np.uint8]
    asset_ids: tuple[str, ...]
    path: Path
    device: str = "cpu"


@dataclass(frozen=True)
class AssembleJob:
    """Some assets of one cell. structures: file that starts with theirs; weights: of the student, None: the teacher."""

    world: Path
    structures: Path
    weights: Path | None
    sampler: Sampler
    images: NDArray[np.uint8]
    asset_ids: tuple[str, ...]
    seed: int
    path: Path
    device: str = "cpu"


def run_encode_cells(job: CellsJob) -> None:
    """Latents of cell features, one object at a time."""
    save_arrays(job.path, {"latents": np.concatenate(_encoded(job))})
    tick(len(job.asset_ids))


def run_asset_truth(job: CellsJob) -> None:
    """What the extractors see of assets themselves, and the embeddings of their conditioning pictures."""
    stage = load_cached(job.world, job.device).whole
    truth, pictures = truth_of_seen(stage, job.seen), embed_pictures(stage.dual, job.pictures)
    save_arrays(job.path, {**_arrays(truth), "picture_embedding": pictures})
    tick(len(job.asset_ids))


def truth_of_seen(stage: SecondStage, appearances: Appearances) -> WholeAssets:
    """Assets themselves, seen by the extractors: the views of their meshes stand for those of Gaussians too."""
    looks = [
        seen(stage, pictures, points) for pictures, points in zip(appearances.pictures, appearances.points, strict=True)
    ]
    features, embedding = (np.stack(part) for part in zip(*looks, strict=True))
    channels = stage.pipeline.flow.in_channels
    return WholeAssets(
        ok=np.ones(len(looks), bool),
        gaussian_features=features,
        mesh_features=features,
        embedding=embedding,
        counts=appearances.counts,
        coords=appearances.coords,
        latents=np.zeros((len(appearances.coords), channels), np.float32),
    )


def run_asset_reconstruction(job: CellsJob) -> None:
    """What the extractors see of assets that went through encoder and decoders."""
    coords = [job.seen.coords[job.seen.cells(i)] for i in range(len(job.asset_ids))]
    latents = [torch.from_numpy(latent) for latent in _encoded(job)]
    made = reassemble(load_cached(job.world, job.device).whole, list(zip(coords, latents, strict=True)), job.asset_ids)
    save_arrays(job.path, _arrays(made.assets))
    tick(len(job.asset_ids))


def run_assemble(job: AssembleJob) -> None:
    stage, structures = load_cached(job.world, job.device).whole, load_generated(job.structures)
    network = stage.pipeline.flow if job.weights is None else _distilled(job.world, job.device, job.weights)
    n = len(job.asset_ids)
    made = assemble(stage, network, job.sampler, structures.shapes.occupancy[:n], job.images, job.asset_ids, job.seed)
    save_assembled(job.path, made, structures.nfe[:n], structures.seconds[:n])
    tick(n)


def save_assembled(path: Path, made: Assembled, nfe: NDArray[np.int64], structure_s: NDArray[np.float64]) -> None:
    costs = {"nfe": made.nfe + nfe, "structure_s": structure_s, "slat_s": made.slat_s, "decode_s": made.decode_s}
    save_arrays(path, {**_arrays(made.assets), **costs, "errors": np.array(made.errors, str)})


@dataclass(frozen=True)
class AssembledCell:
    """What `run_assemble` left of all assets of a cell. nfe: [N], of both stages; times: [N] seconds per asset."""

    assets: WholeAssets
    nfe: NDArray[np.int64]
    seconds: dict[str, NDArray[np.float64]]
    errors: tuple[str, ...]


def load_assembled(paths: Sequence[Path]) -> AssembledCell:
    """All files of a cell, in order."""
    arrays = _joined([load_arrays(path) for path in paths])
    seconds = {name: arrays[name] for name in ("structure_s", "slat_s", "decode_s")}
    return AssembledCell(_assets(arrays), arrays["nfe"], seconds, tuple(str(error) for error in arrays["errors"]))


def load_assets(paths: Sequence[Path]) -> WholeAssets:
    """The assets of all files, in order."""
    return _assets(_joined([load_arrays(path) for path in paths]))


def load_picture_embedding(paths: Sequence[Path]) -> NDArray[np.float32]:
    return np.concatenate([load_arrays(path)["picture_embedding"] for path in paths])


def _encoded(job: CellsJob) -> list[NDArray[np.float32]]:
    pipeline, latents = load_cached(job.world, job.device).whole.pipeline, []
    for i in range(len(job.asset_ids)):
        cells = job.seen.cells(i)
        features = torch.from_numpy(job.seen.features[cells]).to(pipeline.device)
        voxels = one_voxels(job.seen.coords[cells]).to(pipeline.device)
        latents.append(pipeline.encode(features, voxels).cpu().numpy())
    return latents


@lru_cache(maxsize=2)
def _distilled(world: Path, device: str, weights: Path) -> torch.nn.Module:
    return with_weights(load_cached(world, device).whole.pipeline.flow, weights)


def _joined(parts: Sequence[dict[str, NDArray]]) -> dict[str, NDArray]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _arrays(assets: WholeAssets) -> dict[str, NDArray]:
    return {name: getattr(assets, name) for name in ASSET_FIELDS}


def _assets(arrays: dict[str, NDArray]) -> WholeAssets:
    return WholeAssets(**{name: arrays[name] for name in ASSET_FIELDS})
