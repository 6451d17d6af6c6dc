"""A source of shapes of your own: superellipsoids, as many as are asked for.

mdtbench run --plugin my_source.py --assets superellipsoids:12
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mdtbench.assets.source import SOURCES
from mdtbench.base.errors import UsageError
from mdtbench.base.files import digest_of
from mdtbench.base.seeds import seed_of
from mdtbench.geometry.mesh import Mesh

VERSION = 1  # raise it when a shape changes: results are found again by the source's digest
AROUND, UP = 32, 16  # points along the two angles


@dataclass(frozen=True)
class Superellipsoid:
    """One shape; made when it is loaded, in whatever process that is. All randomness comes from its id."""

    id: str
    category: str = "superellipsoid"

    def load(self) -> Mesh:
        random = np.random.Generator(np.random.PCG64(seed_of("superellipsoid", self.id)))
        size, power = random.uniform(0.3, 1.0, 3), random.uniform(0.3, 2.0, 2)
        across, along = np.meshgrid(np.linspace(0, 2 * np.pi, AROUND), np.linspace(-np.pi / 2, np.pi / 2, UP))
        ring = _power(np.cos(along), power[0])
        x, y = ring * _power(np.cos(across), power[1]), ring * _power(np.sin(across), power[1])
        vertices = size * np.stack([x, y, _power(np.sin(along), power[0])], axis=-1).reshape(-1, 3)
        faces = _grid_faces()
        return Mesh.of_faces(vertices, faces, np.tile(random.uniform(0.2, 0.9, 3), (len(faces), 1))).normalised()


@dataclass(frozen=True)
class Superellipsoids:
    """The first `count` of them."""

    count: int
    name: str = "superellipsoids"

    def assets(self) -> Sequence[Superellipsoid]:
        return [Superellipsoid(f"{i:04d}") for i in range(self.count)]

    def digest(self) -> str:
        return digest_of([self.name, VERSION, self.count])


@SOURCES.register("superellipsoids", version=VERSION, source="example of the documentation")
def superellipsoids(text: str) -> Superellipsoids:
    """What stands after the colon of `--assets superellipsoids:12` is text; here it is the number of shapes."""
    if not text.isdecimal() or int(text) < 2:
        raise UsageError(f"--assets superellipsoids:N takes a whole number from 2 (got '{text}').")
    return Superellipsoids(int(text))


def _power(x: np.ndarray, exponent: float) -> np.ndarray:
    return np.sign(x) * np.abs(x) ** exponent


def _grid_faces() -> np.ndarray:
    """Two triangles, seen from outside, per cell of the grid of angles: [F, 3]."""
    row, column = (index.ravel() for index in np.mgrid[: UP - 1, : AROUND - 1])
    corner = row * AROUND + column
    lower = np.stack([corner, corner + 1, corner + AROUND + 1], axis=1)
    return np.concatenate([lower, np.stack([corner, corner + AROUND + 1, corner + AROUND], axis=1)])
