"""Coloured points on surfaces."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..base.errors import AssetError
from ..geometry.mesh import Mesh
from .meshes import surface_colours


def sample_surface(mesh: Mesh, count: int, generator: np.random.Generator) -> NDArray[np.float32]:
    """Points drawn independently and uniformly by area.

    Returns:
        [count, 6] float32: x, y, z and the sRGB colour in [0, 1], textures included.
    Raises:
        AssetError: the mesh has no area.
    """
    first, second, third = mesh.triangles.transpose(1, 0, 2)
    area = np.linalg.norm(np.cross(second - first, third - first), axis=1)
    if not len(area) or not 0 < area.sum() < np.inf:
        raise AssetError(
            f"No points can be drawn from a mesh of {len(area)} faces without a finite, positive area - "
            "give a mesh with a surface."
        )
    until = np.cumsum(area)
    face = np.searchsorted(until, generator.random(count) * until[-1], side="right")
    face = np.minimum(face, len(area) - 1)  # rounding may reach the very end
    uv = _triangle_points(count, generator)
    points = first[face] + uv[:, :1] * (second - first)[face] + uv[:, 1:] * (third - first)[face]
    return np.concatenate([points, surface_colours(mesh, face, uv)], axis=1).astype(np.float32)


def _triangle_points(count: int, generator: np.random.Generator) -> NDArray[np.float64]:
    """[count, 2] uniform barycentric weights of the second and third corner: a unit square, folded."""
    uv = generator.random((count, 2))
    return np.where(uv.sum(1, keepdims=True) > 1, 1 - uv, uv)
