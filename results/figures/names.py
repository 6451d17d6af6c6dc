"""Names beside points of a chart, where they lie on no point and no other name, and across few lines."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .style import GREY, MARKER, shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.transforms import Bbox

SIZE = 6.5  # points, as all lengths here
LINE = 1.25 * SIZE  # height of a line
LETTER = 0.58 * SIZE  # about the width of a letter, whose font may be a page's
LETTERS = 30  # of a name
ASIDE = 4.5  # from the middle of a marker to its name
FARTHER = 22.0  # to one that finds no room there
SAMPLES = 24  # points of a line of which it is asked whether they lie under a name
CROSSED = 2.5  # lines of distance that a line under a name is as bad as
HIDDEN = 50.0  # from here on a place is none

Path = Sequence[tuple[float, float]]  # corners of a line, in data


class Place(NamedTuple):
    """side: 1 right, -1 left of the point. aside: how far. line: lines above it."""

    side: int
    aside: float
    line: int

    @property
    def distance(self) -> float:
        """As bad as so many lines."""
        return abs(self.line) / 2 + (self.aside - ASIDE) / LINE


PLACES = [
    Place(side, aside, line)
    for aside in (ASIDE, FARTHER)
    for line in sorted(range(-10, 11), key=lambda line: (abs(line), -line))
    for side in (1, -1)
    if aside == ASIDE or line
]


def write_names(
    axes: Axes,
    points: Sequence[tuple[float, float]],
    names: Mapping[int, str],
    lines: Sequence[Path] = (),
    boxes: Sequence[Bbox] = (),
) -> None:
    """Write a name beside some points. One that finds no free place is left out: the legend has it.

    Args:
        points: (x, y) of all points, in data.
        names: By the number of a point, which is in the gid of the artist: label-i. The first have the first choice.
        lines: What else is drawn. boxes: Where no name may lie, in points.
    """
    from matplotlib.transforms import Affine2D

    to_points = axes.transData + Affine2D().scale(72 / axes.figure.dpi)
    at = to_points.transform(points)
    inside = axes.bbox.transformed(Affine2D().scale(72 / axes.figure.dpi))
    drawn = [_sampled(to_points.transform(pair)) for line in lines for pair in itertools.pairwise(line)]
    samples = np.array(drawn).reshape(-1, SAMPLES, 2)
    taken = list(boxes)
    for i, name in names.items():
        text = shortened(name, LETTERS)
        found = [(_box(at[i], LETTER * len(text), place), place) for place in PLACES]
        box, place = min(found, key=lambda one: _badness(*one, inside, taken, at, samples))
        if _badness(box, place, inside, taken, at, samples) < HIDDEN:
            taken.append(box)
            _write(axes, text, points[i], place, f"label-{i}")


def _sampled(ends: NDArray[np.float64]) -> NDArray[np.float64]:
    """[SAMPLES, 2] of a straight line."""
    return ends[0] + np.linspace(0, 1, SAMPLES)[:, None] * (ends[1] - ends[0])


def _box(at: NDArray[np.float64], width: float, place: Place) -> Bbox:
    from matplotlib.transforms import Bbox

    left = at[0] + (place.aside if place.side > 0 else -place.aside - width)
    return Bbox.from_bounds(left, at[1] + (place.line - 0.5) * LINE, width, LINE)


def _badness(
    box: Bbox, place: Place, inside: Bbox, taken: Sequence[Bbox], at: NDArray[np.float64], samples: NDArray[np.float64]
) -> float:
    """In lines of distance: names, points and the edge that it lies on count most, lines that it crosses some."""
    within = inside.count_contains(box.corners()) == 4
    hidden = box.count_overlaps(taken) + (not within) + box.padded(MARKER / 2).count_contains(at)
    under = ((samples > box.min) & (samples < box.max)).all(-1).any(-1).sum()
    return HIDDEN * hidden + CROSSED * float(under) + place.distance


def _write(axes: Axes, text: str, point: tuple[float, float], place: Place, gid: str) -> None:
    """Joined to its point by a line, where it is not right beside it."""
    joint = {"arrowstyle": "-", "color": GREY, "linewidth": 0.5, "shrinkA": 0, "shrinkB": MARKER / 2}
    joined = place.line or place.aside > ASIDE
    axes.annotate(
        text,
        point,
        (place.side * place.aside, place.line * LINE),
        textcoords="offset points",
        ha="left" if place.side > 0 else "right",
        va="center_baseline",
        fontsize=SIZE,
        arrowprops={**joint, "relpos": (0 if place.side > 0 else 1, 0.5)} if joined else None,
        gid=gid,
        zorder=4,
    )
