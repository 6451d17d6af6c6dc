"""Toys: a finite set, the same everywhere, told apart by their cells, of which a picture shows the lower half."""

from __future__ import annotations

import hashlib
import multiprocessing
import pickle
from collections import Counter
from itertools import product
from operator import methodcaller

import numpy as np
import pytest

from mdtbench.assets.primitives import box_mesh
from mdtbench.assets.source import Lawful
from mdtbench.assets.toys import (
    BODIES,
    CATEGORIES,
    GRID,
    PAINTS,
    SIZES,
    TOPS,
    TURNS,
    AllToys,
    Choices,
    ToySource,
    choices_of,
    fitting,
)
from mdtbench.base.errors import UsageError
from mdtbench.geometry.voxels import surface_voxels
from mdtbench.metrics.law import FITS
from mdtbench.render.appearance import voxel_features

KINDS = list(product(range(len(CATEGORIES)), range(SIZES)))


def digest_of_shape(mesh):
    """Of positions to 1e-9, topology and colours to 1e-6."""
    stream = hashlib.sha256((np.round(mesh.vertices, 9) + 0.0).tobytes())
    stream.update(mesh.faces.tobytes())
    stream.update(np.round(mesh.corner_rgba.astype(np.float64), 6).tobytes())
    return stream.hexdigest()


def test_boxes_are_closed_and_face_outward():
    """Signed volumes are sums of products of sides; every directed edge has its opposite."""
    mesh = box_mesh(np.array([[[0, 1], [0, 2], [0, 3]], [[-4, -2], [1, 2], [5, 6]]], float), np.eye(3)[:2])
    a, b, c = mesh.triangles.transpose(1, 0, 2)
    each = (a * np.cross(b, c)).sum(1) / 6
    assert each.reshape(2, 12).sum(1) == pytest.approx([6, 2])
    edges = Counter((int(f[k]), int(f[(k + 1) % 3])) for f in mesh.faces for k in range(3))
    assert all(edges[(end, start)] == n == 1 for (start, end), n in edges.items())
    assert np.array_equal(mesh.corner_rgba[12:, :, :3], np.broadcast_to([0, 1, 0], (12, 3, 3)))


@pytest.mark.parametrize(("category", "size"), KINDS)
def test_the_law_lists_what_the_meshes_are(category, size):
    """Cells and colours that the law states are those that voxelisation and surface samples find in the mesh.

    Colours are means over surface samples of one box and so equal to 1e-6; they catch a wrong turn or slot.
    """
    body = (category + size) % len(BODIES)
    law = fitting(category, size, body)
    assert len(law.choices) == TOPS * TURNS * len(PAINTS)
    for k in range(5, len(law.choices), 13):
        top, turn, paint = (int(choice) for choice in law.choices[k])
        mesh = Choices(category, size, body, top, turn, paint).mesh()
        assert np.array_equal(surface_voxels(mesh, GRID), law.occupancy[k])
        cells = np.argwhere(law.occupancy[k])
        parts = voxel_features(mesh, cells, GRID).reshape(len(cells), 8, 7)
        rgb = (parts[..., 1:4].sum(1) / parts[..., :1].sum(1) + 1) / 2
        np.testing.assert_allclose(rgb, law.colours[k][tuple(cells.T)], atol=1e-6)


@pytest.mark.parametrize(("category", "size"), KINDS)
def test_structures_of_one_picture_are_told_apart(category, size):
    """No structure agrees with another as far as `FITS`: what is nearest is one of them and no other."""
    law = fitting(category, size, 0)
    _, first = np.unique(law.choices[:, :2], axis=0, return_index=True)
    cells = law.occupancy[first].reshape(len(first), -1).astype(float)
    both, sizes = cells @ cells.T, cells.sum(1)
    iou = both / (sizes[:, None] + sizes - both) - np.eye(len(first))
    assert len(first) == TOPS * TURNS
    assert iou.max() < FITS - 0.02


