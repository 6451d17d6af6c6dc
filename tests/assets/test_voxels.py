"""Occupancy against closed forms and against polygon clipping."""

from __future__ import annotations

import numpy as np
import pytest
from solids import box, ellipsoid

from mdtbench.base.errors import AssetError, UsageError
from mdtbench.geometry.voxels import coordinates, surface_voxels


def clipped(triangle, low, high):
    """Sutherland-Hodgman: the part of a triangle inside a closed box, as a list of corners."""
    polygon = list(triangle)
    for axis in range(3):
        for sign, bound in ((1, low[axis]), (-1, high[axis])):
            inside = []
            for a, b in zip(polygon, polygon[1:] + polygon[:1], strict=True):
                da, db = sign * (a[axis] - bound), sign * (b[axis] - bound)
                if da >= 0:
                    inside.append(a)
                if (da > 0 > db) or (da < 0 < db):
                    inside.append(a + (b - a) * (da / (da - db)))
            polygon = inside
    return polygon


def brute_force(triangle, resolution):
    occupancy = np.zeros((resolution,) * 3, bool)
    for cell in np.ndindex(occupancy.shape):
        low = np.array(cell) / resolution - 0.5
        occupancy[cell] = bool(clipped(triangle, low, low + 1 / resolution))
    return occupancy


def segment_cells(start, stop, resolution):
    """Cells whose closed box a segment meets: the parameter intervals of the three slabs overlap."""
    low = np.stack(np.meshgrid(*[np.arange(resolution) / resolution - 0.5] * 3, indexing="ij"), -1)
    t = np.sort(np.stack([(low - start) / (stop - start), (low + 1 / resolution - start) / (stop - start)]), 0)
    return np.maximum(t[0].max(-1), 0) <= np.minimum(t[1].min(-1), 1)


@pytest.mark.parametrize("size", [0.05, 0.2, 0.9])
def test_triangle_equals_polygon_clipping(size):
    rng = np.random.default_rng(4)
    for _ in range(3):
        triangle = rng.uniform(-size / 2, size / 2, (3, 3)) + rng.uniform(-1, 1, 3) * (0.45 - size / 2)
        expected = brute_force(triangle, 9)
        assert expected.any()
        np.testing.assert_array_equal(surface_voxels(triangle[None], 9), expected)


def test_box_marks_a_shell_of_one_cell():
    solid = box((-0.27, -0.41, -0.13), (0.31, 0.22, 0.44))
    expected = np.zeros((20, 20, 20), bool)
    expected[4:17, 1:15, 7:19] = True  # floor((coordinate + 0.5) * 20) of both corners
    expected[5:16, 2:14, 8:18] = False
    np.testing.assert_array_equal(surface_voxels(solid.triangles, 20), expected)


def test_mesh_and_triangles_agree():
    mesh = ellipsoid((0.05, 0, 0), (0.3, 0.2, 0.4))
    np.testing.assert_array_equal(surface_voxels(mesh, 16), surface_voxels(mesh.triangles, 16))


def test_plane_between_two_layers_marks_the_upper_one():
    triangle = np.array([[[0.0, -0.3, -0.3], [0.0, 0.3, -0.3], [0.0, 0.0, 0.3]]])
    assert set(coordinates(surface_voxels(triangle, 8))[:, 0]) == {4}


def test_moving_by_one_cell_shifts_the_grid():
    triangles = np.random.default_rng(1).uniform(-0.3, 0.3, (12, 3, 3))
    for axis in range(3):
        step = np.zeros(3)
        step[axis] = 1 / 16
        shifted = np.roll(surface_voxels(triangles, 16), 1, axis)
        np.testing.assert_array_equal(surface_voxels(triangles + step, 16), shifted)


def test_coarse_cell_is_occupied_when_one_of_its_fine_cells_is():
    """Holds for an exact test only; large triangles are refined on the fine grid, not on the coarse one."""
    triangles = np.random.default_rng(2).uniform(-0.49, 0.49, (9, 3, 3))
    fine = surface_voxels(triangles, 96).reshape(4, 24, 4, 24, 4, 24).any((1, 3, 5))
    np.testing.assert_array_equal(surface_voxels(triangles, 4), fine)


def test_union_over_triangles_and_order_does_not_matter():
    triangles = np.random.default_rng(3).uniform(-0.4, 0.4, (30, 3, 3))
    union = np.any([surface_voxels(triangle[None], 32) for triangle in triangles], axis=0)
    np.testing.assert_array_equal(surface_voxels(triangles[::-1], 32), union)


def test_degenerate_triangles_mark_their_segment_or_point():
    start, stop = np.array([-0.37, 0.11, 0.29]), np.array([0.41, -0.23, -0.17])
    expected = segment_cells(start, stop, 17)
    np.testing.assert_array_equal(surface_voxels(np.array([[start, start, stop]]), 17), expected)
    np.testing.assert_array_equal(surface_voxels(np.array([[stop, start, stop]]), 17), expected)
    point = surface_voxels(np.tile(start, (1, 3, 1)), 17)
    np.testing.assert_array_equal(coordinates(point), [np.floor((start + 0.5) * 17)])


def test_vertices_outside_are_clipped_to_the_cube():
    triangle = np.array([[[0.7, -0.1, -0.1], [0.7, 0.1, -0.1], [0.9, 0.0, 0.1]]])
    cells = coordinates(surface_voxels(triangle, 8))
    assert len(cells)
    assert set(cells[:, 0]) == {7}


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_coordinates_that_are_not_finite_are_refused(bad):
    triangles = np.zeros((2, 3, 3))
    triangles[1, 2, 0] = bad
    with pytest.raises(AssetError, match="NaN or infinite"):
        surface_voxels(triangles, 8)


def test_no_triangles_and_no_resolution_are_refused():
    with pytest.raises(AssetError, match="no triangles"):
        surface_voxels(np.zeros((0, 3, 3)), 8)
    with pytest.raises(UsageError, match="resolution is 0"):
        surface_voxels(np.zeros((1, 3, 3)), 0)


def test_coordinates_are_sorted_and_all_there():
    occupancy = np.random.default_rng(5).uniform(size=(6, 6, 6)) < 0.3
    cells = coordinates(occupancy)
    assert cells.dtype == np.int32
    assert [tuple(cell) for cell in cells] == sorted(tuple(cell) for cell in cells)
    assert occupancy[tuple(cells.T)].all()
    assert len(cells) == occupancy.sum()
