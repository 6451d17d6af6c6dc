"""Of things whose law is known: whether what was made is one of those that fit its picture, and how many of them show.

A law (`Law`) lists all things that fit a picture. Whoever makes their mean makes none of them, and whoever always makes
the same one shows one of them. Assets without a law have no value in these columns.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..geometry.law import Law
from .contract import METRICS, Comparison, Level, Metric, NotMeasured, Score, Seen, known_mean

FITS = 0.9  # IoU from which a thing is one of its law: two toys of one picture agree in at most 0.88
SAME_COLOUR = 0.15  # largest difference of a channel, in [0, 1], of cells that have the same colour


@dataclass(frozen=True)
class Nearest:
    """Of a thing that was made: the IoU with the nearest thing of its law, and which that is."""

    iou: float
    choice: tuple[int, ...]


def nearest_structure(law: Law, grid: NDArray[np.bool_]) -> Nearest:
    """Among the structures of a law. grid: [R, R, R]. Raises NotMeasured for a grid of another size."""
    return _nearest(law, grid)


def nearest_asset(law: Law, cells: NDArray[np.floating]) -> Nearest:
    """Among the coloured structures of a law: cells agree where both have them, in the same colour.

    Args:
        cells: [R, R, R, 4] colour in [0, 1], and 1 where there is one.
    Raises:
        NotMeasured: a grid of another size.
    """
    return _nearest(law, cells[..., 3] > 0, cells[..., :3])


def _nearest(law: Law, grid: NDArray[np.bool_], rgb: NDArray[np.floating] | None = None) -> Nearest:
    """grid: [R, R, R]. rgb: [R, R, R, 3] colours that have to agree; None: whatever they are."""
    if grid.shape != law.occupancy.shape[1:]:
        raise NotMeasured(f"structures have {grid.shape[0]} cells a side, their law {law.occupancy.shape[1]}")
    shared = law.occupancy & grid
    if rgb is not None:
        shared &= np.all(np.abs(law.colours - rgb) <= SAME_COLOUR, axis=-1)
    both, either = shared.sum((1, 2, 3)), (law.occupancy | grid).sum((1, 2, 3))
    best = int((both / either).argmax())
    return Nearest(float(both[best] / either[best]), tuple(int(choice) for choice in law.choices[best]))


def shown_share(choices: Sequence[tuple[int, ...]], groups: Sequence[str], options: int) -> float | None:
    """How many of the equally probable options show, as a share of all: 1 / (K sum p^2), the inverse Simpson index.

    sum p^2 is the probability that two things of a picture are alike. The share of pairs that are alike estimates it
    without bias from any number of things, so that few assets do not read as few options; by chance the result
    may exceed 1.

    Args:
        choices: of each thing. groups: pairs are of things of one group, whose options are the same.
    Returns:
        None with fewer pairs than options.
    """
    sizes = Counter(groups)
    same = Counter(zip(groups, choices, strict=True))
    pairs, alike = (sum(n * (n - 1) // 2 for n in counts.values()) for counts in (sizes, same))
    return pairs / (options * max(alike, 1)) if pairs >= options else None


@dataclass(frozen=True)
class OfLaw(Metric):
    """A column of things whose law is known.

    Attributes:
        level: structures, or whole assets by the cells of their structures and the colours of their Gaussians.
        opens: names of the choices whose options count.
    """

    name: str
    level: Level
    opens: tuple[str, ...]
    version: int = 1
    higher_is_better: bool = True
    unit: str = ""
    controls: tuple[str, ...] = ("reconstruction",)
    truth: tuple[str, ...] = ("law",)

    @property
    def made(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("occupancy",) if self.level == "structure" else ("cell_colours",)

    def nearest(self, made: Seen, against: Comparison) -> tuple[list[Law], list[Nearest]] | None:
        """Of every asset; None where assets have no law."""
        assert against.truth is not None
        laws: list[Law | None] = against.truth["law"]
        known = [law for law in laws if law]
        if len(known) < len(laws):
            return None
        things = made[self.made[0]]
        if self.level == "structure":
            return known, [nearest_structure(law, grid) for law, grid in zip(known, things, strict=True)]
        return known, [nearest_asset(law, grid) for law, grid in zip(known, things, strict=True)]


class Valid(OfLaw):
    """Share of assets that are one of their law: 1 for one that agrees with it in FITS of the cells, or else 0."""

    def score(self, made: Seen, against: Comparison) -> Score | None:
        found = self.nearest(made, against)
        return None if found is None else known_mean(made.ok * np.array([one.iou >= FITS for one in found[1]]))


class Agreement(OfLaw):
    """Mean IoU with the nearest thing of its law: finer than `Valid`, and kinder to what is nearly right."""

    def score(self, made: Seen, against: Comparison) -> Score | None:
        found = self.nearest(made, against)
        return None if found is None else known_mean(made.ok * np.array([one.iou for one in found[1]]))


class Coverage(OfLaw):
    """How many of the options that pictures leave open show among the nearest things, as a share; see `shown_share`."""

    def score(self, made: Seen, against: Comparison) -> Score | None:
        found = self.nearest(made, against)
        if found is None or not made.ok.any():
            return None
        laws = [law for law, ok in zip(found[0], made.ok, strict=True) if ok]
        columns = [laws[0].called.index(name) for name in self.opens]
        options = len(np.unique(laws[0].choices[:, columns], axis=0))
        near = [one.choice for one, ok in zip(found[1], made.ok, strict=True) if ok]
        chosen = [tuple(choice[i] for i in columns) for choice in near]
        share = shown_share(chosen, [law.name for law in laws], options)
        return None if share is None else Score(share)


STRUCTURE, PAINT = ("top", "turn"), ("paint",)
for metric in (
    Valid("valid", "structure", STRUCTURE),
    Agreement("IoU_law", "structure", STRUCTURE),
    Coverage("coverage", "structure", STRUCTURE),
    Valid("valid_rgb", "assets", PAINT),
    Agreement("IoU_law_rgb", "assets", PAINT),
    Coverage("coverage_rgb", "assets", PAINT),
):
    METRICS.register(metric.name, version=metric.version, source="ours")(metric)
