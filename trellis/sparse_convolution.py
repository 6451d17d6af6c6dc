"""Submanifold convolution: features change only where there are voxels, and only voxels are read.

What the 27 places of a kernel read is gathered side by side, so that a convolution is one matrix product. Rows are
taken in chunks that stay in the cache; nothing is scattered, so forward and backward give the same bits every time.
On a GPU, where memory's traffic costs most, rows are multiplied first and products gathered: `ProductsFirst`.
Where it is asked for, spconv does it on CUDA: `convolution_choice`.
"""

from __future__ import annotations

from functools import cache
from math import sqrt
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ..base.errors import UsageError
from .kernels import OURS, SPCONV, Choice, Kernels, asked, refusal, ruled_out
from .sparse import SparseTensor, Voxels, read_by_children, subdivide, upsample

KERNEL_SIZES = (1, 3)
# Values gathered at a time. Measured on a processor: 2^20 is 1.5 times faster than 2^24 and than the whole at once; a
# graphics card wants few large products.
GATHERED = {"cpu": 2**20, "cuda": 2**26}
PRODUCTS_FIRST = frozenset({"cuda"})  # where `ProductsFirst` convolves: less traffic and memory than side by side


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
        if _by_spconv(x, weight):
            return x.replace(convolve_with_spconv(x.feats, weight, bias, x.voxels))
        if products_come_first(x.feats):
            return x.replace(products_first(x.feats, weight, bias, x.voxels.neighbours))
        return x.replace(convolve(x.feats, weight, bias, x.voxels.neighbours))

    def on_finer(self, x: SparseTensor, fine: Voxels) -> SparseTensor:
        """What `forward` makes of `upsample(x, fine)`, for a kernel of 3, in a fraction of the products.

        spconv does not know of that, and convolves the fine voxels.
        """
        if _by_spconv(x, self.conv.weight):
            return self(upsample(x, fine))
        row = torch.cat([fine.halved()[1], torch.tensor([len(x.feats)], device=x.feats.device)])  # and that of zeros
        return SparseTensor(products_first(x.feats, self.conv.weight, self.conv.bias, row[fine.neighbours]), fine)

    def on_children(self, x: SparseTensor) -> SparseTensor:
        """What `forward` makes of `subdivide(x)`, for a kernel of 3, in a third of the work.

        Children are equal to their parent, so each reads but eight different rows: the kernel is folded onto them.
        spconv does not know of that, and convolves the children.
        """
        if _by_spconv(x, self.conv.weight):
            return self(subdivide(x))
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


