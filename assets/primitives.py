"""Boxes as triangles: what toys are built of."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..geometry.mesh import Mesh

# Triangles of the box whose corner number 4 i + 2 j + k lies at side i of x, j of y and k of z; outward.
_FACES = np.array(
    [
        [0, 1, 3], [0, 3, 2], [4, 6, 7], [4, 7, 5],  # -x, +x
        [0, 4, 5], [0, 5, 1], [2, 3, 7], [2, 7, 6],  # -y, +y
        [0, 2, 6], [0, 6, 4], [1, 5, 7], [1, 7, 3],  # -z, +z
    ]
)  # fmt: skip


def box_mesh(corners: NDArray[np.float64], rgb: NDArray[np.float64]) -> Mesh:
    """One mesh of axis-aligned boxes. corners: [B, 3, 2], low and high along each axis; rgb: [B, 3] in [0, 1]."""
    side = np.array([[i >> 2 & 1, i >> 1 & 1, i & 1] for i in range(8)])
    vertices = np.take_along_axis(corners[:, None], np.broadcast_to(side[None, :, :, None], (len(corners), 8, 3, 1)), 3)
    faces = _FACES + 8 * np.arange(len(corners))[:, None, None]
    return Mesh.of_faces(vertices.reshape(-1, 3), faces.reshape(-1, 3), np.repeat(rgb, len(_FACES), axis=0))
