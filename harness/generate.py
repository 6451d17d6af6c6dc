"""Shapes from a flow network, each asset from its own noise, and what the extractors see of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..base.errors import AssetError
from ..base.seeds import seed_of
from ..flow.samplers import Sampler
from ..metrics.contract import Shapes
from ..trellis.pipeline import StructurePipeline
from .conditions import keep_window
from .device import clock
from .observe import Observation, observe
from .world import World

N_VIEWS = 4


@dataclass(frozen=True)
class Generated:
    """Shapes of N assets and their cost.

    Attributes:
        nfe: [N] network forward passes, both passes of a guided step counted.
        seconds: [N] wall time of sampling and decoding, per asset.
        errors: [N] reason of each failure, "" for a good shape.
    """

    shapes: Shapes
    nfe: NDArray[np.int64]
    seconds: NDArray[np.float64]
    errors: tuple[str, ...]


def shown_image(image: NDArray[np.uint8], asset_id: str, window: tuple[float, float]) -> NDArray[np.uint8]:
    """The test picture of an asset: its window is the asset's own, the same for every method and seed. [S, S, 3]."""
    return keep_window(image, window, np.random.Generator(np.random.PCG64(seed_of("window", asset_id))))


@torch.inference_mode()
def generate(
    world: World,
    network: nn.Module,
    sampler: Sampler,
    images: NDArray[np.uint8],
    asset_ids: Sequence[str],
    seed: int,
    batch: int,
) -> Generated:
    """Shapes for conditioning pictures `images` [N, S, S, 3] (already windowed).

    Args:
        seed: generation seed; with the asset's id it decides the noise, whatever the method.
        batch: assets handed to the networks at a time on a GPU; see `microbatches`.
    """
    parts: list[Generated] = []
    device = next(network.parameters()).device
    for rows in microbatches(len(images), batch, device):
        parts.append(_generate_batch(world, network, sampler, images[rows], list(asset_ids)[rows], seed))
    return joined(parts)


def microbatches(count: int, batch: int, device: torch.device) -> Iterator[slice]:
    """Rows that go through the networks together.

    On a CPU always one: the rounding of a matrix product depends on its number of rows, and a result must not
    depend on the batch size.
    """
    size = 1 if device.type == "cpu" else batch
    yield from (slice(i, min(i + size, count)) for i in range(0, count, size))


def joined(parts: Sequence[Generated]) -> Generated:
    """One Generated of all parts, in order."""

    def stack(name: str) -> NDArray:
        return np.concatenate([getattr(part.shapes, name) for part in parts])

    names = ("ok", "latents", "occupancy", "picture_features", "point_features", "embedding")
    return Generated(
        Shapes(**{name: stack(name) for name in names}),
        np.concatenate([part.nfe for part in parts]),
        np.concatenate([part.seconds for part in parts]),
        tuple(error for part in parts for error in part.errors),
    )


def _generate_batch(
    world: World, network: nn.Module, sampler: Sampler, images: NDArray, asset_ids: list[str], seed: int
) -> Generated:
    n = len(asset_ids)
    latents, occupancy, nfe, seconds = sampled(world.pipeline, network, sampler, images, asset_ids, seed)
    shapes, errors = describe(world, latents, occupancy.cpu().numpy(), asset_ids)
    return Generated(shapes, np.full(n, nfe), np.full(n, seconds / n), errors)


@torch.inference_mode()
def sampled(
    pipeline: StructurePipeline,
    network: nn.Module,
    sampler: Sampler,
    images: NDArray,
    asset_ids: Sequence[str],
    seed: int,
) -> tuple[Tensor, Tensor, int, float]:
    """Latents [B, C, r, r, r] and occupancy [B, R, R, R], forward passes per sample, seconds of all together."""
    cond = pipeline.condition(torch.from_numpy(images).permute(0, 3, 1, 2))
    generators = [torch.Generator().manual_seed(seed_of("sample", asset_id, seed)) for asset_id in asset_ids]
    layout = pipeline.layout(len(asset_ids))
    noise, velocity = layout.randn(generators), pipeline.velocity(network, cond)
    start = clock(pipeline.device)
    latents = sampler.sample(velocity, noise, layout, generators)
    occupancy = pipeline.decode(latents)
    return latents, occupancy, velocity.nfe, clock(pipeline.device) - start


@torch.inference_mode()
def describe(
    world: World, latents: Tensor, occupancy: NDArray[np.bool_], asset_ids: Sequence[str]
) -> tuple[Shapes, tuple[str, ...]]:
    """What the extractors see of occupancy grids [N, R, R, R], one asset at a time; and each one's failure or ""."""
    observations, errors = [], []
    for grid, asset_id, latent in zip(occupancy, asset_ids, latents, strict=True):
        observation, error = _observed(world, grid, asset_id, bool(torch.isfinite(latent).all()))
        observations.append(observation)
        errors.append(error)
    ok = np.array([not error for error in errors])
    features = [_features(world, observation) for observation in observations]
    shapes = Shapes(
        ok=ok,
        latents=torch.nan_to_num(latents).cpu().numpy(),
        occupancy=occupancy & ok[:, None, None, None],
        picture_features=np.stack([pictures for pictures, _, _ in features]),
        point_features=np.stack([points for _, points, _ in features]),
        embedding=np.stack([embedding for _, _, embedding in features]) * ok[:, None],
    )
    return shapes, tuple(errors)


def _observed(world: World, grid: NDArray[np.bool_], asset_id: str, finite: bool) -> tuple[Observation, str]:
    section = world.file.observation
    nothing = Observation(
        np.zeros((N_VIEWS, 3, section.picture_size, section.picture_size), np.uint8),
        np.zeros((section.points, 6), np.float32),
    )
    if not finite:
        return nothing, "the latent is not finite"
    try:
        return observe(grid, section.picture_size, section.points, seed_of("points", asset_id)), ""
    except AssetError as error:
        return nothing, str(error)


def _features(world: World, observation: Observation) -> tuple[NDArray, NDArray, NDArray]:
    points = observation.points[None]
    embedding = world.dual.embed_points(torch.from_numpy(points)).cpu().numpy()
    return world.pictures(observation.pictures), world.points(points)[0], embedding[0]
