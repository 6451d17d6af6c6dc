"""Networks that turn pictures or points into features.

The tiny extractors are made by `mdtbench pretrain`; a number measured with them is never printed under the
name of an official metric.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from ..base.networks import NetworkTable


class Extractor(Protocol):
    """Features of a batch: uint8 pictures [N, 3, H, W] or points [N, P, 6] -> float32 [N, dim]."""

    name: str
    version: str
    weights_sha256: str
    dim: int

    def __call__(self, batch: NDArray) -> NDArray[np.float32]: ...


class FeatureNetwork(nn.Module, ABC):
    """A classifier whose last hidden layer, divided by its spread over ground truth, is the feature.

    The division gives distances a scale that does not depend on how the network was trained.
    """

    scale: Tensor

    def __init__(self, dim: int):
        super().__init__()
        self.register_buffer("scale", torch.ones(dim))

    @abstractmethod
    def hidden(self, batch: Tensor) -> Tensor:
        """Unscaled features [N, dim]."""

    def features(self, batch: Tensor) -> Tensor:
        """[N, dim]."""
        return self.hidden(batch) / self.scale


@dataclass(frozen=True)
class NetworkExtractor:
    """An extractor that is a torch network, on whatever device that is."""

    name: str
    version: str
    weights_sha256: str
    dim: int
    network: FeatureNetwork

    @torch.inference_mode()
    def __call__(self, batch: NDArray) -> NDArray[np.float32]:
        inputs = torch.from_numpy(np.ascontiguousarray(batch)).to(self.network.scale.device)
        return self.network.features(inputs).cpu().numpy()


class PictureClassifier(FeatureNetwork):
    """Category of an object from one picture; its last hidden layer is the feature `tiny2d`.

    Args:
        image_size: side of the pictures, in pixels. Colour is dropped: structure has none.
        dim: features.
        categories: classes.
    """

    def __init__(self, image_size: int, dim: int, categories: int):
        super().__init__(dim)
        self.image_size = image_size
        self.layers = nn.Sequential(
            *_conv2d(1, 16),
            *_conv2d(16, 32),
            *_conv2d(32, 64),
            *_conv2d(64, dim),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.head = nn.Linear(dim, categories)

    def hidden(self, batch: Tensor) -> Tensor:
        grey = batch.float().mean(1, keepdim=True) / 127.5 - 1
        return self.layers(grey)

    def forward(self, pictures: Tensor) -> Tensor:
        return self.head(self.hidden(pictures))


class AppearanceNetwork(FeatureNetwork):
    """Category and colours of an object from one picture; its last hidden layer is the feature `tiny_rgb`.

    A classifier alone would learn to overlook colours, which toys of one category do not share.

    Args:
        image_size: side of the pictures, in pixels; a multiple of 4.
        dim: features.
        categories: classes.
    """

    COLOUR_CELLS = 4  # along a side of the picture: the colours to tell are means over its cells

    def __init__(self, image_size: int, dim: int, categories: int):
        super().__init__(dim)
        self.image_size = image_size
        self.layers = nn.Sequential(
            *_conv2d(3, 24),
            *_conv2d(24, 48),
            *_conv2d(48, 64),
            *_conv2d(64, dim),
            nn.Flatten(),
            nn.Linear(dim * (image_size // 16) ** 2, dim),
        )
        self.head = nn.Linear(dim, categories)
        self.colours = nn.Linear(dim, 3 * self.COLOUR_CELLS**2)

    def hidden(self, batch: Tensor) -> Tensor:
        return self.layers(batch.float() / 127.5 - 1)

    def cell_colours(self, pictures: Tensor) -> Tensor:
        """What `colours` is to tell: mean colours of the cells, in [0, 1]: [N, 3 * 4 * 4]."""
        return functional.adaptive_avg_pool2d(pictures.float() / 255, self.COLOUR_CELLS).flatten(1)

    def forward(self, pictures: Tensor) -> Tensor:
        return self.head(self.hidden(pictures))


class PointsClassifier(FeatureNetwork):
    """Category of an object from surface points, which it counts on a grid; its last hidden layer is `tiny3d`.

    Args:
        resolution: cells along a side of the grid over [-0.5, 0.5]^3.
        dim: features.
        categories: classes.
    """

    def __init__(self, resolution: int, dim: int, categories: int):
        super().__init__(dim)
        self.resolution = resolution
        self.layers = nn.Sequential(
            *_conv3d(1, 16), *_conv3d(16, 32), *_conv3d(32, dim), nn.AdaptiveAvgPool3d(1), nn.Flatten()
        )
        self.head = nn.Linear(dim, categories)

    def hidden(self, batch: Tensor) -> Tensor:
        return self.layers(occupied_cells(batch, self.resolution))

    def forward(self, points: Tensor) -> Tensor:
        return self.head(self.hidden(points))


class DualEncoder(nn.Module):
    """Picture and points in one space, trained by contrast: the tiny stand-in for ULIP.

    Pictures and points may come from any device; the vectors are where the network is.

    Args:
        image_size: side of the pictures, in pixels.
        dim: width of the common space.
        colour: whether to look at colours; structure has none.
    """

    def __init__(self, image_size: int, dim: int, colour: bool = False):
        super().__init__()
        self.image_size = image_size
        self.colour = colour
        self.picture_tower = nn.Sequential(
            *_conv2d(3 if colour else 1, 32),
            *_conv2d(32, 64),
            *_conv2d(64, 96),
            nn.Flatten(),
            nn.Linear(96 * (image_size // 8) ** 2, dim),
        )
        self.point_layers = nn.Sequential(
            nn.Linear(6 if colour else 3, 64), nn.GELU(), nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 192)
        )
        self.point_head = nn.Sequential(nn.Linear(384, 192), nn.GELU(), nn.Linear(192, dim))
        self.log_temperature = nn.Parameter(torch.tensor(2.5))

    def embed_pictures(self, pictures: Tensor) -> Tensor:
        """[N, 3, S, S] uint8 -> unit vectors [N, dim]."""
        pictures = pictures.to(self.log_temperature.device)
        seen = pictures.float() if self.colour else pictures.float().mean(1, keepdim=True)
        return functional.normalize(self.picture_tower(seen / 127.5 - 1), dim=1)

    def embed_points(self, points: Tensor) -> Tensor:
        """[N, P, 6] -> unit vectors [N, dim]."""
        points = points.to(self.log_temperature.device)
        place = 4 * points[..., :3]
        local = self.point_layers(torch.cat([place, 2 * points[..., 3:] - 1], -1) if self.colour else place)
        pooled = torch.cat([local.amax(1), local.mean(1)], dim=1)
        return functional.normalize(self.point_head(pooled), dim=1)

    def forward(self, pictures: Tensor, points: Tensor) -> Tensor:
        """Similarities of all pairs, times the temperature: [N, N]."""
        return self.log_temperature.exp() * self.embed_pictures(pictures) @ self.embed_points(points).T


EXTRACTORS = NetworkTable(
    {
        "PictureClassifier": PictureClassifier,
        "PointsClassifier": PointsClassifier,
        "AppearanceNetwork": AppearanceNetwork,
        "DualEncoder": DualEncoder,
    }
)


def occupied_cells(points: Tensor, resolution: int) -> Tensor:
    """Share of the points in every cell, times resolution^2, capped at 1: [N, 1, R, R, R], indexed x, y, z."""
    count = points.shape[1]
    cell = ((points[..., :3] + 0.5) * resolution).long().clamp(0, resolution - 1)
    index = (cell[..., 0] * resolution + cell[..., 1]) * resolution + cell[..., 2]
    share = torch.ones_like(index, dtype=torch.float32)
    grid = share.new_zeros(len(points), resolution**3).scatter_add_(1, index, share)
    return (grid * (resolution**2 / count)).clamp(max=1).reshape(-1, 1, *[resolution] * 3)


def _conv2d(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 4, stride=2, padding=1), nn.GroupNorm(8, outputs), nn.GELU()]


def _conv3d(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Conv3d(inputs, outputs, 4, stride=2, padding=1), nn.GroupNorm(8, outputs), nn.GELU()]
