"""What students of the second stage are distilled on: latents on the cells of objects, under image conditions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..base.seeds import seed_of
from ..flow.guidance import Guided, Velocity
from ..trellis.adapter import bind_sparse
from ..trellis.slat_pipeline import SlatPipeline, VoxelLayout, voxel_layout
from ..trellis.sparse import Voxels
from .task import Batch, Data, Samples, batch_of, shown_views, student_of


@dataclass(frozen=True)
class SlatData:
    """Latents of N objects, in memory.

    Attributes:
        counts: [N] cells of each. coords: [M, 3] int32, latents: [M, C]: of all cells, object by object.
        images: [N, views, S, S, 3] whole conditioning pictures; window: share of them shown.
    """

    counts: NDArray[np.int64]
    coords: NDArray[np.int32]
    latents: Tensor
    images: NDArray[np.uint8]
    window: tuple[float, float]

    def drawn(self, count: int, source: np.random.Generator) -> Samples:
        rows, images = shown_views(self.images, self.window, count, source)
        voxels, x_0 = self.picked(rows)
        return Samples(x_0, voxel_layout(voxels, x_0.shape[1]), images)

    def picked(self, rows: NDArray[np.int64]) -> tuple[Voxels, Tensor]:
        """The cells of some objects, in this order, and their latents."""
        cells, voxels = cells_of(self.counts, self.coords, rows)
        return voxels, self.latents[cells]


def cells_of(counts: NDArray[np.int64], coords: NDArray[np.int32], rows: NDArray[np.int64]) -> tuple[Tensor, Voxels]:
    """Where the cells of some objects lie among all, and these cells as a batch."""
    starts = np.cumsum(counts) - counts
    index = np.concatenate([starts[row] + np.arange(int(counts[row])) for row in rows])
    sample = np.repeat(np.arange(len(rows)), counts[rows])
    batch = np.concatenate([sample[:, None], coords[index]], axis=1).astype(np.int32)
    return torch.from_numpy(index), Voxels(torch.from_numpy(batch), len(rows))


@dataclass(frozen=True)
class SlatTask:
    """The second stage: sparse latents under image conditions."""

    pipeline: SlatPipeline
    data: Data
    batch_size: int

    def draw(self, seed: int, index: int) -> Batch:
        source = np.random.Generator(np.random.PCG64(seed_of("slat batch", seed, index)))
        tensors = torch.Generator().manual_seed(seed_of("slat batch noise", seed, index))
        return batch_of(self.data.drawn(self.batch_size, source), self.pipeline.condition, tensors)

    def student(self) -> nn.Module:
        return student_of(self.pipeline.flow)

    def bind(self, network: Callable[..., Any], batch: Batch) -> Velocity:
        return bind_sparse(network, batch.cond, _voxels(batch))

    def teacher(self, batch: Batch) -> Guided:
        return self.pipeline.velocity(self.pipeline.flow, batch.cond, _voxels(batch))


def _voxels(batch: Batch) -> Voxels:
    return cast(VoxelLayout, batch.layout).voxels
