"""Procedural coloured toys whose law is known: a finite set, of which a picture shows some choices and hides others.

A toy is six independent choices (`Choices`). Its conditioning picture shows the lower half, drawn from the toy's own
front: category, size and the paint of the body. What stands on top, its paint, and which way the toy faces are left
open, so that whoever makes a toy from the picture has to choose, and a mean of several choices is no toy. As the set is
finite, what was made can be compared with every toy that fits its picture (`Toy.fitting`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np
from numpy.typing import NDArray

from ..base.errors import UsageError
from ..base.files import digest_of
from ..base.seeds import seed_of
from ..geometry.law import Law
from ..geometry.mesh import Mesh
from .primitives import box_mesh
from .toy_models import BODY, DARK, MODELS, PALE, TOP, WOOD, Box

# Change it whenever a toy changes: it is part of the digest of the data.
GENERATOR_VERSION = 2
SPLITS = ("train", "validation", "test")
CATEGORIES: tuple[str, ...] = tuple(MODELS)

GRID = 16  # cells a side
MIDDLE = GRID // 2  # the picture shows what is below
INSET = 0.02  # of a cell: surfaces lie inside their cells, so that every grid of GRID cells finds the same ones
SIZES, TOPS, TURNS = 2, 4, 4
SOME_COLOURS = 4  # of every structure, in which distributions of coloured toys are held against all

Colour = tuple[float, float, float]
BODIES: tuple[Colour, ...] = ((0.85, 0.15, 0.15), (0.15, 0.35, 0.85), (0.95, 0.8, 0.15), (0.2, 0.6, 0.25))
PAINTS: tuple[Colour, ...] = ((0.95, 0.5, 0.1), (0.15, 0.75, 0.8), (0.6, 0.25, 0.7), (0.95, 0.6, 0.75))
FIXED: dict[str, Colour] = {DARK: (0.2, 0.2, 0.22), PALE: (0.95, 0.9, 0.85), WOOD: (0.5, 0.33, 0.2)}


@dataclass(frozen=True)
class Choices:
    """What a toy is. The picture shows category, size and body; top, turn and paint are open.

    Attributes:
        category: index into CATEGORIES.
        body, paint: of the lower half and of the top, indices into BODIES and PAINTS.
        turn: quarter turns about z, counter-clockwise seen from above.
    """

    category: int
    size: int
    body: int
    top: int
    turn: int
    paint: int

    @property
    def boxes(self) -> list[Box]:
        return MODELS[CATEGORIES[self.category]](self.size, self.top)

    def colour(self, box: Box) -> Colour:
        return {BODY: BODIES[self.body], TOP: PAINTS[self.paint], **FIXED}[box.slot]

    def mesh(self) -> Mesh:
        """The toy where it stands, in the cube [-1/2, 1/2]^3."""
        return self._built(self.boxes).moved(_turned(self.turn))

    def shown(self) -> Mesh:
        """The lower half from the toy's own front: what of the toy its picture may tell."""
        return self._built([box for box in self.boxes if box.z[1] <= MIDDLE])

    def grid(self) -> NDArray[np.float32]:
        """[GRID, GRID, GRID, 4] colour of every cell that the surface touches, and 1; zeros elsewhere."""
        cells = np.zeros((GRID, GRID, GRID, 4), np.float32)
        for box in self.boxes:
            inner = [slice(low + 1, high - 1) for low, high in (box.x, box.y, box.z)]
            shell = np.zeros((GRID, GRID, GRID), bool)
            shell[slice(*box.x), slice(*box.y), slice(*box.z)] = True
            shell[tuple(inner)] = False
            cells[shell] = (*self.colour(box), 1)
        return np.rot90(cells, self.turn, (0, 1))

    def _built(self, boxes: Sequence[Box]) -> Mesh:
        corners = np.array([[box.x, box.y, box.z] for box in boxes], np.float64)
        corners += (INSET, -INSET)
        return box_mesh(corners / GRID - 0.5, np.array([self.colour(box) for box in boxes]))


