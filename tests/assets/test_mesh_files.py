"""Small files with known content; positions in float32 files are exact because the numbers chosen are."""

from __future__ import annotations

import base64
import json
import struct

import numpy as np
import pytest
from PIL import Image

from mdtbench.assets.file_colours import UNCOLOURED
from mdtbench.assets.mesh_files import read_mesh
from mdtbench.assets.ply_files import read_ply
from mdtbench.base.errors import AssetError
from mdtbench.geometry.transfer import linear_of_srgb, srgb_of_linear
from mdtbench.render.meshes import surface_colours, surface_opacity

COLOUR_TOLERANCE = 1e-6  # float32 colours
RED, GREEN, BLUE, WHITE = [1, 0, 0, 1], [0, 1, 0, 1], [0, 0, 1, 1], [1, 1, 1, 1]
QUADRANTS = np.array([[RED, GREEN], [BLUE, WHITE]], np.uint8) * 255  # row 0 is the top of the picture


def write(path, text):
    path.write_text(text)
    return path


def corner_set(mesh):
    """Triangles as sorted corner lists, whatever the order of vertices and faces."""
    return sorted(sorted(map(tuple, triangle.tolist())) for triangle in mesh.triangles)


def texel(mesh, face, corner):
    """Colour of the texel at a corner's coordinates, v up, moved a little towards the face's centre."""
    uv = mesh.corner_uv[face]
    u, v = 0.9 * uv[corner] + 0.1 * uv.mean(0)
    image = mesh.textures[mesh.texture[face]]
    height, width = image.shape[:2]
    return image[int((1 - v) * height), int(u * width)].tolist()


# ---------------------------------------------------------------- OBJ

SQUARE = "v 0 0 0\nv 2 0 0\nv 2 4 0\nv 0 4 0\n"


def test_obj_quad_is_split_and_y_becomes_z(tmp_path):
    mesh = read_mesh(write(tmp_path / "a.obj", "v 0 0 1\nv 2 0 1\nv 2 4 1\nv 0 4 1\nf 1 2 3 4\n"))
    expected = [[(0, -1, 0), (2, -1, 0), (2, -1, 4)], [(0, -1, 0), (2, -1, 4), (0, -1, 4)]]
    assert corner_set(mesh) == sorted(sorted(triangle) for triangle in expected)
    np.testing.assert_allclose(mesh.corner_rgba[..., :3], UNCOLOURED, atol=COLOUR_TOLERANCE)
    assert mesh.textures == ()


def test_up_axis_can_be_overruled(tmp_path):
    mesh = read_mesh(write(tmp_path / "a.obj", SQUARE + "f 1 2 3\n"), up="z")
    assert corner_set(mesh) == [[(0, 0, 0), (2, 0, 0), (2, 4, 0)]]


def test_obj_negative_indices_count_from_their_own_line(tmp_path):
    text = "v 0 0 0\nv 1 0 0\nv 0 1 0\nf -3 -2 -1\nv 5 0 0\nv 6 0 0\nv 5 1 0\nvt 0 0\nf -3/-1 -2/-1 -1/-1\nf 1 2 -1\n"
    mesh = read_mesh(write(tmp_path / "a.obj", text), up="z")
    first, second = [(0, 0, 0), (0, 1, 0), (1, 0, 0)], [(5, 0, 0), (5, 1, 0), (6, 0, 0)]
    assert corner_set(mesh) == [first, [(0, 0, 0), (1, 0, 0), (5, 1, 0)], second]


def test_obj_pentagon_and_mixed_faces(tmp_path):
    text = SQUARE + "v 1 6 0\nf 1 2 3 5 4\nf 1 2 3\n"
    mesh = read_mesh(write(tmp_path / "a.obj", text), up="z")
    assert len(mesh.faces) == 4


ELL = [(3, 0), (3, 1), (1, 1), (1, 3), (0, 3), (0, 0)]  # area 5; its fan covers 9


