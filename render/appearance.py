"""What the surface looks like in the cells of a coarse grid: the ground truth of the tiny world's second stage.

TRELLIS averages DINOv2 features of many views on the active voxels. The tiny world has numbers that need no
network instead: coverage, colour and normal of the 8 sub-cells of a cell. They go the same way from there.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from ..base.errors import UsageError
from ..geometry.mesh import Mesh
from ..geometry.surface import SurfaceSamples, face_normals, surface_samples
from ..geometry.voxels import coordinates
from .meshes import surface_colours

SUB_CELLS = 2  # along each side of a cell
PER_SUB_CELL = 7  # mask, red, green, blue, normal x, y, z
N_FEATURES = SUB_CELLS**3 * PER_SUB_CELL
# Samples along a side of a sub-cell: 16 where a plane crosses it straight.
SAMPLES_PER_SIDE = 4


def coarse_coords(occupancy: NDArray, resolution: int) -> NDArray[np.int32]:
    """The cells of a coarser grid that hold an occupied cell.

    Args:
        occupancy: [R, R, R], indexed [x, y, z].
        resolution: r, cells along each side of the coarser grid; divides R.
    Returns:
        [N, 3] int32 (x, y, z) in lexicographic order.
    Raises:
        UsageError: r does not divide R.
    """
    fine = occupancy.shape[0]
    if resolution < 1 or fine % resolution:
        raise UsageError(f"A grid of {fine} cannot be coarsened to {resolution} - choose a divisor of {fine}.")
    split = np.asarray(occupancy, bool).reshape((resolution, fine // resolution) * 3)
    return coordinates(np.asarray(split.any(axis=(1, 3, 5))))


def voxel_features(mesh: Mesh, coords: NDArray, resolution: int) -> NDArray[np.float32]:
    """Coverage, colour and normal of the sub-cells of the cells that a surface touches.

    Means over evenly spread surface samples (`surface_samples`, 4 along a side of a sub-cell), weighted by area.
    All surfaces count, also those inside other parts, as they do for the occupancy. A cell that no sample falls
    into, because the surface only grazes it, takes the nearest sample. Normals are those of the faces as wound,
    not turned outwards: both sides of a thin wall in one sub-cell cancel, and so they should.

    Args:
        mesh: within the cube [-0.5, 0.5]^3.
        coords: [N, 3] cells, each once, any order; a row of the result belongs to each.
        resolution: cells along each side of the cube.
    Returns:
        [N, 56] float32: for each of the 8 sub-cells (x slowest, z fastest) the mask 1, sRGB in [-1, 1] (2c - 1)
        and the mean unit normal; zeros in a sub-cell without surface.
    Raises:
        AssetError: the mesh has no area.
        UsageError: a cell lies outside the grid.
    """
    cells = np.asarray(coords, np.int64).reshape(-1, 3)
    if len(cells) and (cells.min() < 0 or cells.max() >= resolution):
        raise UsageError(f"A cell lies outside a grid of {resolution} - give the resolution of the coordinates.")
    samples = surface_samples(mesh, 1 / (resolution * SUB_CELLS * SAMPLES_PER_SIDE))
    position = (samples.points + 0.5) * resolution
    row = _rows(position, cells, resolution)
    chosen = np.flatnonzero(row >= 0)
    bare = np.setdiff1d(np.arange(len(cells)), row[chosen])
    row = np.concatenate([row[chosen], bare])
    chosen = np.concatenate([chosen, KDTree(position).query(cells[bare] + 0.5)[1]])
    sub_cell = np.floor((position[chosen] - cells[row]) * SUB_CELLS).clip(0, SUB_CELLS - 1).astype(np.int64)
    slot = row * SUB_CELLS**3 + sub_cell @ [SUB_CELLS**2, SUB_CELLS, 1]
    means = _means(_values(mesh, samples, chosen), samples.area[chosen], slot, len(cells) * SUB_CELLS**3)
    return means.reshape(len(cells), N_FEATURES).astype(np.float32)


def _rows(position: NDArray, cells: NDArray[np.int64], resolution: int) -> NDArray[np.int64]:
    """Row of `cells` [N, 3] that each position [S, 3], in cells, falls into: [S], -1 where that is none of them."""
    table = np.full((resolution,) * 3, -1)
    table[tuple(cells.T)] = np.arange(len(cells))
    return table[tuple(np.floor(position).astype(np.int64).clip(0, resolution - 1).T)]


def _values(mesh: Mesh, samples: SurfaceSamples, chosen: NDArray[np.int64]) -> NDArray[np.floating]:
    """[K, 7] mask, colour and normal of the chosen samples."""
    face = samples.face[chosen]
    rgb = 2.0 * surface_colours(mesh, face, samples.uv[chosen]) - 1.0
    return np.concatenate([np.ones((len(face), 1)), rgb, face_normals(mesh)[face]], axis=1)


def _means(values: NDArray, weight: NDArray, slot: NDArray[np.int64], n_slots: int) -> NDArray[np.floating]:
    """[n_slots, C] weighted means of the `values` [K, C] in each slot; zeros where there is none."""
    total = np.bincount(slot, weight, n_slots)
    sums = np.stack([np.bincount(slot, weight * column, n_slots) for column in values.T], axis=1)
    return np.divide(sums, total[:, None], out=np.zeros(sums.shape), where=total[:, None] > 0)
