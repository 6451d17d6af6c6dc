"""Signed distances against closed forms; signs of unions, thin walls, cavities and open sheets."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from solids import box, ellipsoid
from trimesh.triangles import closest_point

from mdtbench.assets.toys import choices_of
from mdtbench.base.errors import AssetError, UsageError
from mdtbench.geometry.mesh import Mesh, concatenate
from mdtbench.geometry.voxels import surface_voxels
from mdtbench.render.distance import signed_distance

RED, BLUE = (1.0, 0.0, 0.0), (0.0, 0.0, 1.0)
# float32 results of float64 distances, where the triangle is surely among those asked
EXACT = 1e-6


def ball(centre, radius, rgb=RED):
    return ellipsoid(centre, (radius,) * 3, rgb, segments=96, levels=48)


def points(count=2000, seed=0, reach=0.5):
    return np.random.default_rng(seed).uniform(-reach, reach, (count, 3))


def box_distance(at, low, high):
    """Closed form."""
    beyond = np.maximum(low - at, at - high)
    return np.linalg.norm(np.maximum(beyond, 0), axis=1) + np.minimum(beyond.max(1), 0)


def near(at, distance, within=0.04):
    return at[np.abs(distance) < within]


def test_box_is_exact_inside_outside_and_beyond_the_cube():
    low, high = np.array([-0.31, -0.2, -0.4]), np.array([0.17, 0.25, 0.11])
    at = points(reach=0.8)
    expected = box_distance(at, low, high)
    np.testing.assert_allclose(signed_distance(box(low, high), at).distance, expected, atol=EXACT)


def test_box_on_the_grid_of_the_flood_and_points_on_its_edges_lines():
    """Sides on cell boundaries and query points on the diagonals of its sides: what a tiny decoder's grid asks."""
    low, high = np.array([-0.25, -0.25, -0.25]), np.array([0.25, 0.25, 0.25])
    at = np.stack(np.meshgrid(*[np.arange(-10, 11) / 32] * 3, indexing="ij"), -1).reshape(-1, 3)
    expected = box_distance(at, low, high)
    np.testing.assert_allclose(signed_distance(box(low, high), at).distance, expected, atol=EXACT)


def test_sphere():
    """The chords of 96 segments lie at most r (1 - cos(pi / 96)^2) = 1.1e-3 r inside the sphere."""
    at = points()
    expected = np.linalg.norm(at - [0.05, 0, -0.02], axis=1) - 0.3
    found = signed_distance(ball((0.05, 0, -0.02), 0.3, BLUE), at)
    np.testing.assert_allclose(found.distance, expected, atol=4e-4)
    clear = np.abs(expected) > 4e-4
    np.testing.assert_array_equal(found.distance[clear] < 0, expected[clear] < 0)
    np.testing.assert_array_equal(found.rgb, np.broadcast_to(np.float32(BLUE), (len(at), 3)))
    outward = (at - [0.05, 0, -0.02]) / np.linalg.norm(at - [0.05, 0, -0.02], axis=1, keepdims=True)
    assert (found.normal * outward).sum(1).min() > 0.998  # half of a 96th turn, both ways: cos(2.7 degrees)


def test_overlapping_spheres_are_one_body():
    """Walls inside the union separate nothing; distances there go to the nearest wall, as they do for a mesh."""
    centres = np.array([[-0.12, 0, 0], [0.12, 0, 0]])
    mesh = concatenate([ball(centre, 0.25, rgb) for centre, rgb in zip(centres, (RED, BLUE), strict=True)])
    at = points(3000, reach=0.4)
    each = np.linalg.norm(at[:, None] - centres, axis=2) - 0.25
    found = signed_distance(mesh, at)
    clear = np.abs(each).min(1) > 5e-4
    np.testing.assert_array_equal(found.distance[clear] < 0, each[clear].min(1) < 0)
    np.testing.assert_allclose(np.abs(found.distance), np.abs(each).min(1), atol=5e-4)
    sure = clear & (np.abs(each[:, 0]) < np.abs(each[:, 1]) - 1e-3)
    np.testing.assert_array_equal(found.rgb[sure], np.broadcast_to(np.float32(RED), (sure.sum(), 3)))


def test_signs_near_the_walls_inside_a_union():
    """Within a cell of a wall that is buried in another part, on both of its sides."""
    mesh = concatenate([ball((0, 0, 0), 0.2), box((-0.3, -0.3, -0.05), (0.3, 0.3, 0.3))])
    at = points(20000, seed=2, reach=0.25)
    ball_distance = np.linalg.norm(at, axis=1) - 0.2
    at = near(at, ball_distance, 0.01)
    ball_distance = np.linalg.norm(at, axis=1) - 0.2
    union = np.minimum(ball_distance, box_distance(at, np.array([-0.3, -0.3, -0.05]), np.array([0.3, 0.3, 0.3])))
    clear = np.abs(ball_distance) > 4e-4
    assert clear.sum() > 200
    np.testing.assert_array_equal(signed_distance(mesh, at).distance[clear] < 0, union[clear] < 0)


