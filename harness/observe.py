"""What the metrics look at: pictures of a structure from the four protocol views, and points on its surface."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..render.meshes import protocol_pictures
from ..render.points import sample_surface
from ..render.structure import structure_mesh


@dataclass(frozen=True)
class Observation:
    """pictures: [4, 3, P, P] uint8 on black; points: [n_points, 6] float32, xyz and rgb."""

    pictures: NDArray[np.uint8]
    points: NDArray[np.float32]


def observe(occupancy: NDArray[np.bool_], picture_size: int, n_points: int, seed: int) -> Observation:
    """Observe an occupancy grid [R, R, R]. Raises AssetError when it is empty."""
    mesh = structure_mesh(occupancy)
    generator = np.random.Generator(np.random.PCG64(seed))
    points = sample_surface(mesh, n_points, generator)
    return Observation(protocol_pictures(mesh, picture_size), points)
