"""Batches of different numbers of voxels, attention one sequence after the other, and how two ways are compared."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mdtbench.trellis.attention import attend
from mdtbench.trellis.sparse import Voxels


def random_voxels(side: int, *lengths: int, seed: int = 0) -> Voxels:
    generator = torch.Generator().manual_seed(seed)
    cells = torch.cartesian_prod(*[torch.arange(side)] * 3)
    parts = [cells[torch.randperm(len(cells), generator=generator)[:n]] for n in lengths]
    sample = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    return Voxels.of(torch.cat([sample[:, None], torch.cat(parts)], 1), len(lengths))


def randn(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def one_by_one(q: Tensor, k: Tensor, v: Tensor, owner: Tensor) -> Tensor:
    out = torch.empty(len(q), q.shape[1] * q.shape[2], dtype=q.dtype)
    for i in owner.unique():
        rows = owner == i
        out[rows] = attend(q[rows][None], k[rows][None], v[rows][None])[0]
    return out


def context_one_by_one(q: Tensor, k: Tensor, v: Tensor, sample: Tensor) -> Tensor:
    out = torch.empty(len(q), q.shape[1] * q.shape[2], dtype=q.dtype)
    for i in sample.unique().tolist():
        rows = sample == i
        out[rows] = attend(q[rows][None], k[i : i + 1], v[i : i + 1])[0]
    return out


def agree(
    got: Callable[..., Tensor], expected: Callable[..., Tensor], inputs: list[Tensor], pull: Tensor, **tolerance: float
) -> None:
    """Values and gradients; what is expected is computed in float64. pull: the gradient of the outputs."""
    pull = pull.to(inputs[0].dtype).double()  # which then is rounded nowhere
    here, there = ([x.to(dtype).requires_grad_() for x in inputs] for dtype in (inputs[0].dtype, torch.float64))
    outs = got(*here), expected(*there)
    assert outs[0].dtype == inputs[0].dtype
    torch.testing.assert_close(outs[0].double(), outs[1], **tolerance)
    found, wanted = (
        torch.autograd.grad((y.double() * pull).sum(), xs) for y, xs in zip(outs, (here, there), strict=True)
    )
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a.double(), b, **tolerance)
