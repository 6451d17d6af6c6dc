"""The mesh renderer against closed forms: no tolerance where the answer is exact."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from views import views_of

from mdtbench.geometry.cameras import Camera, orbit, protocol_views
from mdtbench.geometry.mesh import BLENDED, CLAMP, MIRROR, REPEAT, Mesh, Sampler, concatenate
from mdtbench.render.meshes import MeshRenderer, on_background, to_uint8

HALF = 0.4
# Corners of a cube, and two triangles for each side in the order -x, +x, -y, +y, -z, +z.
CUBE_CORNERS = HALF * np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], float)
CUBE_FACES = np.array(
    [
        *([0, 1, 3], [0, 3, 2]),
        *([4, 6, 7], [4, 7, 5]),
        *([0, 4, 5], [0, 5, 1]),
        *([2, 3, 7], [2, 7, 6]),
        *([0, 2, 6], [0, 6, 4]),
        *([1, 5, 7], [1, 7, 3]),
    ]
)
# Twelve distinct 8-bit colours.
COLOURS = (np.arange(36).reshape(12, 3) * 7 + 3).astype(np.uint8)


def cube() -> Mesh:
    return Mesh.of_faces(CUBE_CORNERS, CUBE_FACES, COLOURS / 255)


def quad(texture: np.ndarray, repeat: float = 1.0) -> Mesh:
    """A square of side 1 in the plane y = 0, seen upright from +y (where +x is to the left)."""
    vertices = np.array([[0.5, 0, -0.5], [-0.5, 0, -0.5], [-0.5, 0, 0.5], [0.5, 0, 0.5]])  # uv 00 10 11 01
    uv = repeat * np.array([[0, 0], [1, 0], [1, 1], [0, 1]], np.float32)
    faces = np.array([[0, 1, 2], [0, 2, 3]])
    return Mesh(vertices, faces, np.ones((2, 3, 4), np.float32), uv[faces], np.zeros(2, np.int64), (texture,))


def filling_camera() -> Camera:
    """From +y; the square of `quad` fills the picture exactly."""
    return orbit(0, 0, 2, 2 * np.rad2deg(np.arctan(0.25)))


def slab_test(camera: Camera, resolution: int) -> tuple[np.ndarray, np.ndarray]:
    """Float64 reference for the cube: depth of the entry (inf for a miss) and the side 0..5 entered."""
    centres = (np.arange(resolution) + 0.5) / resolution
    directions = camera.directions(centres, centres)
    with np.errstate(divide="ignore"):
        to_low, to_high = (-HALF - camera.eye) / directions, (HALF - camera.eye) / directions
    near, far = np.minimum(to_low, to_high), np.maximum(to_low, to_high)
    axis, enter = near.argmax(-1), near.max(-1)
    entered_high = np.take_along_axis(directions, axis[..., None], -1)[..., 0] < 0
    return np.where(enter < far.min(-1), enter, np.inf), 2 * axis + entered_high


@pytest.mark.parametrize("view", range(4))
def test_cube_has_the_exact_mask_depth_and_colours(view):
    camera, renderer = protocol_views()[view], MeshRenderer(cube())
    depth, side = slab_test(camera, 256)
    rgba = renderer.render(camera, 256)
    hit = np.isfinite(depth)
    assert ((rgba[..., 3] == 1) == hit).all()
    assert set(np.unique(rgba[..., 3])) == {0, 1}
    # Distances near 2 in float32; measured 3e-7.
    np.testing.assert_allclose(renderer.depth(camera, 256)[hit], depth[hit], atol=2e-6)
    seen = to_uint8(rgba[..., :3])
    allowed = COLOURS.reshape(6, 2, 3)[side[hit]]  # either triangle of the side
    assert (seen[hit][:, None] == allowed).all(-1).any(-1).all()
    assert (seen[~hit] == 0).all()


def test_both_triangles_of_a_side_are_where_they_belong():
    camera = orbit(90, 0, 2, 40)  # sees only +x: faces 2 (corner at -y, +y low) and 3
    seen = to_uint8(MeshRenderer(cube()).render(camera, 64)[..., :3])
    # Face 2 has corners (y, z) = (-,-), (+,-), (+,+); in this picture +y is to the right.
    column_right, row_low = 42, 40
    np.testing.assert_array_equal(seen[row_low, column_right], COLOURS[2])
    np.testing.assert_array_equal(seen[63 - row_low, 63 - column_right], COLOURS[3])


def test_all_8_bit_values_survive():
    values = np.arange(256)
    for dtype in (np.float32, np.float64):
        np.testing.assert_array_equal(to_uint8((values / 255).astype(dtype)), values)
    np.testing.assert_array_equal(to_uint8(np.float32(values / 255 + 0.9 / 255)), values)  # truncates
    np.testing.assert_array_equal(to_uint8(np.array([-0.1, 1.1])), [0, 255])


@pytest.mark.parametrize("supersampling", [1, 2, 3])
def test_all_8_bit_values_survive_rendering(supersampling):
    values = np.arange(256)
    low = values / 256 - 0.5
    strips = np.stack([low, low + 1 / 256], 1)  # 256 upright strips along x
    vertices = np.array([[x, 0, z] for pair in strips for z in (-0.5, 0.5) for x in pair])
    faces = np.concatenate([4 * k + np.array([[0, 1, 2], [1, 3, 2]]) for k in values])
    mesh = Mesh.of_faces(vertices, faces, np.repeat(values / 255, 2)[:, None] * np.ones(3))
    rgba = MeshRenderer(mesh).render(filling_camera(), 256, supersampling)
    np.testing.assert_array_equal(to_uint8(rgba[128, ::-1, 0]), values)  # +x is to the left


def test_texture_stands_upright_and_ramps_linearly():
    size = 8
    texture = np.full((size, size, 4), 255, np.uint8)
    texture[..., 0] = np.arange(size) * 30  # red grows with the column of the image file
    texture[..., 1] = np.arange(size)[:, None] * 30  # green grows with the row, downwards
    rgba = MeshRenderer(quad(texture)).render(filling_camera(), 64)
    # Away from the border texels, which wrap: texel k's centre is at (k + 0.5) / 8.
    position = (np.arange(64) + 0.5) / 64 * size - 0.5
    inner = (position > 0) & (position < size - 1)
    expected = position[inner] * 30 / 255
    # Float32 hit points: 1e-6 of the square is 1e-6 * 8 * 30 / 255.
    np.testing.assert_allclose(rgba[32, inner, 0], expected, atol=2e-6)
    np.testing.assert_allclose(rgba[inner, 32, 1], expected, atol=2e-6)
    assert (rgba[..., 3] == 1).all()


def test_texture_repeats_and_blends_over_its_edge():
    texture = np.zeros((1, 2, 4), np.uint8)
    texture[0, 1] = 255
    row = MeshRenderer(quad(texture, repeat=2)).render(filling_camera(), 64)[32, :, 0]
    np.testing.assert_allclose(row[:32], row[32:], atol=2e-6)
    u = (np.arange(64) + 0.5) / 64 * 2
    expected = np.abs(((u * 2 - 0.5) + 1) % 2 - 1)  # triangle wave: 0 at texel 0's centre, 1 at texel 1's
    np.testing.assert_allclose(row, expected, atol=2e-6)


def test_corner_colours_blend_and_multiply_the_texture():
    mesh = quad(np.full((4, 4, 4), 51, np.uint8))
    mesh.corner_rgba[:, :, 0] = mesh.corner_uv[:, :, 0]  # red ramps to the right
    rgba = MeshRenderer(mesh).render(filling_camera(), 32)
    ramp = (np.arange(32) + 0.5) / 32
    np.testing.assert_allclose(rgba[10, :, 0], ramp * 0.2, atol=1e-6)
    np.testing.assert_allclose(rgba[..., 1], 0.2, atol=1e-7)


def test_no_ray_slips_through_a_closed_mesh():
    sphere = uv_sphere(80)
    flat = Mesh.of_faces(sphere.vertices, sphere.faces, np.ones((len(sphere.faces), 3)))
    inner = Mesh.of_faces(sphere.vertices * 0.98, sphere.faces, np.zeros((len(sphere.faces), 3)))
    renderer = MeshRenderer(concatenate([flat, inner]))
    for yaw, pitch in np.random.default_rng(0).uniform([0, -89], [360, 89], (6, 2)):
        rgba = renderer.render(orbit(yaw, pitch, 2, 40), 256)
        assert (rgba[..., :3] == rgba[..., 3:]).all()  # white wherever anything is hit


def uv_sphere(rings: int) -> Mesh:
    """A closed sphere of radius 0.45 whose vertices are shared."""
    polar, turn = np.meshgrid(
        np.linspace(0, np.pi, rings + 1)[1:-1], np.arange(rings) / rings * 2 * np.pi, indexing="ij"
    )
    ring = np.stack([np.sin(polar) * np.cos(turn), np.sin(polar) * np.sin(turn), np.cos(polar)], -1).reshape(-1, 3)
    at = np.arange((rings - 1) * rings).reshape(rings - 1, rings)
    here, right = at, np.roll(at, -1, axis=1)
    sides = np.concatenate(
        [
            np.stack([here[:-1], here[1:], right[1:]], -1).reshape(-1, 3),
            np.stack([here[:-1], right[1:], right[:-1]], -1).reshape(-1, 3),
        ]
    )
    north, south = len(ring), len(ring) + 1
    caps = [[north, a, b] for a, b in zip(here[0], right[0], strict=True)]
    caps += [[south, b, a] for a, b in zip(here[-1], right[-1], strict=True)]
    vertices = 0.45 * np.concatenate([ring, [[0, 0, 1], [0, 0, -1]]])
    return Mesh.of_faces(vertices, np.concatenate([sides, caps]), np.ones((len(sides) + len(caps), 3)))


def test_two_renderings_are_identical():
    camera = orbit(33, 21, 2, 40)
    first = MeshRenderer(cube()).render(camera, 100, 2)
    np.testing.assert_array_equal(first, MeshRenderer(cube()).render(camera, 100, 2))


@pytest.mark.parametrize("supersampling", [2, 3])
def test_supersampling_is_the_mean_of_the_fine_picture(supersampling):
    renderer, camera = MeshRenderer(cube()), orbit(33, 21, 2, 40)
    fine = renderer.render(camera, 60 * supersampling).astype(np.float64)
    blocks = fine.reshape(60, supersampling, 60, supersampling, 4).mean((1, 3))
    coarse = renderer.render(camera, 60, supersampling)
    assert ((coarse[..., 3] > 0) & (coarse[..., 3] < 1)).any()
    np.testing.assert_allclose(coarse, blocks, atol=1e-6)  # float32 sums


def test_chunks_do_not_show(monkeypatch):
    renderer, camera = MeshRenderer(cube()), orbit(33, 21, 2, 40)
    whole, depth = renderer.render(camera, 64, 2), renderer.depth(camera, 64)
    monkeypatch.setattr("mdtbench.render.meshes.RAYS_PER_CHUNK", 700)
    np.testing.assert_array_equal(renderer.render(camera, 64, 2), whole)
    np.testing.assert_array_equal(renderer.depth(camera, 64), depth)


def test_camera_inside_the_box_and_shape_beside_the_picture():
    inside = MeshRenderer(cube()).render(orbit(10, 20, 0.1, 90), 32)
    assert (inside[..., 3] == 1).all()
    beside = MeshRenderer(cube().moved(np.array([[1, 0, 0, 50], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])))
    assert not beside.render(orbit(0, 0, 2, 40), 32).any()


def test_shape_larger_than_the_picture_fills_it():
    big = MeshRenderer(cube().moved(np.diag([3.0, 1, 3, 1])))
    assert (big.render(orbit(0, 0, 2, 20), 32)[..., 3] == 1).all()


def test_mesh_without_faces_is_transparent():
    empty = Mesh.of_faces(np.zeros((0, 3)), np.zeros((0, 3), int), np.zeros((0, 3)))
    renderer = MeshRenderer(empty)
    assert not renderer.render(orbit(0, 0, 2, 40), 16, 2).any()
    assert np.isinf(renderer.depth(orbit(0, 0, 2, 40), 16)).all()
    assert not views_of(empty, 16).any()


def test_background():
    rgba = np.array([[0.25, 0.5, 0.0, 0.5], [0, 0, 0, 0], [1, 1, 1, 1]], np.float32)
    np.testing.assert_array_equal(on_background(rgba), rgba[:, :3])
    np.testing.assert_allclose(on_background(rgba, 1.0), [[0.75, 1.0, 0.5], [1, 1, 1], [1, 1, 1]])


def test_protocol_pictures_are_the_views_in_order():
    pictures = views_of(cube(), 48)
    assert pictures.shape == (4, 3, 48, 48)
    assert pictures.dtype == np.uint8
    for picture, camera in zip(pictures, protocol_views(), strict=True):
        expected = to_uint8(MeshRenderer(cube()).render(camera, 48, 2)[..., :3])
        np.testing.assert_array_equal(picture.transpose(1, 2, 0), expected)
    assert len(np.unique(pictures.reshape(4, -1), axis=0)) == 4


def test_toys_of_the_normalised_size_fit_the_protocol_views():
    box = cube().normalised()
    for picture in views_of(box, 128):
        border = np.concatenate([picture[:, 0], picture[:, -1], picture[:, :, 0], picture[:, :, -1]], axis=1)
        assert not border.any()


@pytest.mark.parametrize(
    ("wrap", "expected"), [(REPEAT, "rg rg rg"), (MIRROR, "gr rg gr"), (CLAMP, "rr rg gg")], ids=str
)
def test_samplers_wrap_and_take_the_nearest_texel(wrap, expected):
    """A texture of two texels, seen three times side by side."""
    texture = np.array([[[255, 0, 0, 255], [0, 255, 0, 255]]], np.uint8)
    uv = np.array([[-1, 0], [2, 0], [2, 1], [-1, 1]], np.float32)
    mesh = replace(quad(texture), corner_uv=uv[quad(texture).faces], samplers=(Sampler((wrap, REPEAT), nearest=True),))
    row = MeshRenderer(mesh).render(filling_camera(), 60)[30, :, :3]
    colours = {"r": [1, 0, 0], "g": [0, 1, 0]}
    np.testing.assert_array_equal(row, np.repeat([colours[c] for c in expected.replace(" ", "")], 10, axis=0))


def test_linear_filter_at_a_clamped_edge_does_not_bleed():
    texture = np.array([[[255, 0, 0, 255], [0, 255, 0, 255]]], np.uint8)
    mesh = replace(quad(texture), samplers=(Sampler((CLAMP, CLAMP)),))
    row = MeshRenderer(mesh).render(filling_camera(), 40)[20, :, :3]
    np.testing.assert_array_equal(row[:10], [[1, 0, 0]] * 10)
    assert 0 < row[20, 1] < 1


def test_cut_and_blended_surfaces_show_what_is_behind():
    """Three squares behind each other: half of the first is cut away, the second lets 3/4 of the light through."""
    texture = np.full((1, 2, 4), 255, np.uint8)
    texture[0, 0] = 0, 0, 255, 100
    front = replace(quad(texture), cutoff=np.full(2, 100 / 255, np.float32), samplers=(Sampler(nearest=True),))
    texture = texture.copy()
    texture[0, 0, 3] = 99
    cut = replace(front, textures=(texture,))
    rgba = np.zeros((2, 3, 4), np.float32)
    rgba[..., 0], rgba[..., 3] = 1, 0.25
    blended = replace(quad(texture), textures=(), texture=np.full(2, -1), corner_rgba=rgba)
    blended = replace(blended, vertices=blended.vertices - [0, 1e-3, 0], cutoff=np.full(2, BLENDED, np.float32))
    wall = Mesh.of_faces(blended.vertices - [0, 1e-3, 0], blended.faces, np.array([[0, 1, 0]] * 2))
    for first, left in ((front, [0, 0, 1, 1]), (cut, [0.25, 0.75, 0, 1])):
        row = MeshRenderer(concatenate([first, blended, wall])).render(filling_camera(), 40)[20]
        np.testing.assert_allclose(row[1:19], [left] * 18, atol=1e-6)  # sums of float32
        np.testing.assert_array_equal(row[21:39], [[1, 1, 1, 1]] * 18)
    row = MeshRenderer(concatenate([cut, blended])).render(filling_camera(), 40)[20]
    np.testing.assert_allclose(row[1:19], [[0.25, 0, 0, 0.25]] * 18, atol=1e-6)
