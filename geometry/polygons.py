"""Polygons of any number of corners, cut into triangles."""

from __future__ import annotations

import numpy as np
from mapbox_earcut import triangulate_float64
from numpy.typing import NDArray

from ..base.errors import AssetError

# Share of a polygon's area (of its triangles' areas) by which rounding may turn a triangle over, or leave the sum of
# the triangles away from 0: coordinates are often float32.
ROUNDING = 1e-6


def triangulate(
    vertices: NDArray, corners: NDArray[np.int64], sizes: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Triangles of polygons, in the order of the polygons and turned as they are.

    A polygon that its first corner sees as a whole, as every convex one, becomes a fan from there. Any other is
    projected to the plane across its area vector (of a polygon without one: to the plane nearest to its corners) and
    clipped ear by ear. Polygons of fewer than three corners have no triangles, nor has what has no area. A simple
    polygon keeps its area; one that crosses itself has no triangulation, and what ear clipping makes of it is taken,
    which can be less than its outline shows. Polygons with a corner that is not finite become fans.

    Args:
        vertices: [V, 3].
        corners: [C] vertex indices, polygon after polygon.
        sizes: [P] numbers of corners.
    Returns:
        Triangles [F, 3] as indices into `corners`, so that what belongs to a corner can be taken along; and the
        polygon [F] that each is a piece of.
    Raises:
        AssetError: a corner is not one of the vertices.
    """
    if len(corners) and (corners.min() < 0 or corners.max() >= len(vertices)):
        raise AssetError(f"a face names a vertex that is not one of its {len(vertices)}: export it again")
    triangles, polygon = fans(sizes)
    outline = np.asarray(vertices, np.float64)[corners]
    several = sizes[polygon] > 3
    cut = _wrongfans(outline[triangles[several]], polygon[several], len(sizes))
    if len(cut) == 0:
        return triangles, polygon
    starts = np.cumsum(sizes) - sizes
    pieces = [starts[p] + _ears(outline[starts[p] : starts[p] + sizes[p]]) for p in cut]
    right = ~np.isin(polygon, cut)
    triangles = np.concatenate([triangles[right], *pieces])
    polygon = np.concatenate([polygon[right], np.repeat(cut, [len(piece) for piece in pieces])])
    order = np.argsort(polygon, kind="stable")
    return triangles[order], polygon[order]


def fans(sizes: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(corner 0, corner i, corner i + 1) of every polygon, and the polygon of each."""
    counts = np.maximum(sizes - 2, 0)
    polygon = np.repeat(np.arange(len(sizes)), counts)
    first = (np.cumsum(sizes) - sizes)[polygon]
    second = first + 1 + np.arange(len(polygon)) - (np.cumsum(counts) - counts)[polygon]
    return np.stack([first, second, second + 1], axis=1), polygon


def _wrongfans(triangles: NDArray, polygon: NDArray, count: int) -> NDArray[np.int64]:
    """Polygons whose fan leaves them, in ascending order: one of its triangles is turned over, or they cancel out.

    Args:
        triangles: [F, 3, 3] of the fans.
        polygon: [F] of each, below `count`.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        areas = _areas(triangles)
        whole = np.stack([np.bincount(polygon, axis, count) for axis in areas.T], axis=1)
        length = np.linalg.norm(whole, axis=1)
        total = np.bincount(polygon, np.linalg.norm(areas, axis=1), count)
        over = (areas * whole[polygon]).sum(1) < -ROUNDING * length[polygon] ** 2
        wrong = (np.bincount(polygon, over, count) > 0) | (length < ROUNDING * total)
    return np.flatnonzero(wrong & np.isfinite(total))


def _areas(triangles: NDArray[np.float64]) -> NDArray[np.float64]:
    """Twice the area vectors [F, 3] of triangles [F, 3, 3]."""
    return np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])


def _ears(outline: NDArray[np.float64]) -> NDArray[np.int64]:
    """Triangles [F, 3] of one polygon [n, 3], as indices of its corners."""
    outline = outline - outline.mean(0)
    outline /= np.abs(outline).max()
    areas = _areas(outline[fans(np.array([len(outline)]))[0]])
    across = areas.sum(0)
    if np.linalg.norm(across) < ROUNDING * np.linalg.norm(areas, axis=1).sum():
        across = np.linalg.svd(outline)[2][2]
    plane = np.linalg.svd(across[None])[2][1:]  # two directions across it
    flat = np.ascontiguousarray(outline @ plane.T)
    ears = triangulate_float64(flat, np.array([len(flat)], np.uint32)).reshape(-1, 3).astype(np.int64)
    over = _areas(outline[ears]) @ across < 0
    ears[over] = ears[over][:, ::-1]
    return ears