@pytest.mark.parametrize("extra", ["", "7", "7 8"])
@pytest.mark.parametrize("form", ["obj", "off", "ply", "binary ply"])
def test_concave_polygons_keep_their_area(tmp_path, form, extra):
    """Alone, beside a triangle and beside a quad, so that faces have one size and several."""
    beside = [6, *map(int, extra.split())] if extra else []
    faces = [[0, 1, 2, 3, 4, 5], *([[5, *beside]] if extra else [])]
    vertices = [(*corner, 0) for corner in ELL] + [(0, 0, -1), (0, -1, -1), (0, -1, 0)]
    lines = [" ".join(map(str, v)) for v in vertices]
    sized = "".join(f"{len(f)} {' '.join(map(str, f))}\n" for f in faces)
    if form == "obj":
        text = "".join(f"v {line}\n" for line in lines)
        text += "".join(f"f {' '.join(f'{i + 1}//1' for i in f)}\n" for f in faces)
    elif form == "off":
        text = f"OFF\n9 {len(faces)} 0\n" + "\n".join(lines) + "\n" + sized
    else:
        kind = "ascii" if form == "ply" else "binary_big_endian"
        text = ply_header(kind, len(faces), colours=False).replace("vertex 4", "vertex 9")
        text += "\n".join(lines) + "\n" + sized if form == "ply" else ""
    data = text.encode()
    if form == "binary ply":
        data += np.array(vertices, ">f4").tobytes()
        data += b"".join(struct.pack(f">B{len(f)}i", len(f), *f) for f in faces)
    path = tmp_path / f"a.{form[-3:]}"
    path.write_bytes(data)
    mesh = read_mesh(path, up="z")
    normals = np.cross(mesh.triangles[:, 1] - mesh.triangles[:, 0], mesh.triangles[:, 2] - mesh.triangles[:, 0]) / 2
    flat = np.abs(mesh.triangles[..., 2]).max(1) == 0
    assert normals[flat].sum(0).tolist() == pytest.approx([0, 0, 5])
    assert np.linalg.norm(normals[flat], axis=1).sum() == pytest.approx(5)
    other = {0: 0, 2: 0.5, 3: 1}[len(beside)]
    assert np.linalg.norm(normals[~flat], axis=1).sum() == pytest.approx(other)


def test_corners_of_a_cut_obj_polygon_keep_texture_and_material(tmp_path):
    Image.fromarray(QUADRANTS).save(tmp_path / "t.png")
    write(tmp_path / "m.mtl", "newmtl plain\nKd 1 0 0\nnewmtl a\nmap_Kd t.png\n")
    places = "".join(f"v {x} {y} 0\nvt {x / 3} {y / 3}\n" for x, y in ELL)
    text = f"mtllib m.mtl\n{places}usemtl a\nf 1/1 2/2 3/3 \\\r\n4/4 5/5 6/6 # an L\n"
    mesh = read_mesh(write(tmp_path / "a.obj", text + "usemtl plain\nf 1 2 3\nf 1 2\n"), up="z")
    assert mesh.texture.tolist().count(0) == 4
    drawn = mesh.texture == 0
    np.testing.assert_allclose(mesh.corner_uv[drawn] * 3, mesh.triangles[drawn][..., :2], atol=1e-6)


def test_mtl_diffuse_colours_go_to_their_faces(tmp_path):
    write(tmp_path / "m.mtl", "newmtl a\nKd 1 0.5 0\nnewmtl b\nKd 0 0 1\n")
    text = "mtllib m.mtl\n" + SQUARE + "usemtl a\nf 1 2 3\nusemtl b\nf 1 3 4\n"
    mesh = read_mesh(write(tmp_path / "a.obj", text), up="z")
    has_right_corner = (mesh.triangles == [2, 0, 0]).all(-1).any(1)
    expected = np.where(has_right_corner[:, None], [1, 0.5, 0], [0, 0, 1])
    np.testing.assert_allclose(mesh.corner_rgba[:, 1, :3], expected, atol=COLOUR_TOLERANCE)


def test_files_in_an_old_encoding_keep_their_colours(tmp_path):
    (tmp_path / "m.mtl").write_bytes("newmtl grün\nKd 1 0 0\n".encode("latin-1"))
    (tmp_path / "a.obj").write_bytes(f"mtllib m.mtl\n{SQUARE}usemtl grün\nf 1 2 3\n".encode("latin-1"))
    assert read_mesh(tmp_path / "a.obj").corner_rgba[0, 0].tolist() == RED


def textured_obj(folder, mtl, vertices=SQUARE):
    Image.fromarray(QUADRANTS).save(folder / "t.png")
    write(folder / "m.mtl", mtl)
    text = f"mtllib m.mtl\n{vertices}vt 0 0\nvt 1 0\nvt 1 1\nvt 0 1\nusemtl a\nf 1/1 2/2 3/3\n"
    return write(folder / "a.obj", text)


def check_quadrant_texture(mesh):
    """Corners at bottom left, bottom right and top right of the picture."""
    for corner in range(3):
        x, y = mesh.triangles[0, corner, :2].tolist()
        expected = {(0, 0): BLUE, (2, 0): WHITE, (2, 4): GREEN}[x, y]
        assert texel(mesh, 0, corner) == [255 * c for c in expected]


def test_mtl_texture_is_upright_and_replaces_diffuse_and_white_vertex_colours(tmp_path):
    white = "v 0 0 0 1 1 1\nv 2 0 0 1 1 1\nv 2 4 0 1 1 1\nv 0 4 0 1 1 1\n"
    mesh = read_mesh(textured_obj(tmp_path, "newmtl a\nKd 0.2 0 0\nmap_Kd t.png\n", white), up="z")
    check_quadrant_texture(mesh)
    assert (mesh.corner_rgba == 1).all()


