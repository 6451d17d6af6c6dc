"""A shape for occupied voxels, shaded so that a person and an image network can recognise it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import label, uniform_filter

from ..geometry.mesh import Mesh

# Grey of a face by its normal (-x, +x, -y, +y, -z, +z), as if lit from above and from one side.
TONES = np.array([0.42, 0.62, 0.50, 0.70, 0.30, 0.86], np.float32)
# Side of the neighbourhood whose filling darkens a face, in voxels.
SHADE_SIZE = 5
# A flat floor fills 2/5 of its neighbourhood and keeps its tone; edges get lighter, hollows darker.
SHADE_FLAT = 0.4
SHADE_STRENGTH = 1.2
SHADE_RANGE = (0.45, 1.16)

# Corners of a cell's face across each axis; in this order the face on the high side looks outward.
QUADS = np.array(
    [
        [[0, 0, 0], [0, 1, 0], [0, 1, 1], [0, 0, 1]],
        [[0, 0, 0], [0, 0, 1], [1, 0, 1], [1, 0, 0]],
        [[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]],
    ]
)


def structure_mesh(occupancy: NDArray[np.bool_]) -> Mesh:
    """The outer faces of the occupied cells of the cube [-0.5, 0.5]^3.

    Enclosed cavities count as filled: nothing of them can be seen, and the shell of a shape should look like
    the shape. The shading is part of the colours: a tone by the direction of the face, times the openness of
    the empty cell in front of it. It does not depend on the camera.

    Args:
        occupancy: [R, R, R], indexed x, y, z.
    Returns:
        A mesh without doubled vertices, two triangles per face, outward. No faces where nothing is occupied.
    """
    side = len(occupancy) + 2
    solid = _filled(np.pad(np.asarray(occupancy, bool), 1))
    density = np.empty(solid.shape, np.float32)
    uniform_filter(solid.astype(np.float32), SHADE_SIZE, output=density, mode="constant")
    sides = [_side(solid, density, axis, high) for axis in range(3) for high in (0, 1)]
    quads, greys = zip(*sides, strict=True)
    corners, used = _compact(np.concatenate(quads), side**3)
    vertices = (np.stack(np.unravel_index(used, (side,) * 3), axis=1) - 1) / len(occupancy) - 0.5
    faces = corners[:, [[0, 1, 2], [0, 2, 3]]].reshape(-1, 3)
    grey = np.repeat(np.concatenate(greys), 2)
    return Mesh.of_faces(vertices, faces, np.broadcast_to(grey[:, None], (len(grey), 3)))


def _filled(padded: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Fills what cannot be reached through faces from the padding."""
    parts = np.empty(padded.shape, np.int32)
    label(~padded, output=parts)
    return parts != parts[0, 0, 0]


def _side(
    solid: NDArray[np.bool_], density: NDArray[np.float32], axis: int, high: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Faces towards one of six directions.

    Returns:
        [Q, 4] corners, as flat indices into the padded grid (a cell's index is also that of its low corner),
        and [Q] grey values.
    """
    strides = len(solid) ** np.array([2, 1, 0])
    step = 2 * high - 1
    exposed = solid & ~np.roll(solid, -step, axis)  # the empty padding keeps the roll from wrapping
    cells = np.flatnonzero(exposed)
    openness = 1 + SHADE_STRENGTH * (SHADE_FLAT - density.ravel()[cells + step * strides[axis]])
    grey = TONES[2 * axis + high] * np.clip(openness, *SHADE_RANGE)
    quad = QUADS[axis] @ strides + high * strides[axis]
    return cells[:, None] + (quad if high else quad[::-1]), grey


def _compact(quads: NDArray[np.int64], n_corners: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Renumbers corner indices: the quads over used corners alone, and the grid index of each used corner."""
    used = np.zeros(n_corners, bool)
    used[quads] = True
    return (np.cumsum(used) - 1)[quads], np.flatnonzero(used)
