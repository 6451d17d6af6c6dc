"""Frechet distance between two sets of features, from streamed float64 moments.

Shapes: N samples, D feature dimension.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..base.errors import UsageError


@dataclass(frozen=True, eq=False)
class Moments:
    """Count, mean and scatter of features seen so far; float64 whatever the features are.

    The scatter is kept about the mean (not as a sum of products), so a large common offset costs no digits.

    Attributes:
        count: samples seen.
        mean: [D].
        scatter: [D, D] sum over samples of (x - mean)(x - mean)^T.
    """

    count: int
    mean: NDArray[np.float64]
    scatter: NDArray[np.float64]

    @staticmethod
    def empty(dim: int) -> Moments:
        """The moments of no sample, to stream into. dim: D."""
        return Moments(0, np.zeros(dim), np.zeros((dim, dim)))

    @staticmethod
    def of(features: ArrayLike) -> Moments:
        """The moments of one chunk. features: [N, D], N may be 0.

        Raises:
            UsageError: `features` is not two-dimensional, or holds NaN or infinity.
        """
        x_ND = _checked(features)
        if not len(x_ND):
            return Moments.empty(x_ND.shape[1])
        mean_D = x_ND.mean(0)
        centred_ND = x_ND - mean_D
        return Moments(len(x_ND), mean_D, centred_ND.T @ centred_ND)

    def updated(self, features: ArrayLike) -> Moments:
        """The moments after one more chunk. features: [N, D]. Raises UsageError as `of` and `merged`."""
        return self.merged(Moments.of(features))

    def merged(self, other: Moments) -> Moments:
        """The moments of both sets together (Chan, Golub and LeVeque 1979, pairwise update).

        Raises:
            UsageError: the dimensions differ.
        """
        _check_same_dim(self, other)
        if not self.count or not other.count:
            return other if other.count else self
        count = self.count + other.count
        shift_D = other.mean - self.mean
        between_DD = np.outer(shift_D, shift_D) * (self.count * other.count / count)
        return Moments(
            count,
            self.mean + shift_D * (other.count / count),
            self.scatter + other.scatter + between_DD,
        )

    @property
    def covariance(self) -> NDArray[np.float64]:
        """[D, D] with ddof=1, as numpy.cov and all public FID code.

        Raises:
            UsageError: fewer than 2 samples.
        """
        if self.count < 2:
            raise UsageError(
                f"A covariance of too few samples (got {self.count}) - at least 2 are needed - evaluate more assets."
            )
        return self.scatter / (self.count - 1)


def frechet_distance(a: Moments, b: Moments) -> float:
    """Frechet distance of the Gaussians with the moments of `a` and `b`, in squared feature units.

    |mu_a - mu_b|^2 + tr(S_a) + tr(S_b) - 2 sum sqrt(eig(S_a^1/2 S_b S_a^1/2))    (Dowson and Landau 1982;
    FID, arXiv:1706.08500, Eq. 6). The eigenvalues are those of a symmetric matrix, so they are real: no
    complex remainder, no fallback that adds to the diagonal. With S_a = U diag(l) U^T the matrix is
    orthogonally similar to L^T S_b L, L = U diag(l)^1/2, which saves one product. Negative eigenvalues can
    only be rounding (about 1e-15 of the largest) and are clipped to zero; so is a negative result, which is
    rounding too (at most about 1e-7 of the traces when N <= D).

    Raises:
        UsageError: fewer than 2 samples on a side, or different dimensions.
    """
    _check_same_dim(a, b)
    covariance_a, covariance_b = a.covariance, b.covariance
    shift_D = a.mean - b.mean
    values_D, vectors_DD = np.linalg.eigh(covariance_a)
    root_DD = vectors_DD * np.sqrt(np.clip(values_D, 0, None))
    product_DD = root_DD.T @ covariance_b @ root_DD
    eigenvalues_D = np.linalg.eigvalsh((product_DD + product_DD.T) / 2)
    overlap = np.sqrt(np.clip(eigenvalues_D, 0, None)).sum()
    distance = shift_D @ shift_D + np.trace(covariance_a) + np.trace(covariance_b) - 2 * overlap
    return max(float(distance), 0.0)


def _checked(features: ArrayLike) -> NDArray[np.float64]:
    x_ND = np.asarray(features, np.float64)
    if x_ND.ndim != 2:
        raise UsageError(f"Features of the wrong shape (got {list(x_ND.shape)}) - [N, D] is needed - flatten them.")
    if not np.isfinite(x_ND).all():
        bad = int((~np.isfinite(x_ND)).any(1).sum())
        raise UsageError(
            f"Features that are not finite (got {bad} of {len(x_ND)} samples) - NaN and infinity have "
            f"no distance - count those assets as failed."
        )
    return x_ND


def _check_same_dim(a: Moments, b: Moments) -> None:
    if a.mean.shape != b.mean.shape:
        raise UsageError(
            f"Features of different dimensions (got {len(a.mean)} and {len(b.mean)}) - both sides need the "
            f"same extractor - compute the reference again."
        )