def test_backslashes_in_texture_names(tmp_path):
    folder = tmp_path / "sub"
    folder.mkdir()
    path = textured_obj(tmp_path, "newmtl a\nmap_Kd sub\\t.png\n")
    (tmp_path / "t.png").rename(folder / "t.png")
    check_quadrant_texture(read_mesh(path, up="z"))


def test_obj_vertex_colours(tmp_path):
    text = "v 0 0 0 1 0 0\nv 1 0 0 0 1 0\nv 0 1 0 0 0 1\nf 1 2 3\n"
    mesh = read_mesh(write(tmp_path / "a.obj", text), up="z")
    by_place = {tuple(p): c.tolist() for p, c in zip(mesh.triangles[0].tolist(), mesh.corner_rgba[0], strict=True)}
    assert by_place == {(0, 0, 0): RED, (1, 0, 0): GREEN, (0, 1, 0): BLUE}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("mtllib gone.mtl\n" + SQUARE + "f 1 2 3\n", "gone.mtl"),
        (SQUARE, "no triangles"),
        ("", "it is empty"),
        ("v 1 2 3\nv 1 2 3\nv 1 2 3\nf 1 2 3\n", "one point"),
        ("v 0 0 0\nv 1 1 1\nv 2 2 2\nf 1 2 3\n", "zero area"),
        ("v nan 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n", "NaN or infinite"),
        ("v 0 0 0 nan 0 0\nv 1 0 0 0 0 0\nv 0 1 0 0 0 0\nf 1 2 3\n", "colour is NaN"),
        (SQUARE + "f 1 2 9\n", "a face names a vertex that is not one of its 4"),
    ],
)
def test_unusable_obj_is_refused_with_its_name(tmp_path, text, reason):
    with pytest.raises(AssetError, match=reason) as caught:
        read_mesh(write(tmp_path / "bad.obj", text))
    assert str(caught.value).startswith("bad.obj: ")
    assert "\n" not in str(caught.value)


def test_missing_unreadable_and_undefined_obj_colours_are_refused(tmp_path):
    path = textured_obj(tmp_path, "newmtl a\nmap_Kd t.png\n")
    write(tmp_path / "m.mtl", "newmtl other\n")
    with pytest.raises(AssetError, match="material a is not in"):
        read_mesh(path)
    write(tmp_path / "m.mtl", "newmtl a\nmap_Kd t.png\n")
    (tmp_path / "t.png").write_bytes(b"no picture")
    with pytest.raises(AssetError, match=r"image t\.png cannot be used"):
        read_mesh(path)
    (tmp_path / "t.png").unlink()
    with pytest.raises(AssetError, match=r"t\.png .* missing"):
        read_mesh(path)


def test_unused_vertices_and_flat_triangles_are_dropped(tmp_path):
    text = "v nan nan nan\n" + SQUARE + "v 1 0 0\nf 2 3 4\nf 2 6 3\n"
    mesh = read_mesh(write(tmp_path / "a.obj", text))
    assert mesh.faces.shape == (1, 3)
    assert mesh.vertices.shape == (3, 3)


def test_far_from_the_origin(tmp_path):
    text = "v 1000000000 0 0\nv 1000000002 0 0\nv 1000000000 4 0\nf 1 2 3\n"
    mesh = read_mesh(write(tmp_path / "a.obj", text), up="z").normalised(side=2.0)
    assert np.ptp(mesh.vertices, axis=0).tolist() == [1, 2, 0]


# ---------------------------------------------------------------- PLY

PLY_VERTICES = [(0, 0, 0, 255, 0, 0), (2, 0, 0, 0, 51, 0), (2, 4, 0, 0, 0, 255), (0, 4, 0, 255, 255, 255)]


def ply_header(kind, faces, face_properties="property list uchar int vertex_indices\n", colours=True):
    rgb = "property uchar red\nproperty uchar green\nproperty uchar blue\n"
    xyz = "property float x\nproperty float y\nproperty float z\n"
    return (
        f"ply\nformat {kind} 1.0\nelement vertex 4\n{xyz}{rgb if colours else ''}"
        f"element face {faces}\n{face_properties}end_header\n"
    )


def check_ply_colours(mesh):
    expected = {row[:3]: [c / 255 for c in row[3:]] for row in PLY_VERTICES}
    for place, rgba in zip(mesh.triangles.reshape(-1, 3), mesh.corner_rgba.reshape(-1, 4), strict=True):
        np.testing.assert_allclose(rgba, [*expected[tuple(place)], 1], atol=COLOUR_TOLERANCE)


def test_ascii_ply_vertex_colours_are_taken_as_they_are(tmp_path):
    rows = "\n".join(" ".join(map(str, row)) for row in PLY_VERTICES)
    mesh = read_mesh(write(tmp_path / "a.ply", ply_header("ascii", 1) + rows + "\n4 0 1 2 3\n"), up="z")
    assert len(mesh.faces) == 2
    check_ply_colours(mesh)


