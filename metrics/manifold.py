"""Precision, recall, density and coverage: who lies within whose nearest neighbours.

Shapes: R real and F generated samples, D feature dimension. No [R, F] matrix is ever whole in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..base.errors import UsageError
from .frechet import check_same_dim, checked_features
from .streams import Features, mean

NEIGHBOURS = 5  # Naeem et al. 2020 and dgm-eval; torch-fidelity 3
ROWS = 512  # of a block of distances: 512 x 12,872 float64 are 53 MB
SAME = 1e-12  # of the squared norms: below it a squared distance can only be rounding


@dataclass(frozen=True)
class Manifold:
    """Shares in [0, 1], density in [0, inf); all of them higher is better.

    Attributes:
        precision: generated samples that lie in the neighbourhood of some real one.
        recall: real samples that lie in the neighbourhood of some generated one.
        density: real neighbourhoods that hold a generated sample, per sample, over k; about 1 for equal distributions.
        coverage: real samples whose neighbourhood holds some generated one.
    """

    precision: float
    recall: float
    density: float
    coverage: float


def manifold(real: Features, fake: Features, k: int = NEIGHBOURS, *, inside: np.ufunc = np.less) -> Manifold:
    """All four, from the same distances.

    A neighbourhood is the ball around a sample through its k-th nearest neighbour on its own side. Precision and
    recall: Kynkäänniemi et al., arXiv:1904.06991, Eq. 1-2; density and coverage: Naeem et al., arXiv:2002.09797.

    Args:
        real: [R, D]. fake: [F, D]. Neither need be in memory.
        inside: whether the ball is open (`numpy.less`: dgm-eval) or closed (`numpy.less_equal`: torch-fidelity and
            arXiv:1904.06991). They differ on duplicates only, black pictures of failed assets for example.
    Raises:
        UsageError: different dimensions, at most k samples on a side, or features that are not finite.
    Cost: 2 (R^2 + F^2 + RF) D floating-point operations.
    """
    check_same_dim(real.shape[-1], fake.shape[-1])
    real_radii, fake_radii = squared_radii(real, k), squared_radii(fake, k)
    balls_F = np.zeros(len(fake), np.int64)  # real balls that hold each generated sample
    recalled, covered = 0, 0
    for rows, distances in _blocks(real, fake):
        held = inside(distances, real_radii[rows, None])
        balls_F += held.sum(0)
        covered += int(held.any(1).sum())
        recalled += int(inside(distances, fake_radii).any(1).sum())
    return Manifold(
        precision=float((balls_F > 0).mean()),
        recall=recalled / len(real),
        density=float(balls_F.mean()) / k,
        coverage=covered / len(real),
    )


def squared_radii(features: Features, k: int) -> NDArray[np.float64]:
    """Squared distance of each sample to its k-th nearest neighbour, itself not counted. [N, D] -> [N].

    Raises:
        UsageError: k < 1, at most k samples, or features that are not finite.
    """
    if not 0 < k < len(features):
        raise UsageError(
            f"No {k}-th nearest neighbour (got {len(features)} samples) - 1 <= k < samples is needed - choose "
            f"a smaller k or evaluate more assets."
        )
    # The smallest of each row is the sample itself (or a duplicate, at distance 0 too): index k is the k-th other.
    return np.concatenate([np.partition(block, k, axis=1)[:, k] for _, block in _blocks(features, features)])


def _blocks(x: Features, y: Features) -> Iterator[tuple[slice, NDArray[np.float64]]]:
    """Squared distances of ROWS rows of `x` at a time to all of `y`, with the rows they belong to."""
    centre_D = mean(y)  # distances do not see an offset that all share, but rounding would
    for start in range(0, len(x), ROWS):
        rows = slice(start, start + ROWS)
        rows_x = checked_features(x[rows]) - centre_D
        tiles = (_tile(rows_x, checked_features(y[i : i + ROWS]) - centre_D) for i in range(0, len(y), ROWS))
        yield rows, np.concatenate(list(tiles), axis=1)


def _tile(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """|x|^2 + |y|^2 - 2 x.y: one matrix product; what only rounding keeps from zero is zero."""
    norms = np.square(x).sum(1)[:, None] + np.square(y).sum(1)
    squared = norms - 2 * (x @ y.T)
    squared[squared < SAME * norms] = 0
    return squared
