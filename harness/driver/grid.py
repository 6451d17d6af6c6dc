"""grid.png: conditioning pictures, ground truth, and what every line makes of the first test assets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...base.errors import AssetError
from ...base.text import counted
from ...results.grid import Picture, grid
from ...results.places import label_of
from ...results.rows import BOTH, STRUCTURE
from ...trellis.slat_pipeline import SlatPipeline
from ..generate.made import Decoded
from ..generate.pictures import enlarged, gaussians_picture, mesh_picture, structure_picture
from ..inputs.cells import ragged
from ..inputs.subjects import Subject, conditioning_images, occupancies
from ..inputs.world import load_cached
from ..plan.plan import Cell
from .measuring import Measuring


def write_grid(path: Path, measuring: Measuring, cells: Sequence[Cell], columns: int) -> None:
    """Rows: what the networks saw, ground truth, then every line at its first training and generation seed.

    Of whole assets their 3D Gaussians, in colour; the few that are shown are decoded again.
    """
    whole = any(cell.slat for cell in cells)
    tests = measuring.of("assets" if whole else "structure")
    subjects = tests.subjects[:columns]
    rows: list[list[Picture | None]] = [[enlarged(image) for image in conditioning_images(subjects)]]
    rows.append([_truth(subject, whole=whole) for subject in subjects])
    labels = ["Condition", "Ground truth"]
    for cell in sorted(first_of_each(cells), key=lambda cell: (cell.line.who["structure"].trains, cell.line.steps)):
        rows.append(list(islice(_pictures(measuring, cell), len(subjects))))
        labels.append(_label(cell))
    grid(rows, labels, [subject.id.removeprefix("test-") for subject in subjects], path)


def first_of_each(cells: Sequence[Cell]) -> Iterator[Cell]:
    """Whole assets where there are any, else structures, of every line at its first training and generation seed."""
    stage = BOTH if any(cell.slat for cell in cells) else STRUCTURE
    chosen = [cell for cell in cells if cell.stage == stage]
    first = min((cell.train_seed for cell in chosen if cell.train_seed is not None), default=None)
    for cell in chosen:
        if cell.seed == chosen[0].seed and cell.train_seed in (None, first):
            yield cell


def _label(cell: Cell) -> str:
    """As tables name the line."""
    method, _, variant = cell.line.label.partition(":")
    label = label_of(method, variant, cell.own.sampler.name if cell.extra else "")
    steps = f"{cell.line.steps}x2 steps" if cell.slat else counted(cell.line.steps, "step")
    return f"{label}, {steps}"


def _truth(subject: Subject, *, whole: bool) -> Picture | None:
    try:
        return mesh_picture(subject.asset.load()) if whole else structure_picture(occupancies([subject])[0])
    except AssetError:
        return None


def _pictures(measuring: Measuring, cell: Cell) -> Iterator[Picture | None]:
    """Of each asset, one after the other; None of what failed, which the rows count."""
    if cell.slat is None:
        for job in measuring.structures(cell):
            yield from map(structure_picture, job.place.get()["occupancy"])
        return
    plan = measuring.plan
    pipeline = load_cached(plan.world.folder, plan.device).whole
    for made in (job.place.get() for job in measuring.assets(cell)):
        for rows, error in zip(ragged(made["counts"]), made["errors"], strict=True):
            yield None if error else _gaussians(pipeline, made["coords"][rows], made["latents"][rows])


def _gaussians(pipeline: SlatPipeline, coords: NDArray[np.int32], latents: NDArray[np.float32]) -> Picture | None:
    try:
        return gaussians_picture(Decoded(pipeline, coords, latents).gaussians)
    except AssetError:
        return None
