"""Polygons cut into triangles: closed forms, and random simple polygons anywhere in space."""

from __future__ import annotations

import itertools
from time import process_time

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from mdtbench.base.errors import AssetError
from mdtbench.geometry.polygons import fans, triangulate

ELL = [(0, 0), (3, 0), (3, 1), (1, 1), (1, 3), (0, 3)]  # area 5; the fan of its corner (3, 0) covers more
DART = [(0, 0), (4, -2), (1, 0), (4, 2)]  # notched at its third corner: area 2, and the fan of corner 1 leaves it


def cut(outline):
    """Triangles [F, 3, 3] of one polygon [n, 2 or 3]."""
    vertices = np.zeros((len(outline), 3))
    vertices[:, : np.shape(outline)[1]] = outline
    triangles, polygon = triangulate(vertices, np.arange(len(outline)), np.array([len(outline)]))
    assert (polygon == 0).all()
    return vertices[triangles]


def area_vectors(triangles):
    return np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0]) / 2


def area(triangles):
    return np.linalg.norm(area_vectors(triangles), axis=1).sum()


def shoelace(outline):
    x, y = np.asarray(outline, float).T
    return (x * np.roll(y, -1) - y * np.roll(x, -1)).sum() / 2


def inside(point, outline):
    """Even-odd rule for a point that is on no edge."""
    ends = zip(outline, np.roll(outline, -1, axis=0), strict=True)
    crossed = [
        (a[1] > point[1]) != (b[1] > point[1]) and point[0] < a[0] + (point[1] - a[1]) / (b[1] - a[1]) * (b[0] - a[0])
        for a, b in ends
    ]
    return sum(crossed) % 2 == 1


def turn(a, b, c):
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])


def crossing(outline):
    """The first two edges that cross, as positions of their first corners; None for a simple polygon."""
    n = len(outline)
    for i, j in itertools.combinations(range(n), 2):
        a, b, c, d = outline[i], outline[(i + 1) % n], outline[j], outline[(j + 1) % n]
        if turn(a, b, c) * turn(a, b, d) < 0 and turn(c, d, a) * turn(c, d, b) < 0:
            return i, j
    return None


@st.composite
def simple_polygons(draw):
    """Whole-numbered corners, no three in line, joined at random; then every crossing is undone."""
    corner = st.tuples(st.integers(-20, 20), st.integers(-20, 20))
    outline = draw(st.lists(corner, min_size=4, max_size=12, unique=True))
    assume(all(turn(*three) for three in itertools.combinations(outline, 3)))
    while found := crossing(outline):  # each turn makes the outline shorter
        i, j = found
        outline[i + 1 : j + 1] = outline[i + 1 : j + 1][::-1]
    return outline


@settings(max_examples=150, deadline=None)
@given(outline=simple_polygons(), seed=st.integers(0, 9), shift=st.sampled_from([0, 1e3]))
def test_a_simple_polygon_keeps_area_and_side(outline, seed, shift):
    flat = np.column_stack([outline, np.zeros(len(outline))])
    turned = Rotation.from_quat(np.random.default_rng(seed).standard_normal(4))
    triangles = cut(turned.apply(flat) * 0.01 + shift)
    assert len(triangles) == len(outline) - 2
    back = turned.inv().apply(((triangles - shift) * 100).reshape(-1, 3)).reshape(-1, 3, 3)
    vectors = area_vectors(back)
    # Doubles of about 1000 are kept to 1e-13, here times 100.
    assert vectors[:, 2].sum() == pytest.approx(shoelace(outline), abs=1e-7)
    assert np.abs(vectors[:, 2]).sum() == pytest.approx(abs(shoelace(outline)), abs=1e-7)
    assert all(inside(centre, np.array(outline)) for centre in back.mean(1)[:, :2])


@pytest.mark.parametrize("first", range(6))
@pytest.mark.parametrize("way", [1, -1])
def test_a_concave_polygon_from_any_corner_either_way(first, way):
    outline = np.roll(ELL, -first, axis=0)[::way]
    triangles = cut(outline)
    assert area(triangles) == pytest.approx(5, abs=1e-12)
    assert area_vectors(triangles)[:, 2].sum() == pytest.approx(5 * way, abs=1e-12)


