"""The pairs that differ most, side by side: our picture, theirs, their difference."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from three_js import Pair

LINE = 16  # pixels of the text above each pair
GREY = 0.5  # behind the pictures


def write_sheet(path: Path, pairs: Sequence[Pair], count: int = 10) -> None:
    """The `count` worst by pixels, worst first; of each the view that differs most."""
    worst = sorted(pairs, key=lambda pair: -pair.pixels)[:count]
    rows = [_row(pair) for pair in worst]
    half = (len(rows) + 1) // 2
    columns = [np.concatenate(rows[:half]), np.concatenate(rows[half:])] if len(rows) > 1 else [rows[0]]
    height = max(len(column) for column in columns)
    padded = [np.pad(column, ((0, height - len(column)), (0, 8), (0, 0))) for column in columns]
    Image.fromarray(np.concatenate(padded, axis=1)).save(path)


def _row(pair: Pair) -> NDArray[np.uint8]:
    view = int(np.abs(pair.ours - pair.theirs).mean((1, 2, 3)).argmax())
    ours, theirs = pair.ours[view], pair.theirs[view]
    shown = [side[..., :3] + (1 - side[..., 3:]) * GREY for side in (ours, theirs)]
    difference = np.abs(shown[0] - shown[1])
    strip = np.concatenate([*shown, difference], axis=1)
    text = Image.new("RGB", (strip.shape[1], LINE))
    told = f"{pair.name}  IoU {pair.overlap:.4f}  colour {pair.colour:.3f}  pixels {pair.pixels:.3f}"
    ImageDraw.Draw(text).text((2, 2), told + (f"  note: {pair.notes[0][:60]}" if pair.notes else ""), fill="white")
    pixels = np.rint(np.clip(strip, 0, 1) * 255).astype(np.uint8)
    return np.concatenate([np.asarray(text), pixels])
