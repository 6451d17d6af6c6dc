"""Procedural coloured toys: data without a download, with parts that a partial view does not give away.

Every category draws its sizes and its optional parts independently of each other (toy_household.py,
toy_vehicles.py, toy_figures.py). z is up, the front faces +x.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..base.errors import UsageError
from ..base.files import digest_of
from ..base.seeds import seed_of
from ..geometry.mesh import Mesh
from . import toy_figures, toy_household, toy_vehicles
from .primitives import mesh_of
from .toy_draw import Draw, Parts

# Change it whenever a toy changes: it is part of the digest of the data.
GENERATOR_VERSION = 1
SPLITS = ("train", "validation", "test")

_MAKERS: dict[str, Callable[[Draw], Parts]] = {
    "bed": toy_household.bed,
    "boat": toy_vehicles.boat,
    "bottle": toy_household.bottle,
    "cactus": toy_figures.cactus,
    "car": toy_vehicles.car,
    "chair": toy_household.chair,
    "dog": toy_figures.dog,
    "dumbbell": toy_household.dumbbell,
    "house": toy_household.house,
    "lamp": toy_household.lamp,
    "mug": toy_household.mug,
    "mushroom": toy_figures.mushroom,
    "plane": toy_vehicles.plane,
    "robot": toy_figures.robot,
    "rocket": toy_vehicles.rocket,
    "snowman": toy_figures.snowman,
    "table": toy_household.table,
    "teapot": toy_household.teapot,
    "train": toy_vehicles.train,
    "tree": toy_figures.tree,
}
CATEGORIES: tuple[str, ...] = tuple(_MAKERS)


def category_of(seed: int, index: int) -> str:
    """Category of a toy. Balanced: any len(CATEGORIES) indices in a row have one toy of each."""
    return CATEGORIES[(index + seed) % len(CATEGORIES)]


def toy(seed: int, index: int) -> Mesh:
    """The toy number `index` of a seed, normalised; a function of its arguments alone."""
    draw = Draw(np.random.Generator(np.random.PCG64(seed_of("toy", seed, index))))
    return mesh_of(_MAKERS[category_of(seed, index)](draw)).normalised()


@dataclass(frozen=True)
class ToyAsset:
    """Toy `index` of `toy_seed`, made when it is loaded."""

    id: str
    toy_seed: int
    index: int

    @property
    def category(self) -> str:
        return category_of(self.toy_seed, self.index)

    def load(self) -> Mesh:
        return toy(self.toy_seed, self.index)


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
        return [ToyAsset(f"{self.split}-{i:0{digits}d}", toy_seed, i) for i in range(self.count)]

    def digest(self) -> str:
        return digest_of(["toys", GENERATOR_VERSION, self.split, self.count, self.seed])
