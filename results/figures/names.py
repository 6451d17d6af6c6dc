"""Names beside points of a chart, where they hide little."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from .style import GREY, MARKER, shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.transforms import Bbox

SIZE = 6.5  # points, as all lengths here
LINE = 1.25 * SIZE  # height of a line
LETTER = 0.58 * SIZE  # about the width of a letter, whose font may be a page's
LETTERS = 30  # of a name
ASIDE = 4.5  # from the middle of a marker to its name
PLACES = [(side, line) for line in (0, 1, -1, 2, -2, 3, -3) for side in (1, -1)]  # right or left, lines up


def write_names(axes: Axes, points: Sequence[tuple[float, float]], names: Mapping[int, str]) -> None:
    """Write a name beside some points, where it lies on no other name and on as few points as possible.

    Args:
        points: (x, y) of all points, in data.
        names: By the number of a point, which is in the gid of the artist: label-i. The first have the first choice.
    """
    from matplotlib.transforms import Affine2D

    to_points = Affine2D().scale(72 / axes.figure.dpi)
    at = to_points.transform(axes.transData.transform(points))
    inside = axes.bbox.transformed(to_points)
    taken: list[Bbox] = []
    for i, name in names.items():
        text = shortened(name, LETTERS)
        boxes = {place: _box(at[i], LETTER * len(text), *place) for place in PLACES}
        place = min(PLACES, key=lambda place: _badness(boxes[place], place[1], inside, taken, at))
        taken.append(boxes[place])
        _write(axes, text, points[i], place, f"label-{i}")


def _box(at: np.ndarray, width: float, side: int, line: int) -> Bbox:
    from matplotlib.transforms import Bbox

    left = at[0] + (ASIDE if side > 0 else -ASIDE - width)
    return Bbox.from_bounds(left, at[1] + (line - 0.5) * LINE, width, LINE)


def _badness(box: Bbox, line: int, inside: Bbox, taken: Sequence[Bbox], at: np.ndarray) -> tuple[int, float]:
    """Names that it lies on or the edge; then points that it hides, and how far off it is: two lines are as bad."""
    within = inside.count_contains(box.corners()) == 4
    return box.count_overlaps(taken) + (not within), box.padded(MARKER / 2).count_contains(at) + abs(line) / 2


def _write(axes: Axes, text: str, point: tuple[float, float], place: tuple[int, int], gid: str) -> None:
    """Joined to its point by a line, where it is above or below."""
    side, line = place
    joint = {"arrowstyle": "-", "color": GREY, "linewidth": 0.5, "shrinkA": 0, "shrinkB": MARKER / 2}
    axes.annotate(
        text,
        point,
        (side * ASIDE, line * LINE),
        textcoords="offset points",
        ha="left" if side > 0 else "right",
        va="center_baseline",
        fontsize=SIZE,
        arrowprops={**joint, "relpos": (0 if side > 0 else 1, 0.5)} if line else None,
        gid=gid,
        zorder=4,
    )
