"""Evenly spread points of a surface: what voxel features are averaged from and distances are searched with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..base.errors import AssetError, UsageError
from .mesh import Mesh

# Steps of the R2 sequence (M. Roberts, "The unreasonable effectiveness of quasirandom sequences", 2018): powers of
# the inverse of the real root of x^3 = x + 1. Points of a face fill it evenly however many they are.
_PLASTIC = 1.324717957244746
_STEPS = np.array([1 / _PLASTIC, 1 / _PLASTIC**2])
# With this start the first point of a face is its centroid.
_START = np.array([4 / 9, 1 / 2])


@dataclass(frozen=True)
class SurfaceSamples:
    """S points of a mesh.

    Attributes:
        points: [S, 3] float64 positions.
        face: [S] int64 the face of each.
        uv: [S, 2] float64 barycentric weights of the face's second and third corner.
        area: [S] float64 the part of its face's area that each point stands for; their sum is the mesh's area.
    """

    points: NDArray[np.float64]
    face: NDArray[np.int64]
    uv: NDArray[np.floating]
    area: NDArray[np.float64]


def surface_samples(mesh: Mesh, spacing: float) -> SurfaceSamples:
    """Points on all faces, about `spacing` apart, without chance.

    The points of a face depend on that face alone, so neither the order of faces nor any other part of the mesh
    moves them. A face has at least one point per spacing^2 of area and per spacing of its longest edge (else a
    sliver would have gaps), which is why points carry the area that they stand for.

    Args:
        spacing: in units of the mesh.
    Raises:
        AssetError: the mesh has no area, or a coordinate is not finite.
        UsageError: the spacing is not positive.
    """
    if not spacing > 0:
        raise UsageError(f"The spacing of surface samples is {spacing} - it must be positive.")
    area = np.linalg.norm(_cross_products(mesh), axis=1) / 2
    if not 0 < area.sum() < np.inf:
        raise AssetError(f"A mesh of {len(area)} faces has no finite, positive area - give a mesh with a surface.")
    longest = np.linalg.norm(mesh.triangles - np.roll(mesh.triangles, 1, axis=1), axis=-1).max(1)
    count = np.ceil(np.maximum(area / spacing**2, longest / spacing)).astype(np.int64) * (area > 0)
    face = np.repeat(np.arange(len(area)), count)
    uv = _triangle_points(np.arange(len(face)) - np.repeat(np.cumsum(count) - count, count))
    return SurfaceSamples(surface_points(mesh, face, uv), face, uv, (area / np.maximum(count, 1))[face])


def surface_points(mesh: Mesh, face: NDArray, uv: NDArray) -> NDArray[np.float64]:
    """[K, 3] positions of the points with barycentric weights `uv` [K, 2] of the second and third corner."""
    first, second, third = mesh.triangles[face].transpose(1, 0, 2)
    return first + uv[:, :1] * (second - first) + uv[:, 1:] * (third - first)


def face_normals(mesh: Mesh) -> NDArray[np.float64]:
    """[F, 3] unit normals, right-handed around the corners; zero for faces without area."""
    cross = _cross_products(mesh)
    length = np.linalg.norm(cross, axis=1, keepdims=True)
    return np.divide(cross, length, out=np.zeros_like(cross), where=length > 0)


def _cross_products(mesh: Mesh) -> NDArray[np.float64]:
    first, second, third = mesh.triangles.transpose(1, 0, 2)
    return np.cross(second - first, third - first)


def _triangle_points(index: NDArray[np.int64]) -> NDArray[np.floating]:
    """[K, 2] weights of the second and third corner of the points number `index` [K] of their triangles."""
    square = (_START + index[:, None] * _STEPS) % 1.0
    root = np.sqrt(square[:, 0])  # the map of the unit square to a triangle that keeps areas in proportion
    return np.stack([1 - root, root * square[:, 1]], axis=1)
