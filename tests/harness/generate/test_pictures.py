"""Pictures and small meshes for people."""

from __future__ import annotations

import numpy as np
import pytest
from solids import ellipsoid

from mdtbench.geometry.mesh import Mesh
from mdtbench.harness.generate.pictures import SIDE, enlarged, structure_picture
from mdtbench.harness.generate.viewing import viewed

RGB = (0.2, 0.5, 0.7)
SOLID = ellipsoid((0.1, 0, 0.2), (0.3, 0.2, 0.1), RGB, segments=8)
FINE = ellipsoid((0, 0, 0), (0.4, 0.3, 0.2), RGB, segments=400)


def test_of_an_empty_structure_there_is_no_picture():
    grid = np.zeros((16, 16, 16), bool)
    assert structure_picture(grid) is None
    grid[4:12, 4:12, 4:12] = True
    picture = structure_picture(grid)
    assert picture is not None
    assert (picture.shape, picture.dtype) == ((SIDE, SIDE, 3), np.uint8)
    assert picture[SIDE // 2, SIDE // 2].min() > 0
    assert not picture[0, 0].any()


@pytest.mark.parametrize("side", [SIDE // 4, 2 * SIDE])
def test_pictures_are_repeated_or_averaged(side: int):
    image = np.zeros((side, side, 3), np.uint8)
    image[:, side // 2 :] = 200
    shown = enlarged(image)
    assert shown.shape == (SIDE, SIDE, 3)
    assert np.array_equal(np.unique(shown), [0, 200])
    assert (shown[:, SIDE // 2 :] == 200).all()


def test_meshes_for_viewers_keep_place_and_colour():
    few = viewed(FINE, 500)
    assert 100 < len(few.faces) <= 500
    np.testing.assert_allclose(few.colours, np.tile(np.float32(RGB), (len(few.vertices), 1)), atol=1e-6)
    low, high = few.vertices.min(0), few.vertices.max(0)
    np.testing.assert_allclose((low, high), (FINE.vertices.min(0), FINE.vertices.max(0)), atol=0.06)  # a cell
    same = viewed(SOLID)
    assert len(same.vertices) == len(SOLID.vertices)  # corners are joined again
    areas = [
        np.linalg.norm(np.cross(t[:, 1] - t[:, 0], t[:, 2] - t[:, 0]), axis=1).sum() / 2
        for t in (SOLID.triangles, same.vertices[same.faces])
    ]
    np.testing.assert_allclose(*areas, rtol=1e-12)


def test_textured_faces_are_cut_until_vertices_show_the_texture():
    """One square of two faces; its texture is black on the left and white on the right."""
    texture = np.zeros((4, 64, 4), np.uint8)
    texture[:, 32:] = 255
    vertices = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], float)
    faces = np.array([[0, 1, 2], [0, 2, 3]])
    uv = vertices[faces][..., :2].astype(np.float32)
    square = Mesh(vertices, faces, np.ones((2, 3, 4), np.float32), uv, np.zeros(2, np.int64), (texture,))
    few = viewed(square, 600)
    assert len(few.faces) == 2 * 4**4  # the next power would be above the limit
    inside = (few.vertices[:, 0] > 0.02) & (few.vertices[:, 0] < 0.98)  # the texture repeats beyond its edges
    away = inside & (np.abs(few.vertices[:, 0] - 0.5) > 0.02)  # from where black meets white
    np.testing.assert_array_equal(few.colours[away, 0], few.vertices[away, 0] > 0.5)
    assert {0.0, 1.0} <= set(few.colours[away, 0])
