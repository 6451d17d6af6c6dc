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


def test_none(tmp_path):
    write_gaussians(tmp_path / "a.ply", random_gaussians(0))
    assert len(read_gaussians(tmp_path / "a.ply")) == 0


@pytest.mark.parametrize("order", ["<", ">"])
def test_files_of_other_programs(tmp_path, order):
    # Other columns among ours, other types, another byte order, rotations of any length, an element behind.
    names = ["opacity", *(n for n in COLUMNS if n != "opacity" and not n.startswith("n")), "f_rest_0"]
    rows = np.zeros(2, [("label", "u1"), *((name, order + "f8") for name in names)])
    rows["x"], rows["y"], rows["z"] = [0.1, 0.2], [0.3, 0.4], [0.5, 0.6]
    rows["rot_0"], rows["scale_1"], rows["opacity"], rows["f_dc_2"] = 2, np.log(0.25), [0, np.inf], 3
    endian = {"<": "little", ">": "big"}[order]
    header = ["ply", f"format binary_{endian}_endian 1.0", "comment made elsewhere", "element vertex 2"]
    header += ["property uchar label", *(f"property double {name}" for name in names)]
    header += ["element camera 0", "property list uchar int ids", "end_header", ""]
    (tmp_path / "a.ply").write_bytes("\n".join(header).encode() + rows.tobytes())
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
        (b"ply", b"obj", "not a PLY file"),
        (b"end_header", b"", "not a PLY file"),
        (b"binary_little_endian", b"ascii", "not understood"),
        (b"format binary_little_endian 1.0\n", b"", "not understood"),
        (b"element vertex", b"element face", "first element face"),
        (b"vertex 3", b"vertex many", "not understood"),
        (b"vertex 3", b"vertex -3", "-3 vertices"),
        (b"vertex 3", b"vertex 4", "ends too early: 4"),
        (b"float rot_3", b"list uchar float rot_3", "not understood"),
        (b"float scale_1", b"float thickness", "lacks scale_1"),
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
    with pytest.raises(AssetError, match="Cannot read"):
        read_gaussians(tmp_path / "none.ply")
