"""How the samples of a batch lie in a tensor, so that a method is written once for dense and sparse latents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

# Rows of a tensor that belong to some of its samples.
Rows = slice | Tensor


class Layout(Protocol):
    """Per-sample operations on a tensor that holds a batch of B samples."""

    @property
    def batch_size(self) -> int: ...

    def expand(self, t: Tensor) -> Tensor:
        """One number per sample [B], shaped to broadcast against the batch."""
        ...

    def sum(self, x: Tensor) -> Tensor:
        """Sum over each sample's elements: [B]."""
        ...

    def count(self, x: Tensor) -> Tensor:
        """Number of elements D of each sample: [B], in x's dtype."""
        ...

    def randn(self, generators: Sequence[torch.Generator]) -> Tensor:
        """Standard normal batch: all samples from one generator, or each sample from its own."""
        ...

    def part(self, start: int, stop: int) -> tuple[Layout, Rows]:
        """The layout of samples start to stop, and their rows in a tensor of the whole batch."""
        ...

    def to(self, device: torch.device) -> Layout:
        """The same layout for tensors on `device`."""
        ...


@dataclass(frozen=True)
class DenseLayout:
    """Samples of one shape, stacked: [B, ...]."""

    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32
    device: torch.device | str = "cpu"

    @property
    def batch_size(self) -> int:
        return self.shape[0]

    def expand(self, t: Tensor) -> Tensor:
        return t.reshape(-1, *[1] * (len(self.shape) - 1))

    def sum(self, x: Tensor) -> Tensor:
        return x.flatten(1).sum(1)

    def count(self, x: Tensor) -> Tensor:
        return torch.full(self.shape[:1], x[0].numel(), dtype=x.dtype, device=x.device)

    def randn(self, generators: Sequence[torch.Generator]) -> Tensor:
        if len(generators) == 1:
            return _normal(self.shape, generators[0], self)
        return torch.stack([_normal(self.shape[1:], generator, self) for generator in generators])

    def part(self, start: int, stop: int) -> tuple[DenseLayout, Rows]:
        return replace(self, shape=(stop - start, *self.shape[1:])), slice(start, stop)

    def to(self, device: torch.device) -> DenseLayout:
        return replace(self, device=device)


@dataclass(frozen=True)
class SparseLayout:
    """Samples of different lengths, concatenated: [N, C] with the sample of every row.

    Attributes:
        sample: [N] int64, ascending: which of the `batch_size` samples a row belongs to.
    """

    sample: Tensor
    batch_size: int
    channels: int
    dtype: torch.dtype = torch.float32

    @property
    def device(self) -> torch.device:
        return self.sample.device

    def expand(self, t: Tensor) -> Tensor:
        return t[self.sample][:, None]

    def sum(self, x: Tensor) -> Tensor:
        return x.new_zeros(self.batch_size).index_add(0, self.sample, x.sum(1))

    def count(self, x: Tensor) -> Tensor:
        return torch.bincount(self.sample, minlength=self.batch_size).to(x.dtype) * x.shape[1]

    def randn(self, generators: Sequence[torch.Generator]) -> Tensor:
        if len(generators) == 1:
            return _normal((len(self.sample), self.channels), generators[0], self)
        lengths = torch.bincount(self.sample, minlength=self.batch_size).tolist()
        parts = [
            _normal((length, self.channels), generator, self)
            for length, generator in zip(lengths, generators, strict=True)
        ]
        return torch.cat(parts)

    def part(self, start: int, stop: int) -> tuple[SparseLayout, Rows]:
        rows = (self.sample >= start) & (self.sample < stop)
        return replace(self, sample=self.sample[rows] - start, batch_size=stop - start), rows

    def to(self, device: torch.device) -> SparseLayout:
        return replace(self, sample=self.sample.to(device))


def norm(layout: Layout, x: Tensor) -> Tensor:
    """L2 norm of each sample: [B]."""
    return layout.sum(x.square()).sqrt()


def rms(layout: Layout, x: Tensor) -> Tensor:
    """Root mean square over each sample's elements: [B]."""
    return (layout.sum(x.square()) / layout.count(x)).sqrt()


def per_sample_mean(layout: Layout, x: Tensor) -> Tensor:
    """Mean over a sample's elements, then over samples: every object weighs the same. Scalar."""
    return (layout.sum(x) / layout.count(x)).mean()


def _normal(shape: tuple[int, ...], generator: torch.Generator, layout: DenseLayout | SparseLayout) -> Tensor:
    # Drawn where the generator lives (the CPU), so that a GPU run starts from the same noise.
    return torch.randn(shape, generator=generator, dtype=layout.dtype).to(layout.device)
