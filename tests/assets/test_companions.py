"""The files that a mesh file names: all that are read count for its digest, and only files are read."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mdtbench.assets import gltf_guard
from mdtbench.assets.companions import companions_of, find, mesh_key
from mdtbench.assets.mesh_files import read_mesh
from mdtbench.base.errors import AssetError
from mdtbench.base.limits import Limits, use_limits

OBJ = "v 0 0 0\nv 1 0 0\nv 0 1 0\nvt 0 0\nvt 1 0\nvt 0 1\nusemtl m\nf 1/1 2/2 3/3\n"


@pytest.fixture
def limited():
    """Sets limits for one test."""
    yield lambda **values: use_limits(Limits(**values))
    use_limits(Limits())


def picture(path: Path, colour: str = "red", size: tuple[int, int] = (2, 2)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path, format="PNG")


def obj(folder: Path, texture: str, library: str = "m.mtl") -> Path:
    """A triangle whose texture has this name."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / library).write_text(f"newmtl m\nmap_Kd {texture}\n")
    path = folder / "a.obj"
    path.write_text(f"mtllib {library}\n{OBJ}")
    return path


def gltf(folder: Path, texture: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    uv = np.array([[0, 0], [1, 0], [0, 1]], np.float32).tobytes()
    (folder / "a.bin").write_bytes(np.eye(3, dtype=np.float32).tobytes() + uv)
    views = [{"buffer": 0, "byteOffset": start, "byteLength": size} for start, size in ((0, 36), (36, 24))]
    accessors = [
        {"bufferView": 0, "componentType": 5126, "count": 3, "type": "VEC3", "min": [0, 0, 0], "max": [1, 1, 1]},
        {"bufferView": 1, "componentType": 5126, "count": 3, "type": "VEC2"},
    ]
    header = {
        "asset": {"version": "2.0"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0, "TEXCOORD_0": 1}, "material": 0}]}],
        "materials": [{"pbrMetallicRoughness": {"baseColorTexture": {"index": 0}}}],
        "textures": [{"source": 0}],
        "images": [{"uri": texture}],
        "buffers": [{"uri": "a.bin", "byteLength": 60}],
        "bufferViews": views,
        "accessors": accessors,
    }
    path = folder / "a.gltf"
    path.write_text(json.dumps(header))
    return path


