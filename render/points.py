"""Coloured points on surfaces."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..base.errors import AssetError
from ..geometry.mesh import Mesh
from .meshes import surface_colours, surface_opacity

ROUNDS = 1000  # of drawing anew what fell where a surface lets light through


def sample_surface(mesh: Mesh, count: int, generator: np.random.Generator) -> NDArray[np.float32]:
    """Points drawn independently and uniformly by area, of blended surfaces in proportion to opacity.

    Returns:
        [count, 6] float32: x, y, z and the sRGB colour in [0, 1], textures included.
    Raises:
        AssetError: the mesh has no area, or nothing of it is seen.
    """
    first, second, third = mesh.triangles.transpose(1, 0, 2)
    area = np.linalg.norm(np.cross(second - first, third - first), axis=1)
    if not len(area) or not 0 < area.sum() < np.inf:
        raise AssetError(
            f"No points can be drawn from a mesh of {len(area)} faces without a finite, positive area - "
            "give a mesh with a surface."
        )
    until = np.cumsum(area)
    face, uv = _drawn(until, count, generator)
    missing = np.arange(count) if mesh.see_through.any() else np.zeros(0, np.int64)
    for _ in range(ROUNDS):
        missing = missing[generator.random(len(missing)) >= surface_opacity(mesh, face[missing], uv[missing])]
        if not len(missing):
            break
        face[missing], uv[missing] = _drawn(until, len(missing), generator)
    else:
        raise AssetError("nearly all of its surface is transparent: there is nothing to draw points on")
    points = first[face] + uv[:, :1] * (second - first)[face] + uv[:, 1:] * (third - first)[face]
    return np.concatenate([points, surface_colours(mesh, face, uv)], axis=1).astype(np.float32)


def _drawn(until: NDArray, count: int, generator: np.random.Generator) -> tuple[NDArray[np.int64], NDArray]:
    """Faces [count] and barycentric weights [count, 2], faces by the sums `until` of their areas."""
    face = np.searchsorted(until, generator.random(count) * until[-1], side="right")
    face = np.minimum(face, len(until) - 1)  # rounding may reach the very end
    return face, _triangle_points(count, generator)


def _triangle_points(count: int, generator: np.random.Generator) -> NDArray[np.float64]:
    """[count, 2] uniform barycentric weights of the second and third corner: a unit square, folded."""
    uv = generator.random((count, 2))
    return np.where(uv.sum(1, keepdims=True) > 1, 1 - uv, uv)