@pytest.mark.parametrize(("kind", "order"), [("binary_little_endian", "<"), ("binary_big_endian", ">")])
@pytest.mark.parametrize("polygons", [[(0, 1, 2), (0, 2, 3)], [(0, 1, 2, 3), (0, 1, 2)]])
@pytest.mark.parametrize(("first", "newline"), [("\n", "\n"), ("\r", "\r"), ("\r\n", "\r\n"), ("\n", "\r\n")])
def test_binary_ply(tmp_path, kind, order, polygons, first, newline):
    body = b"".join(struct.pack(order + "3f3B", *row) for row in PLY_VERTICES)
    body += b"".join(struct.pack(f"{order}B{len(p)}i", len(p), *p) for p in polygons)
    path = tmp_path / "a.ply"
    header = ply_header(kind, 2).replace("\n", newline).replace(newline, first, 1)
    path.write_bytes(header.encode() + body)
    mesh = read_mesh(path, up="z")
    assert len(mesh.faces) == sum(len(p) - 2 for p in polygons)
    check_ply_colours(mesh)


@pytest.mark.parametrize("corners", [(3, 3), (4, 4), (4, 3), (3, 4)])
def test_ply_face_colours(tmp_path, corners):
    properties = "property list uchar int vertex_indices\n" + "".join(
        f"property uchar {name}\n" for name in ("red", "green", "blue")
    )
    rows = "\n".join(" ".join(map(str, row[:3])) for row in PLY_VERTICES)
    pairs = zip(corners, ("255 0 0", "0 0 255"), strict=True)
    faces = "\n".join(f"{n} {' '.join('0123'[:n])} {rgb}" for n, rgb in pairs)
    text = ply_header("ascii", 2, properties, colours=False) + rows + "\n" + faces + "\n"
    mesh = read_mesh(write(tmp_path / "a.ply", text))
    expected = np.repeat([RED, BLUE], np.array(corners) - 2, axis=0)
    np.testing.assert_array_equal(mesh.corner_rgba, np.repeat(expected[:, None], 3, axis=1))


@pytest.mark.parametrize("names", [("r", "g", "b"), ("diffuse_red", "diffuse_green", "diffuse_blue")])
def test_ply_colours_of_other_names(tmp_path, names):
    header = ply_header("ascii", 1)
    for old, new in zip(("red", "green", "blue"), names, strict=True):
        header = header.replace(f"uchar {old}\n", f"uchar {new}\n")
    rows = "\n".join(" ".join(map(str, row)) for row in PLY_VERTICES)
    check_ply_colours(read_mesh(write(tmp_path / "a.ply", header + rows + "\n4 0 1 2 3\n"), up="z"))


def textured_ply(folder, *, vertex="", face="", rows=("",) * 4, tail="", comment="TextureFile grün 1.png"):
    Image.fromarray(QUADRANTS).save(folder / "grün 1.png")
    header = ply_header("ascii", 1, f"property list uchar int vertex_indices\n{face}", colours=False)
    header = header.replace("element vertex", f"comment {comment}\nelement vertex")
    header = header.replace("float z\n", "float z\n" + vertex)
    lines = [" ".join(map(str, (*row[:3], uv))) for row, uv in zip(PLY_VERTICES, rows, strict=True)]
    text = header + "\n".join(lines) + f"\n4 0 1 2 3 {tail}\n"
    (folder / "a.ply").write_bytes(text.encode())
    return folder / "a.ply"


@pytest.mark.parametrize("names", ["s t", "u v", "texture_u texture_v"])
def test_ply_texture_by_vertices(tmp_path, names):
    vertex = "".join(f"property float {name}\n" for name in names.split())
    mesh = read_mesh(textured_ply(tmp_path, vertex=vertex, rows=("0 0", "1 0", "1 1", "0 1")), up="z")
    check_quadrant_texture(mesh)


def test_ply_texture_by_faces(tmp_path):
    wedge = "property list uchar float texcoord\nproperty int texnumber\n"
    mesh = read_mesh(textured_ply(tmp_path, face=wedge, tail="8 0 0 1 0 1 1 0 1 0"), up="z")
    check_quadrant_texture(mesh)
    with pytest.raises(AssetError, match="not have two texture coordinates per corner"):
        read_mesh(textured_ply(tmp_path, face=wedge, tail="6 0 0 1 0 1 1 0"))


@pytest.mark.parametrize("corners", [3, 4])
def test_binary_ply_faces_of_one_size_are_read_at_once(tmp_path, corners):
    """Then their lists are rows of one array, not objects."""
    wedge = "property list uchar int vertex_indices\nproperty list uchar float texcoord\n"
    rows = np.zeros(2, [("n", "u1"), ("v", "<i4", corners), ("m", "u1"), ("uv", "<f4", 2 * corners)])
    rows["n"], rows["m"] = corners, 2 * corners
    body = b"".join(struct.pack("<3f", *row[:3]) for row in PLY_VERTICES) + rows.tobytes()
    header = ply_header("binary_little_endian", 2, wedge, colours=False)
    (tmp_path / "a.ply").write_bytes(header.encode() + body)
    faces = read_ply(tmp_path / "a.ply")["face"]
    assert faces["vertex_indices"].shape == (2, corners)
    assert faces["texcoord"].shape == (2, 2 * corners)