def ply(folder: Path, texture: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "a.ply"
    path.write_text(
        f"ply\nformat ascii 1.0\ncomment TextureFile {texture}\nelement vertex 3\nproperty float x\nproperty float y\n"
        "property float z\nproperty float s\nproperty float t\nelement face 1\n"
        "property list uchar int vertex_indices\nend_header\n0 0 0 0 0\n1 0 0 1 0\n0 1 0 0 1\n3 0 1 2\n"
    )
    return path


@pytest.mark.parametrize("make", [obj, gltf, ply])
@pytest.mark.parametrize("texture", ["t.png", "../textures/t.png", "sub/t.png"])
def test_a_digest_follows_every_file_that_is_read(tmp_path, make, texture):
    path = make(tmp_path / "meshes", texture)
    picture(path.parent / texture)
    before, seen = mesh_key(path, {}), read_mesh(path).textures[0]
    picture(path.parent / texture, "blue")
    assert (read_mesh(path).textures[0] != seen).any()
    assert mesh_key(path, {}) != before
    (path.parent / texture).unlink()
    assert mesh_key(path, {}) != before


@pytest.mark.parametrize("make", [obj, gltf, ply])
@pytest.mark.parametrize("kind", ["fifo", "/dev/zero", "/dev/random", "folder", "link to a device", "absent"])
def test_only_regular_files_are_read(tmp_path, make, kind):
    target = tmp_path / "t.png"
    if kind == "fifo":
        os.mkfifo(target)
    elif kind == "folder":
        target.mkdir()
    elif kind == "link to a device":
        target.symlink_to("/dev/zero")
    path = make(tmp_path, kind if kind.startswith("/") else "t.png")
    with pytest.raises(AssetError, match=r"^a\.\w+: .*(no regular file|missing|base colour texture)"):
        read_mesh(path)
    mesh_key(path, {})


@pytest.mark.parametrize("make", [obj, gltf, ply])
@pytest.mark.parametrize("name", ["t", "t.jpeg.backup"])
def test_a_texture_is_one_whatever_its_name_ends_in(tmp_path, make, name):
    path = make(tmp_path, name)
    picture(tmp_path / name)
    assert read_mesh(path).textures
    (tmp_path / name).write_bytes(b"no picture")
    with pytest.raises(AssetError, match=r"cannot be read|readable|cannot be used"):
        read_mesh(path)


def test_a_library_is_one_whatever_its_name_ends_in(tmp_path):
    path = obj(tmp_path, "t.png", library="materials.txt")
    picture(tmp_path / "t.png")
    assert read_mesh(path).textures
    (tmp_path / "materials.txt").write_text("newmtl other\nKd 1 0 0\n")
    with pytest.raises(AssetError, match="its material m is not in"):
        read_mesh(path)


def test_a_mesh_that_is_a_pipe_is_refused(tmp_path):
    os.mkfifo(tmp_path / "a.glb")
    with pytest.raises(AssetError, match="no regular file"):
        read_mesh(tmp_path / "a.glb")


def test_names_are_found_as_people_write_them(tmp_path):
    picture(tmp_path / "my wood.PNG")
    for name in ("my wood.PNG", "my%20wood.PNG", "C:\\maps\\my wood.PNG", "maps/my wood.PNG", "My Wood.png"):
        assert find(tmp_path, name) == tmp_path / "my wood.PNG", name
    for name in ("", "..", "x" * 5000, "a\0b", "other.png"):
        assert find(tmp_path, name) is None, name
    path = obj(tmp_path, "-s 2 2 2 my wood.PNG")
    assert tmp_path / "my wood.PNG" in companions_of(path).values()


def test_files_and_pictures_have_limits_that_can_be_raised(tmp_path, limited):
    path = obj(tmp_path, "t.png")
    picture(tmp_path / "t.png", size=(1500, 1500))
    limited(pixels=2_000_000)
    with pytest.raises(AssetError, match=r"2,250,000 pixels - 2,000,000 are allowed - .*--set limits\.pixels=N"):
        read_mesh(path)
    changed = mesh_key(path, {})
    limited()
    assert read_mesh(path).textures
    assert mesh_key(path, {}) != changed  # what was refused under other limits is not taken from a cache
    limited(file_mb=1)
    with path.open("a") as stream:
        stream.write("#" * 1_100_000)
    with pytest.raises(AssetError, match=r"limits\.file_mb"):
        read_mesh(path)


def test_pictures_and_faces_of_one_asset_are_added_up(tmp_path, limited):
    lines = "".join(f"usemtl m{i}\nf 1/1 2/2 3/3\n" for i in range(3))
    (tmp_path / "a.obj").write_text("mtllib m.mtl\n" + OBJ.partition("usemtl")[0] + lines)
    (tmp_path / "m.mtl").write_text("".join(f"newmtl m{i}\nmap_Kd {i}.png\n" for i in range(3)))
    for i in range(3):
        picture(tmp_path / f"{i}.png", size=(10, 10 + i))
    limited(asset_pixels=310)
    with pytest.raises(AssetError, match=r"limits\.asset_pixels"):
        read_mesh(tmp_path / "a.obj")
    limited(asset_pixels=330, faces=2)
    with pytest.raises(AssetError, match=r"limits\.faces"):
        read_mesh(tmp_path / "a.obj")
    limited(asset_pixels=330, faces=3)
    assert len(read_mesh(tmp_path / "a.obj").faces) == 3
    assert len(read_mesh(tmp_path / "a.obj").faces) == 3  # each asset is counted by itself


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ({"accessors": [{"count": 10**12, "type": "VEC3", "componentType": 5126}]}, "limits.values"),
        ({"nodes": [{"children": [1]}, {"children": [0]}]}, "circle"),
        ({"nodes": [{"children": [2]}, {"children": [2]}, {}]}, "two parents"),
        ({"nodes": [{"children": [i + 1]} for i in range(99)] + [{}]}, "limits.nesting"),
    ],
)
def test_what_a_gltf_header_announces_is_checked(header, reason):
    with pytest.raises(AssetError, match=reason):
        gltf_guard.check_counts(header)
    gltf_guard.check_counts({"nodes": [{"children": [1, 2]}, {}, {}], "accessors": [{"count": 3}]})
