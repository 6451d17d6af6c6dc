"""Signed distance to the surface of a mesh, with what the nearest surface looks like: targets of a mesh decoder.

Meshes need not be watertight, nor their parts disjoint: inside is what the outside cannot flood, not what face
normals or ray parity say.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import KDTree
from trimesh.triangles import closest_point, points_to_barycentric

from ..base.errors import UsageError
from ..geometry.mesh import Mesh
from ..geometry.surface import face_normals, surface_samples
from ..geometry.voxels import surface_voxels
from .meshes import MeshRenderer, surface_colours

# Distance between the surface samples that suggest nearest triangles, and how many of them are asked.
SPACING = 1 / 128
N_NEAREST = 8
# Cells of the flooded grid along each side of the cube.
FLOOD_RESOLUTION = 64
# Cells within two of a cell, near ones first; where it looks for one that is free.
_NEIGHBOURS = np.array(sorted((np.indices((5, 5, 5)).reshape(3, -1).T - 2).tolist(), key=np.linalg.norm))[1:]
# Where in a free cell a line of sight ends: off the symmetries of objects, so that no line runs along an edge
# between two triangles, where a ray caster may slip through.
_AIM = np.array([0.437, 0.561, 0.519])


@dataclass(frozen=True)
class SurfaceField:
    """What N points have nearest.

    Attributes:
        distance: [N] float32 to the surface, in units of the mesh; negative inside.
        rgb: [N, 3] float32 sRGB in [0, 1] of the nearest surface point.
        normal: [N, 3] float32 unit normal of its face, as wound.
    """

    distance: NDArray[np.float32]
    rgb: NDArray[np.float32]
    normal: NDArray[np.float32]


def signed_distance(mesh: Mesh, points: NDArray, flood_resolution: int = FLOOD_RESOLUTION) -> SurfaceField:
    """Distance, sign, nearest colour and nearest normal.

    The distance is exact to the triangles of the 8 nearest of surface samples 1/128 apart; the nearest triangle is
    among them but for a point in thousands (seen: 2e-4 too far on toys; the bound is the gap between samples).
    Points inside are those
    that cannot be reached from outside the cube without crossing the surface, on a grid of cells: holes and gaps
    narrower than a cell (1/64) are closed by it, sealed cavities are filled, and an open sheet has no inside. The
    sign is otherwise exact, also within the cells of the surface and within walls thinner than a cell.

    Args:
        mesh: within the cube [-0.5, 0.5]^3.
        points: [N, 3], anywhere.
        flood_resolution: cells along each side of the cube.
    Raises:
        AssetError: the mesh has no area.
        UsageError: the mesh reaches out of the cube.
    """
    reach = np.abs(mesh.triangles).max(initial=0.0)
    if reach > 0.5:
        raise UsageError(f"The mesh reaches to {reach:g} - its coordinates must lie within 0.5 of 0. Normalise it.")
    points = np.asarray(points, np.float64).reshape(-1, 3)
    face, place = _nearest(mesh, points)
    weights = points_to_barycentric(mesh.triangles[face], place).clip(0, 1)
    distance = np.linalg.norm(points - place, axis=1)
    return SurfaceField(
        np.where(_is_outside(mesh, points, flood_resolution), distance, -distance).astype(np.float32),
        surface_colours(mesh, face, weights[:, 1:].astype(np.float32)),
        face_normals(mesh)[face].astype(np.float32),
    )


def _nearest(mesh: Mesh, points: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Nearest face [N] and the nearest point on it [N, 3]."""
    samples = surface_samples(mesh, SPACING)
    n_nearest = min(N_NEAREST, len(samples.face))
    found = KDTree(samples.points).query(points, n_nearest)[1].reshape(len(points), n_nearest)
    candidate = samples.face[found]  # [N, K], often one face several times
    face, place = candidate[:, 0].copy(), closest_point(mesh.triangles[candidate[:, 0]], points)
    squared = ((points - place) ** 2).sum(1)
    for k in range(1, n_nearest):
        new = np.flatnonzero((candidate[:, k, None] != candidate[:, :k]).all(1))
        other = closest_point(mesh.triangles[candidate[new, k]], points[new])
        other_squared = ((points[new] - other) ** 2).sum(1)
        nearer = other_squared < squared[new]
        at = new[nearer]
        face[at], place[at], squared[at] = candidate[at, k], other[nearer], other_squared[nearer]
    return face, place


def _is_outside(mesh: Mesh, points: NDArray[np.float64], resolution: int) -> NDArray[np.bool_]:
    """[N] bool. A point in a cell of the surface is on the side of any free cell near by that it can see.

    One that sees none is inside: of a thin wall, or of a gap that the grid closes.
    """
    side = _sides(mesh, resolution)
    position = (points + 0.5) * resolution + 1
    cell = np.floor(position).clip(0, resolution + 1).astype(np.int64)
    outside = side[tuple(cell.T)] > 0
    left = np.flatnonzero(side[tuple(cell.T)] == 0)
    caster = MeshRenderer(mesh)
    for offset in _NEIGHBOURS:
        there = (cell[left] + offset).clip(0, resolution + 1)
        free = side[tuple(there.T)] != 0
        at, there = left[free], there[free]
        sight = (there + _AIM - position[at]) / resolution
        hits = caster.cast(points[at], sight)
        clear = np.ones(len(at), bool)
        clear[hits.ray[hits.depth < 1]] = False
        outside[at[clear]] = side[tuple(there[clear].T)] > 0
        left = np.setdiff1d(left, at[clear], assume_unique=True)
    return outside


def _sides(mesh: Mesh, resolution: int) -> NDArray[np.int8]:
    """[R + 2, R + 2, R + 2]: 1 outside, -1 inside, 0 where the surface is; with a margin of one free cell."""
    blocked = np.pad(surface_voxels(mesh, resolution), 1)
    region = np.empty(blocked.shape, np.int32)
    ndimage.label(~blocked, output=region)
    return np.where(blocked, 0, np.where(region == region[0, 0, 0], 1, -1)).astype(np.int8)