def test_ply_textures_that_cannot_be_shown_are_refused(tmp_path):
    with pytest.raises(AssetError, match="no texture coordinates"):
        read_mesh(textured_ply(tmp_path))
    uv = {"vertex": "property float s\nproperty float t\n", "rows": ("0 0",) * 4}
    with pytest.raises(AssetError, match=r"gone\.png .* missing"):
        read_mesh(textured_ply(tmp_path, comment="TextureFile gone.png", **uv))
    with pytest.raises(AssetError, match=r"several textures \(a\.png, b\.png\)"):
        read_mesh(textured_ply(tmp_path, comment="TextureFile a.png\ncomment TextureFile b.png", **uv))


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("vertex 4", "vertex 1000000000000", "header announces vertex 1000000000000, face 1"),
        ("face 1", "face 1000000000000", "ends too early"),
        ("face 1", "face 2", "early end-of-file"),
        ("element face", "element junk 1000000000\nelement face", "junk 1000000000"),
        ("vertex_indices", "corners", "no vertex_indices or vertex_index"),
        ("float z", "float w", "lacks z"),
        ("element face", "element tristrips", "triangle strips"),
        ("face 1\n", "face 0\n", "no triangles"),
        ("element vertex 4", "element vertex four", "announces 'four'"),
        ("uchar int", "uchar float16", "float16"),
        ("format", f"comment {70000 * 'y'}\nformat", "no end"),
    ],
)
@pytest.mark.parametrize("kind", ["ascii", "binary_little_endian"])
def test_damaged_ply_headers_are_refused_at_once(tmp_path, kind, old, new, reason):
    """With claims that nothing can hold, too: no more is taken than the file has bytes."""
    binary = b"".join(struct.pack("<3f3B", *row) for row in PLY_VERTICES) + struct.pack("<B4i", 4, 0, 1, 2, 3)
    text = "\n".join(" ".join(map(str, row)) for row in PLY_VERTICES) + "\n4 0 1 2 3"
    header = ply_header(kind, 1).replace(old, new, 1)
    (tmp_path / "a.ply").write_bytes(header.encode() + (text.encode() if kind == "ascii" else binary))
    with pytest.raises(AssetError, match=reason) as caught:
        read_mesh(tmp_path / "a.ply")
    assert str(caught.value).startswith("a.ply: ")


@pytest.mark.parametrize(("kind", "count"), [("char", -1), ("uint", 2**32 - 1)])
def test_ply_faces_of_absurd_sizes_are_refused(tmp_path, kind, count):
    header = ply_header("binary_little_endian", 1, f"property list {kind} int vertex_indices\n", colours=False)
    body = b"".join(struct.pack("<3f", *row[:3]) for row in PLY_VERTICES)
    body += struct.pack({"char": "<b", "uint": "<I"}[kind], count) + struct.pack("<4i", 0, 1, 2, 3)
    (tmp_path / "a.ply").write_bytes(header.encode() + body)
    with pytest.raises(AssetError, match="early end-of-file"):
        read_mesh(tmp_path / "a.ply")


def test_truncated_ply_is_refused(tmp_path):
    body = b"".join(struct.pack("<3f3B", *row) for row in PLY_VERTICES[:2])
    (tmp_path / "a.ply").write_bytes(ply_header("binary_little_endian", 2).encode() + body)
    with pytest.raises(AssetError, match=r"a\.ply: "):
        read_mesh(tmp_path / "a.ply")


# ---------------------------------------------------------------- STL, OFF


def stl(attributes, header=b""):
    triangle = struct.pack("<12f", 0, 0, 1, 0, 0, 0, 2, 0, 0, 2, 4, 0)
    return (
        header.ljust(80, b" ")
        + struct.pack("<I", len(attributes))
        + b"".join(triangle + struct.pack("<H", attribute) for attribute in attributes)
    )


def test_stl_is_grey_and_z_up_unless_coloured(tmp_path):
    path = tmp_path / "a.stl"
    path.write_bytes(stl([0]))
    mesh = read_mesh(path)
    assert corner_set(mesh) == [[(0, 0, 0), (2, 0, 0), (2, 4, 0)]]
    np.testing.assert_allclose(mesh.corner_rgba[..., :3], UNCOLOURED, atol=COLOUR_TOLERANCE)
    path.write_bytes(stl([0x8000 | 31 << 10, 0x8000 | 31, 0]))
    expected = [RED, BLUE, [UNCOLOURED] * 3 + [1]]
    np.testing.assert_allclose(read_mesh(path).corner_rgba[:, 0], expected, atol=COLOUR_TOLERANCE)
    path.write_bytes(stl([0x8000, 31 << 10], b"COLOR=\x00\xff\x00\xff"))
    np.testing.assert_array_equal(read_mesh(path).corner_rgba[:, 2], [GREEN, BLUE])


