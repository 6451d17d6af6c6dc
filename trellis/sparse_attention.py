"""Attention among rows of different sequences; the modules around it are those of the dense networks.

`attention.SelfAttention` and `attention.CrossAttention` take the function that attends: here are the sparse ones.
Shapes: N rows, B samples, T context tokens, H heads, D channels of a head.
"""

from __future__ import annotations

from functools import cache, partial
from importlib.util import find_spec

import torch
from torch import Tensor

from .attention import Attend, attend
from .sequences import Sequences
from .sparse import Voxels


def attend_within(q: Tensor, k: Tensor, v: Tensor, sequences: Sequences) -> Tensor:
    """Every row attends to the rows of its sequence. q, k, v: [N, H, D]; returns [N, H * D]."""
    if q.is_cuda and _xformers_usable():
        return _block_diagonal(q, k, v, sequences)
    packed = zip(sequences.pack(q), sequences.pack(k), sequences.pack(v), sequences.groups, strict=True)
    return sequences.unpack([attend(q, k, v, group.mask) for q, k, v, group in packed])


def attend_context(q: Tensor, k: Tensor, v: Tensor, sequences: Sequences) -> Tensor:
    """Every row attends to the context of its sample. q: [N, H, D]; k, v: [B, T, H, D]; returns [N, H * D].

    Args:
        sequences: `Voxels.sequences`, one per sample.
    """
    (rows,) = sequences.pack(q)
    return sequences.unpack([attend(rows, k, v)])


def within_samples(voxels: Voxels) -> Attend:
    """Attention of every voxel to its whole sample."""
    return partial(attend_within, sequences=voxels.sequences)


def within_windows(voxels: Voxels, size: int, shift: int) -> Attend:
    """Attention of every voxel to its window."""
    return partial(attend_within, sequences=voxels.windows(size, shift))


def to_context(voxels: Voxels) -> Attend:
    """Attention of every voxel to the context of its sample."""
    return partial(attend_context, sequences=voxels.sequences)


@cache
def _xformers_installed() -> bool:
    return find_spec("xformers") is not None


def _xformers_usable() -> bool:
    """Whoever allows only the math kernel (the one with a forward derivative) means this choice as well."""
    return _xformers_installed() and torch.backends.cuda.mem_efficient_sdp_enabled()


def _block_diagonal(q: Tensor, k: Tensor, v: Tensor, sequences: Sequences) -> Tensor:
    from xformers.ops import fmha, memory_efficient_attention  # pyright: ignore[reportMissingImports]

    if sequences.order is not None:
        q, k, v = (x.index_select(0, sequences.order) for x in (q, k, v))
    mask = fmha.BlockDiagonalMask.from_seqlens([length for length in sequences.lengths if length])
    out = memory_efficient_attention(q[None], k[None], v[None], attn_bias=mask)[0].flatten(1)
    if sequences.order is None:
        return out
    return torch.empty_like(out).index_copy(0, sequences.order, out)
