"""How well assets agree with pictures: ULIP_I, its shuffled control and the CLIP score, from embeddings.

Shapes: N assets, V views, E embedding.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...base.errors import UsageError
from ..streams import Features

CHUNK = 256  # assets at a time


@dataclass(frozen=True, eq=False)
class Agreement:
    """Scores of N assets.

    Attributes:
        per_asset: [N] 100 x cosine, mean over views; 0 for a failed asset.
        mean: over all assets.
        mean_valid: over those that did not fail; None when all did.
        n_fail: failed assets.
    """

    per_asset: NDArray[np.float64]
    mean: float
    mean_valid: float | None
    n_fail: int


def ulip_score(picture_embeddings: Features, point_embeddings: ArrayLike, ok: ArrayLike) -> Agreement:
    """100 x cosine between every picture's and its mesh's embedding, mean over views, then over assets.

    Args:
        picture_embeddings: [N, V, E], of any length; read a few assets at a time.
        point_embeddings: [N, E], of any length; those of failed assets are not read.
        ok: [N] bool, whether there is a mesh.

    Raises:
        UsageError: shapes disagree, there is no asset, or an embedding that counts is not finite.
    """
    points, valid = np.asarray(point_embeddings), np.asarray(ok, bool)
    _check_shapes(picture_embeddings.shape, points.shape, valid.shape)
    per_asset = np.zeros(len(valid))
    for start in range(0, len(valid), CHUNK):
        here = slice(start, start + CHUNK)
        counted = valid[here]
        per_asset[here][counted] = 100 * _cosines(picture_embeddings[here][counted], points[here][counted])
    mean_valid = float(per_asset[valid].mean()) if valid.any() else None
    return Agreement(per_asset, float(per_asset.mean()), mean_valid, int((~valid).sum()))


def shuffled_control(
    picture_embeddings: Features, point_embeddings: ArrayLike, ok: ArrayLike, seen: ArrayLike = True
) -> Agreement:
    """`ulip_score` of the pictures of asset i with the mesh of asset i + 1 (the last with the first).

    What is left of a score when the mesh is of something else. Raises UsageError, also for fewer than two assets.

    Args:
        ok: [N] whether there is a mesh. seen: [N] whether there are pictures. Other arguments as there.
    """
    points, valid = np.asarray(point_embeddings), np.asarray(ok, bool)
    if len(valid) < 2:
        raise UsageError(f"Shuffled pairs of {len(valid)} assets - at least 2 are needed - measure more assets.")
    return ulip_score(picture_embeddings, np.roll(points, -1, 0), np.roll(valid, -1) & np.asarray(seen, bool))


def clip_score(view_embeddings: Features, picture_embeddings: ArrayLike, ok: ArrayLike) -> Agreement:
    """CLIP score of TRELLIS (arXiv:2412.01506): 100 x mean cosine of an asset's views and the picture it was made from.

    Args:
        view_embeddings: [N, V, E], of renders of what was generated; the paper's V is 8, yaw every 45 degrees.
        picture_embeddings: [N, E], of the conditioning pictures.
        ok: [N] bool.

    Raises:
        UsageError: as `ulip_score`.
    """
    return ulip_score(view_embeddings, picture_embeddings, ok)


def _cosines(pictures: NDArray, points: NDArray) -> NDArray[np.float64]:
    """[n, V, E], [n, E] -> [n], mean over views."""
    cosines = np.einsum("nve,ne->nv", _unit(pictures), _unit(points))
    if not np.isfinite(cosines).all():
        raise UsageError("Embeddings of assets that did not fail hold NaN or infinity - mark those assets as failed.")
    return cosines.mean(1)


def _unit(vectors: NDArray) -> NDArray[np.float64]:
    """Unit vectors along the last axis; a vector of zeros stays one, so its cosines are 0."""
    vectors = np.asarray(vectors, np.float64)
    norm = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.where(norm == 0, 1, norm)


def _check_shapes(pictures: tuple[int, ...], points: tuple[int, ...], ok: tuple[int, ...]) -> None:
    count, views, dim = pictures if len(pictures) == 3 else (0, 0, 0)
    if not (count and views and points == (count, dim) and ok == (count,)):
        shapes = ", ".join(str(list(shape)) for shape in (pictures, points, ok))
        raise UsageError(
            f"Pictures, points and ok have shapes {shapes} - they must be [N, V, E], [N, E] and [N] with N, V > 0 - "
            "pass one row for every asset."
        )
