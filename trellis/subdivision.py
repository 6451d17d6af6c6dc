"""Twice the resolution on the children of every voxel: the upper part of the mesh decoder.

Source: TRELLIS trellis/models/structured_latent_vae/decoder_mesh.py; state-dict keys are the same. N voxels.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .precision import widened
from .sparse import SparseTensor, subdivide
from .sparse_convolution import SparseConv3d

NORM_GROUPS = 32


class SparseGroupNorm(nn.GroupNorm):
    """Group norm over the voxels of each sample, in at least float32."""

    def __init__(self, channels: int):
        super().__init__(NORM_GROUPS, channels)

    def forward(self, input: SparseTensor) -> SparseTensor:
        parts = widened(input.feats).split(input.voxels.lengths)
        normed = [self._normed(part) for part in parts if len(part)]
        return input.replace(torch.cat(normed).to(input.feats.dtype)) if normed else input

    def _normed(self, feats: Tensor) -> Tensor:
        # As an image [1, C, n, 1] whose channels run fastest, which is how voxels lie in memory: no copy.
        return super().forward(feats.t()[None, :, :, None])[0, :, :, 0].t()


class SparseSiLU(nn.Module):
    def forward(self, x: SparseTensor) -> SparseTensor:
        return x.replace(F.silu(x.feats))


class SubdivideBlock(nn.Module):
    """Residual block from every voxel to its eight children."""

    def __init__(self, channels: int, out_channels: int):
        super().__init__()
        self.act_layers = nn.Sequential(SparseGroupNorm(channels), SparseSiLU())
        last = SparseConv3d(out_channels, out_channels, 3)
        nn.init.zeros_(last.conv.weight)  # the block starts as its skip connection
        nn.init.zeros_(last.conv.bias)
        self.out_layers = nn.Sequential(
            SparseConv3d(channels, out_channels, 3), SparseGroupNorm(out_channels), SparseSiLU(), last
        )
        self.skip_connection = nn.Identity() if out_channels == channels else SparseConv3d(channels, out_channels, 1)

    def forward(self, x: SparseTensor) -> SparseTensor:
        convolution, *rest = self.out_layers
        h = cast(SparseConv3d, convolution).on_children(self.act_layers(x))
        for layer in rest:
            h = layer(h)
        # Before the subdivision: children are equal to their parent, and a pointwise layer keeps them so.
        return h.replace(h.feats + subdivide(self.skip_connection(x)).feats)
