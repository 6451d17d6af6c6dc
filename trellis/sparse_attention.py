"""Attention among rows of different sequences; the modules around it are those of the dense networks.

`attention.SelfAttention` and `attention.CrossAttention` take the function that attends: here are the sparse ones.
They pad rows into groups of similar length, or leave them to a kernel for ragged sequences: `attention_choice`.
Shapes: N rows, M keys, B samples, T context tokens, H heads, D channels of a head.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from inspect import signature
from itertools import accumulate
from typing import Any, cast

import torch
from torch import Tensor

from .attention import Attend, attend
from .kernels import AUTO, SDPA, VARLEN, XFORMERS, Choice, Kernels, asked, refusal, ruled_out
from .sequences import Blocks, Sequences, equal_blocks
from .sparse import Voxels

DEFAULT = VARLEN
TRIED = (5, 1, 9)  # rows of the sequences that a kernel is tried on
Ragged = Callable[[Tensor, Tensor, Tensor, Blocks, Blocks], Tensor]


def attend_within(q: Tensor, k: Tensor, v: Tensor, sequences: Sequences) -> Tensor:
    """Every row attends to the rows of its sequence. q, k, v: [N, H, D]; returns [N, H * D]."""
    if ragged := _ragged(q, k, v):
        order, blocks = sequences.order, sequences.blocks
        if order is None:
            return ragged(q, k, v, blocks, blocks).flatten(1)
        q, k, v = (x.index_select(0, order) for x in (q, k, v))
        out = ragged(q, k, v, blocks, blocks).flatten(1)
        return torch.empty_like(out).index_copy(0, order, out)
    packed = zip(sequences.pack(q), sequences.pack(k), sequences.pack(v), sequences.groups, strict=True)
    return sequences.unpack([attend(q, k, v, group.mask) for q, k, v, group in packed])


def attend_context(q: Tensor, k: Tensor, v: Tensor, sequences: Sequences) -> Tensor:
    """Every row attends to the context of its sample. q: [N, H, D]; k, v: [B, T, H, D]; returns [N, H * D].

    Args:
        sequences: `Voxels.sequences`, one per sample.
    """
    if ragged := _ragged(q, k, v):
        filled = [sample for sample, length in enumerate(sequences.lengths) if length]
        if len(filled) < len(k):
            k, v = k[filled], v[filled]
        contexts = equal_blocks(len(k), k.shape[1], k.device)
        return ragged(q, k.flatten(0, 1), v.flatten(0, 1), sequences.blocks, contexts).flatten(1)
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


# -------------------------------------------------------------------------------------------------------------- kernels


def varlen(q: Tensor, k: Tensor, v: Tensor, of_q: Blocks, of_k: Blocks) -> Tensor:
    """torch's FlashAttention: float16 and bfloat16; its backward pass repeats its bits where torch is told to.

    Args:
        q: [N, H, D]. k, v: [M, H, D].
        of_q, of_k: the sequences of q, and those that they attend to.
    Returns:
        [N, H, D].
    """
    from torch.nn.attention.varlen import varlen_attn

    whole = _whole(varlen_attn, of_q, of_k)
    out = varlen_attn(q, k, v, of_q.bounds, of_k.bounds, of_q.longest, of_k.longest, **whole)
    return cast(Tensor, out)  # other outputs come where they are asked for


def _whole(varlen_attn: Callable[..., Any], of_q: Blocks, of_k: Blocks) -> dict[str, Any]:
    """A window as wide as the sequences, which leaves nothing out.

    With any window torch takes FlashAttention; without, it may take cuDNN's kernel, whose backward pass does not repeat
    its bits. torch 2.10 has neither windows nor that kernel.
    """
    width = max(of_q.longest, of_k.longest)
    return {"window_size": (width, width)} if "window_size" in signature(varlen_attn).parameters else {}


def xformers(q: Tensor, k: Tensor, v: Tensor, of_q: Blocks, of_k: Blocks) -> Tensor:
    """xformers' attention with a block-diagonal mask. Arguments as of `varlen`."""
    from xformers.ops import fmha, memory_efficient_attention  # pyright: ignore[reportMissingImports]

    mask = fmha.BlockDiagonalMask.from_seqlens(list(of_q.lengths), list(of_k.lengths), device=q.device)
    return memory_efficient_attention(q[None], k[None], v[None], attn_bias=mask)[0]


RAGGED: dict[str, Ragged] = {VARLEN: varlen, XFORMERS: xformers}


def attention_choice(
    device: torch.device, dtype: torch.dtype, channels: int, *, gradient: bool, kernels: Kernels | None = None
) -> Choice:
    """What attends on a device, and why: varlen, xformers, or SDPA on groups of similar length (`sdpa`).

    Args:
        channels: of a head.
        gradient: whether there will be a backward pass.
        kernels: what is asked for; None: what this process asked for.
    """
    name = (kernels or asked()).attention
    if name == SDPA:
        return Choice(SDPA, "asked for")
    if why := ruled_out(device):
        return Choice(SDPA, why)
    wanted, reason = (DEFAULT, "the default") if name == AUTO else (name, "asked for")
    strict = torch.are_deterministic_algorithms_enabled()
    if why := _refused(wanted, device, dtype, channels, gradient, strict):
        return Choice(SDPA, f"{wanted} refuses: {why}")
    return Choice(wanted, reason)


def _ragged(q: Tensor, k: Tensor, v: Tensor) -> Ragged | None:
    """The kernel for these rows; None: they are to be padded."""
    if not len(q):
        return None
    gradient = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)
    return RAGGED.get(attention_choice(q.device, q.dtype, q.shape[-1], gradient=gradient).name)


@cache
def _refused(name: str, device: torch.device, dtype: torch.dtype, channels: int, gradient: bool, strict: bool) -> str:
    """Why a kernel cannot be used; "" if it can. strict: whether only deterministic algorithms are allowed."""
    del strict  # part of the key: the answer depends on it

    def attempt() -> Tensor:
        q, k, v = (
            torch.ones(sum(TRIED), 2, channels, device=device, dtype=dtype, requires_grad=gradient) for _ in range(3)
        )
        bounds = torch.tensor(list(accumulate(TRIED, initial=0)), dtype=torch.int32, device=device)
        blocks = Blocks(bounds, TRIED)
        out = RAGGED[name](q, k, v, blocks, blocks)
        return torch.autograd.grad(out.sum(), q)[0] if gradient else out

    return refusal(attempt)
