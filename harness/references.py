"""What generated shapes are measured against: the assets themselves, and the ground truth through the VAE.

One asset at a time, so that no bit depends on how the work is split.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ..metrics import Shapes
from ..metrics.extractors import DualEncoder
from .generate import describe, shown_image
from .prepare import Prepared
from .world import World


@dataclass(frozen=True)
class Truth:
    """Assets as the extractors see them. embedding: [N, E] unit vectors of their whole conditioning pictures."""

    shapes: Shapes
    embedding: NDArray[np.float32]


def shapes_of(world: World, occupancy: NDArray[np.bool_], asset_ids: Sequence[str]) -> Shapes:
    """The assets themselves, seen by the extractors. occupancy: [N, R, R, R]."""
    latents = torch.zeros(len(asset_ids), *world.pipeline.latent_shape)
    return describe(world, latents, occupancy, asset_ids)[0]


@torch.inference_mode()
def embed_pictures(dual: DualEncoder, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Unit vectors [N, E] of whole conditioning pictures [N, S, S, 3], one at a time."""
    batch = torch.from_numpy(images).permute(0, 3, 1, 2)
    return torch.cat([dual.embed_pictures(picture[None]) for picture in batch]).cpu().numpy()


def truth_of(world: World, prepared: Prepared) -> Truth:
    """Ground truth of prepared assets."""
    shapes = shapes_of(world, prepared.occupancy, prepared.ids)
    return Truth(shapes, embed_pictures(world.dual, prepared.images[:, 0]))


@torch.inference_mode()
def reconstructed(world: World, occupancy: NDArray[np.bool_], asset_ids: Sequence[str]) -> Shapes:
    """The ground truth through the VAE, the best that any flow can do. occupancy: [N, R, R, R]."""
    latents = torch.cat([world.pipeline.encode(torch.from_numpy(grid)[None]) for grid in occupancy])
    decoded = torch.cat([world.pipeline.decode(latent[None]) for latent in latents])
    return describe(world, latents, decoded.cpu().numpy(), asset_ids)[0]


def shown_images(prepared: Prepared, share: tuple[float, float]) -> NDArray[np.uint8]:
    """The pictures that networks are conditioned on, through their keep-windows: [N, S, S, 3]."""
    pairs = zip(prepared.images, prepared.ids, strict=True)
    return np.stack([shown_image(views[0], name, share) for views, name in pairs])
