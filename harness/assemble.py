"""Whole assets from structures: the second stage, its decoders, and what the extractors see of the result."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..assets.mesh import Mesh
from ..base.errors import AssetError
from ..base.seeds import seed_of
from ..flow.samplers import Sampler
from ..metrics.contract import WholeAssets
from ..render.appearance import coarse_coords
from ..render.gaussian_rasteriser import protocol_pictures
from ..render.gaussians import Gaussians
from ..trellis.sparse import Voxels
from .appearance import Looks, pictures_and_points
from .device import clock
from .world import SecondStage

N_VIEWS = 4


@dataclass(frozen=True)
class Decoded:
    """One asset's latents [N, C] on its cells [N, 3], and what the decoders make of them."""

    coords: NDArray[np.int32]
    latents: NDArray[np.float32]
    gaussians: Gaussians
    mesh: Mesh


@dataclass(frozen=True)
class Assembled:
    """Whole assets and their cost, without the structures'.

    Attributes:
        nfe: [N] network forward passes, both passes of a guided step counted.
        slat_s, decode_s: [N] wall time of sampling and of both decoders, per asset, in seconds.
        errors: [N] reason of each failure, "" for a good asset.
    """

    assets: WholeAssets
    nfe: NDArray[np.int64]
    slat_s: NDArray[np.float64]
    decode_s: NDArray[np.float64]
    errors: tuple[str, ...]


def assemble(
    stage: SecondStage,
    network: nn.Module,
    sampler: Sampler,
    occupancy: NDArray[np.bool_],
    images: NDArray[np.uint8],
    asset_ids: Sequence[str],
    seed: int,
) -> Assembled:
    """Whole assets of structures [N, R, R, R]; one at a time, so that no bit depends on how the work is split.

    Args:
        images: [N, S, S, 3] conditioning pictures, already windowed.
        seed: generation seed; with the asset's id it decides the noise, whatever the method.
    """
    made = [
        _assembled(stage, network, sampler, grid, image, asset_id, seed)
        for grid, image, asset_id in zip(occupancy, images, asset_ids, strict=True)
    ]
    return joined(made)


def reassemble(
    stage: SecondStage, assets: Sequence[tuple[NDArray[np.int32], Tensor]], asset_ids: Sequence[str]
) -> Assembled:
    """Whole assets of known latents: pairs of cells [n, 3] and latents [n, C]."""
    return joined(
        [
            _looked_at(stage, coords, latents, asset_id, 0, 0.0)
            for (coords, latents), asset_id in zip(assets, asset_ids, strict=True)
        ]
    )


def joined(parts: Sequence[Assembled]) -> Assembled:
    """One of all parts, in order."""

    def stack(name: str) -> NDArray:
        return np.concatenate([getattr(part.assets, name) for part in parts])

    return Assembled(
        WholeAssets(**{field.name: stack(field.name) for field in fields(WholeAssets)}),
        np.concatenate([part.nfe for part in parts]),
        np.concatenate([part.slat_s for part in parts]),
        np.concatenate([part.decode_s for part in parts]),
        tuple(error for part in parts for error in part.errors),
    )


def one_voxels(coords: NDArray[np.int32]) -> Voxels:
    """The cells [n, 3] of one object as a batch."""
    return Voxels(torch.from_numpy(np.pad(coords, ((0, 0), (1, 0)))), 1)


@torch.inference_mode()
def sampled(
    stage: SecondStage,
    network: nn.Module,
    sampler: Sampler,
    coords: NDArray[np.int32],
    image: NDArray[np.uint8],
    asset_id: str,
    seed: int,
) -> tuple[Tensor, int]:
    """Latents [n, C] on the cells [n, 3] of one structure, and the forward passes that they took."""
    pipeline = stage.pipeline
    voxels = one_voxels(coords).to(pipeline.device)
    cond = pipeline.condition(torch.from_numpy(image).permute(2, 0, 1)[None])
    generators = [torch.Generator().manual_seed(seed_of("slat sample", asset_id, seed))]
    layout = pipeline.layout(voxels)
    velocity = pipeline.velocity(network, cond, voxels)
    latents = sampler.sample(velocity, layout.randn(generators), layout, generators)
    return latents, velocity.nfe


