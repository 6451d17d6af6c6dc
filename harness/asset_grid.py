"""grid.png of whole assets: conditioning pictures, ground truth, and what every method's 3D Gaussians look like."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ..assets.mesh import Mesh
from ..render.gaussian_rasteriser import render
from ..render.gaussians import Gaussians
from ..render.meshes import MeshRenderer, on_background, to_uint8
from ..results.grid import Picture, grid
from ..results.rows import BOTH
from .assemble import one_voxels, ragged
from .asset_jobs import load_assembled
from .device import CPU
from .jobs import load_cached
from .picture_grid import CAMERA, SIDE, enlarged
from .plan import AssetCell
from .prepare import Prepared
from .world import SecondStage


def write_asset_grid(
    path: Path,
    cells: Sequence[AssetCell],
    test: Prepared,
    shown: NDArray[np.uint8],
    truth: Sequence[Picture],
    world: Path,
    first_file: Callable[[AssetCell], Path],
    device: str = CPU,
) -> None:
    """Rows: what the networks saw, ground truth, then every method at its first training and generation seed.

    The latents of the few assets shown are decoded again, so that runs need not keep Gaussians.

    Args:
        truth: pictures of the first assets themselves.
        first_file: file of a cell's first assets.
        device: where the decoders of `world` compute.
    """
    n, stage = len(truth), load_cached(world, device).whole
    rows: list[list[Picture | None]] = [[enlarged(image) for image in shown[:n]], list(truth)]
    labels = ["condition", "ground truth"]
    for cell in sorted(first_of_each(cells), key=lambda cell: (cell.who.trains, cell.steps)):
        made = list(_pictures(stage, first_file(cell), n))
        rows.append((made + [None] * n)[:n])
        labels.append(f"{cell.who.label}, {cell.steps}x2 step{'s' * (cell.steps > 1)}")
    grid(rows, labels, [name.removeprefix("test-") for name in test.ids[:n]], path)


def mesh_picture(mesh: Mesh, side: int = SIDE) -> Picture:
    """[side, side, 3] uint8, from the camera of the grid."""
    return to_uint8(on_background(MeshRenderer(mesh).render(CAMERA, side, supersampling=2)))


def gaussians_picture(gaussians: Gaussians, side: int = SIDE) -> Picture:
    """[side, side, 3] uint8, from the camera of the grid."""
    return to_uint8(on_background(render(gaussians, CAMERA, side)))


def first_of_each(cells: Sequence[AssetCell]) -> Iterator[AssetCell]:
    """Both stages with a method, at the first training and generation seed."""
    first_seed = cells[0].seed
    first_training = min((t.seed for cell in cells for t in cell.trainings), default=None)
    for cell in cells:
        trained = {training.seed for training in cell.trainings}
        if cell.stage == BOTH and cell.seed == first_seed and trained <= {first_training}:
            yield cell


def _pictures(stage: SecondStage, path: Path, count: int) -> Iterator[Picture | None]:
    assets = load_assembled([path]).assets
    for ok, rows in islice(zip(assets.ok, ragged(assets.counts), strict=True), count):
        yield _picture(stage, assets.coords[rows], assets.latents[rows]) if ok else None  # the rows count failures


def _picture(stage: SecondStage, coords: NDArray[np.int32], latents: NDArray[np.float32]) -> Picture:
    [gaussians] = stage.pipeline.gaussians(torch.from_numpy(latents), one_voxels(coords))
    return gaussians_picture(gaussians)
