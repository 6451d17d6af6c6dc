"""From a structure and its picture to a coloured asset: the second stage of the image-to-3D pipeline."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..flow.guidance import Guided, Velocity
from ..flow.layout import Layout, Rows, SparseLayout
from ..geometry.gaussians import Gaussians
from ..geometry.mesh import Mesh
from .adapter import bind_guided_sparse, bind_sparse
from .pipeline import SamplerParams
from .slat_decoders import SLatGaussianDecoder, SLatMeshDecoder
from .slat_encoder import SLatEncoder
from .slat_flow import SLatFlowModel
from .sparse import SparseTensor, Voxels

SLAT_ENCODER = "slat_encoder"
GAUSSIAN_DECODER = "slat_decoder_gs"
MESH_DECODER = "slat_decoder_mesh"
SLAT_CONDITIONER = "slat_image_cond_model"  # TRELLIS has one conditioner for both stages; then the key is absent
NORMALISATION = "slat_normalization"


@dataclass(frozen=True)
class VoxelLayout(SparseLayout):
    """A sparse layout that knows where its rows are: what SLAT networks are bound to."""

    voxels: Voxels = field(kw_only=True)

    def part(self, start: int, stop: int) -> tuple[VoxelLayout, Rows]:
        rows = (self.sample >= start) & (self.sample < stop)
        first = torch.tensor([start, 0, 0, 0], dtype=torch.int32, device=self.device)
        return voxel_layout(Voxels(self.voxels.coords[rows] - first, stop - start), self.channels), rows

    def to(self, device: torch.device) -> VoxelLayout:
        return voxel_layout(self.voxels.to(device), self.channels)


def voxel_layout(voxels: Voxels, channels: int) -> VoxelLayout:
    return VoxelLayout(voxels.sample, voxels.batch_size, channels, voxels=voxels)


@dataclass(frozen=True)
class SlatPipeline:
    """The networks of the second stage, in evaluation mode. Latents [N, C] here are normalised: (raw - mean) / std.

    Pictures may come from any device; latents, features and voxels must be where the networks are.

    Attributes:
        mean, std: [C] of raw latents.
    """

    flow: SLatFlowModel
    encoder: SLatEncoder
    gaussian_decoder: SLatGaussianDecoder
    mesh_decoder: SLatMeshDecoder
    conditioner: nn.Module
    sampler: SamplerParams
    mean: Tensor
    std: Tensor

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return self.mean.device

    @property
    def resolution(self) -> int:
        """Cells along a side of the grid of latents."""
        return self.flow.resolution

    def layout(self, voxels: Voxels) -> VoxelLayout:
        return voxel_layout(voxels, self.flow.in_channels)

    @torch.no_grad()
    def condition(self, images: Tensor) -> Tensor:
        """Tokens [B, T, C] of preprocessed pictures [B, 3, S, S] uint8."""
        return self.conditioner(images.to(self.device))

    def bind(self, network: Callable[..., Any], cond: Tensor, layout: Layout) -> Velocity:
        """Velocity of a flow network on the voxels of `layout`, under `cond`, without guidance."""
        return bind_sparse(network, cond, cast(VoxelLayout, layout).voxels)

    def velocity(self, network: nn.Module, cond: Tensor, layout: Layout) -> Guided:
        """Guided velocity of a flow network (the teacher or its student) on the voxels of `layout`, under `cond`."""
        return bind_guided_sparse(network, cond, cast(VoxelLayout, layout).voxels)

    @torch.no_grad()
    def encode(self, features: Tensor, voxels: Voxels) -> Tensor:
        """Latents (posterior means) [N, C] of cell features [N, F]."""
        raw = self.encoder(SparseTensor(features, voxels), sample_posterior=False)
        return (raw.feats - self.mean) / self.std

    @torch.no_grad()
    def gaussians(self, latents: Tensor, voxels: Voxels) -> list[Gaussians]:
        """3D Gaussians of each sample."""
        decoded = self.gaussian_decoder(self._raw(latents, voxels))
        return [gaussians.detached() for gaussians in self.gaussian_decoder.to_gaussians(decoded)]

    @torch.no_grad()
    def meshes(self, latents: Tensor, voxels: Voxels) -> list[Mesh]:
        """Coloured mesh of each sample. Raises AssetError when one has no surface."""
        return self.mesh_decoder.to_meshes(self.mesh_decoder(self._raw(latents, voxels)))

    def _raw(self, latents: Tensor, voxels: Voxels) -> SparseTensor:
        return SparseTensor(latents * self.std + self.mean, voxels)
