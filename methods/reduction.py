"""How a loss weighs samples of different size. It matters for sparse latents only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

from torch import Tensor

from ..flow.layout import Layout


class Reduction(Protocol):
    def average(self, values: Tensor, counts: Tensor) -> Tensor:
        """One number from a value per sample [B]; `counts` [B]: elements D of each sample. Scalar."""
        ...


@dataclass(frozen=True)
class PerSample:
    """Every object weighs the same."""

    def average(self, values: Tensor, counts: Tensor) -> Tensor:
        del counts
        return values.mean()


@dataclass(frozen=True)
class PerVoxel:
    """An object weighs as many times as it has voxels: the mean over all of a batch, as in the released MDT-dist."""

    def average(self, values: Tensor, counts: Tensor) -> Tensor:
        return (values * counts).sum() / counts.sum()


REDUCTIONS: Mapping[str, Reduction] = MappingProxyType({"per_sample": PerSample(), "per_voxel": PerVoxel()})


def reduced_mean(layout: Layout, x: Tensor, reduction: Reduction) -> Tensor:
    """Mean over a sample's elements, then over samples as `reduction` says. Scalar."""
    counts = layout.count(x)
    return reduction.average(layout.sum(x) / counts, counts)