def decoded(stage: SecondStage, coords: NDArray[np.int32], latents: Tensor) -> Decoded:
    """latents: on any device. Raises AssetError when they are not finite or hold no surface."""
    if not torch.isfinite(latents).all():
        raise AssetError("the latent of the second stage is not finite")
    pipeline = stage.pipeline
    there, voxels = latents.to(pipeline.device), one_voxels(coords).to(pipeline.device)
    [gaussians], [mesh] = pipeline.gaussians(there, voxels), pipeline.meshes(there, voxels)
    return Decoded(coords, latents.cpu().numpy(), gaussians, mesh)


def _assembled(
    stage: SecondStage,
    network: nn.Module,
    sampler: Sampler,
    occupancy: NDArray[np.bool_],
    image: NDArray[np.uint8],
    asset_id: str,
    seed: int,
) -> Assembled:
    coords = coarse_coords(occupancy, stage.pipeline.resolution)
    if not len(coords):
        return _failed(stage, "the structure is empty", coords, torch.zeros(0, stage.pipeline.flow.in_channels))
    device = stage.pipeline.device
    start = clock(device)
    latents, nfe = sampled(stage, network, sampler, coords, image, asset_id, seed)
    return _looked_at(stage, coords, latents, asset_id, nfe, clock(device) - start)


def _looked_at(
    stage: SecondStage, coords: NDArray[np.int32], latents: Tensor, asset_id: str, nfe: int, slat_s: float
) -> Assembled:
    device = stage.pipeline.device
    start = clock(device)
    try:
        asset = decoded(stage, coords, latents)
        decode_s = clock(device) - start
        gaussian_features, mesh_features, embedding = observed(stage, asset, asset_id)
    except AssetError as error:
        return _failed(stage, str(error), coords, latents, nfe, slat_s, clock(device) - start)
    assets = WholeAssets(
        ok=np.array([True]),
        gaussian_features=gaussian_features[None],
        mesh_features=mesh_features[None],
        embedding=embedding[None],
        counts=np.array([len(coords)]),
        coords=coords,
        latents=asset.latents,
    )
    return Assembled(assets, np.array([nfe]), np.array([slat_s]), np.array([decode_s]), ("",))


def observed(stage: SecondStage, asset: Decoded, asset_id: str) -> tuple[NDArray, NDArray, NDArray]:
    """Features of the Gaussians' pictures [4, D], of the mesh's [4, D], and the embedding [E] of its points."""
    pictures, points = pictures_and_points(asset.mesh, asset_id, stage.looks)
    return stage.pictures(protocol_pictures(asset.gaussians, stage.looks.picture_size)), *seen(stage, pictures, points)


def seen(stage: SecondStage, pictures: NDArray[np.uint8], points: NDArray[np.float32]) -> tuple[NDArray, NDArray]:
    """Features [4, D] of a mesh's pictures [4, 3, P, P] and the embedding [E] of its points [n, 6]."""
    with torch.inference_mode():
        embedding = stage.dual.embed_points(torch.from_numpy(points)[None]).cpu().numpy()[0]
    return stage.pictures(pictures), embedding


def _failed(
    stage: SecondStage,
    reason: str,
    coords: NDArray[np.int32],
    latents: Tensor,
    nfe: int = 0,
    slat_s: float = 0.0,
    decode_s: float = 0.0,
) -> Assembled:
    """A failed asset: black pictures, a zero embedding. Its latents, finite where they were, and its costs stay."""
    looks = stage.looks
    features, embedding = seen(stage, *_blank(looks))
    assets = WholeAssets(
        ok=np.array([False]),
        gaussian_features=features[None],
        mesh_features=features[None],
        embedding=np.zeros_like(embedding)[None],
        counts=np.array([len(coords)]),
        coords=coords,
        latents=torch.nan_to_num(latents).cpu().numpy(),
    )
    return Assembled(assets, np.array([nfe]), np.array([slat_s]), np.array([decode_s]), (reason,))


def _blank(looks: Looks) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    size = looks.picture_size
    return np.zeros((N_VIEWS, 3, size, size), np.uint8), np.zeros((looks.points, 6), np.float32)


def ragged(counts: NDArray[np.int64]) -> Iterator[slice]:
    """Where each object's cells lie."""
    stops = np.cumsum(counts)
    yield from (slice(int(stop - count), int(stop)) for stop, count in zip(stops, counts, strict=True))
