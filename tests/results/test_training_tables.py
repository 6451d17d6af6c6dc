"""The tables of what students got and of the sweep: contents, files, and every format."""

from __future__ import annotations

import csv
import io
import json

import pytest

from mdtbench.base.errors import MissingError
from mdtbench.results.report import FORMATS, RunResults, read_run, report, tables
from mdtbench.results.rows import write_rows
from mdtbench.results.students import StudentRecord, read_students, write_students
from mdtbench.results.sweep import SweepRecord, Trial, choose, read_sweep, write_sweep
from mdtbench.results.training_tables import budget_table, sweep_table


def student(method="cm", **changes):
    values = {"method": method, "train_seed": 0, "steps": 150, "batch": 32, "forwards": 6.0, "lr": 3e-4}
    return StudentRecord.model_validate(values | changes)


def sweep(*trials, **changes):
    values = {"metric": "FD_tiny2d", "higher_is_better": False, "steps": 1, "assets": 64, "seed": 0, "trials": trials}
    return SweepRecord.model_validate(values | changes)


def trial(lr, score=1.0, method="cm", **changes):
    return Trial.model_validate({"method": method, "lr": lr, "score": score} | changes)


def texts(table):
    return [[cell.text for cell in line.cells] for line in table.rows]


def test_the_budget_table_has_a_line_per_method_over_its_seeds():
    students = [student(train_seed=s, seconds=10.0 + s, skipped=s, grid=3) for s in (0, 1)]
    students += [student("mdt", variant="official", steps=69, forwards=13.0, lr=4e-8, budget="forwards")]
    table = budget_table(students)
    assert texts(table) == [
        ["CM", "2", "150", "6", "28800", "10.5", "0.0003", "3", "1"],
        ["VM+VD (Ours) [official]", "1", "69", "13", "28704", "-", "4e-08", "-", "-"],
    ]
    assert table.notes[0] == "Methods got equal steps of training and forward passes."


def test_failed_students_are_counted_and_explained():
    table = budget_table([student(), student(train_seed=1, error="not finite")])
    assert table.rows[0].cells[1].text == "1/2"
    assert table.footnotes == ("CM: 1 of 2 students failed: not finite",)


def test_stages_have_a_column_where_there_are_several():
    students = [student(), student(stage="slat", steps=50), student("vm", stage="slat", error="not finite")]
    table = budget_table(students)
    assert [column.key for column in table.columns[:3]] == ["method", "stage", "students"]
    assert [row[:4] for row in texts(table)] == [
        ["CM", "structure", "1", "150"],
        ["CM", "slat", "1", "50"],
        ["VM", "slat", "0/1", "150"],
    ]
    assert table.footnotes == ("VM, slat: 1 of 1 students failed: not finite",)
    assert [column.key for column in budget_table(students[1:]).columns[:2]] == ["method", "students"]


def test_each_stage_has_its_own_grid():
    grid = [trial(1e-4, 2.0), trial(3e-4, 1.0, chosen=True), trial(1e-3, 3.0)]
    grid += [trial(1e-3, 9.0, stage="slat", chosen=True), trial(3e-3, None, stage="slat", error="not finite")]
    record = sweep(*grid)
    assert [t.lr for t in record.trials_of("cm", "")] == [1e-4, 3e-4, 1e-3]
    assert [t.lr for t in record.trials_of("cm", "", "slat")] == [1e-3, 3e-3]
    assert [t.stage for t in record.edges()] == ["slat"]  # 1e-3 would be no edge of both grids together
    table = sweep_table(record)
    assert texts(table) == [
        ["CM", "structure", "0.0001", "2.000", ""],
        ["CM", "structure", "0.0003", "1.000", "yes"],
        ["CM", "structure", "0.001", "3.000", ""],
        ["CM", "slat", "0.001", "9.000", "yes"],
        ["CM", "slat", "0.003", "failed", ""],
    ]
    assert table.footnotes == ("CM, slat, 0.003: not finite",)
    assert [note.partition(":")[0] for note in table.notes[1:]] == ["CM, slat"]


