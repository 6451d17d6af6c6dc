"""The cells of a cubic grid that a surface touches: the occupancy that the structure models are trained on.

Shapes: T triangles, P pairs of a triangle and a block of cells, R cells along each side of the cube
[-0.5, 0.5]^3. Inside this file lengths are in cells and a triangle's origin is the lowest cell of its box.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..base.errors import AssetError, UsageError
from .mesh import Mesh

# Vertices are clipped this far inside the cube, as in TRELLIS (dataset_toolkits/voxelize.py).
CLIP_MARGIN = 1e-6
# Pairs tested at a time; bounds the memory to some tens of MB whatever the mesh.
MAX_PAIRS = 1 << 16
# A triangle starts with at most about this many blocks; those that it misses are not looked into.
START_BLOCKS = 16
# The 8 children of a block, [3, 8], in units of their size.
CHILDREN = np.array(np.meshgrid([0, 1], [0, 1], [0, 1])).reshape(3, 8)


def surface_voxels(surface: Mesh | NDArray, resolution: int) -> NDArray[np.bool_]:
    """Occupancy of the cells that a surface touches, by the exact triangle/box test on separating axes.

    The rule is that of TRELLIS (dataset_toolkits/voxelize.py), which calls Open3D's
    `VoxelGrid.create_from_triangle_mesh_within_bounds`: vertices are clipped to the cube less 1e-6, and a
    cell is occupied when its closed box meets a triangle. Cells below the lowest cell of a triangle's
    bounding box are not looked at (as in recent Open3D), so a plane that lies exactly between two
    layers of cells marks the upper layer alone.

    Args:
        surface: a mesh, or triangles [T, 3, 3] in the units of the cube.
        resolution: R, cells along each side.

    Returns:
        [R, R, R] bool, indexed [x, y, z]; cell i spans [i / R - 0.5, (i + 1) / R - 0.5].

    Raises:
        AssetError: there are no triangles, or a coordinate is not finite.
        UsageError: the resolution is below 1.
    """
    if resolution < 1:
        raise UsageError(f"The voxel resolution is {resolution} - it must be 1 or more.")
    triangles = _checked(surface.triangles if isinstance(surface, Mesh) else np.asarray(surface, np.float64))
    limit = 0.5 - CLIP_MARGIN
    grid = _Triangles.of((np.clip(triangles, -limit, limit) + 0.5) * resolution)
    occupancy = np.zeros(resolution**3, bool)
    for size, members in _by_start_size(grid.count):
        owner, block = _blocks(members, -(-grid.count[:, members] // size), size)
        for x, y, z in _touched_cells(grid, owner, block, size):
            occupancy[(x * resolution + y) * resolution + z] = True
    return occupancy.reshape(resolution, resolution, resolution)


def coordinates(occupancy: NDArray) -> NDArray[np.int32]:
    """Occupied cells [N, 3] as (x, y, z), in lexicographic order. occupancy: [R, R, R]."""
    return np.argwhere(occupancy).astype(np.int32)


def _checked(triangles: NDArray[np.float64]) -> NDArray[np.float64]:
    if triangles.size == 0:
        raise AssetError("The mesh has no triangles - at least one is needed. Check the file.")
    if not np.isfinite(triangles).all():
        raise AssetError("A vertex coordinate is NaN or infinite - all must be finite. Repair the mesh.")
    return triangles


@dataclass(frozen=True)
class _Triangles:
    """Triangles prepared for the test: everything that does not depend on the cell.

    The 3 coordinate axes are settled by the choice of candidates; left are the plane's normal and the 9
    products of edge and coordinate axis. A box of side s and centre c misses the triangle when the projection
    of c on one of these axes lies outside [low - s * reach, high + s * reach].

    Attributes:
        first: [3, T] lowest cell of the bounding box, the origin of this triangle's coordinates.
        count: [3, T] cells along each side of the bounding box.
        axes: [10, 3, T] the possibly separating axes, normal first. A zero axis separates nothing.
        low, high: [10, T] the triangle's projections.
        reach: [10, T] half the projection of the unit box.
    """

    first: NDArray[np.int64]
    count: NDArray[np.int64]
    axes: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    reach: NDArray[np.float64]

    @staticmethod
    def of(triangles: NDArray[np.float64]) -> _Triangles:
        """triangles: [T, 3, 3] in cells, cell i being [i, i + 1]."""
        first = np.floor(triangles.min(1)).astype(np.int64)
        count = np.floor(triangles.max(1)).astype(np.int64) - first + 1
        corners = np.ascontiguousarray((triangles - first[:, None]).transpose(1, 2, 0))  # [3 corners, 3, T]
        edges = np.roll(corners, -1, 0) - corners
        axes = np.concatenate([_cross(edges[0], edges[1])[None], _edge_axes(edges)])
        projections = np.einsum("akt,ckt->cat", axes, corners)
        return _Triangles(
            np.ascontiguousarray(first.T),
            np.ascontiguousarray(count.T),
            axes,
            projections.min(0),
            projections.max(0),
            np.abs(axes).sum(1) / 2,
        )


def _cross(a: NDArray, b: NDArray) -> NDArray:
    """Cross product of [3, T] and [3, T]."""
    return np.stack([a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]])


def _edge_axes(edges: NDArray) -> NDArray:
    """[9, 3, T] cross products of the coordinate axes and the edges [3, 3, T]."""
    axes = np.zeros((3, 3, *edges.shape[1:]))
    for k in range(3):
        axes[k, :, (k + 1) % 3] = -edges[:, (k + 2) % 3]
        axes[k, :, (k + 2) % 3] = edges[:, (k + 1) % 3]
    return axes.reshape(9, *edges.shape[1:])


def _by_start_size(count: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Triangles grouped by the block size (a power of 2) at which few blocks fill their bounding boxes."""
    left = np.arange(count.shape[1])
    size = 1
    while len(left):
        fits = (-(-count[:, left] // size)).prod(0) <= START_BLOCKS
        for members in _parts(left[fits], MAX_PAIRS // START_BLOCKS):
            yield size, members
        left = left[~fits]
        size *= 2


def _parts(array: NDArray[np.int64], at_most: int) -> list[NDArray[np.int64]]:
    return [array[start : start + at_most] for start in range(0, len(array), at_most)]


def _blocks(members: NDArray, sides: NDArray, size: int) -> tuple[NDArray, NDArray]:
    """Triangle index [P] and first cell [3, P] of all blocks of triangles `members`; sides: [3, M] blocks."""
    total = sides.prod(0)
    rank = np.arange(total.sum()) - np.repeat(np.cumsum(total) - total, total)
    which = np.repeat(np.arange(len(members)), total)
    rank, z = np.divmod(rank, sides[2, which])
    x, y = np.divmod(rank, sides[1, which])
    return members[which], np.stack([x, y, z]) * size


def _touched_cells(grid: _Triangles, owner: NDArray, block: NDArray, size: int) -> Iterator[NDArray[np.int64]]:
    """Cells [3, P] of the whole grid that triangles touch in their blocks [3, P]; a cell may come twice."""
    keep = _overlap(grid, owner, block, size)
    owner, block = owner[keep], block[:, keep]
    if size == 1:
        yield grid.first[:, owner] + block
        return
    child = size // 2
    for part in _parts(np.arange(len(owner)), MAX_PAIRS // 8):
        owners = np.repeat(owner[part], 8)
        blocks = (block[:, part, None] + child * CHILDREN[:, None]).reshape(3, -1)
        inside = (blocks < grid.count[:, owners]).all(0)
        yield from _touched_cells(grid, owners[inside], blocks[:, inside], child)


def _overlap(grid: _Triangles, owner: NDArray, block: NDArray, size: int) -> NDArray[np.int64]:
    """Indices of the pairs whose triangle meets the closed box of the block, all axes having been tried."""
    keep = np.arange(len(owner))
    centre = block + size / 2
    for axis, low, high, reach in zip(grid.axes, grid.low, grid.high, grid.reach, strict=True):
        projection = sum(axis[k][owner] * centre[k] for k in range(3) if axis[k].any())
        margin = size * reach
        hit = (projection >= (low - margin)[owner]) & (projection <= (high + margin)[owner])
        keep, owner, centre = keep[hit], owner[hit], centre[:, hit]
    return keep
