"""Submanifold convolution: features change only where there are voxels, and only voxels are read.

Every place of the kernel is one matrix product over the pairs of voxels that meet there. A row receives at most
once per place, and the places follow one another: forward and backward give the same bits every time.
"""

from __future__ import annotations

from math import sqrt

import torch
from torch import Tensor, nn

from ..base.errors import UsageError
from .sparse import Pairs, SparseTensor

KERNEL_SIZES = (1, 3)
MIDDLE = 13  # of the 27 places of a 3x3x3 kernel


class SparseKernel(nn.Module):
    """Weight [out, kx, ky, kz, in] and bias [out] as spconv stores them."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_channels, *[kernel_size] * 3, in_channels))
        self.bias = nn.Parameter(torch.empty(out_channels))
        bound = 1 / sqrt(in_channels * kernel_size**3)  # as torch's convolutions
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)


class SparseConv3d(nn.Module):
    """Submanifold convolution with a kernel of 1 or 3 cells a side, stride 1. Keys `conv.weight`, `conv.bias`.

    Raises:
        UsageError: another kernel size.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int):
        super().__init__()
        if kernel_size not in KERNEL_SIZES:
            raise UsageError(f"Sparse convolution with kernel size {kernel_size}. Available: 1, 3.")
        self.conv = SparseKernel(in_channels, out_channels, kernel_size)

    def forward(self, x: SparseTensor) -> SparseTensor:
        weight, bias = self.conv.weight, self.conv.bias
        if weight.shape[1] == 1:
            return x.replace(pointwise(x.feats, weight, bias))
        return x.replace(convolve(x.feats, weight, bias, x.voxels.neighbours))


def convolve(feats: Tensor, weight: Tensor, bias: Tensor, neighbours: tuple[Pairs | None, ...]) -> Tensor:
    """3x3x3 cross-correlation, as torch's conv3d with padding 1 on a grid that is zero at free cells.

    Args:
        feats: [N, in].
        weight: [out, 3, 3, 3, in].
        bias: [out].
        neighbours: `Voxels.neighbours` of the rows.
    Returns:
        [N, out].
    """
    places = weight.flatten(1, 3).permute(1, 2, 0)  # [27, in, out]
    out = torch.addmm(bias, feats, places[MIDDLE])
    for pairs, place in zip(neighbours, places.unbind(), strict=True):
        if pairs is not None and len(pairs.to):
            # In place is safe for forward derivatives as well: `out` depends on all that is added to it.
            out.index_add_(0, pairs.to, feats.index_select(0, pairs.source) @ place)
    return out


def pointwise(feats: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """1x1x1 kernel [out, 1, 1, 1, in] whose memory is read as [in, out], not transposed: so does spconv 2.

    Trained weights depend on that reading (the skip connections of the mesh decoder).
    """
    return torch.addmm(bias, feats, weight.reshape(feats.shape[1], -1))
