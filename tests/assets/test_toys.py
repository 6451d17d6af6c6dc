"""Toys: the same everywhere, disjoint between splits, inside the cube; and the solids they are made of."""

from __future__ import annotations

import hashlib
import multiprocessing
import pickle
from collections import Counter
from operator import methodcaller

import numpy as np
import pytest

from mdtbench.assets.primitives import X, Y, Z, arc, box, circle, cylinder, ellipsoid, lathe, prism, tube
from mdtbench.assets.toys import CATEGORIES, SPLITS, ToySource, category_of, toy
from mdtbench.base.errors import UsageError
from mdtbench.geometry.mesh import NORMALISED_SIDE
from mdtbench.geometry.voxels import surface_voxels

N = len(CATEGORIES)
# The area of a regular polygon of 16 corners, radius 1.
AREA_16 = 8 * np.sin(2 * np.pi / 16)


def shape_digest(mesh):
    """Of positions to 1e-9 (libraries may differ in the last bit of a sine), topology and colours to 1e-6."""
    stream = hashlib.sha256((np.round(mesh.vertices, 9) + 0.0).tobytes())
    stream.update(mesh.faces.tobytes())
    stream.update(np.round(mesh.corner_rgba.astype(np.float64), 6).tobytes())
    return stream.hexdigest()


def volume(solid):
    """Signed: positive when the triangles face outward."""
    a, b, c = (solid.vertices[solid.faces[:, k]] for k in range(3))
    return (a * np.cross(b, c)).sum() / 6


def is_closed(solid):
    """Every directed edge has its opposite, corners being equal when their positions are."""
    _, same = np.unique(np.round(solid.vertices, 9), axis=0, return_inverse=True)
    faces = same.reshape(-1)[solid.faces]
    edges = Counter((int(f[k]), int(f[(k + 1) % 3])) for f in faces for k in range(3))
    return all(edges[(b, a)] == n for (a, b), n in edges.items())


@pytest.mark.parametrize("axis", [X, Y, Z])
def test_volumes_of_solids_have_their_closed_form(axis):
    """Exact formulas for the polygons, so only rounding (1e-12) is left."""
    r, h, top = 0.3, 0.7, 0.1
    frustum = cylinder((1, 2, 3), r, h, top, axis=axis)
    assert volume(frustum) == pytest.approx(AREA_16 * h * (r * r + r * top + top * top) / 3, rel=1e-12)
    assert volume(cylinder((0, 0, 0), r, -h, axis=axis)) == pytest.approx(AREA_16 * r * r * h, rel=1e-12)
    assert volume(cylinder((0, 0, 0), r, h, 0.0, axis=axis)) == pytest.approx(AREA_16 * r * r * h / 3, rel=1e-12)
    wedge = prism([(0, 0), (0, 2), (1, 0)], 0.5, 3.0, axis)
    assert volume(wedge) == pytest.approx(2.5, rel=1e-12)
    assert volume(box((0, 1, 2), (2, 4, 7))) == pytest.approx(30, rel=1e-12)


def test_ellipsoid_and_tube_come_near_the_smooth_solids():
    """Inscribed polyhedra: less than the smooth volume, by the share that 12 and 8 segments cut off."""
    ball = ellipsoid((1, 0, 0), (0.2, 0.3, 0.4), 12)
    assert 0.8 < volume(ball) / (4 / 3 * np.pi * 0.2 * 0.3 * 0.4) < 1
    half = arc((0, 0, 0), 0.5, 0.05, 0, np.pi)
    assert 0.85 < volume(half) / (np.pi * 0.5 * np.pi * 0.05**2) < 1
    straight = tube([(0, 0, 0), (0, 0.3, 0.4)], 0.1)
    assert volume(straight) == pytest.approx(0.5 * 0.1**2 * 4 * np.sin(2 * np.pi / 8), rel=1e-12)


@pytest.mark.parametrize(
    "solid",
    [
        box((0, 0, 0), (1, 2, 3)),
        cylinder((0, 0, 0), 1.0, 1.0, 0.0),
        lathe([(0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.8, 1.0), (0.8, 0.2), (0.0, 0.2)]),
        ellipsoid((0, 0, 0), (1, 2, 3), low=-0.25),
        arc((0, 0, 0), 1.0, 0.2, 0, 2),
    ],
)
def test_solids_are_closed(solid):
    assert volume(solid) > 0
    assert is_closed(solid)


