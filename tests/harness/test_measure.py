"""From shapes to rows and values of single assets, of the structure stage."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from whole_plans import asset_plan

from mdtbench.harness.generate import Generated
from mdtbench.harness.measure import References, measure
from mdtbench.harness.measurement import Measurement
from mdtbench.harness.plan import Cell
from mdtbench.harness.prepare import Prepared
from mdtbench.harness.references import Truth
from mdtbench.metrics import Shapes
from mdtbench.results.asset_values import AssetValue, read_asset_values, write_asset_values
from mdtbench.results.rows import STRUCTURE, Row

IDS = ("a", "b", "c", "d")
N = len(IDS)
PLAN = asset_plan("evaluate.seeds=[0,1]", "evaluate.steps=[1,2]", slat=None)
AVERAGES = {"ULIP_tiny", "IoU_truth", "IoU_teacher", "MSE_teacher"}
TEST = Prepared(IDS, ("",) * N, np.zeros((N, 2, 2, 2), bool), np.zeros((N, 1, 2, 2, 3), np.uint8), (("e", "bad"),))


def shapes(*parts: object) -> Shapes:
    """Random numbers that are a function of `parts`; the third shape failed."""
    random = np.random.default_rng([ord(letter) for letter in "|".join(map(str, parts))])
    embedding = random.normal(size=(N, 5))
    return Shapes(
        ok=np.array([True, True, False, True]),
        latents=random.normal(size=(N, 2, 2, 2, 2)).astype(np.float32),
        occupancy=random.random((N, 3, 3, 3)) < 0.5,
        picture_features=random.normal(size=(N, 4, 3)).astype(np.float32),
        point_features=random.normal(size=(N, 3)).astype(np.float32),
        embedding=(embedding / np.linalg.norm(embedding, axis=1, keepdims=True)).astype(np.float32),
    )


def generated(cell: Cell) -> Generated:
    seconds = np.array([0.5, 0.25, 4.0, 0.75])
    return Generated(shapes(cell.folder), np.full(N, 2), seconds, ("", "", "the grid is empty", ""))


GROUND = replace(shapes("truth"), ok=np.ones(N, bool))
REFERENCES = References(Truth(GROUND, shapes("pictures").embedding), shapes("reconstruction"), None)


def of_cell(found: Measurement, cell: Cell) -> tuple[dict[str, Row], list[AssetValue]]:
    key = (cell.entrant.name, cell.entrant.variant, cell.sampler.name, cell.own, cell.steps, cell.seed)

    def same(one: Row | AssetValue) -> bool:
        return (one.method, one.variant, one.sampler, one.own_sampler, one.steps, one.seed) == key

    return {row.metric: row for row in found.rows if same(row)}, [value for value in found.assets if same(value)]


@pytest.fixture(scope="module")
def found() -> Measurement:
    return measure(PLAN, TEST, REFERENCES, {}, generated)


def test_rows_are_averages_of_the_values_of_assets(found: Measurement):
    for cell in PLAN.cells:
        rows, assets = of_cell(found, cell)
        averages = AVERAGES & rows.keys()
        assert averages == (AVERAGES if cell.entrant.label != "teacher" else {"ULIP_tiny", "IoU_truth"})
        assert [value.asset for value in assets] == [*IDS]
        assert [value.error for value in assets] == ["", "", "the grid is empty", ""]
        assert [value.ok for value in assets] == [True, True, False, True]
        assert {(value.run_id, value.stage) for value in assets} == {(PLAN.run_id, STRUCTURE)}
        for name in averages:
            values = [value.values[name] for value in assets]
            # the same numbers, so no more than rounding apart
            assert np.mean(values) == pytest.approx(rows[name].value, rel=1e-12)
            assert np.std(values, ddof=1) / 2 == pytest.approx(rows[name].stderr, rel=1e-9)
        assert all(value.values.keys() == averages | {"latency_s"} for value in assets)
        assert [value.values["latency_s"] for value in assets] == [0.5, 0.25, 4.0, 0.75]
        assert rows["latency_s"].value == 0.625  # their median


def test_each_value_is_of_its_own_asset(found: Measurement):
    cell = PLAN.cells[0]
    _, assets = of_cell(found, cell)
    cosine = 100 * (shapes(cell.folder).embedding * REFERENCES.truth.embedding).sum(1)
    assert [value.values["ULIP_tiny"] for value in assets] == pytest.approx([*cosine[:2], 0, cosine[3]], rel=1e-5)


def test_controls_with_scores_of_single_assets_have_values(found: Measurement):
    controls = [value for value in found.assets if value.seed is None]
    assert {value.method for value in controls} == {"truth", "shuffled", "reconstruction"}
    shuffled = [value for value in controls if value.method == "shuffled"]
    expected = 100 * (np.roll(GROUND.embedding, 1, axis=0) * REFERENCES.truth.embedding).sum(1)
    assert [value.values for value in shuffled] == [{"ULIP_tiny": pytest.approx(v, rel=1e-5)} for v in expected]
    assert {value.asset: value.ok for value in controls if value.method == "reconstruction"}["c"] is False


def test_students_that_failed_have_failed_rows_and_no_values():
    training = next(cell.training for cell in PLAN.cells if cell.training)
    found = measure(PLAN, TEST, REFERENCES, {training.folder: "it broke"}, generated)
    name = training.entrant.name
    assert {(row.status, row.error, row.n_ok) for row in found.rows if row.method == name} == {
        ("failed", "it broke", 0)
    }
    assert name not in {value.method for value in found.assets}
    assert {value.method for value in found.assets if value.seed is not None} > {"teacher"}


def test_what_is_measured_can_be_written(found: Measurement, tmp_path: Path):
    write_asset_values(tmp_path, found.assets)
    assert read_asset_values(tmp_path) == list(found.assets)