def _turned(turn: int) -> NDArray[np.float64]:
    """Quarter turns about z, as a 4x4 matrix without rounding."""
    cos, sin = ((1, 0), (0, 1), (-1, 0), (0, -1))[turn]
    matrix = np.eye(4)
    matrix[:2, :2] = ((cos, -sin), (sin, cos))
    return matrix


def choices_of(seed: int, index: int) -> Choices:
    """Of the toy number `index` of a seed; a function of its arguments alone.

    Balanced: among any len(CATEGORIES) * SIZES indices in a row are all categories in all sizes, once.
    """
    random = np.random.Generator(np.random.PCG64(seed_of("toy", seed, index)))
    kind = (index + seed) % (len(CATEGORIES) * SIZES)
    open_to = (len(BODIES), TOPS, TURNS, len(PAINTS))
    return Choices(kind % len(CATEGORIES), kind // len(CATEGORIES), *(int(random.integers(n)) for n in open_to))


@lru_cache(maxsize=256)
def fitting(category: int, size: int, body: int) -> Law:
    """All toys whose picture is that of a toy."""
    open_to = list(product(range(TOPS), range(TURNS), range(len(PAINTS))))
    toys = [Choices(category, size, body, top, turn, paint) for top, turn, paint in open_to]
    looks = np.stack([toy.grid() for toy in toys])
    picture = digest_of([GENERATOR_VERSION, category, size])
    return Law(picture, looks[..., 3] > 0, looks[..., :3], np.array(open_to), ("top", "turn", "paint"))


@dataclass(frozen=True)
class ToyAsset:
    """A toy, made when it is loaded."""

    id: str
    choices: Choices

    @property
    def category(self) -> str:
        return CATEGORIES[self.choices.category]

    def load(self) -> Mesh:
        return self.choices.mesh()

    def shown(self) -> Mesh:
        return self.choices.shown()

    def law(self) -> Law:
        made = self.choices
        return fitting(made.category, made.size, made.body)


@dataclass(frozen=True)
class ToySource:
    """The first `count` toys of a split.

    The name of the split is hashed into the seed of its toys, so no toy of one split is drawn from the random
    stream of another: the splits are disjoint, and a larger `count` only adds toys.

    Raises:
        UsageError: an unknown split, or a count below 1.
    """

    split: str
    count: int
    seed: int = 0

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise UsageError(f"Unknown split of toys '{self.split}'. Available: {', '.join(SPLITS)}.")
        if self.count < 1:
            raise UsageError(f"The number of toys is {self.count} - it must be 1 or more.")

    @property
    def name(self) -> str:
        return f"toys-{self.split}"

    def assets(self) -> Sequence[ToyAsset]:
        """Sorted by id, which counts up from `<split>-00000`."""
        toy_seed = seed_of("toys", self.split, self.seed)
        # Five digits sort as text up to 100 000 toys; more toys take as many digits as they need.
        digits = max(5, len(str(self.count - 1)))
        return [ToyAsset(f"{self.split}-{i:0{digits}d}", choices_of(toy_seed, i)) for i in range(self.count)]

    def digest(self) -> str:
        return digest_of(["toys", GENERATOR_VERSION, self.split, self.count, self.seed])


@dataclass(frozen=True)
class AllToys:
    """Every structure once for each of `colours` pairs of body and paint, no combination more often than another.

    What distributions of toys are held against: the law itself, not a sample of it. With len(BODIES) * len(PAINTS)
    colours it is every toy.
    """

    colours: int = 1
    name: str = "all toys"

    def assets(self) -> Sequence[ToyAsset]:
        """Sorted by id."""
        structures = product(range(len(CATEGORIES)), range(SIZES), range(TOPS), range(TURNS))
        pairs = [(body, paint) for paint in range(len(PAINTS)) for body in range(len(BODIES))]
        toys = []
        for row, (category, size, top, turn) in enumerate(structures):
            for k in range(self.colours):
                body, paint = pairs[(5 * row + k * len(pairs) // self.colours) % len(pairs)]
                toys.append(Choices(category, size, body, top, turn, paint))
        return [ToyAsset(f"toy-{i:05d}", toy) for i, toy in enumerate(toys)]

    def digest(self) -> str:
        return digest_of([self.name, GENERATOR_VERSION, self.colours])