def test_axes_and_angles_are_those_of_the_documentation():
    assert np.allclose(circle(2.0, 4).mean(0), 0)
    assert np.allclose(np.ptp(cylinder((1, 0, 0), 0.1, 5.0, axis=X).vertices, 0)[0], 5.0)
    polygon = [(0, 0), (2, 0), (2, 3), (0, 3)]  # (y, z) along x, (z, x) along y
    assert np.allclose(prism(polygon, 0, 7, axis=X).vertices.max(0), (7, 2, 3))
    assert np.allclose(prism(polygon, 0, 7, axis=Y).vertices.max(0), (3, 7, 2))
    quarter = arc((0, 0, 0), 1.0, 0.01, 0, np.pi / 2, axis=Y).vertices
    assert quarter[:8].mean(0) == pytest.approx((0, 0, 1), abs=1e-9)
    assert quarter[-8:].mean(0) == pytest.approx((1, 0, 0), abs=1e-9)
    turned = box((1, 0, 0), (2, 1, 1)).turned(np.pi / 2)
    assert np.allclose(turned.vertices.min(0), (-1, 1, 0))


def test_there_are_enough_categories_and_they_are_balanced():
    assert N >= 14
    for seed in (0, 3, 12345678901234567):
        assert sorted(category_of(seed, i) for i in range(7, 7 + N)) == sorted(CATEGORIES)


@pytest.mark.parametrize("offset", range(N))
def test_every_toy_fits_the_cube_and_the_grid(offset):
    for k in range(4):
        mesh = toy(11, offset + N * k)
        low, high = mesh.triangles.reshape(-1, 3).min(0), mesh.triangles.reshape(-1, 3).max(0)
        np.testing.assert_allclose(low, -high, atol=1e-12)  # centred
        assert (high - low).max() == pytest.approx(NORMALISED_SIDE, abs=1e-12)
        assert mesh.corner_rgba.min() >= 0
        assert mesh.corner_rgba.max() <= 1
        assert 30 <= len(mesh.faces) <= 1500
        assert 500 <= surface_voxels(mesh, 32).sum() <= 7500


def test_toys_of_a_category_differ_in_their_parts():
    """Different optional parts give different numbers of triangles, not only other sizes."""
    for category in CATEGORIES:
        start = CATEGORIES.index(category)
        assert len({len(toy(0, start + N * k).faces) for k in range(16)}) >= 4, category


def test_toy_does_not_change_between_versions():
    """A failure means that the data changed: then GENERATOR_VERSION must change too."""
    assert category_of(0, 14) == "rocket"
    assert shape_digest(toy(0, 14)) == "38457676cba0e9f28e643b8e197b897c5cbda6f1a3a14a9d7b3e10406de8ef7e"
    together = hashlib.sha256("".join(shape_digest(toy(0, i)) for i in range(N)).encode()).hexdigest()
    assert together == "3aa0b09b3d6f24265ab0c6dcc6d849cf1b6de7415afe180d3958dad034b1b033"


def test_another_process_makes_the_same_bits():
    assets = ToySource("train", 4).assets()
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        elsewhere = pool.map(methodcaller("load"), assets)
    for asset, mesh in zip(assets, elsewhere, strict=True):
        here = asset.load()
        assert here.vertices.tobytes() == mesh.vertices.tobytes()
        assert here.faces.tobytes() == mesh.faces.tobytes()
        assert here.corner_rgba.tobytes() == mesh.corner_rgba.tobytes()


def test_splits_and_seeds_are_disjoint():
    shapes = [
        shape_digest(asset.load())
        for split in SPLITS
        for seed in (0, 1)
        for asset in ToySource(split, N, seed).assets()
    ]
    assert len(set(shapes)) == len(shapes)


def test_source_lists_sorted_assets_and_a_larger_count_only_adds():
    source = ToySource("validation", 30)
    assets = source.assets()
    ids = [asset.id for asset in assets]
    assert ids[0] == "validation-00000"
    assert ids == sorted(set(ids))
    assert set(Counter(asset.category for asset in assets).values()) <= {1, 2}
    assert ToySource("validation", 45).assets()[:30] == assets
    assert pickle.loads(pickle.dumps(source)) == source


def test_digest_depends_on_everything():
    sources = [
        ToySource("train", 5),
        ToySource("train", 6),
        ToySource("test", 5),
        ToySource("train", 5, seed=1),
    ]
    digests = [source.digest() for source in sources]
    assert len(set(digests)) == 4
    assert ToySource("train", 5).digest() == digests[0]
    assert len(digests[0]) == 64


def test_unknown_split_and_empty_source_are_refused():
    with pytest.raises(UsageError, match="Unknown split of toys 'trian'"):
        ToySource("trian", 5)
    with pytest.raises(UsageError, match="number of toys is 0"):
        ToySource("train", 0)
