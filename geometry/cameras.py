"""Cameras in the backbone's convention, and where they stand.

The world has z up. A camera looks along its own +z, with x to the right and y down (OpenCV). All angles are
degrees, all numbers float64: a renderer casts last.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..base.errors import UsageError

# The four cameras of the comparison: those of the tests in the TRELLIS paper (arXiv:2412.01506, appendix).
PROTOCOL_YAWS = (0.0, 90.0, 180.0, 270.0)
PROTOCOL_PITCH = 30.0
PROTOCOL_RADIUS = 2.0
PROTOCOL_FOV = 40.0

PRIMES = (2, 3, 5, 7, 11, 13, 17, 19)


@dataclass(frozen=True)
class Camera:
    """A pinhole camera.

    Attributes:
        extrinsics: [4, 4] float64 world-to-camera matrix, OpenCV axes (x right, y down, z forward).
        intrinsics: [3, 3] float64 in units of the image side: the focal length is 0.5 / tan(fov / 2) and the
            centre 0.5, so that pixel = uv * resolution, with pixel centres at +0.5.
    """

    extrinsics: NDArray[np.float64]
    intrinsics: NDArray[np.float64]

    @property
    def eye(self) -> NDArray[np.float64]:
        """[3] position of the camera in the world."""
        return -self.extrinsics[:3, :3].T @ self.extrinsics[:3, 3]

    def project(self, points: NDArray) -> NDArray[np.float64]:
        """[N, 3] world points to [N, 3]: u to the right, v down, [0, 1] inside the image, and depth z."""
        in_camera = np.asarray(points, np.float64) @ self.extrinsics[:3, :3].T + self.extrinsics[:3, 3]
        on_plane = in_camera @ self.intrinsics.T
        return np.concatenate([on_plane[:, :2] / on_plane[:, 2:], in_camera[:, 2:]], axis=1)

    def directions(self, u: NDArray, v: NDArray) -> NDArray[np.float64]:
        """World directions of the rays through a grid of image points.

        Args:
            u, v: [W] columns, to the right, and [H] rows, down; [0, 1] inside the image.
        Returns:
            [H, W, 3], not normalised: one unit of length along the ray is one unit of depth z.
        """
        right, down, forward = self.extrinsics[:3, :3]
        across = np.outer((u - self.intrinsics[0, 2]) / self.intrinsics[0, 0], right)
        along = np.outer((v - self.intrinsics[1, 2]) / self.intrinsics[1, 1], down) + forward
        return along[:, None] + across[None]


def orbit(yaw: float, pitch: float, radius: float, fov: float) -> Camera:
    """A camera on a sphere around the origin that looks at the origin, z up in the image.

    Its eye is radius * (sin(yaw) cos(pitch), cos(yaw) cos(pitch), sin(pitch)), as in render_utils.py of
    microsoft/TRELLIS. TRELLIS's Blender script counts yaw from +x instead: yaw here = 90 - yaw there.

    Args:
        yaw, pitch: degrees. At pitch +-90, where "up" says nothing, the frame is the limit for this yaw.
        radius: distance of the eye from the origin.
        fov: full field of view in both image directions, degrees.
    Raises:
        UsageError: a pitch beyond +-90, a radius that is not positive, or a field of view outside (0, 180).
    """
    if not abs(pitch) <= 90 or not radius > 0 or not 0 < fov < 180:
        raise UsageError(
            f"No camera at pitch {pitch}, radius {radius}, field of view {fov} - "
            "pitch in [-90, 90], radius > 0 and field of view in (0, 180) degrees are allowed."
        )
    sin_yaw, cos_yaw = np.sin(np.deg2rad(yaw)), np.cos(np.deg2rad(yaw))
    sin_pitch, cos_pitch = np.sin(np.deg2rad(pitch)), np.cos(np.deg2rad(pitch))
    # Written out rather than with cross products, which vanish at the poles.
    right = np.array([-cos_yaw, sin_yaw, 0.0])
    forward = -np.array([sin_yaw * cos_pitch, cos_yaw * cos_pitch, sin_pitch])
    extrinsics = np.eye(4)
    extrinsics[:3, :3] = right, np.cross(forward, right), forward
    extrinsics[2, 3] = radius
    focal = 0.5 / np.tan(np.deg2rad(fov) / 2)
    return Camera(extrinsics, np.array([[focal, 0.0, 0.5], [0.0, focal, 0.5], [0.0, 0.0, 1.0]]))


def protocol_views() -> tuple[Camera, ...]:
    """The four cameras under which all pictures of the comparison are made."""
    return tuple(orbit(yaw, PROTOCOL_PITCH, PROTOCOL_RADIUS, PROTOCOL_FOV) for yaw in PROTOCOL_YAWS)


def hammersley(count: int, dimensions: int) -> NDArray[np.float64]:
    """[count, dimensions] points of the Hammersley set in [0, 1): i / count, then radical inverses of i.

    Raises:
        UsageError: fewer than 1 or more than 9 dimensions, or no point.
    """
    if count < 1 or not 1 <= dimensions <= len(PRIMES) + 1:
        raise UsageError(
            f"No Hammersley set of {count} points in {dimensions} dimensions - "
            f"at least 1 point and 1 to {len(PRIMES) + 1} dimensions are allowed."
        )
    columns = [np.arange(count) / count]
    columns += [_radical_inverses(count, base) for base in PRIMES[: dimensions - 1]]
    return np.stack(columns, axis=1)


def sphere_hammersley(count: int, offset: tuple[float, float] = (0.0, 0.0), remap: bool = False) -> NDArray[np.float64]:
    """[count, 2] directions (yaw, pitch) in degrees, spread evenly over the sphere from the lower pole up.

    The sequence of trellis/utils/random_utils.py of microsoft/TRELLIS.

    Args:
        offset: shifts the set: by the first number of steps in height and the second number of turns in yaw.
        remap: fewer views from below: the lowest half of the sphere gets a quarter of them.
    """
    u, v = hammersley(count, 2).T
    u = u + offset[0] / count
    v = v + offset[1]
    if remap:
        u = np.where(u < 0.25, 2 * u, 2 / 3 * u + 1 / 3)
    # An offset above 1 leaves [0, 1]; TRELLIS draws it from [0, 1).
    pitch = np.arccos(1 - 2 * u) - np.pi / 2
    return np.rad2deg(np.stack([v * 2 * np.pi, pitch], axis=1))


def _radical_inverses(count: int, base: int) -> NDArray[np.float64]:
    """The digits of 0 .. count-1 in `base`, mirrored at the point."""
    left = np.arange(count)
    value, weight = np.zeros(count), 1.0 / base
    while left.any():
        value += (left % base) * weight
        left, weight = left // base, weight / base
    return value
