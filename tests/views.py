"""The four protocol views on black, as extractors see them: [4, 3, S, S] uint8."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mdtbench.geometry.cameras import protocol_views
from mdtbench.geometry.gaussians import Gaussians
from mdtbench.geometry.mesh import Mesh
from mdtbench.harness.measure.looks import on_black
from mdtbench.render.gaussian_rasteriser import render
from mdtbench.render.meshes import MeshRenderer


def views_of(thing: Mesh | Gaussians, resolution: int) -> NDArray[np.uint8]:
    """Of a mesh with two rays per pixel and axis."""
    if isinstance(thing, Gaussians):
        return on_black([render(thing, camera, resolution) for camera in protocol_views()])
    renderer = MeshRenderer(thing)
    return on_black([renderer.render(camera, resolution, 2) for camera in protocol_views()])