@pytest.mark.parametrize("first", ["OFF\n4 2 0\n", "OFF4 2 0\n", "# made by hand\nOFF 4 2 0\n"])
def test_off(tmp_path, first):
    mesh = read_mesh(write(tmp_path / "a.off", f"{first}0 0 0\n2 0 0\n2 4 0\n0 4 0\n3 0 1 2\n4 0 1 2 3\n"))
    square = [[(0, 0, 0), (2, 0, 0), (2, 4, 0)], [(0, 0, 0), (0, 4, 0), (2, 4, 0)]]
    assert corner_set(mesh) == sorted([square[0], *square])


def test_off_colours(tmp_path):
    faces = "3 0 1 2 255 0 0\n4 0 1 2 3 0 0 255\n"
    mesh = read_mesh(write(tmp_path / "a.off", "OFF\n4 2 0\n0 0 0\n2 0 0\n2 4 0\n0 4 0\n" + faces))
    np.testing.assert_array_equal(mesh.corner_rgba[:, 0], [RED, BLUE, BLUE])
    corners = "0 0 0 1.0 0 0 1\n2 0 0 0 1.0 0 1\n2 4 0 0 0 1.0 1\n"
    mesh = read_mesh(write(tmp_path / "b.off", "COFF\n3 1 0\n" + corners + "3 0 1 2\n"))
    np.testing.assert_array_equal(mesh.corner_rgba[0], [RED, GREEN, BLUE])


# ---------------------------------------------------------------- glTF

TRIANGLE = np.array([[0, 0, 0], [2, 0, 0], [2, 4, 0]], np.float32)
UV_DOWN = np.array([[0, 1], [1, 1], [1, 0]], np.float32)  # bottom left, bottom right, top right of the picture


