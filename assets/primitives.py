"""Simple closed solids as triangles, all made by one loft, and the parts that toys are built of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..geometry.mesh import Mesh

# A point as a tuple or as an array.
Point = Sequence[float] | NDArray[np.float64]

SEGMENTS = 16
X, Y, Z = 0, 1, 2
# Takes local (u, v, w) to (x, y, z) with w, the axis of a solid, along x, y or z. Cyclic: handedness is kept.
_TURN = ([2, 0, 1], [1, 2, 0], [0, 1, 2])


@dataclass(frozen=True)
class Solid:
    """Triangles of one closed surface, outward. vertices: [V, 3]; faces: [F, 3]."""

    vertices: NDArray[np.float64]
    faces: NDArray[np.int64]

    def moved(self, offset: Point) -> Solid:
        return Solid(self.vertices + np.asarray(offset), self.faces)

    def scaled(self, factors: Point) -> Solid:
        """Along the coordinate axes, from the origin; all factors positive."""
        return Solid(self.vertices * np.asarray(factors), self.faces)

    def turned(self, angle: float, centre: Point = (0.0, 0.0, 0.0), axis: int = Z) -> Solid:
        """Rotated by `angle` (radians, right-handed) around the line through `centre` along `axis`."""
        i, j = (axis + 1) % 3, (axis + 2) % 3
        matrix = np.eye(3)
        matrix[[i, i, j, j], [i, j, i, j]] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
        pivot = np.asarray(centre, np.float64)
        return Solid((self.vertices - pivot) @ matrix.T + pivot, self.faces)


def mesh_of(parts: Sequence[tuple[Solid, Sequence[float]]]) -> Mesh:
    """One mesh of coloured solids (solid, rgb in [0, 1])."""
    starts = np.cumsum([0, *(len(solid.vertices) for solid, _ in parts)])
    return Mesh.of_faces(
        np.concatenate([solid.vertices for solid, _ in parts]),
        np.concatenate([solid.faces + start for (solid, _), start in zip(parts, starts, strict=False)]),
        np.repeat([rgb for _, rgb in parts], [len(solid.faces) for solid, _ in parts], axis=0),
    )


def loft(rings: ArrayLike) -> Solid:
    """The surface through closed rings of equal length, both ends capped. rings: [L, S, 3], ends convex."""
    points = np.asarray(rings, np.float64)
    return _outward(points.reshape(-1, 3), _loft_faces(*points.shape[:2]))


@lru_cache(maxsize=256)
def _loft_faces(n_rings: int, n_points: int) -> NDArray[np.int64]:
    """Triangles [F, 3] between successive rings, and two fans."""
    here = np.arange(n_points)
    there = np.roll(here, -1)
    quads = np.stack([here, there, there + n_points, here + n_points], 1)
    quads = (quads + n_points * np.arange(n_rings - 1)[:, None, None]).reshape(-1, 4)
    fan = np.stack([np.zeros(n_points - 2, np.int64), here[1:-1], here[2:]], 1)
    last = fan + n_points * (n_rings - 1)
    return np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]], fan[:, ::-1], last])


def _outward(vertices: NDArray[np.float64], faces: NDArray[np.int64]) -> Solid:
    """Without triangles of no area (the tips of cones), oriented so that the volume is positive."""
    a, b, c = vertices.T[:, faces.T].transpose(1, 0, 2)  # each [3, F]
    (u, v, w), (p, q, r) = b - a, c - a
    normals = np.stack([v * r - w * q, w * p - u * r, u * q - v * p])  # np.cross is slow on small arrays
    if (normals * (a - vertices[0, :, None])).sum() < 0:
        faces = faces[:, ::-1]
    return Solid(vertices, faces[(normals**2).sum(0) > 1e-16])


def box(low: Point, high: Point) -> Solid:
    """Axis-aligned box between two opposite corners."""
    (x0, y0, z0), (x1, y1, z1) = low, high
    return prism([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], z0, z1)


def block(centre: Point, size: Point) -> Solid:
    """Axis-aligned box by its centre and its three sides."""
    return box(np.subtract(centre, np.divide(size, 2)), np.add(centre, np.divide(size, 2)))


def prism(polygon: ArrayLike, start: float, stop: float, axis: int = Z) -> Solid:
    """A convex polygon [S, 2] extruded along an axis.

    The polygon's coordinates are (x, y) for axis z, (y, z) for axis x, (z, x) for axis y.
    """
    flat = np.asarray(polygon, np.float64)
    rings = [np.column_stack([flat, np.full(len(flat), w)]) for w in (start, stop)]
    return loft(np.stack(rings)[..., _TURN[axis]])


def circle(radius: ArrayLike, segments: int = SEGMENTS) -> NDArray[np.float64]:
    """[..., S, 2] points around the origin. radius: [...]."""
    angle = (np.arange(segments) + 0.5) * (2 * np.pi / segments)
    return np.asarray(radius, np.float64)[..., None, None] * np.stack([np.cos(angle), np.sin(angle)], -1)


def lathe(profile: ArrayLike, centre: Point = (0.0, 0.0, 0.0), axis: int = Z, segments: int = SEGMENTS) -> Solid:
    """A profile [L, 2] of (radius, height along the axis) turned around the axis through `centre`."""
    radius, height = np.asarray(profile, np.float64).T
    level = np.broadcast_to(height[:, None, None], (len(height), segments, 1))
    rings = np.concatenate([circle(radius, segments), level], -1)
    return loft(rings[..., _TURN[axis]] + np.asarray(centre))


def cylinder(
    base: Point,
    radius: float,
    height: float,
    top: float | None = None,
    axis: int = Z,
    segments: int = SEGMENTS,
) -> Solid:
    """A cylinder; a frustum (cone for 0) if the `top` radius is given. `base` is the centre of its foot."""
    return lathe([(radius, 0.0), (radius if top is None else top, height)], base, axis, segments)


def ellipsoid(centre: Point, radii: Point, segments: int = 12, low: float = -1.0) -> Solid:
    """An ellipsoid; `low` in [-1, 1) cuts it flat at that fraction of its lower half (0: a dome)."""
    angle = np.linspace(np.arcsin(low), np.pi / 2, 7 if low < -0.5 else 5)
    ball = lathe(np.column_stack([np.cos(angle), np.sin(angle)]), segments=segments)
    return ball.scaled(radii).moved(centre)


def tube(path: Sequence[Point] | NDArray[np.float64], radius: ArrayLike, segments: int = 8) -> Solid:
    """A tube along a plane path [L, 3]. radius: one number or [L]."""
    points = np.asarray(path, np.float64)
    tangent = np.gradient(points, axis=0)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    normal = np.cross(points[1] - points[0], points[-1] - points[0])
    if (normal**2).sum() < 1e-12:  # a straight path: any direction across it will do
        normal = np.cross(tangent[0], np.eye(3)[np.argmin(np.abs(tangent[0]))])
    normal /= np.linalg.norm(normal)
    across = np.cross(tangent, normal)
    ring = circle(np.broadcast_to(np.asarray(radius, np.float64), len(points)), segments)
    return loft(points[:, None] + ring[..., :1] * normal + ring[..., 1:] * across[:, None])


def arc(
    centre: Point,
    radius: float,
    thickness: float,
    start: float,
    stop: float,
    axis: int = Y,
    segments: int = 8,
) -> Solid:
    """Part of a torus around `axis`, between two angles in radians.

    Angles run from z to x for axis y, from y to z for axis x, from x to y for axis z. `thickness` is the
    radius of the tube.
    """
    steps = max(3, round(abs(stop - start) * 12 / (2 * np.pi)) + 1)
    angle = np.linspace(start, stop, steps)
    path = np.stack([radius * np.cos(angle), radius * np.sin(angle), np.zeros(steps)], 1)
    return tube(path[:, _TURN[axis]] + np.asarray(centre), thickness, segments)
