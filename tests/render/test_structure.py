"""Pictures of occupancy grids: geometry in closed form, shading by what it must tell apart."""

from __future__ import annotations

import numpy as np
import pytest
from views import views_of

from mdtbench.render.meshes import MeshRenderer
from mdtbench.render.structure import structure_mesh


def grid(*cells, resolution=8):
    occupancy = np.zeros((resolution,) * 3, bool)
    for cell in cells:
        occupancy[cell] = True
    return occupancy


def volume(mesh) -> float:
    """Signed: positive where all faces look outward."""
    a, b, c = mesh.triangles.transpose(1, 0, 2)
    return float((a * np.cross(b, c)).sum() / 6)


def area(mesh) -> float:
    a, b, c = mesh.triangles.transpose(1, 0, 2)
    return float(np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2)


def normals(mesh) -> np.ndarray:
    a, b, c = mesh.triangles.transpose(1, 0, 2)
    return np.cross(b - a, c - a)


def test_one_voxel():
    mesh = structure_mesh(grid((1, 2, 7)))
    assert len(mesh.faces) == 12
    assert len(mesh.vertices) == 8
    assert volume(mesh) == pytest.approx(1 / 8**3)
    assert area(mesh) == pytest.approx(6 / 8**2)
    np.testing.assert_array_equal(mesh.vertices.min(0), np.array([1, 2, 7]) / 8 - 0.5)
    np.testing.assert_array_equal(mesh.vertices.max(0), np.array([2, 3, 8]) / 8 - 0.5)
    outward = mesh.triangles.mean(1) - mesh.vertices.mean(0)
    assert ((normals(mesh) * outward).sum(1) > 0).all()


@pytest.mark.parametrize("axis", range(3))
def test_two_adjacent_voxels(axis):
    second = [3, 3, 3]
    second[axis] += 1
    mesh = structure_mesh(grid((3, 3, 3), tuple(second)))
    assert len(mesh.faces) == 20
    assert len(mesh.vertices) == 12
    assert volume(mesh) == pytest.approx(2 / 8**3)
    assert area(mesh) == pytest.approx(10 / 8**2)


def test_random_grid_is_closed_and_has_its_volume():
    occupancy = np.random.default_rng(0).random((6, 6, 6)) < 0.7
    mesh = structure_mesh(occupancy)
    edges = mesh.faces[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2)
    there, counts = np.unique(edges, axis=0, return_counts=True)
    back, back_counts = np.unique(edges[:, ::-1], axis=0, return_counts=True)
    np.testing.assert_array_equal(there, back)
    np.testing.assert_array_equal(counts, back_counts)
    cells = round(volume(mesh) * 6**3)
    assert occupancy.sum() <= cells <= occupancy.sum() + enclosed(occupancy)
    assert volume(mesh) * 6**3 == pytest.approx(occupancy.sum() + enclosed(occupancy))


def enclosed(occupancy) -> int:
    """Empty cells that a flood from outside does not reach, by repeated dilation."""
    empty = ~np.pad(occupancy, 1)
    reached = np.zeros_like(empty)
    reached[0, 0, 0] = True
    while True:
        grown = reached.copy()
        for axis in range(3):
            for step in (-1, 1):
                grown |= np.roll(reached, step, axis)
        grown &= empty
        if (grown == reached).all():
            return int((empty & ~reached).sum())
        reached = grown


def test_shell_looks_like_the_solid():
    solid = grid()
    solid[1:7, 2:6, 1:5] = True
    shell = solid.copy()
    shell[2:6, 3:5, 2:4] = False
    np.testing.assert_array_equal(views_of(structure_mesh(shell), 32), views_of(structure_mesh(solid), 32))


def test_every_direction_has_its_own_tone_and_the_top_is_brightest():
    mesh = structure_mesh(grid((4, 4, 4)))
    direction = normals(mesh)
    tone = {}
    for axis in range(3):
        for sign in (-1, 1):
            faces = sign * direction[:, axis] > 1e-9
            assert faces.sum() == 2
            (tone[axis, sign],) = set(mesh.corner_rgba[faces][..., :3].ravel().tolist())
    ordered = sorted(tone.values())
    assert min(np.diff(ordered)) > 0.04
    assert max(tone, key=tone.__getitem__) == (2, 1)
    assert min(tone, key=tone.__getitem__) == (2, -1)


def test_hollows_are_darker_than_edges():
    floor = grid(resolution=16)
    floor[:, :, :4] = True
    floor[8:, :, 4:12] = True  # a wall on one half
    mesh = structure_mesh(floor)
    centre, top = mesh.triangles.mean(1), normals(mesh)[:, 2] > 1e-9
    on_floor = top & (np.abs(centre[:, 2] - (4 / 16 - 0.5)) < 1e-6) & (np.abs(centre[:, 1]) < 0.1)
    grey = mesh.corner_rgba[:, 0, 0]
    at_wall = on_floor & (centre[:, 0] > -1 / 16)
    open_floor = on_floor & (np.abs(centre[:, 0] + 4.5 / 16) < 1 / 32)
    assert grey[at_wall].max() < 0.8 * grey[open_floor].min()
    assert (grey >= 0).all()
    assert (grey <= 1).all()


def test_empty_grid_has_no_faces_and_an_empty_picture():
    mesh = structure_mesh(grid())
    assert mesh.faces.shape == (0, 3)
    assert mesh.corner_rgba.shape == (0, 3, 4)
    assert not views_of(mesh, 16).any()


def test_axes_are_x_y_z():
    """A voxel high up on +x is seen at the upper left from +y, where +x is to the left."""
    picture = views_of(structure_mesh(grid((7, 4, 7))), 64)[0, 0]
    rows, columns = np.nonzero(picture)
    assert rows.mean() < 24
    assert columns.mean() < 24


def test_full_grid_has_no_inside():
    mesh = structure_mesh(np.ones((4, 4, 4), bool))
    assert len(mesh.faces) == 6 * 16 * 2
    assert MeshRenderer(mesh).mesh is mesh
    np.testing.assert_array_equal([mesh.vertices.min(0), mesh.vertices.max(0)], [[-0.5] * 3, [0.5] * 3])
