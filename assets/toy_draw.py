"""The random choices of a toy, and the parts that several categories share.

Lengths are in a unit in which a toy is about 1 long, z is up and the front faces +x. Nothing is thinner than
about 0.07, so that every part survives on a grid of 32^3 cells.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np

from .primitives import Solid, Y, box, cylinder

Colour = tuple[float, float, float]
Parts = list[tuple[Solid, Colour]]
BOTH = (-1, 1)


class Draw:
    """The random choices of one toy."""

    def __init__(self, generator: np.random.Generator):
        self.generator = generator
        self.hue = float(generator.uniform())

    def between(self, low: float, high: float) -> float:
        return float(self.generator.uniform(low, high))

    def chance(self, probability: float = 0.5) -> bool:
        return bool(self.generator.uniform() < probability)

    def whole(self, low: int, high: int) -> int:
        """low to high, both included."""
        return int(self.generator.integers(low, high + 1))

    def side(self) -> int:
        return 1 if self.chance() else -1

    def colour(self) -> Colour:
        """Saturated; its hue keeps away from that of the previous colour so that parts stand out."""
        self.hue = (self.hue + self.between(0.15, 0.85)) % 1.0
        return colorsys.hsv_to_rgb(self.hue, self.between(0.6, 1.0), self.between(0.6, 1.0))

    def pale(self) -> Colour:
        return colorsys.hsv_to_rgb(self.between(0.0, 1.0), self.between(0.0, 0.15), self.between(0.9, 1.0))

    def dark(self) -> Colour:
        return colorsys.hsv_to_rgb(self.between(0.0, 1.0), self.between(0.0, 0.4), self.between(0.1, 0.25))

    def of_hue(self, low: float, high: float) -> Colour:
        """A saturated colour in a range of hues, for what everybody knows as green or brown."""
        return colorsys.hsv_to_rgb(self.between(low, high), self.between(0.6, 0.95), self.between(0.4, 0.9))


def corner_legs(x: float, y: float, radius: float, height: float, *, round_: bool) -> list[Solid]:
    """Four legs standing on the ground at (+-x, +-y)."""
    spots = [(sx * x, sy * y) for sx in BOTH for sy in BOTH]
    if round_:
        return [cylinder((u, v, 0), radius, height, segments=8) for u, v in spots]
    return [box((u - radius, v - radius, 0), (u + radius, v + radius, height)) for u, v in spots]


def wheels(positions: Sequence[float], y: float, radius: float, width: float) -> list[Solid]:
    """Wheels on the ground at x `positions` on both sides, centred at y = -y and y."""
    return [cylinder((x, s * y - width / 2, radius), radius, width, axis=Y) for x in positions for s in BOTH]


def paint(solids: Sequence[Solid], colour: Colour) -> Parts:
    return [(solid, colour) for solid in solids]
