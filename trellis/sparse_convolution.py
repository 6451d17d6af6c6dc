"""Submanifold convolution: features change only where there are voxels, and only voxels are read.

What the 27 places of a kernel read is gathered side by side, so that a convolution is one matrix product. Rows are
taken in chunks that stay in the cache; nothing is scattered, so forward and backward give the same bits every time.
"""

from __future__ import annotations

from functools import cache
from math import sqrt

import torch
from torch import Tensor, nn

from ..base.errors import UsageError
from .sparse import SparseTensor, read_by_children

KERNEL_SIZES = (1, 3)
# Values gathered at a time. Measured on a processor: 2^20 is 1.5 times faster than 2^24 and than the whole at once; a
# graphics card wants few large products.
GATHERED = {"cpu": 2**20, "cuda": 2**26}


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

    def on_children(self, x: SparseTensor) -> SparseTensor:
        """What `forward` makes of `subdivide(x)`, for a kernel of 3, in a third of the work.

        Children are equal to their parent, so each reads but eight different rows: the kernel is folded onto them.
        """
        children, _ = x.voxels.subdivided()
        return SparseTensor(convolve_children(x.feats, self.conv.weight, self.conv.bias, x.voxels.neighbours), children)


def convolve(feats: Tensor, weight: Tensor, bias: Tensor, neighbours: Tensor) -> Tensor:
    """3x3x3 cross-correlation, as torch's conv3d with padding 1 on a grid that is zero at free cells.

    Args:
        feats: [N, in].
        weight: [out, 3, 3, 3, in].
        bias: [out].
        neighbours: [N, 27], `Voxels.neighbours` of the rows.
    Returns:
        [N, out].
    """
    return _gathered_product(feats, weight.flatten(1).T, bias, neighbours)


def convolve_children(feats: Tensor, weight: Tensor, bias: Tensor, neighbours: Tensor) -> Tensor:
    """`convolve` on the eight children of every voxel, which have its features: [8 N, out]. Arguments as there."""
    kernel = weight.flatten(1, 3)  # [out, 27, in]
    parts = []
    for read, fold in zip(*(part.to(feats.device) for part in folds()), strict=True):  # of each child
        folded = torch.einsum("oki,kr->rio", kernel, fold.to(kernel.dtype)).flatten(0, 1)  # [8 in, out]
        parts.append(_gathered_product(feats, folded, bias, neighbours[:, read]))
    return torch.stack(parts, 1).flatten(0, 1)


@cache
def folds() -> tuple[Tensor, Tensor]:
    """Of each of a voxel's eight children: the 8 places of its parent's 27 that it reads, and its kernel's way there.

    Returns:
        Places [8, 8] int64, ascending; [8, 27, 8] bool: which place of the child's kernel goes to which of them.
    """
    places, _ = read_by_children()
    read = torch.stack([of_child.unique() for of_child in places])
    return read, places[:, :, None] == read[:, None]


def _gathered_product(feats: Tensor, weight: Tensor, bias: Tensor, table: Tensor) -> Tensor:
    """Rows of `feats` side by side, times a matrix. weight: [P in, out]; table: [N, P] rows, N for zeros."""
    channels = feats.shape[1]
    padded = torch.cat([feats, feats.new_zeros(1, channels)])
    rows = max(1, GATHERED.get(feats.device.type, GATHERED["cpu"]) // len(weight))
    gathered = (padded.index_select(0, chunk.flatten()).view(len(chunk), len(weight)) for chunk in table.split(rows))
    return torch.cat([torch.addmm(bias, chunk, weight) for chunk in gathered])


def pointwise(feats: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """1x1x1 kernel [out, 1, 1, 1, in] whose memory is read as [in, out], not transposed: so does spconv 2.

    Trained weights depend on that reading (the skip connections of the mesh decoder).
    """
    return torch.addmm(bias, feats, weight.reshape(feats.shape[1], -1))