def test_faces_may_be_wound_either_way():
    mesh = ball((0, 0, 0), 0.3)
    flipped = mesh.faces.copy()
    flipped[::2] = flipped[::2, ::-1]
    at = points(1000)
    found, expected = signed_distance(replace(mesh, faces=flipped), at).distance, signed_distance(mesh, at).distance
    np.testing.assert_allclose(found, expected, atol=1e-4)  # other samples: seldom another triangle
    np.testing.assert_array_equal(found < 0, expected < 0)


def test_a_wall_thinner_than_a_cell_has_an_inside():
    low, high = np.array([-0.3, -0.3, 0.0013]), np.array([0.3, 0.3, 0.0063])  # a third of 1/64
    at = points(5000, seed=3, reach=0.4) * [1, 1, 0.05]
    expected = box_distance(at, low, high)
    found = signed_distance(box(low, high), at).distance
    clear = np.abs(expected) > EXACT
    assert (expected[clear] < 0).sum() > 200
    np.testing.assert_array_equal(found[clear] < 0, expected[clear] < 0)
    # the samples asked may all lie on the wrong one of two sides 0.005 apart
    np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=0.005)
    np.testing.assert_allclose(np.abs(found).mean(), np.abs(expected).mean(), atol=1e-4)


def open_box():
    mesh = box((-0.2, -0.2, -0.2), (0.2, 0.2, 0.2))
    faces = mesh.faces[(mesh.triangles[..., 2] < 0.2).any(1)]
    return Mesh.of_faces(mesh.vertices, faces, np.tile(RED, (len(faces), 1)))


def test_an_open_box_holds_air():
    at = points(2000)
    assert (signed_distance(open_box(), at).distance >= 0).all()


def test_a_hole_narrower_than_a_cell_is_closed():
    """A slit of 1/200 all along the top."""
    lid = np.array([[-0.2, -0.2, 0.2], [0.195, -0.2, 0.2], [0.195, 0.2, 0.2], [-0.2, 0.2, 0.2]])
    mesh = concatenate([open_box(), Mesh.of_faces(lid, np.array([[0, 1, 2], [0, 2, 3]]), np.tile(RED, (2, 1)))])
    at = np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 0.19], [0.0, 0.0, 0.21], [0.3, 0.0, 0.0]])
    np.testing.assert_allclose(signed_distance(mesh, at).distance, [-0.2, -0.01, 0.01, 0.1], atol=EXACT)


def test_a_sealed_cavity_is_filled():
    mesh = concatenate([ball((0, 0, 0), 0.4), ball((0, 0, 0), 0.2)])
    found = signed_distance(mesh, [[0, 0, 0], [0.3, 0, 0], [0.45, 0, 0]])
    assert np.sign(found.distance).tolist() == [-1, -1, 1]


def test_the_order_of_faces_does_not_matter():
    mesh = choices_of(1, 2).mesh()
    order = np.random.default_rng(0).permutation(len(mesh.faces))
    shuffled = replace(
        mesh,
        faces=mesh.faces[order],
        corner_rgba=mesh.corner_rgba[order],
        corner_uv=mesh.corner_uv[order],
        texture=mesh.texture[order],
    )
    at = points(1000)
    np.testing.assert_allclose(signed_distance(shuffled, at).distance, signed_distance(mesh, at).distance, atol=EXACT)


def test_colours_and_normals_are_those_of_the_nearest_side():
    solid = box((-0.25, -0.25, -0.25), (0.25, 0.25, 0.25))
    top = (solid.triangles[..., 2] > 0.2).all(1)
    mesh = Mesh.of_faces(solid.vertices, solid.faces, np.where(top[:, None], RED, BLUE))
    found = signed_distance(mesh, [[0.03, 0.01, 0.31], [0.03, 0.01, 0.2], [0.4, 0.01, 0.0]])
    np.testing.assert_array_equal(found.rgb, [RED, RED, BLUE])
    np.testing.assert_allclose(found.normal, [[0, 0, 1], [0, 0, 1], [1, 0, 0]], atol=EXACT)


def test_toys_against_all_their_triangles():
    """The nearest triangle is missed now and then, by less than 1/64 of a cell of a 64^3 grid."""
    mesh = choices_of(0, 12).mesh()
    at = near_surface(mesh, 200)
    count = len(mesh.faces)
    place = closest_point(np.tile(mesh.triangles, (len(at), 1, 1)), np.repeat(at, count, 0)).reshape(len(at), count, 3)
    expected = np.linalg.norm(place - at[:, None], axis=2).min(1)
    found = np.abs(signed_distance(mesh, at).distance)
    np.testing.assert_allclose(found, expected, atol=1 / 4096)
    np.testing.assert_allclose(found.mean(), expected.mean(), atol=5e-6)


def near_surface(mesh, count):
    rng = np.random.default_rng(0)
    cells = np.argwhere(surface_voxels(mesh, 64))
    return (cells[rng.integers(0, len(cells), count)] + rng.uniform(-0.5, 1.5, (count, 3))) / 64 - 0.5


def test_no_points_and_wrong_meshes():
    mesh = box((-0.1,) * 3, (0.1,) * 3)
    assert signed_distance(mesh, np.zeros((0, 3))).distance.shape == (0,)
    with pytest.raises(UsageError, match="Normalise it"):
        signed_distance(replace(mesh, vertices=mesh.vertices * 8), points(3))
    with pytest.raises(AssetError, match="no finite, positive area"):
        signed_distance(replace(mesh, vertices=mesh.vertices * 0), points(3))
