"""A labelled grid of pictures: a method per row, a test asset per column."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ..base.errors import UsageError
from ..base.files import replacing

GAP = 2  # pixels between pictures
PAD = 8  # pixels around labels
# White: the pictures have a black background, so that their edges show, and the grid goes into papers.
PAGE, INK, FAILED_FILL, FAILED_INK = (255, 255, 255), (20, 20, 20), (225, 225, 225), (150, 30, 30)

Picture = NDArray[np.uint8]


@dataclass(frozen=True)
class GridLayout:
    """Where pictures lie, in pixels. `corner` is the upper left pixel of a picture."""

    left: int
    top: int
    width: int
    height: int
    n_rows: int
    n_columns: int

    def corner(self, row: int, column: int) -> tuple[int, int]:
        """x, y."""
        return self.left + column * (self.width + GAP), self.top + row * (self.height + GAP)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the page."""
        x, y = self.corner(self.n_rows - 1, self.n_columns - 1)
        return x + self.width + PAD, y + self.height + PAD


def grid(
    pictures: Sequence[Sequence[Picture | None]],
    row_labels: Sequence[str],
    column_labels: Sequence[str],
    path: Path,
) -> GridLayout:
    """Write the grid as a PNG and return its layout.

    Args:
        pictures: Rows of uint8 [H, W, 3] images of one size; None where an asset failed.
        row_labels: One per row, at the left. column_labels: One per column, above; cut when too long.
        path: Ends in .png; complete or unchanged.

    Raises:
        UsageError: shapes, dtypes or numbers of labels that do not fit.
        RunError: the file cannot be written.
    """
    height, width = _picture_size(pictures)
    _check_labels(pictures, row_labels, column_labels)
    if path.suffix != ".png":
        raise UsageError(f"A grid in an unknown format (got '{path.name}') - grids are PNG - end it in .png.")
    font = ImageFont.load_default(size=min(max(height // 9, 12), 32))
    left = PAD + max((_text_width(font, label) for label in row_labels), default=0) + PAD
    top = PAD + _line_height(font) + PAD
    layout = GridLayout(left, top, width, height, len(pictures), len(column_labels))
    page = Image.new("RGB", layout.size, PAGE)
    _draw_pictures(page, layout, pictures, font)
    _draw_labels(page, layout, row_labels, column_labels, font)
    with replacing(path) as part:
        page.save(part, format="PNG")
    return layout


def _picture_size(pictures: Sequence[Sequence[Picture | None]]) -> tuple[int, int]:
    found = [picture for row in pictures for picture in row if picture is not None]
    if not found:
        raise UsageError("A grid without pictures - at least one is needed - evaluate an asset first.")
    for picture in found:
        if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
            raise UsageError(
                f"A picture of the wrong kind (got {list(picture.shape)} {picture.dtype}) - uint8 "
                f"[H, W, 3] is needed - convert it."
            )
    sizes = sorted({picture.shape[:2] for picture in found})
    if len(sizes) > 1:
        raise UsageError(f"Pictures of different sizes (got {sizes}) - one is needed - render them again.")
    return sizes[0]


def _check_labels(
    pictures: Sequence[Sequence[Picture | None]], row_labels: Sequence[str], column_labels: Sequence[str]
) -> None:
    lengths = {len(row) for row in pictures}
    if len(pictures) != len(row_labels) or lengths != {len(column_labels)}:
        raise UsageError(
            f"Labels that do not fit (got {len(row_labels)} and {len(column_labels)} for {len(pictures)} "
            f"rows of {sorted(lengths)} pictures) - one per row and column is needed - pass as many."
        )


def _draw_pictures(
    page: Image.Image,
    layout: GridLayout,
    pictures: Sequence[Sequence[Picture | None]],
    font: ImageFont.ImageFont | ImageFont.FreeTypeFont,
) -> None:
    draw = ImageDraw.Draw(page)
    for i, row in enumerate(pictures):
        for j, picture in enumerate(row):
            x, y = layout.corner(i, j)
            if picture is not None:
                page.paste(Image.fromarray(picture), (x, y))
                continue
            draw.rectangle((x, y, x + layout.width - 1, y + layout.height - 1), fill=FAILED_FILL)
            middle = (x + layout.width / 2, y + layout.height / 2)
            draw.text(middle, _cut(font, "failed", layout.width), FAILED_INK, font, anchor="mm")


def _draw_labels(
    page: Image.Image,
    layout: GridLayout,
    row_labels: Sequence[str],
    column_labels: Sequence[str],
    font: ImageFont.ImageFont | ImageFont.FreeTypeFont,
) -> None:
    draw = ImageDraw.Draw(page)
    for i, label in enumerate(row_labels):
        _, y = layout.corner(i, 0)
        draw.text((layout.left - PAD, y + layout.height / 2), label, INK, font, anchor="rm")
    for j, label in enumerate(column_labels):
        x, y = layout.corner(0, j)
        middle = (x + layout.width / 2, y - PAD)
        draw.text(middle, _cut(font, label, layout.width), INK, font, anchor="md")


def _text_width(font: ImageFont.ImageFont | ImageFont.FreeTypeFont, text: str) -> int:
    return round(font.getlength(text))


def _line_height(font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> int:
    _, top, _, bottom = font.getbbox("Ag")
    return round(bottom - top)


def _cut(font: ImageFont.ImageFont | ImageFont.FreeTypeFont, text: str, width: int) -> str:
    """The text, or as much of it as fits, with an ellipsis."""
    if _text_width(font, text) <= width:
        return text
    fitting = [n for n in range(len(text)) if _text_width(font, text[:n] + "...") <= width]
    return text[: max(fitting, default=0)] + "..." if fitting else ""
