"""FlexiCubes and the extraction of meshes from voxel features."""

from __future__ import annotations

from collections import Counter

import golden_io
import numpy as np
import pytest
import torch
from torch import Tensor

from mdtbench.base.errors import AssetError
from mdtbench.trellis.flexicubes import CORNERS, EDGES, DualMesh, ambiguous_face, sheets
from mdtbench.trellis.mesh_extraction import coloured_mesh, extract_mesh, feature_channels

FIXTURES = ["mesh_extract_sphere", "mesh_extract_torus"]


def cells(side: int) -> Tensor:
    axis = torch.arange(side)
    return torch.cartesian_prod(axis, axis, axis)


def with_sdf(coords: Tensor, corner_sdf: Tensor, resolution: int, use_color: bool = True) -> Tensor:
    """Features whose corners have this signed distance (the bias of -1/R cancelled), else small noise."""
    channels = feature_channels(use_color)
    feats = 0.5 * torch.randn(len(coords), channels, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    feats[:, :8] = corner_sdf + 1 / resolution
    return feats


def random_field(resolution: int, seed: int) -> tuple[Tensor, Tensor]:
    """Independent signs at the inner grid points, air at the border: every case of a cube occurs."""
    field = torch.randn([resolution + 1] * 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    shell = torch.ones_like(field, dtype=torch.bool)
    shell[1:-1, 1:-1, 1:-1] = False
    field = torch.where(shell, field.abs(), field)
    coords = cells(resolution)
    x, y, z = (coords[:, None] + torch.tensor(CORNERS)).unbind(-1)
    return coords, field[x, y, z]


def directed_edges(mesh: DualMesh) -> Counter:
    sides = mesh.faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2).tolist()
    return Counter(map(tuple, sides))


def signed_volume(vertices: Tensor, faces: Tensor) -> float:
    a, b, c = vertices[faces].unbind(1)
    return float((a * torch.linalg.cross(b, c)).sum() / 6)


@pytest.mark.parametrize("name", FIXTURES)
def test_golden_extraction(name):
    """Vertices, in the reference's order, to the rounding of float32 (1e-6 in a unit cube); faces exactly."""
    sidecar, arrays = golden_io.load("slat_vae", name)
    coords, feats = torch.from_numpy(arrays["coords"])[:, 1:], torch.from_numpy(arrays["feats"])
    before = feats.clone()
    mesh = extract_mesh(coords, feats, sidecar["constructor"]["res"])
    assert torch.equal(feats, before)  # the reference's in-place bias must not leak
    assert [len(mesh.vertices), len(mesh.faces)] == arrays["out_mesh0_counts"].tolist()
    np.testing.assert_allclose(mesh.vertices, arrays["out_mesh0_vertices"], rtol=0, atol=1e-6)
    np.testing.assert_array_equal(mesh.faces, arrays["out_mesh0_faces"])
    assert signed_volume(mesh.vertices, mesh.faces) == pytest.approx(arrays["out_mesh0_signed_volume"], rel=1e-5)
    if sidecar["constructor"]["use_color"]:
        order = np.lexsort(mesh.vertices.numpy().T[::-1])
        # means of up to 7 sigmoids in float32
        np.testing.assert_allclose(mesh.colours[order], arrays["out_mesh0_sorted_attr_sample"], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(mesh.colours.double().mean(0), arrays["out_mesh0_attr_mean"], rtol=1e-5)
    else:
        assert mesh.colours is None


def test_every_crossed_edge_lies_in_one_sheet():
    table, counts = sheets()
    for case in range(256):
        crossed = [(case >> a & 1) != (case >> b & 1) for a, b in EDGES]
        assert (table[case] >= 0).tolist() == crossed
        assert sorted(set(table[case][table[case] >= 0].tolist())) == list(range(counts[case]))
    assert (table[0b0000_0001] == 0).nonzero()[:, 0].tolist() == [0, 3, 8]  # corner 0 alone
    assert counts[0b1001_0110] == 4  # four corners, no two of which share an edge
    assert torch.bincount(counts).tolist() == [2, 162, 82, 8, 2]  # as in the public tables


def test_doubtful_cases():
    """36 cases (C16 and C19 in all positions), each with a direction along one axis."""
    directions = ambiguous_face()
    assert (directions.abs().sum(1) == 1).sum() == 36
    assert directions.sum(0).tolist() == [0, 0, 0]  # all faces alike


@pytest.mark.parametrize("seed", range(3))
def test_mesh_of_a_random_field_is_closed_and_manifold(seed):
    """Every side of a triangle is used once each way - also around cubes that disagree on a common face."""
    coords, sdf = random_field(8, seed)
    mesh = extract_mesh(coords, with_sdf(coords, sdf, 8), 8)
    edges = directed_edges(mesh)
    assert len(mesh.faces) > 1000
    assert set(edges.values()) == {1}
    assert all((b, a) in edges for a, b in edges)
    assert signed_volume(mesh.vertices, mesh.faces) > 0  # normals point outwards


def test_extraction_does_not_depend_on_the_order_of_voxels():
    coords, sdf = random_field(6, 1)
    feats = with_sdf(coords, sdf, 6)
    order = torch.randperm(len(coords), generator=torch.Generator().manual_seed(2))
    first, second = extract_mesh(coords, feats, 6), extract_mesh(coords[order], feats[order], 6)
    torch.testing.assert_close(first.vertices, second.vertices, rtol=0, atol=1e-12)  # float64, other order of sums
    assert torch.equal(first.faces, second.faces)


def test_unlisted_neighbours_close_the_surface():
    """One voxel, inside at all corners: the surface lies in the 26 unlisted cubes around it, and is closed."""
    coords = torch.tensor([[2, 2, 2]])
    mesh = extract_mesh(coords, with_sdf(coords, torch.full((1, 8), -1.0, dtype=torch.float64), 5), 5)
    edges = directed_edges(mesh)
    assert len(mesh.vertices) == 26
    assert all((b, a) in edges for a, b in edges)
    assert torch.equal(mesh.colours.isfinite(), torch.ones_like(mesh.colours, dtype=torch.bool))


def test_surface_at_the_border_stays_open():
    coords = torch.tensor([[0, 0, 0]])
    mesh = extract_mesh(coords, with_sdf(coords, torch.full((1, 8), -1.0, dtype=torch.float64), 3), 3)
    assert len(mesh.vertices) == 7
    assert len(mesh.faces) == 6  # only the edges from the corner (1, 1, 1) have all their four cubes: three quads


def test_gradients_agree_with_finite_differences():
    """Vertices and colours by every feature, in float64; a step of 1e-6 is far from any change of sign."""
    coords, sdf = random_field(3, 4)
    feats = with_sdf(coords, torch.where(sdf.abs() < 0.1, 0.1 * sdf.sign(), sdf), 3).requires_grad_()
    weight = torch.Generator().manual_seed(3)

    def total(values: Tensor) -> Tensor:
        mesh = extract_mesh(coords, values, 3)
        weight.manual_seed(3)
        parts = torch.cat([mesh.vertices, mesh.colours], 1)
        return (parts * torch.randn(parts.shape, generator=weight, dtype=parts.dtype)).sum()

    total(feats).backward()
    gradient = feats.grad
    touched = (gradient != 0).nonzero()[::97]
    assert len(touched) > 5
    for row, channel in touched.tolist():
        step = torch.zeros_like(gradient)
        step[row, channel] = 1e-6
        with torch.no_grad():
            numeric = (total(feats + step) - total(feats - step)) / 2e-6
        assert float(gradient[row, channel]) == pytest.approx(float(numeric), rel=1e-5, abs=1e-8)


def test_without_surface_the_mesh_is_empty():
    coords = cells(3)
    for feats in (with_sdf(coords, torch.ones(27, 8), 3), with_sdf(coords, -torch.ones(27, 8), 3)):
        mesh = extract_mesh(coords, feats, 3)
        assert (len(mesh.vertices), len(mesh.faces), mesh.colours.shape) == (0, 0, (0, 6))
        with pytest.raises(AssetError, match="hold no surface"):
            coloured_mesh(mesh)
    assert len(extract_mesh(coords[:0], torch.zeros(0, 53), 3).faces) == 0


def test_vertices_that_are_not_finite_are_refused():
    coords, sdf = random_field(3, 4)
    feats = with_sdf(coords, sdf, 3)
    feats[:, 8:32] = float("nan")
    with pytest.raises(AssetError, match="not finite"):
        coloured_mesh(extract_mesh(coords, feats, 3))


def test_as_asset_the_colours_are_those_of_the_corners():
    coords, sdf = random_field(3, 4)
    mesh = extract_mesh(coords, with_sdf(coords, sdf, 3).float(), 3)
    asset = coloured_mesh(mesh)
    np.testing.assert_array_equal(asset.corner_rgba[..., :3], mesh.colours[mesh.faces][..., :3])
    assert (asset.corner_rgba[..., 3] == 1).all()
    np.testing.assert_allclose(asset.triangles, mesh.vertices[mesh.faces].double())
    grey = coloured_mesh(extract_mesh(coords, with_sdf(coords, sdf, 3, use_color=False), 3))
    assert (grey.corner_rgba[..., :3] == 0.5).all()
