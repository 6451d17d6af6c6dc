"""What the first assets look like: a row per method, a column per asset, on the index."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..exported import CONDITION, TRUTH
from ..places import Place

COLUMNS = 5  # assets
FAILED, NO_PICTURE = "failed", "none"  # what blank tiles say


@dataclass(frozen=True)
class Tile:
    """picture: path in the report's folder; None: blank says why in a word, reason in full, "" where nobody knows."""

    picture: str | None
    blank: str = ""
    reason: str = ""


@dataclass(frozen=True)
class GalleryRow:
    """label, steps: of a method as in the tables."""

    label: str
    steps: str
    tiles: tuple[Tile, ...]


@dataclass(frozen=True)
class Gallery:
    """assets: id and page of each column. notes: what else is to be said of it."""

    assets: tuple[tuple[str, str], ...]
    rows: tuple[GalleryRow, ...]
    notes: tuple[str, ...]


def chosen_makers(places: Mapping[str, Place]) -> list[str]:
    """Of the folders that have pictures: what is given, the teacher, then methods and undistilled at the fewest steps.

    Args:
        places: the line of each method's folder, in the order of the tables.
    """
    ranks = {"teacher": 0, "none": 2}
    steps = [place.steps for place in places.values() if place.method != "teacher" and place.steps is not None]
    few = min(steps, default=None)
    mine = [maker for maker, place in places.items() if place.method == "teacher" or place.steps in (few, None)]
    ordered = sorted(mine, key=lambda maker: ranks.get(places[maker].method, 1))
    return [CONDITION, TRUTH, *ordered]


def notes_of(rows: Sequence[GalleryRow], assets: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    """Why tiles are blank, each reason once."""
    reasons: dict[str, list[str]] = {}
    for row in rows:
        for (asset, _), tile in zip(assets, row.tiles, strict=True):
            if tile.picture is None and tile.reason:
                reasons.setdefault(tile.reason, []).append(f"{row.label} {row.steps}".strip() + f", {asset}")
    unknown = any(tile.picture is None and not tile.reason for row in rows for tile in row.tiles)
    told = [f"Failed: {'; '.join(whose)}: {reason}." for reason, whose in reasons.items()]
    return (*told, *(["None: the run wrote no such picture."] if unknown else []))
