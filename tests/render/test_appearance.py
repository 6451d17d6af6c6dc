"""Voxel features against cubes and spheres, whose colours and normals are known everywhere."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from solids import box, ellipsoid

from mdtbench.assets.toys import choices_of
from mdtbench.base.errors import AssetError, UsageError
from mdtbench.geometry.mesh import Mesh
from mdtbench.geometry.surface import face_normals, surface_samples
from mdtbench.geometry.voxels import coordinates, surface_voxels
from mdtbench.render.appearance import N_FEATURES, coarse_coords, voxel_features

SIX_COLOURS = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [0, 1, 1], [0.2, 0.4, 0.6]])


def six_sides(low, high):
    """A box, each side in a colour of its own: the lower and the upper side along x, y, z."""
    solid = box(low, high)
    normals = face_normals(solid)
    side = 2 * np.abs(normals).argmax(1) + (normals.sum(1) > 0)
    return Mesh.of_faces(solid.vertices, solid.faces, SIX_COLOURS[side])


def cube():
    return six_sides((-0.25,) * 3, (0.25,) * 3)


def brick():
    """Its sides cross the sub-cells of 1/16 about half-way: sub-cells 3..12, 1..11 and 5..13."""
    return six_sides((-0.28, -0.4, -0.15), (0.28, 0.22, 0.34))


def sphere():
    return ellipsoid((0, 0, 0), (0.4,) * 3, (0.3, 0.6, 0.9), segments=48, levels=24)


def features(mesh, resolution=8):
    """Coordinates [N, 3] and features [N, 2, 2, 2, 7] of the cells that the surface touches."""
    coords = coarse_coords(surface_voxels(mesh, 2 * resolution), resolution)
    return coords, voxel_features(mesh, coords, resolution).reshape(-1, 2, 2, 2, 7)


def sub_cell_centres(coords, resolution=8):
    """[N, 2, 2, 2, 3]"""
    steps = np.stack(np.meshgrid([0.25, 0.75], [0.25, 0.75], [0.25, 0.75], indexing="ij"), -1)
    return (coords[:, None, None, None] + steps) / resolution - 0.5


def test_a_cube_shows_the_colour_and_the_normal_of_each_side():
    """Sides lie at -0.25 and 0.25, the low ends of sub-cells -0.25 .. -0.1875 and 0.25 .. 0.3125."""
    coords, values = features(cube())
    centre = sub_cell_centres(coords)
    for axis in range(3):
        others = [a for a in range(3) if a != axis]
        middle = (np.abs(centre[..., others]) < 0.18).all(-1)
        for sign, plane in ((0, -0.21875), (1, 0.28125)):
            found = values[middle & np.isclose(centre[..., axis], plane)]
            assert len(found) == 36
            normal = (2 * sign - 1) * np.eye(3)[axis]
            expected = np.concatenate([[1.0], 2 * SIX_COLOURS[2 * axis + sign] - 1, normal])
            np.testing.assert_allclose(found, np.broadcast_to(expected, found.shape), atol=1e-6)  # float32


def test_sub_cells_without_surface_are_zero_and_the_others_masked():
    coords, values = features(brick())
    occupied = np.zeros((16,) * 3, bool)
    occupied[3:13, 1:12, 5:14] = True
    occupied[4:12, 2:11, 6:13] = False
    fine = 2 * coords[:, None, None, None] + np.moveaxis(np.indices((2, 2, 2)), 0, -1)
    expected = occupied[tuple(np.moveaxis(fine, -1, 0))]
    np.testing.assert_array_equal(values[..., 0], expected)
    assert not values[~expected].any()


def test_a_mean_over_an_edge_is_weighted_by_area():
    """A flat sub-cell, red over a fifth of its width and blue over the rest."""
    columns, rows = np.array([0.0, 0.2, 1.0]) / 16, np.array([0.0, 1.0]) / 16
    corners = [[(a, rows[0], 0), (b, rows[0], 0), (b, rows[1], 0), (a, rows[1], 0)] for a, b in pairwise(columns)]
    vertices = np.reshape(corners, (8, 3))
    faces = np.array([[0, 1, 2], [0, 2, 3], [4, 5, 6], [4, 6, 7]])
    mesh = Mesh.of_faces(vertices, faces, [[1, 0, 0]] * 2 + [[0, 0, 1]] * 2)
    values = voxel_features(mesh, [[4, 4, 4]], 8).reshape(2, 2, 2, 7)
    np.testing.assert_allclose(values[0, 0, 0], [1, -0.6, -1, 0.6, 0, 0, 1], atol=1e-6)
    assert not values.reshape(8, 7)[1:].any()


def test_normals_of_a_sphere_point_away_from_its_centre():
    """A sub-cell sees 9 degrees of the sphere: its mean normal is that short and off the centre's by less."""
    coords, values = features(sphere())
    centre = sub_cell_centres(coords)
    seen = values[..., 0] > 0
    near = seen & (np.abs(np.linalg.norm(centre, axis=-1) - 0.4) < 0.015)
    normal, outward = values[near][:, 4:], centre[near] / np.linalg.norm(centre[near], axis=-1, keepdims=True)
    assert len(normal) > 200
    assert (normal * outward).sum(1).min() > 0.99
    np.testing.assert_allclose(np.linalg.norm(values[seen][:, 4:], axis=1), 1, atol=0.02)
    np.testing.assert_allclose(values[seen][:, 1:4], np.broadcast_to([-0.4, 0.2, 0.8], (seen.sum(), 3)), atol=1e-6)


