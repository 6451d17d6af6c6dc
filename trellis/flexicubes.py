"""FlexiCubes: a triangle mesh from a signed distance on a grid, through dual marching cubes.

Every crossed grid edge gives a point; every sheet of surface inside a cube gives one vertex, a weighted mean of
its edges' points; the (up to) four sheets around a crossed edge give a quad, split into two triangles.

Source: FlexiCubes (arXiv:2308.05371), sections 4.2 and 4.3 and section 1.3 of its supplement; the numbering of
corners and edges and the order of vertices and faces are those of the fork that TRELLIS pins (MaxtirError/FlexiCubes).
The case tables are derived here and equal that fork's. P grid points, M cubes, E crossed cube edges, Q vertices,
F triangles. "Inside" is sdf < 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor

# Corner c of a cube lies at (c & 1, c >> 1 & 1, c >> 2 & 1).
CORNERS = tuple((c & 1, c >> 1 & 1, c >> 2 & 1) for c in range(8))
# Edges as (first, second) corner. All of a direction run the same way, those along y downwards: seen from the
# first corner, the four cubes around an edge, in grid order, then wind the same way for all three directions.
EDGES = ((0, 1), (1, 5), (4, 5), (0, 4), (2, 3), (3, 7), (6, 7), (2, 6), (2, 0), (3, 1), (7, 5), (6, 4))
EDGE_OF = {frozenset(ends): edge for edge, ends in enumerate(EDGES)}
# Second minus first corner of an edge (y - 1, z + 1, x + 1) -> place in grid order among edges with the same first.
RANK = {-2: 0, 4: 1, 1: 2}


@dataclass(frozen=True)
class CubeGrid:
    """The cubes that may hold surface, on a regular grid. Points and cubes are in order of (x, y, z).

    Attributes:
        positions: [P, 3], where the grid points were moved to.
        sdf: [P], negative inside.
        colours: [P, C] or None.
        corners: [M, 8] int64, rows of the points at a cube's corners, in the order of CORNERS.
        coords: [M, 3] int64 position of a cube in the grid.
        alpha: [M, 8] positive weights of the corners on the crossing of an edge.
        beta: [M, 12] positive weights of the edges on a vertex.
        gamma: [M] positive; a quad is split between the pair of opposite vertices with the larger product.
    """

    positions: Tensor
    sdf: Tensor
    colours: Tensor | None
    corners: Tensor
    coords: Tensor
    alpha: Tensor
    beta: Tensor
    gamma: Tensor


@dataclass(frozen=True)
class DualMesh:
    """vertices: [Q, 3]. faces: [F, 3] int64, counter-clockwise seen from outside. colours: [Q, C] or None."""

    vertices: Tensor
    faces: Tensor
    colours: Tensor | None


@dataclass(frozen=True)
class _Crossings:
    """Every crossed edge of every cube, cube by cube. All [E] int64 but `ends`."""

    cube: Tensor
    edge: Tensor
    vertex: Tensor
    ends: Tensor  # [E, 2] rows of the grid points


def dual_mesh(grid: CubeGrid) -> DualMesh:
    """The mesh of the zero level.

    Differentiable in positions, sdf, colours, alpha and beta; the topology and the splits are piecewise constant.
    """
    grid = _surface_cubes(grid)
    inside = grid.sdf.detach() < 0
    crossings, vertex_gamma = _crossings(grid, inside)
    vertices, colours = _vertices(grid, crossings, len(vertex_gamma))
    return DualMesh(vertices, _triangles(_quads(crossings, inside), vertex_gamma), colours)


def _surface_cubes(grid: CubeGrid) -> CubeGrid:
    count = (grid.sdf.detach() < 0)[grid.corners].sum(1)
    kept = (count > 0) & (count < 8)
    cubes = {name: getattr(grid, name)[kept] for name in ("corners", "coords", "alpha", "beta", "gamma")}
    return replace(grid, **cubes)


def _crossings(grid: CubeGrid, inside: Tensor) -> tuple[_Crossings, Tensor]:
    """The crossed edges, and gamma [Q] of every vertex's cube. Vertices of cubes with few sheets come first."""
    device = grid.corners.device
    sheet_of_edge, n_sheets = (table.to(device) for table in sheets())
    case = _case(grid, inside)
    count = n_sheets[case]
    order = torch.sort(count, stable=True).indices
    first = torch.empty_like(count)
    first[order] = count[order].cumsum(0) - count[order]
    sheet = sheet_of_edge[case]  # [M, 12], -1 where not crossed
    cube, edge = torch.nonzero(sheet >= 0, as_tuple=True)
    ends = grid.corners[cube[:, None], torch.tensor(EDGES, device=device)[edge]]
    vertex_gamma = torch.repeat_interleave(grid.gamma.detach()[order], count[order])
    return _Crossings(cube, edge, first[cube] + sheet[cube, edge], ends), vertex_gamma


def _case(grid: CubeGrid, inside: Tensor) -> Tensor:
    """[M] int64: bit c says that corner c is inside; complemented where two cubes disagree on their common face.

    A cube whose only ambiguous face could close a hole, beside another such cube, would make four sheets meet in
    one edge (a non-manifold). Both cubes take the complementary case, which cuts the face the other way.
    """
    device = grid.corners.device
    bits = 1 << torch.arange(8, device=device)
    case = (inside[grid.corners] * bits).sum(1)
    toward = ambiguous_face().to(device)[case]  # [M, 3], zero: no doubt
    doubtful = torch.nonzero(toward.any(1))[:, 0]
    side = int(grid.coords.max()) + 3 if len(case) else 1  # a cell of air around, so that codes never wrap
    place = torch.tensor([side * side, side, 1], device=device)
    codes = ((grid.coords + 1) * place).sum(1)[doubtful]
    paired = doubtful[torch.isin(codes + (toward[doubtful] * place).sum(1), codes)]
    return case.index_put((paired,), 255 - case[paired])


