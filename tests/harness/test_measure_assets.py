"""From whole assets to rows: which there are, what they are of, and what they cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from whole_plans import asset_plan

from mdtbench.harness.asset_jobs import AssembledCell
from mdtbench.harness.measure_assets import AssetReferences, measure_assets
from mdtbench.harness.measurement import Measurement
from mdtbench.harness.plan import AssetCell, SecondStagePlan
from mdtbench.harness.prepare import Prepared
from mdtbench.harness.workshop import AssetTruth
from mdtbench.metrics import WholeAssets
from mdtbench.results.asset_values import AssetValue
from mdtbench.results.rows import (
    BOTH,
    COST_METRICS,
    STRUCTURE_THEN_TEACHER,
    TEACHER_THEN_SLAT,
    Row,
    latest,
    read_rows,
    write_rows,
)

N = 3
QUALITY = {"FD_tiny_gs", "FD_tiny_mesh", "ULIP_tiny_mesh"}
PLAN = asset_plan("evaluate.apart=[0]", "evaluate.seeds=[0,1]", "evaluate.steps=[1,2]")
CELLS = PLAN.second.cells if PLAN.second else ()


def numbers(*parts: object) -> np.random.Generator:
    return np.random.default_rng([ord(letter) for letter in "|".join(map(str, parts))])


def assets_of(cell: AssetCell) -> AssembledCell:
    """Random numbers that are a function of the cell; its cells are a function of its structures."""
    where, random = numbers(cell.structure.folder), numbers(cell.folder)
    counts = where.integers(1, 5, N)
    embedding = random.normal(size=(N, 4)).astype(np.float32)
    assets = WholeAssets(
        ok=np.array([True, True, False]),
        gaussian_features=random.normal(size=(N, 4, 3)).astype(np.float32),
        mesh_features=random.normal(size=(N, 4, 3)).astype(np.float32),
        embedding=embedding / np.linalg.norm(embedding, axis=1, keepdims=True),
        counts=counts,
        coords=where.integers(0, 8, (counts.sum(), 3)).astype(np.int32),
        latents=random.normal(size=(counts.sum(), 2)).astype(np.float32),
    )
    seconds = {"structure_s": np.array([1.0, 2, 9]), "slat_s": np.array([0.5, 0, 0.25]), "decode_s": np.ones(N)}
    return AssembledCell(assets, np.array([10, 12, 11]), seconds, ("", "", "no surface"))


TEACHER = next(cell for cell in CELLS if cell.who.label == "teacher")
TRUTH = AssetTruth(assets_of(TEACHER).assets, np.eye(N, 4, dtype=np.float32))
OTHERS = assets_of(next(cell for cell in CELLS if cell.who.label == "none"))
REFERENCES = AssetReferences(
    replace(TRUTH, assets=replace(TRUTH.assets, ok=np.ones(N, bool))), OTHERS.assets, OTHERS.assets
)
TEST = Prepared(
    ("a", "b", "c"), ("", "", ""), np.zeros((N, 2, 2, 2), bool), np.zeros((N, 1, 2, 2, 3), np.uint8), (("d", "bad"),)
)


def measurement(failed: dict[str, str] | None = None, references: AssetReferences = REFERENCES) -> Measurement:
    def assembled(cell: AssetCell) -> AssembledCell:
        assert not any(training.folder in (failed or {}) for training in cell.trainings), "it was never made"
        return assets_of(cell)

    return measure_assets(PLAN, CELLS, TEST, references, failed or {}, assembled)


def measured(failed: dict[str, str] | None = None, references: AssetReferences = REFERENCES) -> tuple[Row, ...]:
    return measurement(failed, references).rows


@pytest.fixture(scope="module")
def rows() -> tuple[Row, ...]:
    return measured()


def cell_rows(rows: Sequence[Row], cell: AssetCell) -> dict[str, Row]:
    """The rows of a cell, by metric."""
    who, seed = cell.who, cell.trainings[0].seed if cell.trainings else None
    key = (cell.stage, who.name, who.variant, seed, cell.steps, cell.seed)
    found = [r for r in rows if (r.stage, r.method, r.variant, r.train_seed, r.steps, r.seed) == key]
    assert len({row.metric for row in found}) == len(found)
    return {row.metric: row for row in found}


def test_every_cell_has_a_row_per_metric_and_cost(rows: tuple[Row, ...], tmp_path: Path):
    assert {cell.stage for cell in CELLS} == {BOTH, STRUCTURE_THEN_TEACHER, TEACHER_THEN_SLAT}
    for cell in CELLS:
        extra = {"MSE_slat"} if cell.stage == TEACHER_THEN_SLAT else set()
        assert cell_rows(rows, cell).keys() == QUALITY | set(COST_METRICS) | extra
    assert len(latest(rows)) == len(rows)  # no two say the same
    write_rows(tmp_path / "rows.jsonl", rows)
    assert read_rows(tmp_path / "rows.jsonl") == list(rows)


def test_rows_say_whose_they_are(rows: tuple[Row, ...]):
    """With one stage left to the teacher, a row is still of the method, its steps and the sampler it is made for."""
    for cell in CELLS:
        for row in cell_rows(rows, cell).values():
            assert (row.n_ok, row.n_total, row.status, row.own_sampler) == (2, 4, "ok", True)
            assert row.nfe == 12
            assert row.config_sha == PLAN.key
    at_two = [cell for cell in CELLS if cell.who.label == "vm" and cell.steps == 2 and cell.seed == 0]
    assert {cell.stage for cell in at_two} == {BOTH, STRUCTURE_THEN_TEACHER, TEACHER_THEN_SLAT}
    samplers = {cell.stage: {row.sampler for row in cell_rows(rows, cell).values()} for cell in at_two}
    assert all(names == {"renoise"} for names in samplers.values())


def test_mse_is_of_students_on_the_teachers_own_cells(rows: tuple[Row, ...]):
    for cell in CELLS:
        found = cell_rows(rows, cell).get("MSE_slat")
        if cell.stage != TEACHER_THEN_SLAT:
            assert found is None
            continue
        teacher = next(c for c in CELLS if c.who.label == "teacher" and c.seed == cell.seed)
        made, wanted = assets_of(cell).assets, assets_of(teacher).assets
        owner = np.repeat(np.arange(N), made.counts)
        gap = (made.latents.astype(float) - wanted.latents) ** 2
        by_asset = [gap[owner == i].mean() for i in range(N)]
        assert found is not None
        assert found.value == pytest.approx(np.mean(by_asset), rel=1e-9)
        assert found.value > 0.1


def test_a_failed_asset_scores_zero(rows: tuple[Row, ...]):
    cell = CELLS[0]
    made = assets_of(cell).assets
    cosines = (made.embedding * TRUTH.embedding).sum(1)
    assert cell_rows(rows, cell)["ULIP_tiny_mesh"].value == pytest.approx(100 * cosines[:2].sum() / 3, rel=1e-5)


def test_costs_are_medians_and_the_latency_is_their_sum(rows: tuple[Row, ...]):
    for cell in CELLS:
        found = cell_rows(rows, cell)
        assert {name: found[name].value for name in COST_METRICS} == {
            "structure_s": 2.0, "slat_s": 0.25, "decode_s": 1.0, "latency_s": 3.25
        }  # fmt: skip
        assert all(found[name].wall_s == found[name].value for name in COST_METRICS)
        assert all(found[name].wall_s is None for name in QUALITY)


def test_a_student_that_failed_has_failed_rows_wherever_it_was_needed():
    assert isinstance(PLAN.second, SecondStagePlan)
    structure = next(t for t in PLAN.trainings if t.entrant.label == "vm")
    slat = next(t for t in PLAN.second.trainings if t.entrant.label == "cm")
    rows = measured({structure.folder: "vm broke", slat.folder: "cm broke"})
    expected = {
        ("vm", BOTH): "vm broke",
        ("vm", STRUCTURE_THEN_TEACHER): "vm broke",
        ("cm", BOTH): "cm broke",
        ("cm", TEACHER_THEN_SLAT): "cm broke",
    }
    for cell in CELLS:
        reason = expected.get((cell.who.label, cell.stage))
        found = cell_rows(rows, cell)
        assert {row.error for row in found.values()} == {reason}
        if reason:
            assert found.keys() == {*QUALITY, "MSE_slat"}
            assert all(
                (row.status, row.n_ok, row.n_total, row.value) == ("failed", 0, 4, None) for row in found.values()
            )


def test_controls(rows: tuple[Row, ...]):
    found = {(row.method, row.metric): row for row in rows if row.seed is None}
    assert set(found) == {
        ("reconstruction", "FD_tiny_gs"),
        ("reconstruction", "FD_tiny_mesh"),
        ("reconstruction", "ULIP_tiny_mesh"),
        ("truth", "ULIP_tiny_mesh"),
        ("shuffled", "ULIP_tiny_mesh"),
        ("floor", "FD_tiny_mesh"),
    }
    assert {row.stage for row in found.values()} == {BOTH}
    assert {row.n_total for row in found.values()} == {4}
    assert found["truth", "ULIP_tiny_mesh"].n_ok == 3
    assert found["reconstruction", "FD_tiny_gs"].n_ok == 2
    embedding = TRUTH.assets.embedding
    cosine = (embedding * TRUTH.embedding).sum(1).mean()
    shuffled = (embedding[[2, 0, 1]] * TRUTH.embedding).sum(1).mean()  # each picture with the asset before it
    assert found["truth", "ULIP_tiny_mesh"].value == pytest.approx(100 * cosine, rel=1e-5)
    assert found["shuffled", "ULIP_tiny_mesh"].value == pytest.approx(100 * shuffled, rel=1e-5)
    alone = measured(references=replace(REFERENCES, held_out=None))
    assert "floor" not in {row.method for row in alone}


def asset_rows(values: Sequence[AssetValue], cell: AssetCell) -> list[AssetValue]:
    who, seed = cell.who, cell.trainings[0].seed if cell.trainings else None
    key = (cell.stage, who.name, who.variant, seed, cell.steps, cell.seed)
    return [v for v in values if (v.stage, v.method, v.variant, v.train_seed, v.steps, v.seed) == key]


def test_rows_are_averages_of_the_values_of_assets():
    found = measurement()
    for cell in CELLS:
        assets, by_metric = asset_rows(found.assets, cell), cell_rows(found.rows, cell)
        averages = {"ULIP_tiny_mesh", "MSE_slat"} & by_metric.keys()
        assert [(v.asset, v.ok, v.error) for v in assets] == [
            ("a", True, ""),
            ("b", True, ""),
            ("c", False, "no surface"),
        ]
        assert all(v.values.keys() == averages | set(COST_METRICS) for v in assets)
        assert {v.run_id for v in assets} == {PLAN.run_id}
        assert {(v.sampler, v.own_sampler) for v in assets} == {
            (row.sampler, row.own_sampler) for row in by_metric.values()
        }
        for name in averages:
            mean = np.mean([v.values[name] for v in assets])
            assert mean == pytest.approx(by_metric[name].value, rel=1e-12)  # the same sum, in another order at most
        assert [v.values["ULIP_tiny_mesh"] for v in assets][2] == 0
        assert [v.values["latency_s"] for v in assets] == [2.5, 3.0, 10.25]  # the sums of each asset's parts


def test_controls_have_values_of_assets_too_and_students_that_failed_have_none():
    found = measurement()
    controls = {v.method: v for v in found.assets if v.seed is None}
    assert controls.keys() == {"reconstruction", "truth", "shuffled"}  # the floor has distances alone
    embedding = TRUTH.assets.embedding
    shuffled = 100 * (embedding[[2, 0, 1]] * TRUTH.embedding).sum(1)
    values = [v for v in found.assets if v.method == "shuffled"]
    assert [v.asset for v in values] == ["a", "b", "c"]
    assert [v.values["ULIP_tiny_mesh"] for v in values] == pytest.approx(shuffled.tolist(), rel=1e-5)
    assert [v.ok for v in found.assets if v.method == "reconstruction"] == [True, True, False]
    structure = next(t for t in PLAN.trainings if t.entrant.label == "vm")
    lost = measurement({structure.folder: "vm broke"})
    assert {v.stage for v in lost.assets if v.method == "vm"} == {TEACHER_THEN_SLAT}
