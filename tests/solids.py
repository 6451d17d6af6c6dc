"""Closed solids of known shape in one colour; `concatenate` makes one mesh of several."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from trimesh.creation import uv_sphere

from mdtbench.assets.primitives import box_mesh
from mdtbench.geometry.mesh import Mesh

Triple = Sequence[float] | np.ndarray
GREY = (0.5, 0.5, 0.5)


def box(low: Triple, high: Triple, rgb: Triple = GREY) -> Mesh:
    """Axis-aligned, between two opposite corners."""
    return box_mesh(np.stack([low, high], -1)[None].astype(np.float64), np.array([rgb]))


def ellipsoid(centre: Triple, radii: Triple, rgb: Triple = GREY, segments: int = 16, levels: int = 8) -> Mesh:
    """Corners on its surface: `segments` (a multiple of 4) around z, at `levels` (even) heights, poles included."""
    ball = uv_sphere(count=[levels, segments // 2])
    vertices = ball.vertices * radii + np.asarray(centre)
    return Mesh.of_faces(vertices, ball.faces, np.tile(rgb, (len(ball.faces), 1)))
