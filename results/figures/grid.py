"""A grid of assets as in papers: an asset per row; what the networks saw, each method's, the truth as columns."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pandas import DataFrame
from PIL import Image

from ...base.errors import MissingError, unknown_name
from ..asset_values import AssetValue
from ..exported import CONDITION, TRUTH, Exported
from ..frames import latest
from ..html.asset_tables import Layout, maker_of
from ..places import LINE, Place, key_of, keyed
from ..rows import EVALUATION, LATENCY_METRIC, WHOLE_ASSETS
from .choice import Choice, chosen_methods, chosen_steps
from .style import COLUMN, GREY, INK, PAGE, PALE, SMALL, new_figure, settings, shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ROWS = 5  # assets, where none are named
LARGEST = 1.1  # inches: side of a picture
GAP = 0.03  # inches
LEFT, HEAD_LINE = 0.16, 0.115  # inches: room for ids, a line of a heading
LETTERS, ID_LETTERS = 18.5, 18  # that fit in an inch: of headings, of ids
NARROW = 4  # columns that fit in a column of a paper
FAILED, ABSENT = "failed", "no picture"


@dataclass(frozen=True)
class Heading:
    """Over a column. detail: steps and seconds per asset."""

    title: str
    detail: str = ""


@dataclass(frozen=True)
class Tile:
    """One picture; None: reason says why there is none."""

    picture: Path | None
    reason: str = ""


@dataclass(frozen=True)
class AssetGrid:
    """What is drawn: a row of tiles per asset id."""

    headings: tuple[Heading, ...]
    rows: tuple[tuple[str, tuple[Tile, ...]], ...]


def grid_of(exported: Exported, rows: DataFrame, values: Iterable[AssetValue], choice: Choice) -> AssetGrid:
    """The tiles of a run's exported pictures.

    By default the first assets, and of methods that with the fewest steps, beside the teacher with its own.

    Args:
        values: Of single assets, to tell what failed.

    Raises:
        MissingError: the run has no pictures. UsageError: an unknown method, asset or number of steps.
    """
    rows = latest(rows)
    made = {maker for files in exported.files.values() for maker, paths in files.items() if _picture(paths)}
    places = [place for place in Layout.of(rows).whole if maker_of(place) in made]
    if not places:
        made_whole = rows["stage"].isin((*WHOLE_ASSETS, EVALUATION)).any()
        advice = "Run the same command again with --export png" if made_whole else "`figure curves` shows its training"
        raise MissingError(f"This run has no pictures of whole assets. {advice}.")
    methods = chosen_methods(choice.methods, dict.fromkeys((place.method, place.variant) for place in places))
    found = [place.steps for place in places if place.method != "teacher" and place.steps is not None]
    steps = chosen_steps(choice.steps, found)[: None if choice.steps else 1]
    shown = [
        place
        for method in methods
        for place in places
        if (place.method, place.variant) == method and (place.method == "teacher" or place.steps in steps)
    ]
    lost = {(key_of(value), value.asset) for value in values if not value.ok}
    headings = [Heading("Condition"), *(_heading(place, rows) for place in shown), Heading("Ground truth")]
    lines = [(asset, tuple(_tiles(asset, shown, exported, lost))) for asset in _assets(choice.assets, exported)]
    return AssetGrid(tuple(headings), tuple(lines))


def draw_grid(grid: AssetGrid) -> Figure:
    """The figure, as wide as a page, or as a column where there are few columns of pictures. Text stays text."""
    n = len(grid.headings)
    width = COLUMN if n <= NARROW else PAGE
    side = min(LARGEST, (width - LEFT - GAP) / n - GAP)
    width = LEFT + GAP + n * (side + GAP)
    heads = [_wrapped(heading, side) for heading in grid.headings]
    top = HEAD_LINE * max(len(lines) for lines in heads) + 0.04
    height = top + len(grid.rows) * (side + GAP) + GAP
    with settings():
        figure = new_figure(width, height)
        for j, lines in enumerate(heads):
            x = LEFT + j * (side + GAP) + side / 2
            figure.text(
                x / width, 1 - (top - 0.02) / height, "\n".join(lines), ha="center", va="bottom", linespacing=1.15
            )
        for i, (asset, tiles) in enumerate(grid.rows):
            y = height - top - (i + 1) * (side + GAP) + GAP
            name = shortened(asset, max(round(ID_LETTERS * side), 6))
            figure.text(
                0.07 / width,
                (y + side / 2) / height,
                name,
                rotation=90,
                ha="center",
                va="center",
                fontsize=SMALL,
                color=GREY,
            )
            for j, tile in enumerate(tiles):
                x = LEFT + j * (side + GAP)
                _draw_tile(figure.add_axes((x / width, y / height, side / width, side / height)), tile)
    return figure


def _assets(ids: Sequence[str], exported: Exported) -> list[str]:
    for name in ids:
        if name not in exported.files:
            raise unknown_name("asset", name, exported.files)
    return list(dict.fromkeys(ids)) or list(exported.files)[:ROWS]


def _tiles(asset: str, places: Sequence[Place], exported: Exported, lost: set) -> list[Tile]:
    files = exported.files[asset]
    tiles = [_tile(_picture(files.get(CONDITION, ())), ABSENT)]
    for place in places:
        maker = maker_of(place)
        failed = (maker, asset) in exported.reasons or (place.key, asset) in lost
        tiles.append(_tile(_picture(files.get(maker, ())), FAILED if failed else ABSENT))
    return [*tiles, _tile(_picture(files.get(TRUTH, ())), ABSENT)]


def _tile(picture: Path | None, reason: str) -> Tile:
    return Tile(picture) if picture else Tile(None, reason)


def _picture(paths: Iterable[Path]) -> Path | None:
    return next((path for path in paths if path.suffix == ".png" and path.is_file()), None)


def _heading(place: Place, rows: DataFrame) -> Heading:
    timed = keyed(rows[rows["metric"] == LATENCY_METRIC]).set_index(LINE)["value"].dropna()
    seconds = f", {timed[place.key].mean():.2g} s" if place.key in timed.index else ""
    return Heading(place.label, f"{place.sampling.replace('x', '×')}{seconds}")


def _wrapped(heading: Heading, side: float) -> list[str]:
    """In lines that fit over a picture."""
    letters = max(int(side * LETTERS), 6)
    return [*textwrap.wrap(heading.title, letters), *([heading.detail] if heading.detail else [])]


def _draw_tile(axes: Axes, tile: Tile) -> None:
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_visible(False)
    if tile.picture:
        axes.imshow(_pixels(tile.picture), interpolation="none")
        return
    axes.set_facecolor(PALE)
    colour = "#a01e1e" if tile.reason == FAILED else INK
    axes.text(0.5, 0.5, tile.reason, transform=axes.transAxes, ha="center", va="center", color=colour, fontsize=SMALL)


def _pixels(path: Path) -> np.ndarray:
    try:
        with Image.open(path) as picture:
            return np.asarray(picture.convert("RGB"))
    except OSError as error:
        raise MissingError(f"{path} is not a picture ({error}). Delete it and run again with --export png.") from error