@pytest.mark.parametrize(("higher", "best"), [(False, 1e-4), (True, 3e-4)])
def test_the_best_score_is_chosen_and_failures_lose(higher: bool, best: float):
    chosen = choose([trial(1e-3, None, error="not finite"), trial(3e-4, 2.0), trial(1e-4, 1.0)], higher=higher)
    assert [t.lr for t in chosen if t.chosen] == [best]
    assert not any(t.chosen for t in choose([trial(1e-3, None, error="x")], higher=higher))


def test_equal_scores_choose_the_lowest_rate():
    assert [t.lr for t in choose([trial(3e-4), trial(1e-4)], higher=False) if t.chosen] == [1e-4]


def test_the_sweep_table_marks_what_was_chosen_and_warns_at_the_edge():
    inner = [trial(1e-4, 9.0), trial(3e-4, 5.25, chosen=True), trial(1e-3, None, error="not finite")]
    outer = [trial(3e-4, 7.0, "vm", chosen=True), trial(1e-4, 8.0, "vm")]
    table = sweep_table(sweep(*inner, *outer))
    assert texts(table) == [
        ["CM", "0.0001", "9.000", ""],
        ["CM", "0.0003", "5.250", "yes"],
        ["CM", "0.001", "failed", ""],
        ["VM", "0.0001", "8.000", ""],
        ["VM", "0.0003", "7.000", "yes"],
    ]
    warnings = [note for note in table.notes if "edge" in note]
    assert warnings == ["VM: the best learning rate, 0.0003, is at the edge of the grid; a better one may lie outside."]
    assert table.footnotes == ("CM, 0.001: not finite",)
    assert not any("edge" in note for note in sweep_table(sweep(trial(1e-4, chosen=True))).notes)


@pytest.mark.parametrize("format", sorted(FORMATS))
def test_every_format_has_the_tables_and_none_needs_them(make, format):
    run = RunResults(make.run(), [student()], sweep(trial(1e-4, 5.125, chosen=True), trial(2e-4, 6.0)))
    text = report(run, format)
    assert "28800" in text
    assert "5.125" in text
    plain = report(RunResults(make.run()), format)
    assert "28800" not in plain
    assert len(tables(RunResults(make.run()))) == 2


def test_csv_tells_the_rates_apart(make):
    run = RunResults(make.run(), [student(seconds=1.5)], sweep(trial(1e-4, 5.0, chosen=True), trial(2e-4, 6.0)))
    lines = list(csv.DictReader(io.StringIO(report(run, "csv"))))
    found = {line["label"]: (line["value"], line["best"]) for line in lines if line["table"] == "learning_rates"}
    assert found == {"CM, 0.0001": ("5.0", "True"), "CM, 0.0002": ("6.0", "False")}
    budget = {line["metric"]: line["value"] for line in lines if line["table"] == "training_budget"}
    assert (budget["train_steps"], budget["total_forwards"], budget["train_s"]) == ("150.0", "28800.0", "1.5")


def test_files_of_version_1_are_of_structures(tmp_path):
    old = student().model_dump(exclude={"stage"}) | {"schema_version": 1}
    (tmp_path / "students.jsonl").write_text(json.dumps(old) + "\n")
    record = sweep(trial(1e-4)).model_dump(mode="json") | {"schema_version": 1}
    del record["trials"][0]["stage"]
    (tmp_path / "sweep.json").write_text(json.dumps(record))
    assert [read.stage for read in read_students(tmp_path)] == ["structure"]
    assert [read.stage for read in read_sweep(tmp_path).trials] == ["structure"]


def test_files_round_trip_and_damage_is_named(tmp_path, make):
    students, record = [student(), student("vm", error="x")], sweep(trial(1e-4, 0.1 + 0.2, address="shapes/a"))
    write_rows(tmp_path / "rows.jsonl", make.run())
    assert read_run(tmp_path) == RunResults(make.run(), [], None)
    write_students(tmp_path, students)
    write_sweep(tmp_path, record)
    assert read_run(tmp_path) == RunResults(make.run(), students, record)
    (tmp_path / "students.jsonl").write_text("{}\n")
    with pytest.raises(MissingError, match=r"students\.jsonl line 1 is not a student"):
        read_students(tmp_path)
    (tmp_path / "sweep.json").write_text("{")
    with pytest.raises(MissingError, match=r"sweep\.json is not a sweep"):
        read_sweep(tmp_path)
