"""Pictures for people: of structures, meshes and 3D Gaussians, from one camera."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...geometry.cameras import orbit
from ...geometry.gaussians import Gaussians
from ...geometry.mesh import Mesh
from ...render.gaussian_rasteriser import render
from ...render.meshes import MeshRenderer, on_background, to_uint8
from ...render.structure import structure_mesh
from ...results.grid import Picture

SIDE = 112  # pixels, in the picture grid
CAMERA = orbit(60.0, 25.0, 2.0, 40.0)  # three quarters from the front


def enlarged(image: NDArray[np.uint8], side: int = SIDE) -> Picture:
    """A conditioning picture at the size of the grid's, its pixels as they are or averaged."""
    how = Image.Resampling.NEAREST if image.shape[0] <= side else Image.Resampling.BOX
    return np.asarray(Image.fromarray(image).resize((side, side), how))


def structure_picture(occupancy: NDArray[np.bool_], side: int = SIDE) -> Picture | None:
    """A shaded picture of a structure [R, R, R]; None of an empty one."""
    return mesh_picture(structure_mesh(occupancy), side) if occupancy.any() else None


def mesh_picture(mesh: Mesh, side: int = SIDE) -> Picture:
    """[side, side, 3] uint8."""
    return to_uint8(on_background(MeshRenderer(mesh).render(CAMERA, side, supersampling=2)))


def gaussians_picture(gaussians: Gaussians, side: int = SIDE) -> Picture:
    """[side, side, 3] uint8."""
    return to_uint8(on_background(render(gaussians, CAMERA, side)))
