"""Written meshes, read back by our own reader and, byte by byte, by the rules of the formats."""

from __future__ import annotations

import errno
import json
import struct
from pathlib import Path

import numpy as np
import pytest
from solids import ellipsoid

from mdtbench.assets.folder import FolderSource
from mdtbench.assets.mesh_export import write_glb
from mdtbench.assets.mesh_files import read_mesh
from mdtbench.base.errors import AssetError, RunError

LEVEL = 1 / 255


def coloured():
    """Unlike along all three axes; colours hold all 256 levels of grey's neighbourhood, the dark ones above all."""
    solid = ellipsoid((0.1, -0.05, 0.2), (0.3, 0.2, 0.25))
    level = np.arange(len(solid.vertices)) / len(solid.vertices)
    return solid.vertices, solid.faces, np.stack([level**2, 1 - level, level / 20], 1)


def glb_parts(path):
    data = path.read_bytes()
    magic, version, length, n_text, kind = struct.unpack_from("<4sIII4s", data)
    assert (magic, version, length, kind) == (b"glTF", 2, len(data), b"JSON")
    n_binary, kind = struct.unpack_from("<I4s", data, 20 + n_text)
    assert kind == b"BIN\0"
    assert n_text % 4 == n_binary % 4 == 0
    assert 28 + n_text + n_binary == len(data)
    return json.loads(data[20 : 20 + n_text]), data[28 + n_text :]


def accessor(header, binary, index, dtype, width):
    entry = header["accessors"][index]
    view = header["bufferViews"][entry["bufferView"]]
    assert view["byteOffset"] % 4 == 0
    assert view["byteLength"] == entry["count"] * width * np.dtype(dtype).itemsize
    return np.frombuffer(binary, dtype, entry["count"] * width, view["byteOffset"]).reshape(-1, width)


def test_reading_back_gives_the_same_mesh(tmp_path):
    vertices, faces, colours = coloured()
    write_glb(tmp_path / "a.glb", vertices, faces, colours)
    mesh = read_mesh(tmp_path / "a.glb")
    assert len(mesh.faces) == len(faces)
    np.testing.assert_array_equal(mesh.triangles, vertices.astype(np.float32)[faces])  # positions are float32
    np.testing.assert_allclose(mesh.corner_rgba[..., :3], colours[faces], atol=LEVEL / 2 + 1e-6)
    assert (mesh.corner_rgba[..., 3] == 1).all()


def test_dark_colours_of_a_glb_keep_their_8_bits(tmp_path):
    """One step of 8-bit linear light would be 12 sRGB levels there."""
    vertices, faces, _ = coloured()
    level = (np.arange(len(vertices)) % 20)[:, None] / 255 * np.ones(3)
    write_glb(tmp_path / "a.glb", vertices, faces, level)
    mesh = read_mesh(tmp_path / "a.glb")
    np.testing.assert_allclose(mesh.corner_rgba[..., :3], level[faces], atol=0.05 * LEVEL)


def test_glb_colours_are_linear_light(tmp_path):
    """sRGB 188/255 is half of the light of white (0.5029): a reader that skipped the curve would not notice."""
    vertices, faces, _ = coloured()
    write_glb(tmp_path / "a.glb", vertices, faces, np.full((len(vertices), 3), 188 / 255))
    header, binary = glb_parts(tmp_path / "a.glb")
    rgba = accessor(header, binary, 1, "<u2", 4)
    np.testing.assert_allclose(rgba[:, :3] / 65535, 0.5029, atol=1e-4)
    assert (rgba[:, 3] == 65535).all()
    assert header["accessors"][1]["normalized"] is True


def test_glb_follows_the_specification(tmp_path):
    vertices, faces, colours = coloured()
    write_glb(tmp_path / "a.glb", vertices, faces, colours)
    header, binary = glb_parts(tmp_path / "a.glb")
    positions = accessor(header, binary, 0, "<f4", 3)
    np.testing.assert_array_equal(positions.T, np.float32([vertices[:, 0], vertices[:, 2], -vertices[:, 1]]))
    assert header["accessors"][0]["min"] == positions.min(0).tolist()
    assert header["accessors"][0]["max"] == positions.max(0).tolist()
    np.testing.assert_array_equal(accessor(header, binary, 2, "<u4", 1).reshape(-1, 3), faces)
    assert header["buffers"] == [{"byteLength": sum(view["byteLength"] for view in header["bufferViews"])}]
    (material,) = header["materials"]
    assert material["doubleSided"]
    assert list(material["extensions"]) == header["extensionsUsed"] == ["KHR_materials_unlit"]


def test_a_folder_of_written_meshes_is_a_source(tmp_path):
    vertices, faces, colours = coloured()
    write_glb(tmp_path / "made" / "a.glb", vertices, faces, colours)
    mesh = FolderSource(tmp_path / "made").assets()[0].load()
    ratio = np.ptp(mesh.vertices, axis=0) / np.ptp(vertices, axis=0)
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-6)  # upright: no two axes have changed places


def test_bytes_depend_on_the_mesh_alone(tmp_path):
    write_glb(tmp_path / "a", *coloured())
    write_glb(tmp_path / "b", *(np.asfortranarray(array) for array in coloured()))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_what_is_no_mesh_is_refused(tmp_path):
    vertices, faces, colours = coloured()
    with pytest.raises(AssetError, match="without faces"):
        write_glb(tmp_path / "a", vertices, faces[:0], colours)
    with pytest.raises(AssetError, match="NaN or infinite"):
        write_glb(tmp_path / "a", vertices * np.inf, faces, colours)
    with pytest.raises(AssetError, match="there are 5, from 0"):
        write_glb(tmp_path / "a", vertices[:5], faces, colours[:5])
    with pytest.raises(AssetError, match=r"in \[0, 1\]"):
        write_glb(tmp_path / "a", vertices, faces, colours * 255)
    with pytest.raises(AssetError, match=r"Colours \[3, 3\] do not fit"):
        write_glb(tmp_path / "a", vertices, faces, colours[:3])
    with pytest.raises(AssetError, match=r"in \[0, 1\]"):
        write_glb(tmp_path / "a", vertices, faces, colours * np.nan)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="Cannot write"):
        write_glb(tmp_path / "file" / "a", *coloured())


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    def full(_path, _data):
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "a").write_text("old")
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(RunError, match="No space left"):
        write_glb(tmp_path / "a", *coloured())
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a", "old")]