def test_the_order_of_faces_and_of_cells_does_not_matter():
    mesh = choices_of(3, 4).mesh()
    coords, values = features(mesh)
    order = np.random.default_rng(0).permutation(len(mesh.faces))
    shuffled = replace(
        mesh,
        faces=mesh.faces[order],
        corner_rgba=mesh.corner_rgba[order],
        corner_uv=mesh.corner_uv[order],
        texture=mesh.texture[order],
    )
    rows = np.random.default_rng(1).permutation(len(coords))
    again = voxel_features(shuffled, coords[rows], 8).reshape(values.shape)
    np.testing.assert_allclose(again, values[rows], atol=1e-6)  # sums of float64 in another order


def test_splitting_faces_changes_little():
    """Samples move, so the parts of sides in a sub-cell at an edge are measured anew, from some 8 samples each."""
    mesh = brick()
    coords, values = features(mesh)
    vertices = np.concatenate([mesh.vertices, mesh.triangles.mean(1)])
    middle = len(mesh.vertices) + np.arange(len(mesh.faces))
    faces = np.concatenate([np.column_stack([mesh.faces[:, [k, (k + 1) % 3]], middle]) for k in range(3)])
    finer = Mesh.of_faces(vertices, faces, np.tile(mesh.corner_rgba[:, 0, :3], (3, 1)))
    again = voxel_features(finer, coords, 8).reshape(values.shape)
    np.testing.assert_allclose(again, values, atol=0.55)
    assert np.abs(again - values).mean() < 0.01


def test_every_occupied_cell_has_a_sample():
    """A corner pokes 1e-4 of a cell into its neighbour: no sample falls there, the nearest stands in."""
    tip = np.array([0.125 * 1.0001, 0.06, 0.06])
    triangle = np.array([tip, [-0.1, 0.03, 0.06], [-0.1, 0.09, 0.06]])
    mesh = Mesh.of_faces(triangle, [[0, 1, 2]], [[0, 1, 0]])
    coords = coordinates(surface_voxels(mesh, 8))
    assert coords[-1].tolist() == [5, 4, 4]
    values = voxel_features(mesh, coords, 8).reshape(-1, 2, 2, 2, 7)
    assert values[..., 0].any((1, 2, 3)).all()
    expected = np.zeros((2, 2, 2, 7))
    expected[0, 0, 0] = [1, -1, 1, -1, 0, 0, face_normals(mesh)[0, 2]]
    np.testing.assert_allclose(values[-1], expected, atol=1e-6)


