"""grid.png: conditioning pictures, ground truth and every method's shapes of a few test assets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..render.cameras import orbit
from ..render.meshes import MeshRenderer, on_background, to_uint8
from ..render.structure import structure_mesh
from ..results.grid import Picture, grid
from .jobs import load_generated
from .plan import Cell
from .prepare import Prepared

COLUMNS = 10
SIDE = 112  # pixels
CAMERA = orbit(60.0, 25.0, 2.0, 40.0)  # three quarters from the front


def write_grid(
    path: Path,
    cells: Sequence[Cell],
    test: Prepared,
    shown: NDArray[np.uint8],
    first_file: Callable[[Cell], Path],
) -> None:
    """Rows: what the networks saw, ground truth, then every method at its first training and generation seed.

    Args:
        first_file: file of a cell's shapes of the first assets.
    """
    n = min(COLUMNS, len(test.ids))
    rows: list[list[Picture | None]] = [
        [enlarged(image) for image in shown[:n]],
        [picture_of(occupancy) for occupancy in test.occupancy[:n]],
    ]
    labels = ["condition", "ground truth"]
    first_seed = cells[0].seed
    first_training = min((cell.training.seed for cell in cells if cell.training), default=None)
    for cell in sorted(cells, key=lambda cell: (cell.entrant.trains, cell.steps)):
        if cell.seed != first_seed or (cell.training and cell.training.seed != first_training):
            continue
        shapes = load_generated(first_file(cell)).shapes
        made = [picture_of(o) if ok else None for o, ok in zip(shapes.occupancy, shapes.ok, strict=True)]
        rows.append((made + [None] * n)[:n])
        other = "" if cell.own else f", {cell.sampler.name}"
        labels.append(f"{cell.entrant.label}{other}, {cell.steps} step{'s' * (cell.steps > 1)}")
    grid(rows, labels, [name.removeprefix("test-") for name in test.ids[:n]], path)


def enlarged(image: NDArray[np.uint8]) -> Picture:
    """A conditioning picture at the size of the grid's, its pixels as they are."""
    return np.asarray(Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.NEAREST))


def picture_of(occupancy: NDArray[np.bool_]) -> Picture:
    """A shaded picture of a structure, [SIDE, SIDE, 3] uint8."""
    rgba = MeshRenderer(structure_mesh(occupancy)).render(CAMERA, SIDE, supersampling=2)
    return to_uint8(on_background(rgba))
