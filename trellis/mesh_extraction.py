"""Features of sparse voxels -> coloured mesh: the last step of TRELLIS' mesh decoder.

Every voxel carries values for its 8 corners and weights for its cube; voxels that share a corner vote on it by
the mean. Everything not listed is air. Source: TRELLIS trellis/representations/mesh/cube2mesh.py.
N voxels, V corners of voxels, R resolution (cubes per side), P grid points at the surface, M cubes there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..base.errors import AssetError
from ..geometry.mesh import Mesh
from .flexicubes import CORNERS, CubeGrid, DualMesh, dual_mesh
from .precision import widened

CORNER_CHANNELS = 4  # sdf and displacement
COLOUR_CHANNELS = 6  # red, green, blue and the normal, before the sigmoid
BETA, ALPHA, GAMMA = slice(0, 12), slice(12, 20), 20
WEIGHT_CHANNELS = 21
WEIGHT_SPREAD = 0.99  # FlexiCubes' weights stay this far within (0, 2), gamma within (0, 1)
AIR = 1.0  # sdf of corners that belong to no voxel


@dataclass(frozen=True)
class VoxelValues:
    """Decoder features by meaning. sdf: [N, 8, 1]; displacement: [N, 8, 3]; weights: [N, 21]; colours: [N, 8, 6]."""

    sdf: Tensor
    displacement: Tensor
    weights: Tensor
    colours: Tensor | None


@dataclass(frozen=True)
class CornerValues:
    """Values at the corners of all voxels, in order of (x, y, z).

    Attributes:
        coords: [V, 3] int64 grid points, 0..R.
        rows: [N, 8] int64, the rows of a voxel's corners.
        positions: [V, 3] displaced, in the cube [-0.5, 0.5]^3.
        sdf: [V], negative inside; a distance in the unit cube, up to the scale that the network was trained with.
        colours: [V, 6] in (0, 1), or None.
    """

    coords: Tensor
    rows: Tensor
    positions: Tensor
    sdf: Tensor
    colours: Tensor | None


def feature_channels(use_color: bool) -> int:
    """Features per voxel: 53, and 48 more with colours."""
    return 8 * CORNER_CHANNELS + WEIGHT_CHANNELS + (8 * COLOUR_CHANNELS if use_color else 0)


def split_features(feats: Tensor, resolution: int) -> VoxelValues:
    """feats: [N, 53 or 101] in the order sdf, displacement, weights, colours. The sdf starts out at -1/R.

    The reference adds this bias in place, into the features; here they stay as they are.
    """
    n = len(feats)
    sizes = [8, 24, WEIGHT_CHANNELS, feats.shape[1] - feature_channels(use_color=False)]
    sdf, displacement, weights, colours = feats.split(sizes, dim=1)
    return VoxelValues(
        sdf.reshape(n, 8, 1) - 1.0 / resolution,
        displacement.reshape(n, 8, 3),
        weights,
        colours.reshape(n, 8, COLOUR_CHANNELS) if colours.shape[1] else None,
    )


def extract_mesh(coords: Tensor, feats: Tensor, resolution: int) -> DualMesh:
    """Mesh of one sample; without vertices when the features hold no surface.

    Args:
        coords: [N, 3] integer voxels, 0..R-1, each once.
        feats: [N, 53] or [N, 101] (with colours), raw, as the decoder's last layer gives them.
    Returns:
        Vertices in the cube [-0.5, 0.5]^3, z up; colours [Q, 6] in (0, 1): red, green, blue (sRGB), normal.
    """
    coords, feats = coords.long(), widened(feats)
    values = split_features(feats, resolution)
    return dual_mesh(_cube_grid(corner_values(coords, values, resolution), coords, values.weights, resolution))


def coloured_mesh(mesh: DualMesh) -> Mesh:
    """As an asset, grey where there are no colours.

    Raises:
        AssetError: no surface, or a vertex that is not finite.
    """
    if not len(mesh.faces):
        raise AssetError("The decoded features hold no surface (0 triangles). The sample counts as failed.")
    vertices = mesh.vertices.detach().cpu().double().numpy()
    if not np.isfinite(vertices).all():
        raise AssetError("The decoded mesh has vertices that are not finite. The sample counts as failed.")
    faces = mesh.faces.cpu().numpy()
    rgba = np.ones((len(vertices), 4), np.float32)
    rgba[:, :3] = 0.5 if mesh.colours is None else mesh.colours[:, :3].detach().cpu().numpy()
    unused = np.zeros((len(faces), 3, 2), np.float32)
    return Mesh(vertices, faces, rgba[faces], unused, np.full(len(faces), -1, np.int64))


def corner_values(coords: Tensor, values: VoxelValues, resolution: int) -> CornerValues:
    """The mean, at every corner, of the voxels around it. coords: [N, 3] int64."""
    side = resolution + 1
    codes = _codes(coords[:, None] + _offsets(coords.device), side)  # [N, 8]
    listed, table = _row_table(codes, side)
    rows = table[codes].long()
    voted = torch.cat([part for part in (values.sdf, values.displacement, values.colours) if part is not None], dim=2)
    sums = voted.new_zeros(len(listed), voted.shape[2]).index_add(0, rows.flatten(), voted.flatten(0, 1))
    means = sums / torch.bincount(rows.flatten(), minlength=len(listed))[:, None]
    points = _points(listed, side)
    positions = _displaced(points, means[:, 1:CORNER_CHANNELS], resolution)
    colours = None if values.colours is None else torch.sigmoid(means[:, CORNER_CHANNELS:])
    return CornerValues(points, rows, positions, means[:, 0], colours)


def _cube_grid(corners: CornerValues, coords: Tensor, weights: Tensor, resolution: int) -> CubeGrid:
    """The cubes with a listed corner inside, those beside the listed voxels included."""
    cubes = _cubes_around(corners.coords[corners.sdf.detach() < 0], resolution)  # [M, 3]
    side = resolution + 1
    codes = _codes(cubes[:, None] + _offsets(cubes.device), side)
    needed, table = _row_table(codes, side)
    points = _points(needed, side)
    row = _lookup(corners.coords, points, side)
    colours = None if corners.colours is None else _at(corners.colours, row, torch.tensor(0.5))
    raw = _at(weights, _lookup(coords, cubes, side), torch.tensor(0.0))
    return CubeGrid(
        positions=_at(corners.positions, row, _displaced(points, corners.positions.new_zeros(1), resolution)),
        sdf=_at(corners.sdf[:, None], row, torch.tensor(AIR))[:, 0],
        colours=colours,
        corners=table[codes].long(),
        coords=cubes,
        alpha=1 + WEIGHT_SPREAD * torch.tanh(raw[:, ALPHA]),
        beta=1 + WEIGHT_SPREAD * torch.tanh(raw[:, BETA]),
        gamma=WEIGHT_SPREAD * torch.sigmoid(raw[:, GAMMA]) + (1 - WEIGHT_SPREAD) / 2,
    )


def _cubes_around(points: Tensor, resolution: int) -> Tensor:
    """[M, 3] the cubes of the grid that touch any of the points [*, 3], in order of (x, y, z)."""
    around = (points[:, None] - _offsets(points.device)).flatten(0, 1)
    around = around[((around >= 0) & (around < resolution)).all(1)]
    return _points(_row_table(_codes(around, resolution), resolution)[0], resolution)


def _displaced(points: Tensor, displacement: Tensor, resolution: int) -> Tensor:
    """Grid points in the unit cube around 0, moved by up to half a cell."""
    return points / resolution - 0.5 + (1 - 1e-8) / (2 * resolution) * torch.tanh(displacement)


def _at(values: Tensor, row: Tensor, otherwise: Tensor) -> Tensor:
    """values[row] where row >= 0. values: [*, C]; row: [K]; otherwise: a scalar or [K, C]."""
    return torch.where(row[:, None] >= 0, values[row.clamp_min(0)], otherwise.to(values))


def _lookup(listed: Tensor, wanted: Tensor, side: int) -> Tensor:
    """[K] int64: the row of every wanted point [K, 3] among the listed ones [L, 3], -1 where it is not there."""
    table = torch.full((side**3,), -1, dtype=torch.int32, device=listed.device)
    table[_codes(listed, side)] = torch.arange(len(listed), dtype=torch.int32, device=listed.device)
    return table[_codes(wanted, side)].long()


def _row_table(codes: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """The distinct codes in ascending order [K], and a table [side^3] int32 from code to row in them.

    Dense, because marking and counting cells beats sorting codes: 65^3 cells at 64^3, 70 MB at 256^3.
    """
    mark = torch.zeros(side**3, dtype=torch.bool, device=codes.device)
    mark[codes.flatten()] = True
    return torch.nonzero(mark)[:, 0], mark.cumsum(0, dtype=torch.int32) - 1


def _codes(points: Tensor, side: int) -> Tensor:
    return (points[..., 0] * side + points[..., 1]) * side + points[..., 2]


def _points(codes: Tensor, side: int) -> Tensor:
    return torch.stack([codes // (side * side), codes // side % side, codes % side], dim=-1)


def _offsets(device: torch.device) -> Tensor:
    return torch.tensor(CORNERS, device=device)
