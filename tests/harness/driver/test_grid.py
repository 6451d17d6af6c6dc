"""grid.png: which cells are shown, in which order, and the places of what failed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_stage import pictures, structures
from small_world import opened, small_plan

from mdtbench.harness.driver import grid as grid_module
from mdtbench.harness.driver import measuring as measuring_module
from mdtbench.harness.driver.grid import first_of_each, write_grid
from mdtbench.harness.driver.measuring import Measuring
from mdtbench.harness.engine.jobs import Place
from mdtbench.harness.engine.store import Address
from mdtbench.harness.generate.made import EMPTY, Decoded
from mdtbench.harness.generate.pictures import SIDE, enlarged, gaussians_picture, structure_picture
from mdtbench.harness.inputs.world import load_world
from mdtbench.harness.plan.plan import Cell
from mdtbench.results.grid import Picture
from mdtbench.results.rows import BOTH, STRUCTURE

COUNTS = (40, 0, 30, 20)  # filled cells of the structures that were "made"
Drawn = tuple[list[list[Picture | None]], list[str], list[str]]


@pytest.fixture
def make(small_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Measuring]:
    """A run of a line with students of two seeds, beside another sampler; in shards of two assets."""
    monkeypatch.setattr(measuring_module, "SHARD", 2)

    def opened_with(*changes: str, stages: str = "both") -> Measuring:
        usual = ("evaluate.steps=[2]", "evaluate.samplers=['euler']", "evaluate.seeds=[5,6]", *changes)
        options = {"train_seeds": (3, 4), "stages": stages}
        plan = small_plan(small_folder, *usual, methods=("vm",), cache=tmp_path, **options)
        measuring = opened(plan, tmp_path)
        place = Place(tmp_path, Address("prepared", {"of": "these"}))
        place.put({"images": pictures(4)[:, None], "occupancy": structures((50, 60, 70, 80))})
        tests = measuring.tests
        subjects = tuple(replace(subject, prepared=place) for subject in tests.subjects)
        return replace(measuring, tests=replace(tests, subjects=subjects))

    return opened_with


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Drawn:
    """What would be in the picture: pictures, labels of rows, of columns."""
    found: Drawn = ([], [], [])

    def noting(rows: list, labels: list, columns: list, path: Path) -> None:
        for seen, given in zip(found, (rows, labels, columns), strict=True):
            seen.extend(given)

    monkeypatch.setattr(grid_module, "grid", noting)
    return found


def put(measuring: Measuring, cells: tuple[Cell, ...]) -> None:
    grids = structures(COUNTS)
    for cell in cells:
        for i, job in enumerate(measuring.assets(cell) if cell.slat else measuring.structures(cell)):
            mine = grids[2 * i : 2 * i + 2]
            coords = [np.argwhere(grid).astype(np.int32) // 2 for grid in mine]
            counts = np.array([len(one) for one in coords])
            latents = np.ones((counts.sum(), 4), np.float32)
            made = {"occupancy": mine, "ok": np.ones(2, bool)}
            whole = {"counts": counts, "coords": np.concatenate(coords), "latents": latents}
            errors = np.where(counts > 0, "", EMPTY)
            job.places[0].put({**whole, "errors": errors} if cell.slat else made)


def test_structures_are_shown_of_every_line_at_its_first_seeds(
    make: Callable[..., Measuring], drawn: Drawn, tmp_path: Path
):
    measuring = make(stages="structure")
    cells = measuring.plan.cells
    put(measuring, cells)
    write_grid(tmp_path / "grid.png", measuring, cells, 3)
    rows, labels, columns = drawn
    assert labels == [
        "Condition", "Ground truth", "Undistilled, 2 steps", "Undistilled, CFG, 2 steps", "Teacher, 3 steps",
        "VM, 2 steps", "VM, euler, 2 steps",
    ]  # fmt: skip
    assert columns == ["00000", "00001", "00002"]
    assert all(np.array_equal(shown, enlarged(image)) for shown, image in zip(rows[0], pictures(4), strict=False))
    truth = [structure_picture(grid) for grid in structures((50, 60, 70))]
    for picture, expected in zip(rows[1], truth, strict=True):
        assert np.array_equal(picture, expected)  # type: ignore[arg-type]
    for row in rows[2:]:
        assert [picture is None for picture in row] == [False, True, False]
        assert np.array_equal(row[2], structure_picture(structures(COUNTS)[2]))  # type: ignore[arg-type]


def test_whole_assets_are_shown_by_their_gaussians(
    make: Callable[..., Measuring], drawn: Drawn, small_folder: Path, tmp_path: Path
):
    measuring = make("evaluate.whole=3")
    cells = measuring.plan.cells
    put(measuring, cells)
    write_grid(tmp_path / "grid.png", measuring, cells, 4)
    rows, labels, columns = drawn
    assert labels[2:] == [
        "Undistilled, 2x2 steps", "Undistilled, CFG, 2x2 steps", "Teacher, 3x2 steps", "VM, 2x2 steps",
        "VM, euler, 2x2 steps",
    ]  # fmt: skip
    assert len(columns) == 3  # no more are made whole
    for row in rows:
        assert all(picture is None or picture.shape == (SIDE, SIDE, 3) for picture in row)
    coords = np.argwhere(structures(COUNTS)[2]).astype(np.int32) // 2
    asset = Decoded(load_world(small_folder).whole, coords, np.ones((len(coords), 4), np.float32))
    for row in rows[2:]:
        assert row[1] is None
        assert np.array_equal(row[2], gaussians_picture(asset.gaussians))  # type: ignore[arg-type]


@pytest.mark.parametrize("stages", ["structure", "both"])
def test_of_every_line_one_cell_is_shown(make: Callable[..., Measuring], stages: str):
    plan = make(stages=stages).plan
    chosen = list(first_of_each(plan.cells))
    assert {(cell.stage, cell.seed) for cell in chosen} == {(BOTH if stages == "both" else STRUCTURE, 5)}
    assert {cell.train_seed for cell in chosen} == {None, 3}
    assert len(chosen) == len({(cell.line, cell.extra) for cell in plan.cells}) == 5
    assert list(first_of_each([])) == []


def test_the_picture_is_written(make: Callable[..., Measuring], tmp_path: Path):
    measuring = make(stages="structure")
    cells = tuple(cell for cell in measuring.plan.cells if cell.is_reference)
    put(measuring, cells)
    write_grid(tmp_path / "grid.png", measuring, cells, 2)
    with Image.open(tmp_path / "grid.png") as picture:
        assert picture.width > 2 * SIDE
        assert picture.height > 3 * SIDE
