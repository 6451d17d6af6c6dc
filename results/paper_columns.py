"""The paper's numbers beside ours, in columns of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from . import paper
from .cells import Cell, Column
from .places import Place

PUBLISHED_AS = ("", "official", "paper", "released")  # variants that are the published method: the release, the paper
UNDISTILLED_AS = ("cfg",)  # the paper's undistilled teacher is guided

Find = Callable[[str, int | None, tuple[paper.PaperTable, ...]], paper.PaperRow | None]  # method, steps, tables


@dataclass(frozen=True)
class Beside:
    """Which published numbers a table shows: of which tables, which quantities, and how a line is looked up there."""

    tables: tuple[paper.PaperTable, ...] = ()
    quantities: tuple[str, ...] = ()
    find: Find = paper.published

    def columns(self, places: Iterable[Place]) -> list[Column]:
        """None where no line has a published number."""
        if not any(self._row(place) for place in places):
            return []
        return [
            Column(f"paper:{quantity.name}", quantity.name, "paper", quantity.higher_is_better, quantity.unit)
            for quantity in paper.QUANTITIES
            if quantity.name in self.quantities
        ]

    def cell(self, place: Place, quantity: str) -> Cell:
        """Empty where the paper has no number."""
        row = self._row(place)
        value = row.number(quantity) if row else None
        if value is None:
            return Cell("")
        return Cell(f"{value:.1f}" if value >= 100 else f"{value:.2f}", value, n=1)

    def _row(self, place: Place) -> paper.PaperRow | None:
        ours = UNDISTILLED_AS if place.method == "none" else PUBLISHED_AS
        if place.variant not in ours or place.other_sampler:
            return None
        return self.find(place.method, place.steps, self.tables)


SCORES = Beside(paper.LOOKED_UP, ("FD_incep", "FD_dinov2", "ULIP_I"))
TABLE_1 = Beside((paper.TABLE_1,), ("seconds", "FD_incep", "FD_dinov2", "ULIP_I"))
NOTHING = Beside()
