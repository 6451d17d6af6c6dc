"""Libraries for GPUs, written in plain torch for a CPU: their signatures, what they refuse, what they compute.

Everything is computed in float64 and rounded at the end, one sequence after the other or on a dense grid.
"""

from __future__ import annotations

import inspect
import sys
from collections import Counter
from collections.abc import Sequence
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import varlen

from mdtbench.trellis import kernels, sparse_attention, sparse_convolution

VARLEN_SIGNATURE = inspect.signature(varlen.varlen_attn)
HALF = (torch.float16, torch.bfloat16)


def on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Libraries come into question on the CPU; what earlier tests found out about them is forgotten."""
    monkeypatch.setattr(kernels, "DEVICES", {"cpu"})
    for found in (sparse_attention._refused, sparse_convolution._refused, sparse_convolution._spconv_layer):
        found.cache_clear()


def install_varlen(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """torch's kernel; the counter says how often it was called."""
    calls: Counter[str] = Counter()

    def varlen_attn(query: Tensor, key: Tensor, value: Tensor, *others: Any, **options: Any) -> Tensor:
        given = VARLEN_SIGNATURE.bind(query, key, value, *others, **options).arguments
        calls["varlen"] += 1
        if query.dtype not in HALF:
            raise RuntimeError("FlashAttention only support fp16 and bf16 data type")
        for x, bounds in ((query, given["cu_seq_q"]), (key, given["cu_seq_k"]), (value, given["cu_seq_k"])):
            assert (x.ndim, x.stride(-1), x.dtype) == (3, 1, query.dtype)
            assert (bounds.dtype, bounds.is_contiguous(), int(bounds[-1])) == (torch.int32, True, len(x))
        of_q, of_k = (given[name].diff().tolist() for name in ("cu_seq_q", "cu_seq_k"))
        assert (given["max_q"], given["max_k"]) == (max(of_q), max(of_k))
        left, right = given["window_size"]
        assert min(left, right) >= 0  # else torch may take cuDNN's kernel
        return _by_blocks(query, key, value, of_q, of_k, left, right)

    varlen_attn.__signature__ = VARLEN_SIGNATURE  # type: ignore[attr-defined]
    monkeypatch.setattr(varlen, "varlen_attn", varlen_attn)
    return calls


def install_xformers(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Without a backward pass where only deterministic algorithms are allowed, as xformers 0.0.35."""
    calls: Counter[str] = Counter()

    class BlockDiagonalMask(SimpleNamespace):
        @classmethod
        def from_seqlens(
            cls, q_seqlen: Sequence[int], kv_seqlen: Sequence[int] | None = None, *, device: torch.device | None = None
        ) -> BlockDiagonalMask:
            assert isinstance(q_seqlen, list)
            return cls(q=q_seqlen, k=q_seqlen if kv_seqlen is None else kv_seqlen, device=device)

    def memory_efficient_attention(
        query: Tensor, key: Tensor, value: Tensor, attn_bias: Any = None, p: float = 0.0, scale: float | None = None
    ) -> Tensor:
        calls["xformers"] += 1
        assert len(query) == len(key) == len(value) == 1
        assert attn_bias.device == query.device
        strict = torch.are_deterministic_algorithms_enabled()
        if query.dtype not in HALF or (strict and query.requires_grad):
            raise NotImplementedError("No operator found for\n    `memory_efficient_attention_forward`")
        return _by_blocks(query[0], key[0], value[0], attn_bias.q, attn_bias.k)[None]

    fmha = SimpleNamespace(BlockDiagonalMask=BlockDiagonalMask)
    _install(monkeypatch, "xformers", "ops", fmha=fmha, memory_efficient_attention=memory_efficient_attention)
    return calls


def install_spconv(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """The counter says how often it was called, and how often it looked for neighbours."""
    calls: Counter[str] = Counter()

    class SparseConvTensor:
        def __init__(
            self, features: Tensor, indices: Tensor, spatial_shape: list[int], batch_size: int, indice_dict: dict
        ):
            assert (features.ndim, indices.ndim, len(spatial_shape)) == (2, 2, 3)
            assert (indices.dtype, indices.is_contiguous()) == (torch.int32, True)
            assert batch_size > 0
            assert (indices[:, 1:] < torch.tensor(spatial_shape)).all()
            self.features, self.indices, self.batch_size = features, indices, batch_size
            self.spatial_shape, self.indice_dict = spatial_shape, indice_dict

    class SubMConv3d(nn.Module):
        def __init__(self, in_channels: int, out_channels: int, kernel_size: int, padding: int, indice_key: str):
            super().__init__()
            self.key, self.padding = indice_key, padding
            self.weight = nn.Parameter(torch.zeros(out_channels, *[kernel_size] * 3, in_channels))
            self.bias = nn.Parameter(torch.zeros(out_channels))

        def forward(self, x: SparseConvTensor) -> SparseConvTensor:
            calls["spconv"] += 1
            if x.features.dtype == torch.bfloat16:
                raise RuntimeError("not implemented for bfloat16")
            assert self.training  # else there are no gradients
            assert x.features.dtype == self.weight.dtype == self.bias.dtype
            assert self.weight.is_contiguous()
            assert not torch.is_autocast_enabled(x.features.device.type)
            known = dict(x.indice_dict)
            if self.key not in known:
                calls["tables"] += 1
                known[self.key] = x.indices.long()
            assert torch.equal(known[self.key], x.indices.long())  # of these voxels
            at = tuple(known[self.key].T)
            wide = [part.double() for part in (x.features, self.weight, self.bias)]
            grid = wide[0].new_zeros(x.batch_size, *x.spatial_shape, wide[0].shape[1])
            grid = grid.index_put(at, wide[0]).permute(0, 4, 1, 2, 3)
            out = F.conv3d(grid, wide[1].permute(0, 4, 1, 2, 3), wide[2], padding=self.padding)
            rows = out.permute(0, 2, 3, 4, 1)[at].to(x.features.dtype)
            return SparseConvTensor(rows, x.indices, x.spatial_shape, x.batch_size, known)

    _install(monkeypatch, "spconv", "pytorch", SparseConvTensor=SparseConvTensor, SubMConv3d=SubMConv3d)
    return calls


def _install(monkeypatch: pytest.MonkeyPatch, package: str, module: str, **contents: Any) -> None:
    top, below = ModuleType(package), ModuleType(f"{package}.{module}")
    vars(below).update(contents)
    setattr(top, module, below)
    monkeypatch.setitem(sys.modules, package, top)
    monkeypatch.setitem(sys.modules, f"{package}.{module}", below)


def _by_blocks(
    q: Tensor, k: Tensor, v: Tensor, of_q: list[int], of_k: list[int], left: int = -1, right: int = -1
) -> Tensor:
    """Attention of every block of q to that of k. left, right: keys that a query sees on each side; -1: all."""
    assert (sum(of_q), sum(of_k)) == (len(q), len(k))
    assert min(*of_q, *of_k) > 0
    out = []
    for a, b, c in zip(q.double().split(of_q), k.double().split(of_k), v.double().split(of_k), strict=True):
        scores = torch.einsum("nhd,mhd->hnm", a, b) / a.shape[-1] ** 0.5
        ahead = torch.arange(len(b)) - (torch.arange(len(a)) + len(b) - len(a))[:, None]
        hidden = ((left >= 0) & (ahead < -left)) | ((right >= 0) & (ahead > right))
        out.append(torch.einsum("hnm,mhd->nhd", scores.masked_fill(hidden, -torch.inf).softmax(-1), c))
    return torch.cat(out).to(q.dtype)
