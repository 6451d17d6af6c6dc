"""From points on a mesh to what a point tower expects: axes, scale, colour. Each published use has its own way."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...base.errors import AssetError, UsageError

UNTEXTURED = 0.4  # rgb of clouds without colour in ULIP's own evaluation (salesforce/ULIP, data/dataset_3d.py)


@dataclass(frozen=True)
class Preparation:
    """What is done to the points of a mesh before a tower sees them, in this order.

    Attributes:
        count: P, points drawn on the surface, uniformly by area.
        y_up: turn z-up, the frame of TRELLIS' decoders, into the y-up of GLB files.
        unit_ball: move the mean to the origin and scale the furthest point to distance 1 (`pc_norm` of ULIP).
        grey: the value that replaces all colours; None keeps those of the mesh.
    """

    count: int
    y_up: bool = True
    unit_ball: bool = True
    grey: float | None = UNTEXTURED

    def __str__(self) -> str:
        """Short form for version strings."""
        scale = "pc_norm" if self.unit_ball else "as-is"
        colour = "rgb" if self.grey is None else f"grey{self.grey:g}"
        return f"{self.count}-{'y-up' if self.y_up else 'z-up'}-{scale}-{colour}"


def prepared(points: NDArray[np.floating], preparation: Preparation) -> NDArray[np.float32]:
    """One cloud as a tower expects it. points: [P, 6], z-up xyz and rgb in [0, 1].

    Returns:
        [P, 6] float32.

    Raises:
        UsageError: there are other than `preparation.count` points, or other than 6 numbers each.
        AssetError: a coordinate is not finite, or `unit_ball` is asked of points that are all the same.
    """
    if points.shape != (preparation.count, 6):
        raise UsageError(
            f"Points have shape {list(points.shape)} - it must be [{preparation.count}, 6] (xyz, rgb) - "
            f"draw {preparation.count} points."
        )
    xyz, rgb = points[:, :3].astype(np.float64), points[:, 3:]
    if not np.isfinite(xyz).all():
        raise AssetError("Points hold NaN or infinity - all coordinates must be finite - repair the mesh.")
    xyz = z_up_to_y_up(xyz) if preparation.y_up else xyz
    xyz = in_unit_ball(xyz) if preparation.unit_ball else xyz
    rgb = rgb if preparation.grey is None else np.full_like(rgb, preparation.grey)
    return np.concatenate([xyz, rgb], 1).astype(np.float32)


def z_up_to_y_up(xyz: NDArray[np.floating]) -> NDArray[np.floating]:
    """(x, y, z) -> (x, z, -y), a quarter turn about x (microsoft/TRELLIS, postprocessing_utils.py, `to_glb`)."""
    return np.stack([xyz[..., 0], xyz[..., 2], -xyz[..., 1]], -1)


def in_unit_ball(xyz: NDArray[np.floating]) -> NDArray[np.float64]:
    """Mean at the origin, largest norm 1 (`pc_norm` of salesforce/ULIP, data/dataset_3d.py). xyz: [P, 3].

    Raises:
        AssetError: all points are the same.
    """
    centred = xyz - xyz.mean(0, dtype=np.float64)
    radius = np.linalg.norm(centred, axis=1).max()
    # Below this the points differ by the rounding of their float32 coordinates only.
    if radius <= 8 * np.finfo(np.float32).eps * np.abs(xyz).max():
        raise AssetError(f"All {len(xyz)} points are the same - a surface has an extent - repair the mesh.")
    return centred / radius
