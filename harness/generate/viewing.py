"""Meshes small enough for a viewer in a page: a colour per vertex, few faces."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ...geometry.mesh import Mesh
from ...render.meshes import surface_colours

VIEWED_FACES = 20_000  # about 400 kB, of which a page can show a dozen
FINEST_GRID = 512  # cells along the longest side, where clustering begins
COARSER = 0.85  # the next grid, while there are too many faces


@dataclass(frozen=True)
class ColouredMesh:
    """vertices: [V, 3], z up. faces: [F, 3]. colours: [V, 3] sRGB in [0, 1]."""

    vertices: NDArray[np.float64]
    faces: NDArray[np.int64]
    colours: NDArray[np.float32]


def viewed(mesh: Mesh, limit: int = VIEWED_FACES) -> ColouredMesh:
    """The mesh with a colour per vertex and at most `limit` faces, if it has a surface.

    Textured faces are cut into smaller ones while the limit allows, since their vertices alone say nothing of a
    texture. Vertices of a mesh with too many faces are merged in the cells of a grid (Rossignac and Borrel, 1993).
    """
    if mesh.textures:
        mesh = _cut(mesh, limit)
    n_faces = len(mesh.faces)
    corner = np.tile(np.array([[0, 0], [1, 0], [0, 1]], np.float64), (n_faces, 1))
    colours = np.clip(surface_colours(mesh, np.repeat(np.arange(n_faces), 3), corner), 0, 1)
    positions = mesh.triangles.reshape(-1, 3)
    if n_faces <= limit:
        return _merged_equal(positions, colours)
    return _merged_near(positions, colours, limit)


def _cut(mesh: Mesh, limit: int) -> Mesh:
    """Every face in four at the middles of its sides, again and again while at most `limit` faces come of it."""
    while 0 < 4 * len(mesh.faces) <= limit:
        triangles = _quartered(mesh.triangles)
        mesh = replace(
            mesh,
            vertices=triangles.reshape(-1, 3),
            faces=np.arange(3 * len(triangles)).reshape(-1, 3),
            corner_rgba=_quartered(mesh.corner_rgba),
            corner_uv=_quartered(mesh.corner_uv),
            texture=np.repeat(mesh.texture, 4),
        )
    return mesh


def _quartered(corners: NDArray) -> NDArray:
    """[F, 3, C] to [4 F, 3, C]: a part at each corner and the one in the middle."""
    middles = (corners + np.roll(corners, -1, axis=1)) / 2  # of the sides 01, 12, 20
    (a, b, c), (ab, bc, ca) = np.moveaxis(corners, 1, 0), np.moveaxis(middles, 1, 0)
    parts = [(a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca)]
    return np.stack([np.stack(part, axis=1) for part in parts], axis=1).reshape(-1, *corners.shape[1:])


def _merged_equal(positions: NDArray, colours: NDArray) -> ColouredMesh:
    """Corners [3 F, 3] of one place and colour are one vertex."""
    unique, index = np.unique(np.concatenate([positions, colours], axis=1), axis=0, return_inverse=True)
    return ColouredMesh(unique[:, :3], index.reshape(-1, 3), unique[:, 3:].astype(np.float32))


def _merged_near(positions: NDArray, colours: NDArray, limit: int) -> ColouredMesh:
    """Corners [3 F, 3] in one cell of a grid are one vertex, at their mean; the finest grid that is coarse enough."""
    low, side, n_cells = positions.min(0), np.ptp(positions, axis=0).max(), FINEST_GRID
    while True:
        cell = np.floor((positions - low) / side * n_cells).astype(np.int64)
        number = (cell[:, 0] * (n_cells + 1) + cell[:, 1]) * (n_cells + 1) + cell[:, 2]
        _, index, count = np.unique(number, return_inverse=True, return_counts=True)
        faces = _distinct(index.reshape(-1, 3))
        if len(faces) <= limit or n_cells == 1:
            break
        n_cells = max(1, int(n_cells * COARSER))
    means = [np.bincount(index, column) / count for column in np.concatenate([positions, colours], axis=1).T]
    mean = np.stack(means, axis=1)
    return ColouredMesh(mean[:, :3], faces, np.clip(mean[:, 3:], 0, 1).astype(np.float32))


def _distinct(faces: NDArray[np.int64]) -> NDArray[np.int64]:
    """Those of three different vertices, each once, whatever its winding."""
    ordered = np.sort(faces, axis=1)
    ordered = ordered[(np.diff(ordered, axis=1) > 0).all(1)]
    ordered = ordered[np.lexsort(ordered.T[::-1])]  # numpy's unique of rows takes ten times as long
    new = np.ones(len(ordered), bool)
    new[1:] = (np.diff(ordered, axis=0) != 0).any(1)
    return ordered[new]