def test_what_a_fan_would_get_wrong():
    for outline, right, wrong in ((np.roll(ELL, -1, axis=0), 5, 9), (np.roll(DART, -1, axis=0), 2, 14)):
        flat = np.column_stack([outline, np.zeros(len(outline))])
        assert area(flat[fans(np.array([len(outline)]))[0]]) == pytest.approx(wrong)
        assert area(cut(outline)) == pytest.approx(right)


def test_convex_faces_are_fans_from_their_first_corner_in_the_order_of_the_file():
    ring = np.exp(2j * np.pi * np.arange(7) / 7)
    vertices = np.column_stack([ring.real, ring.imag, np.zeros(7)])
    corners = np.array([4, 5, 6, 0, 1, 2, 3, 0, 1, 6, 5])
    triangles, polygon = triangulate(vertices, corners, np.array([3, 4, 1, 3]))
    assert corners[triangles].tolist() == [[4, 5, 6], [0, 1, 2], [0, 2, 3], [1, 6, 5]]
    assert polygon.tolist() == [0, 1, 1, 3]


def test_clipped_polygons_stay_among_their_neighbours():
    vertices = np.array([(*corner, 0) for corner in ELL])
    corners = np.array([0, 1, 2, 1, 2, 3, 4, 5, 0, 3, 4, 5])
    triangles, polygon = triangulate(vertices, corners, np.array([3, 6, 3]))
    assert polygon.tolist() == [0, 1, 1, 1, 1, 2]
    assert corners[triangles][[0, -1]].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert set(triangles[1:5].ravel().tolist()) == set(range(3, 9))


def test_a_warped_polygon_is_cut_across_its_area_vector():
    """An L out of its plane: every corner is used, and seen from above it covers what the flat one does."""
    warped = [(x, y, 0.2 * x * y) for x, y in np.roll(ELL, -1, axis=0)]
    triangles = cut(warped)
    assert len(triangles) == 4
    assert np.abs(area_vectors(triangles)[:, 2]).sum() == pytest.approx(5, abs=1e-12)


def test_degenerate_polygons():
    assert area(cut([(0, 0), (1, 0), (2, 0), (3, 0)])) == 0
    assert area(cut([(1, 1)] * 5)) == 0
    assert area(cut([(0, 0), (1, 0), (2, 0), (2, 2), (0, 2)])) == 4  # a corner on a straight side
    assert area(cut([(0, 0), (2, 0), (2, 0), (2, 2), (0, 2)])) == 4  # the same corner twice
    assert len(cut([(0, 0), (np.nan, 0), (2, 2), (0, 2)])) == 2  # left to those who refuse such vertices
    for sizes in ([], [0, 1, 2]):
        triangles, polygon = triangulate(np.zeros((3, 3)), np.zeros(sum(sizes), int), np.array(sizes, int))
        assert triangles.shape == (0, 3)
        assert polygon.shape == (0,)


@pytest.mark.parametrize(
    ("outline", "shown"), [([(0, 0), (2, 2), (2, 0), (0, 2)], 2), ([(0, 0), (2, 2), (2, 0), (0, 1)], 2)]
)
def test_polygons_that_cross_themselves_become_triangles_of_their_corners(outline, shown):
    """Nothing is right for them. Their fans overlap themselves: areas 4 and 3."""
    assert 0 < area(cut(outline)) <= shown


@pytest.mark.parametrize("corner", [-1, 3])
def test_a_corner_that_is_not_there_is_refused(corner):
    with pytest.raises(AssetError, match="not one of its 3"):
        triangulate(np.eye(3), np.array([0, 1, corner]), np.array([3]))


@pytest.mark.parametrize("scale", [1e-30, 1, 1e30])
def test_any_unit(scale):
    assert area(cut(np.roll(ELL, -1, axis=0) * scale)) == pytest.approx(5 * scale**2, rel=1e-12)


def test_quads_take_no_loop():
    """40,000 of them: about 0.05 s; a loop in Python over them, with ear clipping, took over 1 s."""
    count = 200
    grid = np.stack(np.meshgrid(np.arange(count + 1), np.arange(count + 1), [0]), -1).reshape(-1, 3)
    start = (np.arange(count)[:, None] * (count + 1) + np.arange(count)).reshape(-1, 1)
    corners = (start + np.array([0, 1, count + 2, count + 1])).reshape(-1)
    begin = process_time()
    triangles, _ = triangulate(grid, corners, np.full(count**2, 4))
    assert process_time() - begin < 0.6
    assert area(grid[corners[triangles]].astype(float)) == pytest.approx(count**2)