def gltf(arrays, *, material=None, nodes=None, images=None, mode=None, **extra):
    """A glTF header with its data inside. arrays: attribute name -> array."""
    kinds = {2: "VEC2", 3: "VEC3", 4: "VEC4"}
    components = {"float32": 5126, "uint16": 5123, "uint8": 5121}
    data, views, accessors = b"", [], []
    for array in arrays.values():
        views.append({"buffer": 0, "byteOffset": len(data), "byteLength": array.nbytes})
        accessors.append(
            {
                "bufferView": len(views) - 1,
                "componentType": components[array.dtype.name],
                "normalized": array.dtype.kind == "u",
                "count": len(array),
                "type": kinds[array.shape[1]],
            }
        )
        data += array.tobytes() + b"\0" * (-array.nbytes % 4)
    primitive = {"attributes": {name: i for i, name in enumerate(arrays)}}
    header = {
        "asset": {"version": "2.0"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": nodes or [{"mesh": 0}],
        "meshes": [{"primitives": [primitive]}],
        "buffers": [{"uri": as_uri(data), "byteLength": len(data)}],
        "bufferViews": views,
        "accessors": accessors,
        **extra,
    }
    if mode is not None:
        primitive["mode"] = mode
    if material is not None:
        primitive["material"] = 0
        header["materials"] = [material]
    if images is not None:
        header |= {"images": images, "textures": [{"source": 0}]}
    return header


def as_uri(data):
    return "data:application/octet-stream;base64," + base64.b64encode(data).decode()


def read_gltf(folder, header):
    return read_mesh(write(folder / "a.gltf", json.dumps(header)))


def pbr(**values):
    return {"pbrMetallicRoughness": values}


def test_gltf_node_transforms_and_instances(tmp_path):
    nodes = [
        {"children": [1, 2], "translation": [10, 0, 0]},
        {"mesh": 0, "rotation": [0, 0, np.sin(np.pi / 4), np.cos(np.pi / 4)], "scale": [2, 1, 1]},
        {"mesh": 0, "translation": [0, 0, 5]},
    ]
    mesh = read_gltf(tmp_path, gltf({"POSITION": TRIANGLE}, nodes=nodes))
    # (x, y, z) of the file is (x, -z, y) of the mesh; the first is scaled, turned by 90 degrees about z, shifted
    first = [(10, 0, 0), (10, 0, 4), (6, 0, 4)]
    second = [(10, -5, 0), (12, -5, 0), (12, -5, 4)]
    triangles = mesh.triangles[np.argsort(mesh.triangles[:, 0, 1])]  # the one with y = -5 first
    np.testing.assert_allclose(triangles, [second, first], atol=1e-12)  # a quaternion in float64
    np.testing.assert_allclose(mesh.corner_rgba[..., :3], UNCOLOURED, atol=COLOUR_TOLERANCE)


def test_gltf_factor_and_vertex_colours_are_linear(tmp_path):
    colours = np.array([[1, 1, 1, 1], [0.5, 1, 1, 1], [1, 0, 0.25, 1]], np.float32)
    material = pbr(baseColorFactor=[0.8, 0.012, 1, 0.3])
    mesh = read_gltf(tmp_path, gltf({"POSITION": TRIANGLE, "COLOR_0": colours}, material=material))
    # sRGB of 0.8, 0.4, 0.012 and 0.25 by the formula of IEC 61966-2-1
    expected = [[0.906332, 0.112075, 1], [0.665185, 0.112075, 1], [0.906332, 0, 0.537099]]
    np.testing.assert_allclose(mesh.corner_rgba[0, :, :3], expected, atol=2e-6)  # six decimals written
    assert not mesh.see_through.any()


@pytest.mark.parametrize(
    "colours", [np.array([[65535, 0, 0]] * 3, np.uint16), np.array([[255, 0, 0, 0]] * 3, np.uint8)]
)
def test_gltf_integer_vertex_colours(tmp_path, colours):
    if colours.shape[1] == 3:  # rows of 6 bytes: pad them to the 8 that the format asks for
        colours = np.column_stack([colours, colours[:, 0]])
    mesh = read_gltf(tmp_path, gltf({"POSITION": TRIANGLE, "COLOR_0": colours}, material={}))
    np.testing.assert_array_equal(mesh.corner_rgba[0, :, :3], [RED[:3]] * 3)


def test_gltf_texture_is_upright(tmp_path):
    Image.fromarray(QUADRANTS).save(tmp_path / "my t.png")
    material = pbr(baseColorTexture={"index": 0})
    header = gltf({"POSITION": TRIANGLE, "TEXCOORD_0": UV_DOWN}, material=material, images=[{"uri": "my%20t.png"}])
    mesh = read_gltf(tmp_path, header)
    assert (mesh.corner_rgba == 1).all()
    for corner, colour in zip(range(3), (BLUE, WHITE, GREEN), strict=True):
        assert texel(mesh, 0, corner) == [255 * c for c in colour]


@pytest.mark.parametrize(
    ("transform", "corner_colours"),
    [
        ({"offset": [0.5, 0], "scale": [0.5, 0.5]}, (GREEN, GREEN, GREEN)),  # the top right quarter
        ({"offset": [0, 0.5], "scale": [0.5, 0.5]}, (BLUE, BLUE, BLUE)),
        # (u, v) -> (v, -u + 1): the bottom left corner is moved to the bottom right one, that to the top right one
        ({"offset": [0, 1], "rotation": np.pi / 2}, (WHITE, GREEN, RED)),
    ],
)
def test_gltf_texture_transform(tmp_path, transform, corner_colours):
    Image.fromarray(QUADRANTS).save(tmp_path / "t.png")
    info = {"index": 0, "extensions": {"KHR_texture_transform": transform}}
    material = pbr(baseColorTexture=info)
    header = gltf({"POSITION": TRIANGLE, "TEXCOORD_0": UV_DOWN}, material=material, images=[{"uri": "t.png"}])
    mesh = read_gltf(tmp_path, header)
    assert [texel(mesh, 0, i) for i in range(3)] == [[255 * c for c in colour] for colour in corner_colours]


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGB", "RGBA", "1"])
def test_gltf_factor_times_texture_of_any_mode(tmp_path, mode):
    Image.new("L", (2, 2), 255 if mode == "1" else 188).convert(mode).save(tmp_path / "t.png")
    material = pbr(baseColorTexture={"index": 0}, baseColorFactor=[1, 0.5, 0, 1])
    header = gltf({"POSITION": TRIANGLE, "TEXCOORD_0": UV_DOWN}, material=material, images=[{"uri": "t.png"}])
    texture = read_gltf(tmp_path, header).textures[0]
    # grey 188 is 0.5029 linear, half of that is sRGB 137; 255 halved in linear light is 188
    assert texture[0, 0].tolist() == ([255, 188, 0, 255] if mode == "1" else [188, 137, 0, 255])


@pytest.mark.parametrize(
    ("alpha", "opacity"),
    [
        ({}, [1, 1]),
        ({"alphaMode": "MASK"}, [0, 1]),
        ({"alphaMode": "MASK", "alphaCutoff": 0.2}, [1, 1]),
        ({"alphaMode": "BLEND"}, [100 / 255, 200 / 255]),
    ],
)
def test_gltf_alpha_modes(tmp_path, alpha, opacity):
    Image.fromarray(np.array([[[9, 9, 9, 100], [9, 9, 9, 200]]], np.uint8)).save(tmp_path / "t.png")
    material = pbr(baseColorTexture={"index": 0}) | alpha
    header = gltf({"POSITION": TRIANGLE, "TEXCOORD_0": UV_DOWN}, material=material, images=[{"uri": "t.png"}])
    mesh = read_gltf(tmp_path, header)
    at = np.array([[0.25, 0], [0.75, 0]], np.float32)  # on the centres of the two texels
    np.testing.assert_allclose(surface_opacity(mesh, np.zeros(2, np.int64), at), opacity, atol=1e-6)  # float32
    assert (mesh.cutoff is None) == (opacity == [1, 1])


def test_what_is_wholly_transparent_is_refused(tmp_path):
    material = pbr(baseColorFactor=[1, 0, 0, 0]) | {"alphaMode": "BLEND"}
    with pytest.raises(AssetError, match="all its surfaces are transparent"):
        read_gltf(tmp_path, gltf({"POSITION": TRIANGLE}, material=material))


def test_gltf_instances_share_one_texture(tmp_path):
    Image.fromarray(QUADRANTS).save(tmp_path / "t.png")
    material = pbr(baseColorTexture={"index": 0})
    nodes = [{"children": [1, 2]}, {"mesh": 0}, {"mesh": 0, "translation": [5, 0, 0]}]
    arrays = {"POSITION": TRIANGLE, "TEXCOORD_0": UV_DOWN}
    mesh = read_gltf(tmp_path, gltf(arrays, material=material, images=[{"uri": "t.png"}], nodes=nodes))
    assert mesh.texture.tolist() == [0, 0]
    assert len(mesh.textures) == 1


@pytest.mark.parametrize("image", [{"uri": "textures/gone.png"}, {"uri": as_uri(b"no picture"), "name": "gone.png"}])
def test_gltf_without_its_texture_is_refused(tmp_path, image):
    material = pbr(baseColorTexture={"index": 0})
    header = gltf({"POSITION": TRIANGLE, "TEXCOORD_0": UV_DOWN}, material=material, images=[image])
    with pytest.raises(AssetError, match=r"a\.gltf: .*gone\.png is missing or cannot be read"):
        read_gltf(tmp_path, header)


def test_gltf_that_would_be_read_wrongly_is_refused(tmp_path):
    cases = {
        "EXT_other": gltf({"POSITION": TRIANGLE}, extensionsRequired=["EXT_other"]),
        "no triangles": gltf({"POSITION": TRIANGLE}, mode=0),
        "glTF version '1.0'": gltf({"POSITION": TRIANGLE}) | {"asset": {"version": "1.0"}},
        "number 7 of 1 nodes": gltf({"POSITION": TRIANGLE}) | {"scenes": [{"nodes": [7]}]},
    }
    for reason, header in cases.items():
        with pytest.raises(AssetError, match=reason):
            read_gltf(tmp_path, header)


def test_gltf_missing_buffer_and_broken_json(tmp_path):
    header = gltf({"POSITION": TRIANGLE})
    header["buffers"][0]["uri"] = "gone.bin"
    with pytest.raises(AssetError, match=r"gone\.bin .* missing"):
        read_gltf(tmp_path, header)
    with pytest.raises(AssetError, match=r"^a\.gltf: .*JSON"):
        read_mesh(write(tmp_path / "a.gltf", '{"asset": '))


# ---------------------------------------------------------------- any file


@pytest.mark.parametrize("suffix", [".glb", ".gltf", ".obj", ".ply", ".stl", ".off"])
@pytest.mark.parametrize("content", [b"", b"\0" * 200, b"ply\n", b"glTF" + b"\xff" * 60, bytes(range(256)) * 3])
def test_rubbish_is_refused_whatever_its_suffix(tmp_path, suffix, content):
    path = tmp_path / f"rubbish{suffix}"
    path.write_bytes(content)
    with pytest.raises(AssetError, match=r"^rubbish"):
        read_mesh(path)


def test_a_format_that_is_not_read_names_those_that_are(tmp_path):
    with pytest.raises(AssetError, match=r"a\.fbx: .*'\.fbx'.*\.glb, \.gltf, \.obj, \.ply, \.stl, \.off"):
        read_mesh(tmp_path / "a.fbx")


def test_transfer_function():
    # published pairs: 188/255 is 0.5 within a byte, the linear part has slope 12.92
    assert abs(float(srgb_of_linear(0.5)) * 255 - 187.516) < 1e-3
    assert abs(float(srgb_of_linear(0.001)) - 0.01292) < 1e-12
    levels = np.arange(256) / 255
    np.testing.assert_allclose(
        srgb_of_linear(linear_of_srgb(levels)), levels, atol=1e-7
    )  # the two parts meet so closely


def test_colours_of_files_are_mixed_as_light(tmp_path):
    """Half way from black to white lies half of the light, which is sRGB 188, and not 128."""
    text = "v 0 0 0 0 0 0\nv 1 0 0 1 1 1\nv 0 1 0 1 1 1\nf 1 2 3\n"
    mesh = read_mesh(write(tmp_path / "a.obj", text))
    weights = np.array([[0.5, 0.25]], np.float32)
    light = np.array([0.25, 0.5, 0.25])[mesh.corner_rgba[0, :, 0] == 1].sum()
    rgb = surface_colours(mesh, np.zeros(1, np.int64), weights)
    np.testing.assert_allclose(rgb, [[srgb_of_linear(light)] * 3], atol=1e-6)  # float32
