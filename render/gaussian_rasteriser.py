"""Pictures of 3D Gaussians on the CPU: tiles of 16 x 16 pixels, front to back.

The image model is that of gsplat 1.5.3 (nerfstudio-project/gsplat). Arithmetic is float64 and a call uses one thread,
so that a repeat gives the same bits. Tiles decide nothing: a splat is drawn wherever its alpha is 1/255 or more. The
rasteriser of TRELLIS leaves out tiles that a square of three standard deviations does not touch, where an opaque splat
still has exp(-4.5) of its alpha: up to 2.8/255 at single pixels, and all that the two differ by (a test says so).
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from ..base.errors import AssetError
from ..geometry.cameras import Camera
from ..geometry.gaussians import Gaussians
from . import gaussian_kernels as kernels

# Slopes are bounded at this part of the image's half side beyond its edge: the linearised projection is bad there.
SLOPE_MARGIN = 0.3


@dataclass(frozen=True)
class Splatting:
    """How a Gaussian becomes a splat.

    Attributes:
        blur: variance in pixels added to every splat, so that none falls between the pixel centres.
        compensated: opacity times sqrt(det / det of the blurred): a splat smaller than a pixel does not gain weight.
        alpha_max: greatest alpha of one splat at a pixel: gsplat has 0.999, the first 3DGS rasterisers 0.99.
        near: Gaussians whose centre is not deeper than this are left out.
    """

    blur: float
    compensated: bool
    alpha_max: float = 0.999
    near: float = 0.01


# TRELLIS' Gaussians are made for the first (mip-splatting with kernel size 0.1); most viewers draw as the second.
MIP = Splatting(blur=0.1, compensated=True)
CLASSIC = Splatting(blur=0.3, compensated=False)


@dataclass(frozen=True)
class Lens:
    """A camera for one picture size, in pixels.

    Attributes:
        extrinsics: [4, 4] world to camera.
        focal, centre: horizontal and vertical.
        height, width: of the picture.
    """

    extrinsics: NDArray[np.float64]
    focal: tuple[float, float]
    centre: tuple[float, float]
    height: int
    width: int

    @classmethod
    def of(cls, camera: Camera, size: int | tuple[int, int]) -> Lens:
        """size: side of a square picture, or its height and width."""
        height, width = (size, size) if isinstance(size, int) else size
        k = camera.intrinsics
        focal, centre = (k[0, 0] * width, k[1, 1] * height), (k[0, 2] * width, k[1, 2] * height)
        return cls(np.ascontiguousarray(camera.extrinsics, np.float64), focal, centre, height, width)

    @property
    def matrix(self) -> NDArray[np.float64]:
        """[3, 3] intrinsics."""
        return np.array([[self.focal[0], 0, self.centre[0]], [0, self.focal[1], self.centre[1]], [0, 0, 1]], np.float64)

    @property
    def slopes(self) -> NDArray[np.float64]:
        """[2, 2] least and greatest x / z, and y / z, at which the projection is linearised."""
        sides = ((self.focal[0], self.centre[0], self.width), (self.focal[1], self.centre[1], self.height))
        margins = [SLOPE_MARGIN * 0.5 * side / focal for focal, _, side in sides]
        return np.array(
            [[-c / f - m, (side - c) / f + m] for (f, c, side), m in zip(sides, margins, strict=True)], np.float64
        )


@dataclass(frozen=True)
class Tiles:
    """Which splats touch which tile, nearest first.

    Attributes:
        starts: [T + 1] int64: tile t, counted along rows, has members[starts[t] : starts[t + 1]].
        members: [P] int32 rows of the splats.
    """

    starts: NDArray[np.int64]
    members: NDArray[np.int32]


def render(
    gaussians: Gaussians, camera: Camera, size: int | tuple[int, int], *, mode: Splatting = MIP
) -> NDArray[np.float32]:
    """A picture without a background.

    Args:
        size: side of a square picture in pixels, or its height and width.
    Returns:
        [H, W, 4] float32: sRGB premultiplied by alpha, and alpha. Row 0 is the top of the image. Colours may exceed
        alpha where a Gaussian's colour exceeds 1; `meshes.on_background` and `meshes.to_uint8` make a picture of it.
    Raises:
        AssetError: a number that is not finite.
    """
    _check(gaussians)
    lens = Lens.of(camera, size)
    splats, depths = project(gaussians, lens, mode)
    tiles = bin_splats(splats, depths, lens)
    return composite(splats, tiles, lens, mode).astype(np.float32)


def project(gaussians: Gaussians, lens: Lens, mode: Splatting) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Splats [G, 9] and their depths [G]; opacity 0 for those that are too near or behind the camera."""
    splats = np.zeros((len(gaussians), kernels.SPLAT))
    splats[:, 6:] = gaussians.colours
    splats[:, 5] = gaussians.opacities
    depths = np.empty(len(gaussians))
    shapes = (gaussians.means, gaussians.scales, gaussians.rotations)
    lens_numbers = (lens.extrinsics, lens.focal, lens.centre, lens.slopes)
    kernels.project(*shapes, *lens_numbers, mode.blur, mode.compensated, mode.near, splats, depths)
    return splats, depths


def bin_splats(splats: NDArray[np.float64], depths: NDArray[np.float64], lens: Lens) -> Tiles:
    """Lists for every tile the splats that it shows, nearest first; equally deep ones in the order of their rows."""
    boxes = kernels.tile_boxes(splats, lens.height, lens.width)
    visible = np.flatnonzero(boxes[:, 1] >= 0)
    order = visible[np.argsort(depths[visible], kind="stable")]
    across, down = -(-lens.width // kernels.TILE), -(-lens.height // kernels.TILE)
    starts = kernels.tile_starts(boxes, across, across * down)
    return Tiles(starts, kernels.tile_members(boxes, order, across, starts))


def composite(splats: NDArray[np.float64], tiles: Tiles, lens: Lens, mode: Splatting) -> NDArray[np.float64]:
    """[H, W, 4] premultiplied colours and alpha."""
    image = np.zeros((lens.height, lens.width, 4))
    kernels.composite(splats, tiles.starts, tiles.members, mode.alpha_max, image)
    return image


def _check(gaussians: Gaussians) -> None:
    for field in fields(gaussians):
        values = getattr(gaussians, field.name)
        if not np.isfinite(values).all():
            raise AssetError(
                f"Gaussians with {np.count_nonzero(~np.isfinite(values))} values of {field.name} that are not finite - "
                "only finite ones can be drawn."
            )
