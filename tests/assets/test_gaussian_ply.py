"""Gaussians as PLY files: TRELLIS' own columns, round trips, and files that are refused."""

from __future__ import annotations

from dataclasses import fields, replace

import golden_io
import numpy as np
import pytest
import torch

from mdtbench.assets.gaussian_ply import COLUMNS, read_gaussians, write_gaussians
from mdtbench.base.errors import AssetError
from mdtbench.geometry.gaussians import Gaussians
from mdtbench.render.gaussian_torch import axes_of


def random_gaussians(count: int) -> Gaussians:
    random = np.random.Generator(np.random.PCG64(0))
    rotations = random.standard_normal((count, 4))
    rotations /= np.linalg.norm(rotations, axis=1, keepdims=True)
    scales, opacities = np.exp(random.normal(-5, 2, (count, 3))), random.uniform(0, 1, count)
    values = (random.uniform(-0.5, 0.5, (count, 3)), scales, rotations, opacities, random.standard_normal((count, 3)))
    return Gaussians(*(value.astype(np.float32) for value in values))


def rows_of(path) -> np.ndarray:
    data = path.read_bytes()
    return np.frombuffer(data[data.index(b"end_header\n") + 11 :], "<f4").reshape(-1, len(COLUMNS))


@pytest.mark.parametrize("name", ["slat_dec_gs_swin", "slat_dec_gs_exp"])
def test_columns_are_those_of_trellis(tmp_path, name):
    sidecar, arrays = golden_io.load("slat_vae", name)
    assert list(COLUMNS) == sidecar["ply_columns"]
    parts = (arrays["out0_xyz"], arrays["out0_scaling"], arrays["out0_rotation"])
    gaussians = Gaussians(*parts, arrays["out0_opacity"][:, 0], arrays["out0_features"][:, 0])
    write_gaussians(tmp_path / "a.ply", gaussians)
    ours, theirs = rows_of(tmp_path / "a.ply"), arrays["out0_ply"].copy()
    # q and -q are the same rotation.
    signs = np.sign((ours[:, 13:] * theirs[:, 13:]).sum(1, keepdims=True))
    theirs[:, 13:] *= signs
    # The reference's logits and logarithms are float32.
    np.testing.assert_allclose(ours[:, :13], theirs[:, :13], rtol=1e-5, atol=2e-6)
    # It turns quaternions by way of float32 matrices: a small component is the root of a rounding.
    np.testing.assert_allclose(ours[:, 13:], theirs[:, 13:], atol=1e-4)


def test_round_trip(tmp_path):
    gaussians = random_gaussians(300)
    write_gaussians(tmp_path / "a.ply", gaussians)
    found = read_gaussians(tmp_path / "a.ply")
    np.testing.assert_array_equal(found.means, gaussians.means)
    np.testing.assert_array_equal(found.sh_dc, gaussians.sh_dc)
    # Roundings to float32: of logarithms near -10 (half a unit is 5e-7), of logits, of the turned quaternion.
    np.testing.assert_allclose(found.scales, gaussians.scales, rtol=6e-7)
    np.testing.assert_allclose(found.opacities, gaussians.opacities, rtol=6e-7)
    np.testing.assert_allclose(found.rotations, gaussians.rotations, atol=2e-7)


def test_the_file_shows_the_same_shapes_turned(tmp_path):
    gaussians = random_gaussians(20)
    write_gaussians(tmp_path / "a.ply", gaussians)
    rows = torch.from_numpy(rows_of(tmp_path / "a.ply").astype(np.float64))
    turn = torch.tensor([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]], dtype=torch.float64)
    np.testing.assert_allclose(rows[:, :3], gaussians.means @ turn.numpy().T, atol=1e-7)
    ours = turn @ axes_of(*(torch.tensor(v).double() for v in (gaussians.rotations, gaussians.scales)))
    theirs = axes_of(rows[:, 13:], rows[:, 10:13].exp())
    np.testing.assert_allclose(theirs @ theirs.mT, ours @ ours.mT, rtol=1e-5, atol=1e-6)


def test_bounds_of_opacity_and_scale_stay_finite(tmp_path):
    gaussians = replace(
        random_gaussians(2), opacities=np.array([0, 1], np.float32), scales=np.zeros((2, 3), np.float32)
    )
    write_gaussians(tmp_path / "a.ply", gaussians)
    assert np.isfinite(rows_of(tmp_path / "a.ply")).all()
    found = read_gaussians(tmp_path / "a.ply")
    np.testing.assert_allclose(found.opacities, [0, 1], atol=1e-7)
    np.testing.assert_allclose(found.scales, 0, atol=1e-30)


def test_lists_of_numbers_are_no_columns(tmp_path):
    write_gaussians(tmp_path / "a.ply", random_gaussians(2))
    data = (tmp_path / "a.ply").read_bytes().replace(b"float rot_3", b"list uchar float rot_3")
    end = data.index(b"end_header\n") + 11
    rows = [b"".join([row[:64], b"\1", row[64:]]) for row in (data[end : end + 68], data[end + 68 :])]
    (tmp_path / "a.ply").write_bytes(data[:end] + b"".join(rows))
    with pytest.raises(AssetError, match="lacks rot_3"):
        read_gaussians(tmp_path / "a.ply")


