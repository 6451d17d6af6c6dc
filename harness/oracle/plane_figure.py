"""A picture of what one step of a student does, beside the exact answer."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from ...results.grid import PAGE

SIDE = 280  # pixels of a panel
SCALE = 2  # drawn larger, then reduced
LINES = 250  # points of noise that are followed
DATA, LINE, END, SAMPLE = (205, 205, 205), (215, 150, 60), (40, 40, 40), (30, 90, 200)


def panel(data: NDArray[np.float64], ends: NDArray[np.float64], samples: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Exact data (grey), and for some points of noise a line from where the exact flow takes it (black) to where one
    step of the student does (blue). Each [n, 2]; [SIDE, SIDE, 3], which shows all of the exact data."""
    size = SIDE * SCALE
    middle = (data.max(0) + data.min(0)) / 2
    zoom = 0.92 * size / np.ptp(data, axis=0).max()

    def pixels(points: NDArray[np.float64]) -> NDArray[np.float64]:
        centred = (np.nan_to_num(points, nan=1e3, posinf=1e3, neginf=-1e3) - middle) * (1, -1)
        return np.clip(centred * zoom + size / 2, -size, 2 * size)

    page = Image.new("RGB", (size, size), PAGE)
    draw = ImageDraw.Draw(page)
    _dots(draw, pixels(data), SCALE, DATA)
    exact, found = pixels(ends[:LINES]), pixels(samples[:LINES])
    for start, end in zip(exact, found, strict=True):
        draw.line([*start, *end], LINE, SCALE)
    _dots(draw, exact, 2 * SCALE, END)
    _dots(draw, found, 2 * SCALE, SAMPLE)
    draw.rectangle((0, 0, size - 1, size - 1), outline=DATA)
    return np.asarray(page.resize((SIDE, SIDE), Image.Resampling.LANCZOS))


def _dots(draw: ImageDraw.ImageDraw, points: NDArray[np.float64], radius: float, color: tuple[int, int, int]) -> None:
    for x, y in points:
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), color)