def _vertices(grid: CubeGrid, crossings: _Crossings, count: int) -> tuple[Tensor, Tensor | None]:
    """Vertices [Q, 3] and their colours: over a sheet's edges, the beta-weighted mean of the crossing points."""
    edge_corners = torch.tensor(EDGES, device=grid.alpha.device)[crossings.edge]  # [E, 2]
    weighted = grid.sdf[crossings.ends] * grid.alpha[crossings.cube[:, None], edge_corners]
    share = weighted[:, 0] / (weighted[:, 0] - weighted[:, 1])  # of the second end; the signs differ
    beta = grid.beta[crossings.cube, crossings.edge]
    total = beta.new_zeros(count).index_add(0, crossings.vertex, beta)[:, None]

    def mean(values: Tensor) -> Tensor:
        start, end = values[crossings.ends[:, 0]], values[crossings.ends[:, 1]]
        points = torch.lerp(start, end, share[:, None]) * beta[:, None]
        return points.new_zeros(count, points.shape[1]).index_add(0, crossings.vertex, points) / total

    return mean(grid.positions), None if grid.colours is None else mean(grid.colours)


def _quads(crossings: _Crossings, inside: Tensor) -> Tensor:
    """[K, 4] int64 vertices around each crossed edge that has all its four cubes (not so at the grid's border)."""
    rank = torch.tensor([RANK[second - first] for first, second in EDGES], device=inside.device)
    key = crossings.ends[:, 0] * 3 + rank[crossings.edge]
    _, group, count = torch.unique(key, return_inverse=True, return_counts=True)
    complete = count[group] == 4
    order = torch.sort(group[complete], stable=True).indices
    around = crossings.vertex[complete][order].reshape(-1, 4)  # cubes in grid order
    outward = ~inside[crossings.ends[complete][order][::4, 0]]  # the edge enters the surface
    return torch.cat([around[outward][:, [0, 1, 3, 2]], around[~outward][:, [2, 3, 1, 0]]])


def _triangles(quads: Tensor, gamma: Tensor) -> Tensor:
    """[F, 3]: each quad is cut between the opposite vertices with the larger product of gammas."""
    g = gamma[quads]
    along_02 = (g[:, 0] * g[:, 2] > g[:, 1] * g[:, 3])[:, None]
    return torch.where(along_02, quads[:, [0, 1, 2, 0, 2, 3]], quads[:, [0, 1, 3, 3, 1, 2]]).reshape(-1, 3)


@cache
def sheets() -> tuple[Tensor, Tensor]:
    """Case tables: [256, 12] the sheet of a crossed edge (-1: not crossed), [256] the number of sheets.

    Crossings on a face are joined around every run of inside corners, so inside corners that face each other
    across an ambiguous face stay apart. Sheets are numbered by their smallest corner on the rarer side, then by
    their smallest edge.
    """
    found = [_sheets_of(case) for case in range(256)]
    table = [[next((n for n, edges in enumerate(f) if edge in edges), -1) for edge in range(12)] for f in found]
    return torch.tensor(table), torch.tensor([len(f) for f in found])


@cache
def ambiguous_face() -> Tensor:
    """[256, 3] the direction of the one ambiguous face of a doubtful case, else zero.

    Doubtful: exactly one face is ambiguous and its cut decides between one sheet and two (cases C16 and C19).
    """
    n_sheets = sheets()[1].tolist()
    table = [[0, 0, 0] for _ in range(256)]
    for case in range(256):
        inside = _inside(case)
        found = [face for face, (a, b, c, d) in _faces() if inside[a] == inside[c] != inside[b] == inside[d]]
        if len(found) == 1 and (n_sheets[case], n_sheets[255 - case]) == (1, 2):
            axis, end = found[0]
            table[case][axis] = 2 * end - 1
    return torch.tensor(table)


def _sheets_of(case: int) -> list[set[int]]:
    groups: list[set[int]] = []
    for pair in _joined_edges(_inside(case)):
        touching = [group for group in groups if group & pair]
        groups = [group for group in groups if not group & pair] + [pair.union(*touching)]
    rarer_is_inside = case.bit_count() <= 4

    def place(edges: set[int]) -> tuple[int, int]:
        corners = (c for edge in edges for c in EDGES[edge])
        return min(c for c in corners if bool(case >> c & 1) == rarer_is_inside), min(edges)

    return sorted(groups, key=place)


def _joined_edges(inside: list[bool]) -> Iterator[set[int]]:
    """On every face, the two crossed edges at the ends of each run of inside corners."""
    for _, loop in _faces():
        for start in range(4):
            if inside[loop[start]] and not inside[loop[start - 1]]:
                end = start
                while inside[loop[(end + 1) % 4]]:
                    end += 1
                run_ends = (loop[start - 1], loop[start]), (loop[end % 4], loop[(end + 1) % 4])
                yield {EDGE_OF[frozenset(ends)] for ends in run_ends}


def _faces() -> Iterator[tuple[tuple[int, int], list[int]]]:
    """(axis, end) and the four corners in a loop, of the six faces."""
    for axis in range(3):
        u, v = (1 << other for other in range(3) if other != axis)
        for end in range(2):
            yield (axis, end), [(end << axis) + corner for corner in (0, u, u + v, v)]


def _inside(case: int) -> list[bool]:
    return [bool(case >> corner & 1) for corner in range(8)]