def test_the_picture_shows_no_choice_that_it_leaves_open():
    """What the picture is drawn of is the same for every top, turn and paint, and another for what it shows."""
    open_to = product(range(TOPS), range(TURNS), range(len(PAINTS)))
    assert len({digest_of_shape(Choices(2, 1, 0, *choice).shown()) for choice in open_to}) == 1
    shown = product(range(len(CATEGORIES)), range(SIZES), range(len(BODIES)))
    assert len({digest_of_shape(Choices(*choice, 0, 0, 0).shown()) for choice in shown}) == 64


def test_colours_differ_by_more_than_cells_of_one_colour_may():
    from mdtbench.metrics.law import SAME_COLOUR

    for some in (BODIES, PAINTS):
        gaps = np.abs(np.array(some)[:, None] - np.array(some)).max(-1) + np.eye(len(some))
        assert gaps.min() > 2 * SAME_COLOUR


def test_toys_stay_inside_the_cube_and_off_its_border():
    for toy in AllToys().assets():
        vertices = toy.load().vertices
        assert np.abs(vertices).max() < 0.5 - 1 / GRID
        assert toy.shown().vertices[:, 2].max() < 0


def test_categories_and_sizes_are_balanced():
    for seed in (0, 3, 12345678901234567):
        made = [choices_of(seed, i) for i in range(7, 7 + len(KINDS))]
        assert sorted((one.category, one.size) for one in made) == KINDS


def test_open_choices_are_even():
    """chi-square of 4096 draws over the 64 open choices: mean 63, sd 11.2; 5 sd allowed."""
    made = [choices_of(0, i) for i in range(4096)]
    counts = Counter((one.top, one.turn, one.paint) for one in made)
    assert len(counts) == 64
    assert abs(sum((n - 64) ** 2 / 64 for n in counts.values()) - 63) < 56


def test_all_toys_hold_every_structure_and_colour_equally():
    every = [toy.choices for toy in AllToys(4).assets()]
    structures = Counter((one.category, one.size, one.top, one.turn) for one in every)
    assert len(structures) == 256
    assert set(structures.values()) == {4}
    assert set(Counter((one.body, one.paint) for one in every).values()) == {64}
    assert len(set(AllToys(16).assets())) == len({toy.choices for toy in AllToys(16).assets()}) == 4096
    assert AllToys(4).digest() != AllToys(1).digest()


def test_toys_do_not_change_between_versions():
    """A failure means that the data changed: then GENERATOR_VERSION must change too."""
    together = hashlib.sha256("".join(digest_of_shape(toy.load()) for toy in AllToys(16).assets()).encode())
    assert together.hexdigest() == "b707dc67e6c46af41f50b1f257fb40504f1288308e79e507f852f350b52bb90c"
    assert choices_of(0, 14) == Choices(6, 1, 0, 0, 0, 1)


def test_another_process_makes_the_same_bits():
    assets = ToySource("train", 4).assets()
    assert all(isinstance(asset, Lawful) for asset in assets)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        elsewhere = pool.map(methodcaller("load"), assets)
    for asset, mesh in zip(assets, elsewhere, strict=True):
        here = asset.load()
        assert here.vertices.tobytes() == mesh.vertices.tobytes()
        assert here.faces.tobytes() == mesh.faces.tobytes()
        assert here.corner_rgba.tobytes() == mesh.corner_rgba.tobytes()


def test_source_lists_sorted_assets_and_a_larger_count_only_adds():
    source = ToySource("validation", 30)
    assets = source.assets()
    ids = [asset.id for asset in assets]
    assert ids[0] == "validation-00000"
    assert ids == sorted(set(ids))
    assert set(Counter(asset.category for asset in assets).values()) <= {3, 4}
    assert ToySource("validation", 45).assets()[:30] == assets
    assert pickle.loads(pickle.dumps(source)) == source


def test_splits_and_seeds_draw_apart():
    drawn = [
        tuple(toy.choices for toy in ToySource(split, 32, seed).assets())
        for split in ("train", "validation", "test")
        for seed in (0, 1)
    ]
    assert len(set(drawn)) == len(drawn)


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
