"""FD_infinity: the Frechet distance that infinitely many generated samples would have.

Shapes: N samples, D feature dimension.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..base.errors import UsageError
from .frechet import Moments, frechet_distance
from .streams import Features, moments

POINTS = 15  # as Chong and Forsyth
SMALLEST_SHARE = 10  # the smallest subset has a tenth of the samples, as in dgm-eval


@dataclass(frozen=True)
class LineFit:
    """y = value + slope x by least squares.

    Attributes:
        value: at x = 0. stderr: its standard error from the residuals.
        slope: per unit of x.
    """

    value: float
    stderr: float
    slope: float


def frechet_infinity(
    reference: Moments,
    features: Features,
    random: np.random.Generator,
    *,
    views: int = 1,
    points: int = POINTS,
) -> LineFit:
    """Frechet distances to `reference` of subsets of n samples, extrapolated linearly in 1/n to 1/n = 0.

    Chong and Forsyth, arXiv:1911.07023: the bias of FD is linear in 1/n to first order. The bias that the
    finite reference causes stays, being the same for all that is compared with it. The estimate may be negative.

    Every subset is drawn anew, none is part of the next larger one: nested subsets would share their
    samples, hence their errors, and the residuals would say little about the error of the fit. The standard error is
    that of the draws, given these features: it does not know of other assets that might have been there.

    Subsets are of assets, with all their views: single pictures of a small subset would nearly all show
    different assets and those of the whole set would not, so the distances would not be on one line.

    Args:
        features: [N, D], the views of an asset in consecutive rows. They need not be in memory.
        views: rows per asset.
        points: subset sizes, at regular steps up to N.
    Raises:
        UsageError: N is not a multiple of `views`, features that are not finite, fewer than 3 points, or
            fewer than 2 (D + 1) samples: below D + 1 a covariance is singular, and FD far from linear in 1/n.
    Cost: `points` distances and, on average over the points, half as many passes over the features.
    """
    assets = count_assets(len(features), views)
    sizes = subset_sizes(assets, views, features.shape[1], points)
    drawn = (random.choice(assets, n, replace=False) for n in sizes)
    distances = [frechet_distance(reference, moments(features, _rows(chosen, views))) for chosen in drawn]
    return fit_line(1 / (views * sizes), distances)


def subset_sizes(assets: int, views: int, dim: int, points: int = POINTS) -> NDArray[np.int64]:
    """Assets of each subset, [points], rising to all of them. Raises UsageError as `frechet_infinity`."""
    smallest = max(-(-(dim + 1) // views), assets // SMALLEST_SHARE)
    if 2 * smallest > assets:
        raise UsageError(
            f"Too few samples to extrapolate (got {assets * views} of dimension {dim}) - at least "
            f"{2 * smallest * views} are needed - evaluate more assets."
        )
    if points < 3:
        raise UsageError(f"Too few points for a line and its error (got {points}) - at least 3 - take 15.")
    return np.linspace(smallest, assets, points).astype(np.int64)


def fit_line(x: ArrayLike, y: ArrayLike) -> LineFit:
    """Ordinary least squares. x, y: [n], n >= 3."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    centred = x - x.mean()
    spread = centred @ centred
    slope = float(centred @ y / spread)
    value = float(y.mean() - slope * x.mean())
    variance = float(np.square(y - value - slope * x).sum()) / (len(x) - 2)
    return LineFit(value, float(np.sqrt(variance * (1 / len(x) + x.mean() ** 2 / spread))), slope)


def grouped(features: NDArray[np.float64], views: int) -> NDArray[np.float64]:
    """[N, D] -> [N / views, views, D], an asset per row. Raises UsageError as `count_assets`."""
    return features.reshape(count_assets(len(features), views), views, features.shape[1])


def count_assets(rows: int, views: int) -> int:
    """How many assets so many rows are of.

    Raises:
        UsageError: the rows are not a multiple of `views`.
    """
    if views < 1 or rows % views:
        raise UsageError(
            f"Features that are not whole assets (got {rows} rows for {views} views) - every asset "
            f"has all its views - count a failed one as black pictures."
        )
    return rows // views


def _rows(assets: NDArray[np.intp], views: int) -> NDArray[np.intp]:
    """The rows of assets."""
    return (views * assets[:, None] + np.arange(views)).ravel()
