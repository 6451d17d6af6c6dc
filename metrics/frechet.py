"""Frechet distance between two sets of features, from streamed float64 moments.

Shapes: N samples, D feature dimension.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import lapack

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
        x_ND = checked_features(features)
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
        check_same_dim(len(self.mean), len(other.mean))
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

    |mu_a - mu_b|^2 + tr(S_a) + tr(S_b) - 2 tr((S_a S_b)^1/2)    (Dowson and Landau 1982; FID, arXiv:1706.08500,
    Eq. 6). A negative result can only be rounding (at most about 1e-7 of the traces when N <= D) and is zero.

    Raises:
        UsageError: fewer than 2 samples on a side, or different dimensions.
    """
    check_same_dim(len(a.mean), len(b.mean))
    covariance_a, covariance_b = a.covariance, b.covariance
    shift_D = a.mean - b.mean
    traces = np.trace(covariance_a) + np.trace(covariance_b)
    return max(float(shift_D @ shift_D + traces - 2 * _overlap(covariance_a, covariance_b)), 0.0)


def _overlap(covariance_a: NDArray[np.float64], covariance_b: NDArray[np.float64]) -> float:
    """tr((S_a S_b)^1/2), the sum of the roots of the eigenvalues of F^T S_b F, where S_a = F F^T.

    That matrix is symmetric, so its eigenvalues are real: no complex remainder, no fallback that adds to the
    diagonal. F comes from a pivoted Cholesky factorisation, which is much faster than eigenvectors and stops at the
    rank r: with N <= D samples everything after it is [r, r]. Negative eigenvalues can only be rounding
    (about 1e-15 of the largest) and are clipped to zero.
    """
    packed_DD, order_D, rank, _ = lapack.dpstrf(covariance_a, lower=1)  # pyright: ignore[reportAttributeAccessIssue]
    covariance_b = covariance_b[np.ix_(order_D - 1, order_D - 1)]
    factor_Dr = np.tril(packed_DD)[:, :rank]
    if rank == len(order_D):
        # half the cost of two products
        product_rr, _ = lapack.dsygst(covariance_b, factor_Dr, itype=2, lower=1)  # pyright: ignore[reportAttributeAccessIssue]
    else:
        product_rr = factor_Dr.T @ covariance_b @ factor_Dr
    # Of the lower triangle, the only one that dsygst fills. Torch's LAPACK takes half the time of numpy's.
    eigenvalues_r = torch.linalg.eigvalsh(torch.tensor(product_rr))
    return float(eigenvalues_r.clamp_min(0).sqrt().sum())


def checked_features(features: ArrayLike) -> NDArray[np.float64]:
    """The same in float64. features: [N, D], N may be 0.

    Raises:
        UsageError: not two-dimensional, or NaN or infinity in it.
    """
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


def check_same_dim(a: int, b: int) -> None:
    """Raises UsageError where the features of two sides have different dimensions."""
    if a != b:
        raise UsageError(
            f"Features of different dimensions (got {a} and {b}) - both sides need the "
            f"same extractor - compute the reference again."
        )
