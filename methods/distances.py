"""Distances between the two data predictions of a consistency pair (cm, pcm)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

from torch import Tensor

from ..flow.layout import Layout
from .reduction import Reduction, reduced_mean


class Distance(Protocol):
    def __call__(self, gap: Tensor, span: Tensor, delta: Tensor, layout: Layout, reduction: Reduction) -> Tensor:
        """Size of `gap`. Scalar.

        Args:
            gap: f(x_t, t) - f(x', t'), in the layout of the batch.
            span: [B] t minus the time that f jumps to; positive.
            delta: [B] t - t'; positive.
        """
        ...


@dataclass(frozen=True)
class SampleHuber:
    """sqrt(|gap|^2 + c^2) - c per sample, c = `constant` sqrt(D) (Song and Dhariwal, 2023)."""

    constant: float = 0.00054

    def __call__(self, gap: Tensor, span: Tensor, delta: Tensor, layout: Layout, reduction: Reduction) -> Tensor:
        del span, delta
        counts = layout.count(gap)
        constant = self.constant * counts.sqrt()
        # Not norm(gap)^2: where the gap is exactly zero its gradient is NaN.
        return reduction.average((layout.sum(gap.square()) + constant.square()).sqrt() - constant, counts)


@dataclass(frozen=True)
class ElementHuber:
    """sqrt(a^2 + c^2) - c per element, averaged (the Stable Diffusion 3 release of PCM)."""

    constant: float = 1e-3

    def __call__(self, gap: Tensor, span: Tensor, delta: Tensor, layout: Layout, reduction: Reduction) -> Tensor:
        del span, delta
        return reduced_mean(layout, (gap.square() + self.constant**2).sqrt() - self.constant, reduction)


@dataclass(frozen=True)
class SquaredError:
    """|gap|^2 / D. Its gradient is 2 span delta times the consistency residual: small steps weigh little."""

    def __call__(self, gap: Tensor, span: Tensor, delta: Tensor, layout: Layout, reduction: Reduction) -> Tensor:
        del span, delta
        return reduced_mean(layout, gap.square(), reduction)


@dataclass(frozen=True)
class WeightedSquaredError:
    """|gap|^2 / (D span delta): its gradient is 2 r_CM dphi, that of velocity matching up to O(delta)."""

    def __call__(self, gap: Tensor, span: Tensor, delta: Tensor, layout: Layout, reduction: Reduction) -> Tensor:
        return reduced_mean(layout, gap.square() / layout.expand(span * delta), reduction)


DISTANCES: Mapping[str, Distance] = MappingProxyType(
    {
        "sample_huber": SampleHuber(),
        "element_huber": ElementHuber(),
        "squared": SquaredError(),
        "weighted": WeightedSquaredError(),
    }
)
