"""Kernel distance (KD, KID): unbiased squared MMD of two sets of features, averaged over random subsets.

Shapes: N samples, D feature dimension, S subsets.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..base.errors import UsageError
from .frechet import check_same_dim, checked_features
from .streams import Features

SUBSETS, SUBSET_SIZE = 100, 1000  # Binkowski et al., arXiv:1801.01401; torch-fidelity and dgm-eval have the same

Subset = tuple[NDArray[np.intp], NDArray[np.intp]]  # rows of the one side, rows of the other


@dataclass(frozen=True, eq=False)
class KernelDistance:
    """One squared MMD per subset, in the kernel's unit; published tables show the mean times 100.

    Attributes:
        values: [S]. An unbiased estimate of zero is negative half of the time.
    """

    values: NDArray[np.float64]

    @property
    def mean(self) -> float:
        return float(self.values.mean())

    @property
    def sd(self) -> float:
        """Over subsets (ddof=0, as torch-fidelity). Subsets overlap, so it is no standard error of the mean."""
        return float(self.values.std())


def draw_subsets(
    random: np.random.Generator | np.random.RandomState,
    n_a: int,
    n_b: int,
    *,
    count: int = SUBSETS,
    size: int = SUBSET_SIZE,
) -> list[Subset]:
    """Rows of `count` subsets; in each one first those of the side a, then those of b, without replacement.

    With `RandomState(seed)` these are the draws of torch-fidelity (its default seed is 2020) and of dgm-eval (after
    `numpy.random.seed(seed)`), for a = their first set. NumPy keeps that stream for ever, a Generator's may change.
    A side with fewer than `size` samples makes the subsets smaller, as in dgm-eval (torch-fidelity refuses): the
    estimate is unbiased at any size.

    Raises:
        UsageError: fewer than 2 samples on a side, or nothing to draw.
    """
    size = min(size, n_a, n_b)
    if size < 2 or count < 1:
        raise UsageError(
            f"No kernel distance of {count} subsets of {size} samples (got {n_a} and {n_b} samples) - at least one "
            f"subset of 2 is needed - evaluate more assets."
        )
    return [(random.choice(n_a, size, replace=False), random.choice(n_b, size, replace=False)) for _ in range(count)]


def kernel_distance(a: Features, b: Features, subsets: Iterable[Subset]) -> KernelDistance:
    """Kernel distance of the rows of `a` and `b` that the subsets name.

    Only the rows of one subset are in memory as float64, so `a` and `b` need not be in memory.

    Args:
        a: [N, D]. b: [M, D].
    Raises:
        UsageError: different dimensions, or features that are not finite.
    Cost: 6 size^2 D multiplications per subset; 100 of 1000 at D = 2048 take about a minute of one core.
    """
    check_same_dim(a.shape[-1], b.shape[-1])
    return KernelDistance(np.array([squared_mmd(a[rows_a], b[rows_b]) for rows_a, rows_b in subsets]))


def squared_mmd(a: NDArray, b: NDArray) -> float:
    """Unbiased squared maximum mean discrepancy under k(x, y) = (x.y / D + 1)^3.

    Gretton et al. 2012, Eq. 3, whose cross term is the mean over all pairs; the U-statistic of their Eq. 4 leaves
    out the pairs of equal index, which mean nothing where the two sides are not paired.

    Args:
        a: [N, D]. b: [M, D]. At least 2 samples each.
    Raises:
        UsageError: features that are not finite.
    """
    a, b = checked_features(a), checked_features(b)
    return _mean_off_diagonal(_kernel(a, a)) + _mean_off_diagonal(_kernel(b, b)) - 2 * float(_kernel(a, b).mean())


def _kernel(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    base = a @ b.T / a.shape[1] + 1
    return base * base * base  # two products are much faster than a power


def _mean_off_diagonal(kernel_NN: NDArray[np.float64]) -> float:
    n = len(kernel_NN)
    return float(kernel_NN.sum() - np.trace(kernel_NN)) / (n * (n - 1))