def test_textures_are_seen():
    quad = np.array([[-0.2, -0.2, 0.01], [0.2, -0.2, 0.01], [0.2, 0.2, 0.01], [-0.2, 0.2, 0.01]])
    plain = Mesh.of_faces(quad, [[0, 1, 2], [0, 2, 3]], np.ones((2, 3)))
    uv = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], np.float32)[plain.faces]
    picture = np.zeros((1, 2, 4), np.uint8)
    picture[0, 0], picture[0, 1] = (255, 0, 0, 255), (0, 0, 255, 255)
    mesh = replace(plain, corner_uv=uv, texture=np.zeros(2, np.int64), textures=(picture,))
    coords, values = features(mesh, 16)
    centre, seen = sub_cell_centres(coords, 16), values[..., 0] > 0
    # bilinear between the texels' centres at x = -0.1 and 0.1: pure between them and a quarter beyond the edge
    left, right = (seen & (np.abs(centre[..., 0] - x) < 0.02) for x in (-0.1, 0.1))
    np.testing.assert_allclose(values[left][:, 1:4].mean(0), [1, -1, -1], atol=0.15)
    np.testing.assert_allclose(values[right][:, 1:4].mean(0), [-1, -1, 1], atol=0.15)


def test_result_has_a_row_per_cell_in_float32():
    mesh = choices_of(0, 1).mesh()
    coords = coarse_coords(surface_voxels(mesh, 32), 16)
    values = voxel_features(mesh, coords, 16)
    assert values.shape == (len(coords), N_FEATURES) == (len(coords), 56)
    assert values.dtype == np.float32
    assert np.abs(values).max() <= 1
    assert voxel_features(mesh, coords[:0], 16).shape == (0, 56)


def test_coarse_cells_are_those_that_hold_a_fine_one():
    occupancy = np.random.default_rng(0).uniform(size=(12, 12, 12)) < 0.01
    coords = coarse_coords(occupancy, 4)
    expected = sorted({tuple(cell) for cell in (np.argwhere(occupancy) // 3).tolist()})
    assert coords.dtype == np.int32
    assert [tuple(cell) for cell in coords.tolist()] == expected
    np.testing.assert_array_equal(coarse_coords(occupancy, 12), np.argwhere(occupancy))
    assert coarse_coords(np.zeros((4, 4, 4), bool), 2).shape == (0, 3)


def test_samples_stand_for_equal_areas_and_leave_no_gap_in_slivers():
    sliver = np.array([[0, 0, 0], [0.4, 0, 0], [0.4, 1e-4, 0]])
    mesh = Mesh.of_faces(np.concatenate([sliver, cube().vertices]), [[0, 1, 2], *(cube().faces + 3)], np.ones((13, 3)))
    samples = surface_samples(mesh, 0.01)
    np.testing.assert_allclose(samples.area.sum(), 6 * 0.25 + 0.4 * 1e-4 / 2, rtol=1e-12)
    assert samples.area.max() <= 0.01**2
    along = np.sort(samples.points[samples.face == 0, 0])
    assert np.diff([0, *along, 0.4]).max() < 0.08  # the tip that holds 1/40 of the area is 0.063 long
    for face in range(1, 13):
        mean = samples.points[samples.face == face].mean(0)
        np.testing.assert_allclose(mean, mesh.triangles[face].mean(0), atol=1e-3)  # even: means converge as 1 / n


def test_wrong_arguments_are_refused():
    with pytest.raises(UsageError, match="divisor of 12"):
        coarse_coords(np.zeros((12, 12, 12), bool), 5)
    with pytest.raises(UsageError, match="outside a grid of 8"):
        voxel_features(cube(), [[8, 0, 0]], 8)
    with pytest.raises(UsageError, match="must be positive"):
        surface_samples(cube(), 0.0)
    with pytest.raises(AssetError, match="no finite, positive area"):
        voxel_features(Mesh.of_faces(np.zeros((3, 3)), [[0, 1, 2]], np.ones((1, 3))), [[4, 4, 4]], 8)