class ProductsFirst(torch.autograd.Function):
    """sum over k of (feats W_k)[table[:, k]] + bias, added up in float32; keeps nothing but its inputs.

    The gradients need G_k, what place k of all rows passes back to each row that it read: feats' is the sum of
    G_k W_k^T, that of W_k is feats^T G_k. Additions are made in the order of k, and within a place by `index_add`, so
    that their bits repeat where torch is told to.
    """

    @staticmethod
    def forward(ctx: Any, feats: Tensor, kernel: Tensor, bias: Tensor, table: Tensor) -> Tensor:
        """feats: [M, in], kernel: [27, in, out], bias: [out], table: [N, 27] rows of feats, M for zeros."""
        ctx.save_for_backward(feats, kernel, table)
        total = bias.to(_sums_in(feats)).expand(len(table), -1).clone()
        for place, weight in enumerate(kernel):
            product = feats @ weight
            padded = torch.cat([product, product.new_zeros(1, product.shape[1])])
            total += padded.index_select(0, table[:, place])
        return total.to(feats.dtype)

    @staticmethod
    def backward(ctx: Any, *pulls: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        feats, kernel, table = ctx.saved_tensors
        [pull] = pulls
        of_feats, of_kernel = torch.zeros_like(feats, dtype=_sums_in(feats)), torch.empty_like(kernel)
        for place, weight in enumerate(kernel):
            passed = pull.new_zeros(len(feats) + 1, pull.shape[1]).index_add_(0, table[:, place], pull)[:-1]
            of_feats += passed @ weight.T
            of_kernel[place] = feats.T @ passed
        return of_feats.to(feats.dtype), of_kernel, pull.sum(0, dtype=_sums_in(pull)).to(pull.dtype), None


def _sums_in(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def products_first(feats: Tensor, weight: Tensor, bias: Tensor, table: Tensor) -> Tensor:
    """`convolve` by `ProductsFirst`, in the dtype of a matrix product.

    Args:
        feats: [M, in]. weight: [out, 3, 3, 3, in]. bias: [out].
        table: [N, 27] rows of feats, M for zeros.
    Returns:
        [N, out].
    """
    dtype = _computed_in(feats)
    kernel = weight.flatten(1, 3).permute(1, 2, 0)  # [27, in, out]
    with torch.autocast(feats.device.type, enabled=False):
        return cast(Tensor, ProductsFirst.apply(feats.to(dtype), kernel.to(dtype), bias.to(dtype), table))


def products_come_first(feats: Tensor) -> bool:
    """Whether a device convolves by `ProductsFirst`, which has no derivative in forward mode."""
    return feats.device.type in PRODUCTS_FIRST and torch.backends.cuda.flash_sdp_enabled()


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


# --------------------------------------------------------------------------------------------------------------- spconv

# What spconv finds out about voxels, as long as there are these voxels: its own table of neighbours.
_TABLES: WeakKeyDictionary[Voxels, dict[str, Any]] = WeakKeyDictionary()


def convolve_with_spconv(feats: Tensor, weight: Tensor, bias: Tensor, voxels: Voxels) -> Tensor:
    """`convolve` by spconv, which reads weights in the same layout. No derivative in forward mode; no bfloat16.

    It chooses among its kernels by timing them, so that the last bits may differ from process to process.
    """
    import spconv.pytorch as spconv  # pyright: ignore[reportMissingImports]

    known = _TABLES.setdefault(voxels, {})
    dtype = _computed_in(feats)
    rows, coords, grid = feats.to(dtype), voxels.coords.contiguous(), [voxels.side] * 3
    x = spconv.SparseConvTensor(rows, coords, grid, voxels.batch_size, indice_dict=known)
    given = {"weight": weight.to(dtype).contiguous(), "bias": bias.to(dtype)}
    with torch.autocast(feats.device.type, enabled=False):  # spconv would compute in float16 whatever autocast says
        out = torch.func.functional_call(_spconv_layer(weight.shape[4], weight.shape[0]), given, (x,))
    known.update(out.indice_dict)
    return out.features


def convolution_choice(
    device: torch.device, dtype: torch.dtype, in_channels: int, out_channels: int, kernels: Kernels | None = None
) -> Choice:
    """What convolves on a device with a kernel of 3, and why: ours or spconv.

    Args:
        dtype: that is computed in.
        kernels: what is asked for; None: what this process asked for.
    """
    name = (kernels or asked()).convolution
    if name != SPCONV:
        return Choice(OURS, "asked for" if name == OURS else "the default: its bits repeat")
    if why := ruled_out(device):
        return Choice(OURS, why)
    if why := _refused(device, dtype, in_channels, out_channels):
        return Choice(OURS, f"spconv refuses: {why}")
    return Choice(SPCONV, "asked for")


def _by_spconv(x: SparseTensor, weight: Tensor) -> bool:
    if asked().convolution != SPCONV or not len(x.feats):
        return False
    choice = convolution_choice(x.feats.device, _computed_in(x.feats), weight.shape[4], weight.shape[0])
    return choice.name == SPCONV


def _computed_in(feats: Tensor) -> torch.dtype:
    """The dtype of a matrix product with `feats`, on a CPU or a GPU."""
    kind = feats.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else feats.dtype


@cache
def _spconv_layer(in_channels: int, out_channels: int) -> nn.Module:
    """A layer without weights, which come with every call; in training mode, the only one that keeps gradients."""
    import spconv.pytorch as spconv  # pyright: ignore[reportMissingImports]

    with torch.device("meta"):
        return spconv.SubMConv3d(in_channels, out_channels, 3, padding=1, indice_key="neighbours")


@cache
def _refused(device: torch.device, dtype: torch.dtype, in_channels: int, out_channels: int) -> str:
    """Why spconv cannot be used, forward and backward; "" if it can."""

    def attempt() -> Tensor:
        coords = torch.tensor([[0, 0, 0, 0], [0, 0, 0, 1], [1, 1, 0, 0]], dtype=torch.int32, device=device)
        feats = torch.ones(3, in_channels, device=device, dtype=dtype, requires_grad=True)
        weight = torch.ones(out_channels, 3, 3, 3, in_channels, device=device, dtype=dtype, requires_grad=True)
        with torch.autocast(device.type, enabled=False):
            out = convolve_with_spconv(feats, weight, feats.new_zeros(out_channels), Voxels(coords, 2))
        return torch.autograd.grad(out.sum(), weight)[0]

    return refusal(attempt)
