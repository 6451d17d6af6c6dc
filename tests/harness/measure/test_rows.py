"""From scores to rows and to the values of single assets."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mdtbench.harness.measure.extractors import OfficialExtractor, TinyExtractor
from mdtbench.harness.measure.rows import Measurement, failed, joined, measurement, seconds_rows, stamp
from mdtbench.harness.measure.scores import Scored
from mdtbench.metrics import METRICS, Metric, Score
from mdtbench.metrics.agreement import Agreement
from mdtbench.results.asset_values import read_asset_values, write_asset_values
from mdtbench.results.rows import Row, read_rows, write_rows

AGREEMENT, IOU, MSE, FD = (METRICS.get(name).value for name in ("ULIP_tiny", "IoU_truth", "MSE_teacher", "FD_tiny2d"))
IDS = ("a", "b", "c")
FIELDS = {
    **stamp("cpu"), "run_id": "r", "method": "vm", "method_version": 1, "split": "test", "config_sha": "k",
    "n_total": 4, "seed": 2, "steps": 1, "note": "beware", "weights_sha": "w",
}  # fmt: skip
ALL = np.ones(3, bool)


@dataclass
class Job:
    """A `ScoresJob` that is done."""

    scored: dict[Metric, Scored]
    random: bool = False

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return tuple(self.scored)

    @property
    def sides(self) -> dict[str, Any]:
        return {"made": SimpleNamespace(subjects=[SimpleNamespace(id=name) for name in IDS])}

    @property
    def extractors(self) -> dict[str, Any]:
        names = [need.partition(":")[2] for metric in self.metrics for need in metric.needs()]
        official = OfficialExtractor("x", f"x-1/{'random:0' if self.random else 'abc'}", "cpu")
        return {name: official if self.random else TinyExtractor(name, f"{name}-1/abc", "cpu") for name in names}

    def read(self) -> dict[str, Scored]:
        return {metric.name: one for metric, one in self.scored.items()}


def rows(found: Measurement) -> dict[str, Row]:
    return {row.metric: row for row in found.rows}


def measured(scored: dict[Metric, Scored], *args: Any, random: bool = False) -> Measurement:
    return measurement(Job(scored, random), FIELDS, *args)  # type: ignore[arg-type]


def test_a_score_is_a_row_with_the_fields_of_its_cell():
    [row] = measured({AGREEMENT: Scored(Score(1.5, 0.5, None, 2, "few"), "", ALL)}).rows
    assert (row.status, row.value, row.stderr, row.n_ok, row.n_total) == ("ok", 1.5, 0.5, 2, 4)
    assert (row.metric, row.metric_version, row.unit, row.higher_is_better) == ("ULIP_tiny", 2, "x100", True)
    assert (row.method, row.seed, row.weights_sha, row.error) == ("vm", 2, "w", None)
    assert row.note == "beware; few"


def test_what_cannot_be_measured_is_a_failed_row_and_what_says_nothing_is_none():
    found = rows(measured({IOU: Scored(None, "it broke", ALL), MSE: Scored(None)}))
    assert found.keys() == {"IoU_truth"}
    row = found["IoU_truth"]
    assert (row.status, row.error, row.value, row.n_ok, row.n_total) == ("failed", "it broke", None, 0, 4)


def test_numbers_of_random_networks_never_have_an_official_name():
    scored = {FD: Scored(Score(1.0, n_ok=3), "", ALL), IOU: Scored(Score(0.5, None, np.zeros(3), 3), "", ALL)}
    assert rows(measured(scored)).keys() == {"FD_tiny2d", "IoU_truth"}
    found = measured(scored, random=True)
    assert rows(found).keys() == {"FD_tiny2d[random]", "IoU_truth"}


def test_networks_may_be_told_by_column():
    found = rows(
        measured({FD: Scored(Score(1.0, n_ok=3)), IOU: Scored(None, "x")}, {}, lambda metric: f"of {metric.name}")
    )
    assert [found[name].weights_sha for name in ("FD_tiny2d", "IoU_truth")] == ["of FD_tiny2d", "of IoU_truth"]


def test_assets_have_the_values_that_averages_are_of():
    """What a metric says nothing about is absent; why an asset failed is said once."""
    scored = {
        IOU: Scored(Score(0.5, None, np.array([0.25, 0.75, 0.0]), 2), "", np.array([True, True, False])),
        MSE: Scored(Score(0.1, None, np.array([0.1, np.nan, np.nan]), 1), "", np.array([True, True, False])),
        FD: Scored(Score(3.0, n_ok=2), "", np.array([True, True, False])),
    }
    errors = {"occupancy": ("", "", ""), "voxels": ("", "", "empty"), "x": ("", "", "not seen")}
    found = measured(scored, errors).assets
    assert [value.values for value in found] == [
        {"IoU_truth": 0.25, "MSE_teacher": 0.1}, {"IoU_truth": 0.75}, {"IoU_truth": 0.0}
    ]  # fmt: skip
    assert [(value.asset, value.ok, value.error) for value in found] == [
        ("a", True, ""), ("b", True, ""), ("c", False, "empty")
    ]  # fmt: skip
    assert {(value.run_id, value.method, value.steps, value.seed) for value in found} == {("r", "vm", 1, 2)}


def test_assets_that_failed_are_told_without_reasons_too():
    """As of controls."""
    ok = [np.array([True, False, True]), np.array([True, True, False])]
    per_asset = np.zeros(3)
    scored = {
        IOU: Scored(Score(0, None, per_asset, 2), "", ok[0]),
        MSE: Scored(Score(0, None, per_asset, 2), "", ok[1]),
    }
    assert [(value.ok, value.error) for value in measured(scored).assets] == [(True, ""), (False, ""), (False, "")]


def test_of_distances_there_are_no_values_of_assets():
    assert measured({FD: Scored(Score(3.0, n_ok=3), "", ALL)}).assets == ()


@pytest.mark.parametrize("status", ["failed", "lost"])
def test_a_cell_that_there_is_not_has_a_row_per_column(status: str):
    """Of columns too that look at nothing but what was made."""
    own = Agreement("ULIP_I", "points:u", "gaussians:u", "made", "structure")
    job = Job({AGREEMENT: Scored(None), MSE: Scored(None), own: Scored(None)})
    found = failed(job.metrics, job.extractors, "no student", FIELDS, status).rows
    assert [row.metric for row in found] == ["ULIP_tiny", "MSE_teacher", "ULIP_I"]
    for row in found:
        assert (row.status, row.error, row.value, row.n_ok, row.n_total) == (status, "no student", None, 0, 4)


def test_the_latency_of_a_whole_asset_is_the_sum_of_its_parts():
    parts = {"structure_s": (1.0, 0.3), "slat_s": (0.5, 0.4), "decode_s": (0.25, 0.0)}
    fields = {**FIELDS, "n_ok": 1, "n_total": 1}
    found = rows(seconds_rows(parts, fields))
    assert {name: (row.value, row.stderr) for name, row in found.items()} == {
        **parts, "latency_s": (1.75, pytest.approx(0.5))
    }  # fmt: skip
    assert {(row.unit, row.metric_version, row.n_ok, row.higher_is_better) for row in found.values()} == {
        ("s", 2, 1, False)
    }
    assert all(row.wall_s == row.value for row in found.values())
    alone = rows(seconds_rows({"latency_s": (2.0, 0.1)}, fields))
    assert {name: row.value for name, row in alone.items()} == {"latency_s": 2.0}


def test_where_a_part_is_missing_there_is_no_sum():
    """The time of a structure alone is not that of an asset."""
    fields = {**FIELDS, "n_ok": 1, "n_total": 1}
    assert rows(seconds_rows({"structure_s": (1.0, 0.3)}, fields)).keys() == {"structure_s"}
    two = {"structure_s": (1.0, 0.3), "slat_s": (0.5, 0.4)}
    assert rows(seconds_rows(two, fields)).keys() == two.keys()
    assert seconds_rows({}, fields) == Measurement()


def test_what_is_measured_can_be_written(tmp_path: Path):
    scored = {IOU: Scored(Score(0.5, 0.1, np.array([0.25, np.nan, 0.75]), 2), "", ALL), FD: Scored(None, "broke")}
    found = joined([measured(scored), measured({MSE: replace(scored[IOU])})])
    write_rows(tmp_path / "rows.jsonl", found.rows)
    write_asset_values(tmp_path, found.assets)
    assert read_rows(tmp_path / "rows.jsonl") == list(found.rows)
    assert read_asset_values(tmp_path) == list(found.assets)
    assert [row.metric for row in found.rows] == ["IoU_truth", "FD_tiny2d", "MSE_teacher"]
