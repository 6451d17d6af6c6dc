"""What moves vertices in glTF, worked out by hand: (x, y, z) of a file is (x, -z, y) of the mesh."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from mdtbench.assets.mesh_files import read_mesh
from mdtbench.base.errors import AssetError

sys.path.insert(0, str(Path(__file__).parents[1] / "second_renderer"))

from samples import CUBE, SAMPLES, Builder, pbr

HALF = 0.5
DIAGONAL = np.sqrt(0.5)


def read(folder, builder):
    (folder / "a.glb").write_bytes(builder.bytes())
    return read_mesh(folder / "a.glb")


@pytest.mark.parametrize(
    ("name", "low", "high", "faces"),
    [
        # the upper half is turned by 45 degrees about z and shifted by (.2, .5, 0), the lower by (.2, 0, 0)
        ("SimpleSkin", (0.2 - DIAGONAL, -HALF, -HALF), (0.2 + HALF, 0.5 + DIAGONAL, HALF), 12),
        # x > 0 moves by .75, z > 0 by .75 * .5, y < 0 by .25
        ("SimpleMorph", (-0.5, -0.25, -0.5), (1.25, 0.5, 0.875), 12),
        ("MorphWeightsOfNodes", (-0.5, -0.5, -0.5), (2.5, 1.5, 0.5), 24),
        # three boxes: as it is; turned about y; x, y, z become y, z, x; then all are stretched along y
        ("SimpleInstancing", (-1, -1.5, -0.5), (2.25, 3.375, 1.25), 36),
        ("SimpleSparseAccessor", (-0.5, -0.5, -0.5), (1.5, 1.5, 1.5), 12),
        ("BoxQuantized", (-1, -2, -3), (1, 2, 3), 12),
        ("HiddenNodes", (-0.5, -0.5, -0.5), (0.5, 0.5, 0.5), 12),
        ("MultipleScenes", (-0.5, -1.5, -0.5), (0.5, 1.5, 0.5), 12),
    ],
)
def test_vertices_are_where_a_viewer_has_them(tmp_path, name, low, high, faces):
    builder = Builder()
    SAMPLES[name](builder)
    mesh = read(tmp_path, builder)
    x, up, y = mesh.triangles.reshape(-1, 3).T[[0, 2, 1]]
    found = np.stack([x, up, -y], axis=1)
    np.testing.assert_allclose(found.min(0), low, atol=1e-6)  # quaternions are written with seven digits
    np.testing.assert_allclose(found.max(0), high, atol=1e-6)
    assert len(mesh.faces) == faces


def test_strips_turn_every_second_triangle(tmp_path):
    """Else half of a flat strip would face away."""
    builder = Builder()
    strip = np.array([[i // 2, i % 2, 0] for i in range(6)], np.float32)
    builder.node(mesh=builder.mesh({"POSITION": strip}, None, mode=5))
    corners = read(tmp_path, builder).triangles
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    assert len(normals) == 4
    assert (normals == normals[0]).all()


def test_emission_is_added_in_linear_light(tmp_path):
    builder = Builder()
    half = pbr(builder, factor=[0.25, 0, 0, 1], emissiveFactor=[0.25, 0.5, 2.0])
    builder.node(mesh=builder.mesh(material=half))
    # sRGB of .5 by the formula of IEC 61966-2-1, and what is clipped
    np.testing.assert_allclose(read(tmp_path, builder).corner_rgba[0, 0], [0.735357, 0.735357, 1, 1], atol=1e-6)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda h: h["nodes"].append({"children": [0, 0]}), "two parents"),
        (lambda h: h["accessors"][0].update(count=25), "beyond its data"),
        (lambda h: h["bufferViews"][0].update(byteLength=10**6), "shorter than the file says"),
        (lambda h: h["meshes"][0]["primitives"][0].update(material=3), "number 3 of 1 materials"),
    ],
)
def test_headers_that_contradict_themselves_are_refused(tmp_path, change, reason):
    builder = Builder()
    builder.node(mesh=builder.mesh({"POSITION": CUBE}, material=pbr(builder)))
    change(builder.header)
    with pytest.raises(AssetError, match=reason):
        read(tmp_path, builder)
