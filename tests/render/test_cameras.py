"""Cameras against microsoft/TRELLIS's own (golden fixtures) and against their definition."""

from __future__ import annotations

import golden_io
import numpy as np
import pytest

from mdtbench.base.errors import UsageError
from mdtbench.geometry.cameras import hammersley, orbit, protocol_views, sphere_hammersley

# The fixtures were computed in float32 by the reference; ours is float64.
REFERENCE = {"rtol": 1e-5, "atol": 1e-5}


def grid_cameras():
    _, arrays = golden_io.load("cameras", "cameras_grid")
    rows = arrays["yaw_pitch_r_fov"]  # radians, radians, length, degrees
    return [orbit(np.rad2deg(y), np.rad2deg(p), r, fov) for y, p, r, fov in rows], arrays


def test_matrices_are_those_of_trellis():
    cameras, arrays = grid_cameras()
    for k, camera in enumerate(cameras):
        np.testing.assert_allclose(camera.extrinsics, arrays["out_extrinsics"][k], **REFERENCE)
        np.testing.assert_allclose(camera.intrinsics, arrays["out_intrinsics"][k], **REFERENCE)


def test_points_land_where_trellis_puts_them():
    cameras, arrays = grid_cameras()
    for k, camera in enumerate(cameras):
        projected = camera.project(arrays["points"])
        in_camera = arrays["out_points_camera"][k]
        np.testing.assert_allclose(projected[:, :2], arrays["out_points_uv01"][k], **REFERENCE)
        np.testing.assert_allclose(projected[:, 2], in_camera[:, 2], **REFERENCE)


@pytest.mark.parametrize("count", [8, 30, 32, 150])
def test_hammersley_is_that_of_trellis(count):
    _, arrays = golden_io.load("cameras", "hammersley")
    expected = arrays[f"out_sphere_yaw_pitch_{count}"]
    # Degrees and back cost a few units in the last place.
    np.testing.assert_allclose(np.deg2rad(sphere_hammersley(count)), expected, atol=1e-12)
    np.testing.assert_allclose(hammersley(count, 3), arrays[f"out_hammersley3_{count}"], atol=1e-12)


def test_hammersley_offset_and_remap_are_those_of_trellis():
    sidecar, arrays = golden_io.load("cameras", "hammersley")
    for k, case in enumerate(sidecar["offset_cases"]):
        ours = sphere_hammersley(case["N"], tuple(case["offset"]), case["remap"])
        np.testing.assert_allclose(np.deg2rad(ours), arrays[f"out_sphere_offset{k}"], atol=1e-12)


@pytest.mark.parametrize("pitch", [-90, -89.999, 0, 30, 89.999, 90])
def test_frame_is_right_handed_and_continuous_at_the_poles(pitch):
    camera = orbit(25, pitch, 2, 40)
    rotation = camera.extrinsics[:3, :3]
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-15)
    assert np.linalg.det(rotation) == pytest.approx(1)
    nearby = orbit(25, np.clip(pitch, -89.99, 89.99), 2, 40)
    # 0.01 degrees apart are 1.7e-4 radians.
    np.testing.assert_allclose(rotation, nearby.extrinsics[:3, :3], atol=2e-4)


def test_eye_and_axes():
    camera = orbit(90, 0, 2, 40)  # stands on +x
    np.testing.assert_allclose(camera.eye, [2, 0, 0], atol=1e-15)
    up, left, ahead = camera.project(np.array([[0, 0, 0.1], [0, -0.1, 0], [0.5, 0, 0]]))
    assert up[0] == pytest.approx(0.5)
    assert up[1] < 0.5
    assert left[0] < 0.5
    np.testing.assert_allclose(ahead, [0.5, 0.5, 1.5], atol=1e-15)


def test_directions_invert_the_projection():
    camera = orbit(200, -35, 3, 55)
    u, v = np.array([0.1, 0.8]), np.array([0.3, 0.5, 0.95])
    points = camera.eye + 1.7 * camera.directions(u, v)
    assert points.shape == (3, 2, 3)
    expected = np.stack([*np.meshgrid(u, v), np.full((3, 2), 1.7)], axis=-1)
    np.testing.assert_allclose(camera.project(points.reshape(-1, 3)), expected.reshape(-1, 3), atol=1e-14)


def test_protocol_views():
    views = protocol_views()
    high, side = 2 * np.sin(np.deg2rad(30)), 2 * np.cos(np.deg2rad(30))
    expected = [[0, side, high], [side, 0, high], [0, -side, high], [-side, 0, high]]
    np.testing.assert_allclose([camera.eye for camera in views], expected, atol=1e-14)
    for camera in views:
        assert camera.intrinsics[0, 0] * 512 == pytest.approx(703.35, abs=0.005)


@pytest.mark.parametrize(("pitch", "radius", "fov"), [(91, 2, 40), (0, 0, 40), (0, 2, 180), (float("nan"), 2, 40)])
def test_impossible_cameras_are_refused(pitch, radius, fov):
    with pytest.raises(UsageError, match="No camera"):
        orbit(0, pitch, radius, fov)