def test_every_byte_of_a_file(tmp_path):
    gaussians = replace(random_gaussians(1), means=np.float32([[1, 2, 3]]), scales=np.ones((1, 3), np.float32))
    gaussians = replace(gaussians, rotations=np.float32([[1, 0, 0, 0]]), opacities=np.float32([0.5]))
    write_gaussians(tmp_path / "a.ply", gaussians)
    lines = ["ply", "format binary_little_endian 1.0", "element vertex 1"]
    lines += [*(f"property float {name}" for name in COLUMNS), "end_header", ""]
    values = [1, -3, 2, 0, 0, 0, *gaussians.sh_dc[0], 0, 0, 0, 0, np.sqrt(0.5), np.sqrt(0.5), 0, 0]
    assert (tmp_path / "a.ply").read_bytes() == "\n".join(lines).encode() + np.array(values, "<f4").tobytes()


def test_none(tmp_path):
    write_gaussians(tmp_path / "a.ply", random_gaussians(0))
    assert len(read_gaussians(tmp_path / "a.ply")) == 0


@pytest.mark.parametrize("order", ["<", ">", "ascii"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_files_of_other_programs(tmp_path, order, newline):
    # Other columns among ours, other types, another byte order, text, rotations of any length, elements around.
    names = ["opacity", *(n for n in COLUMNS if n != "opacity" and not n.startswith("n")), "f_rest_0"]
    kind = "<f8" if order == "ascii" else order + "f8"
    rows = np.zeros(2, [("label", "u1"), *((name, kind) for name in names)])
    rows["x"], rows["y"], rows["z"] = [0.1, 0.2], [0.3, 0.4], [0.5, 0.6]
    rows["rot_0"], rows["scale_1"], rows["opacity"], rows["f_dc_2"] = 2, np.log(0.25), [0, np.inf], 3
    text = "".join(" ".join(map(repr, row)) + "\n" for row in rows.tolist()).encode()
    camera, body = (b"7\n", text) if order == "ascii" else (b"\7", rows.tobytes())
    format_ = {"<": "binary_little_endian", ">": "binary_big_endian", "ascii": "ascii"}[order]
    header = ["ply", f"format {format_} 1.0", "comment für andere", "element camera 1", "property uchar id"]
    header += ["obj_info anywhere", "element vertex 2", "property uchar label"]
    header += [*(f"property double {name}" for name in names), "element note 0"]
    header += ["property list uchar int ids", "end_header", ""]
    (tmp_path / "a.ply").write_bytes(newline.join(header).encode("latin-1") + camera + body)
    found = read_gaussians(tmp_path / "a.ply")
    np.testing.assert_allclose(found.means, [[0.1, 0.5, -0.3], [0.2, 0.6, -0.4]], rtol=1e-6)
    np.testing.assert_allclose(found.scales, [[1, 0.25, 1]] * 2)
    np.testing.assert_allclose(found.rotations, [[np.sqrt(0.5), -np.sqrt(0.5), 0, 0]] * 2, rtol=1e-6)
    np.testing.assert_array_equal(found.opacities, [0.5, 1])
    np.testing.assert_array_equal(found.sh_dc, [[0, 0, 3]] * 2)
    assert {getattr(found, field.name).dtype for field in fields(found)} == {np.dtype(np.float32)}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"ply", b"obj", "its header is missing or has no end"),
        (b"end_header", b"", "its header is missing or has no end"),
        (b"binary_little_endian", b"ascii", "not a readable PLY file"),
        (b"binary_little_endian", b"binary_middle_endian", "middle"),
        (b"format binary_little_endian 1.0\n", b"", "line 2"),
        (b"element vertex", b"element face", "lacks vertex"),
        (b"vertex 3", b"vertex many", "announces 'many'"),
        (b"vertex 3", b"vertex -3", "announces '-3'"),
        (b"vertex 3", b"vertex 1_0", "announces '1_0'"),
        (b"vertex 3", b"vertex 4", "ends too early: its header announces vertex 4"),
        (b"vertex 3", b"vertex 1000000000000", "ends too early"),
        (b"float rot_3", b"list uchar float rot_3", "not a readable PLY file"),
        (b"float scale_1", b"float thickness", "lacks scale_1"),
        (b"float scale_1", b"float scale_0", "two properties with same name"),
    ],
)
def test_malformed_files_are_refused(tmp_path, old, new, message):
    path = tmp_path / "a.ply"
    write_gaussians(path, random_gaussians(3))
    path.write_bytes(path.read_bytes().replace(old, new, 1))
    with pytest.raises(AssetError, match=message) as caught:
        read_gaussians(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value"), [("means", np.nan), ("means", np.inf), ("rotations", 0), ("opacities", np.nan)]
)
def test_nonsense_is_refused(tmp_path, field, value):
    gaussians = random_gaussians(3)
    getattr(gaussians, field)[1] = value
    write_gaussians(tmp_path / "a.ply", gaussians)
    with pytest.raises(AssetError, match="not finite, or with a rotation of length 0"):
        read_gaussians(tmp_path / "a.ply")


def test_missing_file(tmp_path):
    with pytest.raises(AssetError, match=r"none\.ply: .*cannot be read"):
        read_gaussians(tmp_path / "none.ply")
