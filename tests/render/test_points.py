"""Surface samples: uniform by area, on the surface, with the renderer's colours."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mdtbench.base.errors import AssetError
from mdtbench.geometry.mesh import BLENDED, Mesh
from mdtbench.render.points import sample_surface


def rng(seed=0):
    return np.random.default_rng(seed)


def two_triangles() -> Mesh:
    """Red with area 0.5 in the plane z = 0, green with area 1.5 in the plane z = 1; and a flat one, blue."""
    vertices = [[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [3, 0, 1], [0, 1, 1], [5, 5, 5]]
    return Mesh.of_faces(np.array(vertices), np.array([[0, 1, 2], [6, 6, 6], [3, 4, 5]]), np.eye(3)[[0, 2, 1]])


def test_shares_follow_the_areas():
    points = sample_surface(two_triangles(), 20000, rng())
    assert points.shape == (20000, 6)
    assert points.dtype == np.float32
    assert not points[:, 5].any()  # nothing on the flat triangle
    on_first = (points[:, 3] == 1).sum()
    # Binomial(20000, 1/4): standard deviation 61; four of them.
    assert abs(on_first - 5000) < 245


def test_uniform_within_a_triangle():
    points = sample_surface(two_triangles(), 40000, rng(1))
    x, y = points[points[:, 4] == 1][:, :2].T
    a, b = x / 3, y
    assert min(a.min(), b.min()) >= 0
    assert (a + b).max() <= 1 + 1e-6
    # The four halves-scaled triangles have a quarter of the area each.
    cells = np.where(a + b < 0.5, 0, np.where(a > 0.5, 1, np.where(b > 0.5, 2, 3)))
    counts = np.bincount(cells, minlength=4)
    expected = len(a) / 4
    # Chi-square with 3 degrees of freedom exceeds 16.3 once in a thousand seeds.
    assert ((counts - expected) ** 2 / expected).sum() < 16.3


def test_points_lie_on_their_triangle_with_its_exact_colour():
    points = sample_surface(two_triangles(), 500, rng())
    np.testing.assert_array_equal(points[:, 2], points[:, 4])  # z = 1 exactly where green
    np.testing.assert_array_equal(points[:, 3] + points[:, 4], 1)


def test_texture_colours_are_those_at_the_point():
    ramp = np.full((16, 16, 4), 255, np.uint8)
    ramp[..., 0] = np.arange(16) * 17
    ramp[..., 1] = np.arange(16)[:, None] * 17
    vertices = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], float)
    faces = np.array([[0, 1, 2], [0, 2, 3]])
    mesh = Mesh(
        vertices,
        faces,
        np.ones((2, 3, 4), np.float32),
        vertices[faces][..., :2].astype(np.float32),
        np.zeros(2, np.int64),
        (ramp,),
    )
    points = sample_surface(mesh, 2000, rng()).astype(np.float64)
    inner = points[((points[:, :2] > 1 / 32) & (points[:, :2] < 31 / 32)).all(1)]
    x, y = inner[:, 0], inner[:, 1]
    np.testing.assert_allclose(inner[:, 3], (x * 16 - 0.5) / 15, atol=2e-6)  # float32 positions
    np.testing.assert_allclose(inner[:, 4], ((1 - y) * 16 - 0.5) / 15, atol=2e-6)  # v points up
    np.testing.assert_array_equal(inner[:, 5], 1)


def test_same_generator_same_points():
    mesh = two_triangles()
    np.testing.assert_array_equal(sample_surface(mesh, 100, rng(3)), sample_surface(mesh, 100, rng(3)))
    assert (sample_surface(mesh, 100, rng(3)) != sample_surface(mesh, 100, rng(4))).any()
    assert sample_surface(mesh, 0, rng()).shape == (0, 6)


@pytest.mark.parametrize("faces", [np.zeros((0, 3), int), np.array([[6, 6, 6], [0, 0, 1]])])
def test_no_area_is_an_asset_error(faces):
    mesh = Mesh.of_faces(two_triangles().vertices, faces, np.zeros((len(faces), 3)))
    with pytest.raises(AssetError, match="positive area"):
        sample_surface(mesh, 10, rng())


def test_points_lie_where_something_is_seen():
    """Half of the first square is cut away; the second lets three quarters of the light through."""
    square = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], np.float64)
    vertices = np.concatenate([square, square + np.array([2, 0, 0])])
    faces = np.array([[0, 1, 2], [0, 2, 3], [4, 5, 6], [4, 6, 7]])
    rgba = np.ones((4, 3, 4), np.float32)
    rgba[:2, :, 3] = vertices[faces[:2]][..., 0]
    rgba[2:, :, 3] = 0.25
    cutoff = np.array([0.5, 0.5, BLENDED, BLENDED], np.float32)
    mesh = replace(Mesh.of_faces(vertices, faces, np.ones((4, 3))), corner_rgba=rgba, cutoff=cutoff)
    points = sample_surface(mesh, 3000, np.random.Generator(np.random.PCG64(0)))
    left = points[:, 0] < 1.5
    assert points[left, 0].min() >= 0.5
    # areas seen are 1/2 and 1/4; four standard deviations of a share of 3,000 points
    assert left.mean() == pytest.approx(2 / 3, abs=4 * np.sqrt(2 / 9 / 3000))
    with pytest.raises(AssetError, match="transparent"):
        sample_surface(replace(mesh, corner_rgba=rgba * 0), 10, np.random.Generator(np.random.PCG64(0)))
