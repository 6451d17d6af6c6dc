"""The tables of what students got and of sweeps: contents, files, and every format."""

from __future__ import annotations

import csv
import io
import json

import pytest

from mdtbench.base.errors import MissingError
from mdtbench.results.frames import rows_frame, to_rows
from mdtbench.results.report import FORMATS, RunResults, read_run, report, tables
from mdtbench.results.rows import write_rows
from mdtbench.results.students import StudentRecord, read_students, write_students
from mdtbench.results.sweep import SweepRecord, Trial, choose, read_sweeps, write_sweeps
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
        ["VM+VD [official]", "1", "69", "13", "28704", "-", "4e-08", "-", "-"],
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


def test_each_stage_has_its_own_record_and_table(make):
    structure = sweep(trial(1e-4, 2.0), trial(3e-4, 1.0, chosen=True), trial(1e-3, 3.0))
    slat = sweep(
        trial(3e-3, None, error="not finite"), trial(1e-3, 9.0, chosen=True), stage="slat", metric="MSE_slat", assets=8
    )
    assert [t.lr for t in structure.trials_of("cm", "")] == [1e-4, 3e-4, 1e-3]
    assert [(t.lr, t.stage) for t in slat.trials_of("cm", "")] == [(1e-3, "slat"), (3e-3, "slat")]
    assert structure.edges() == []
    assert [(edge.setting, edge.value) for edge in slat.edges()] == [("lr", 1e-3)]
    first, second = tables(RunResults(rows_frame(make.run()), [], (structure, slat)))[-2:]
    assert (first.name, second.name) == ("sweep_structure", "sweep_slat")
    assert second.title == "Learning rate of the slat stage, chosen on validation assets"
    assert texts(first) == [
        ["CM", "0.0001", "2.000", ""],
        ["CM", "0.0003", "1.000", "yes"],
        ["CM", "0.001", "3.000", ""],
    ]
    assert texts(second) == [["CM", "0.001", "9.000", "yes"], ["CM", "0.003", "failed", ""]]
    assert (first.columns[2].key, second.columns[2].key) == ("FD_tiny2d", "MSE_slat")
    assert second.rows[0].group == "8 validation assets, 1 step"
    assert second.footnotes == ("CM, 0.003: not finite",)
    assert [note.partition(":")[0] for note in second.notes[1:]] == ["CM"]


def test_guidance_has_a_column_where_it_varies():
    grid = [trial(lr, 10 * lr + g, cfg_strength=g) for lr in (0.1, 0.2, 0.3) for g in (1.0, 2.0, 4.0)]
    grid[1] = trial(0.1, None, cfg_strength=2.0, error="not finite")
    record = sweep(*choose(grid, higher=False), trial(0.5, 1.0, "vm", cfg_strength=0.0, chosen=True))
    table = sweep_table(record)
    assert record.varied() == ("lr", "cfg_strength")
    assert table.title == "Learning rate and guidance of the structure stage, chosen on validation assets"
    assert [column.title for column in table.columns] == ["Method", "Learning rate", "Guidance", "FD_tiny2d", "Chosen"]
    assert texts(table)[:3] == [
        ["CM", "0.1", "1", "2.000", "yes"],
        ["CM", "0.1", "2", "failed", ""],
        ["CM", "0.1", "4", "5.000", ""],
    ]
    assert texts(table)[-1] == ["VM", "0.5", "0", "1.000", "yes"]
    assert table.footnotes == ("CM, 0.1, guidance 2: not finite",)
    assert table.notes[1:] == (
        "CM: the best learning rate, 0.1, is at the edge of the grid; a better one may lie outside.",
        "CM: the best guidance, 1, is at the edge of the grid; a better one may lie outside.",
    )
    apart = sweep(trial(0.1, cfg_strength=1.0), trial(0.1, method="vm", cfg_strength=2.0))  # each method's own
    assert apart.varied() == ()
    assert "Guidance" not in [column.title for column in sweep_table(apart).columns]


def test_each_varied_setting_has_its_own_edges():
    def edges(lr, strength):
        grid = [trial(rate, cfg_strength=g) for rate in (0.1, 0.2, 0.3) for g in (0.0, 2.0, 4.0)]
        marked = [t.model_copy(update={"chosen": (t.lr, t.cfg_strength) == (lr, strength)}) for t in grid]
        return [edge.setting for edge in sweep(*marked).edges()]

    assert edges(0.2, 2.0) == []
    assert edges(0.3, 2.0) == ["lr"]
    assert edges(0.2, 4.0) == ["cfg_strength"]
    assert edges(0.1, 4.0) == ["lr", "cfg_strength"]
    assert edges(0.2, 0.0) == []  # there is no guidance below none


@pytest.mark.parametrize(("higher", "best"), [(False, 1e-4), (True, 3e-4)])
def test_the_best_score_is_chosen_and_failures_lose(higher: bool, best: float):
    chosen = choose([trial(1e-3, None, error="not finite"), trial(3e-4, 2.0), trial(1e-4, 1.0)], higher=higher)
    assert [t.lr for t in chosen if t.chosen] == [best]
    assert not any(t.chosen for t in choose([trial(1e-3, None, error="x")], higher=higher))


def test_equal_scores_choose_the_lowest_rate_then_the_lowest_guidance():
    assert [t.lr for t in choose([trial(3e-4), trial(1e-4)], higher=False) if t.chosen] == [1e-4]
    guided = [trial(lr, cfg_strength=g) for lr in (3e-4, 1e-4) for g in (2.0, 1.0)]
    assert [(t.lr, t.cfg_strength) for t in choose(guided, higher=False) if t.chosen] == [(1e-4, 1.0)]


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
    structure = sweep(trial(1e-4, 5.125, chosen=True), trial(2e-4, 6.0))
    slat = sweep(trial(1e-4, 7.125, chosen=True, cfg_strength=1.0), trial(1e-4, 8.0, cfg_strength=2.0), stage="slat")
    run = RunResults(rows_frame(make.run()), [student()], (structure, slat))
    text = report(run, format)
    for number in ("28800", "5.125", "7.125"):
        assert number in text
    plain = report(RunResults(rows_frame(make.run())), format)
    assert "28800" not in plain
    assert len(tables(RunResults(rows_frame(make.run())))) == 2


def test_csv_tells_the_settings_apart(make):
    guided = [trial(1e-4, 7.0, cfg_strength=1.0), trial(1e-4, 6.5, cfg_strength=2.0, chosen=True)]
    records = sweep(trial(1e-4, 5.0, chosen=True), trial(2e-4, 6.0)), sweep(*guided, stage="slat")
    run = RunResults(rows_frame(make.run()), [student(seconds=1.5)], records)
    lines = list(csv.DictReader(io.StringIO(report(run, "csv"))))
    swept = [line for line in lines if line["table"].startswith("sweep_")]
    assert {(line["table"], line["label"]): (line["value"], line["best"]) for line in swept} == {
        ("sweep_structure", "CM, 0.0001"): ("5.0", "True"),
        ("sweep_structure", "CM, 0.0002"): ("6.0", "False"),
        ("sweep_slat", "CM, 0.0001, 1"): ("7.0", "False"),
        ("sweep_slat", "CM, 0.0001, 2"): ("6.5", "True"),
    }
    budget = {line["metric"]: line["value"] for line in lines if line["table"] == "training_budget"}
    assert (budget["train_steps"], budget["total_forwards"], budget["train_s"]) == ("150.0", "28800.0", "1.5")


def test_files_of_version_1_are_of_structures(tmp_path):
    old = student().model_dump(exclude={"stage"}) | {"schema_version": 1}
    (tmp_path / "students.jsonl").write_text(json.dumps(old) + "\n")
    (tmp_path / "sweep.json").write_text(json.dumps(earlier(1, trial(1e-4, chosen=True))))
    assert [read.stage for read in read_students(tmp_path)] == ["structure"]
    assert read_sweeps(tmp_path) == (sweep(trial(1e-4, chosen=True)),)


def earlier(version, *trials):
    """A file of one record, as versions 1 and 2 have it; version 1 does not say a stage."""
    left_out = {"cfg_strength", *(("stage",) if version == 1 else ())}
    record = sweep().model_dump(mode="json", exclude={"stage"})
    return record | {"schema_version": version, "trials": [t.model_dump(exclude=left_out) for t in trials]}


def test_a_sweep_of_version_2_is_a_record_per_stage(tmp_path):
    slat = trial(3e-4, None, stage="slat", error="not finite")
    (tmp_path / "sweep.json").write_text(json.dumps(earlier(2, trial(1e-4), slat, trial(2e-4))))
    assert read_sweeps(tmp_path) == (sweep(trial(1e-4), trial(2e-4)), sweep(slat, stage="slat"))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "Invalid JSON"),
        ("[]", "should be an object"),
        ('{"schema_version": 4, "records": []}', "expected tags: 3, 1, 2"),
        ('{"schema_version": 3, "records": [{}]}', "Field required"),
        ('{"schema_version": 2, "trials": [{"method": "cm", "lr": 1.0}]}', "Field required"),
        ('{"schema_version": 2, "trials": [{"method": "cm", "lr": 1.0}], "stage": 3}', "Field required"),
    ],
)
def test_what_is_no_sweep_is_named(tmp_path, text, reason):
    (tmp_path / "sweep.json").write_text(text)
    with pytest.raises(MissingError, match=rf"sweep\.json is not a sweep \(.*{reason}"):
        read_sweeps(tmp_path)


def test_files_round_trip_and_damage_is_named(tmp_path, make):
    students = [student(), student("vm", error="x")]
    first = sweep(trial(1e-4, 0.1 + 0.2, address="students/a", cfg_strength=0.1))
    records = first, sweep(trial(1e-4, None, error="x"), stage="slat")
    write_rows(tmp_path / "rows.jsonl", make.run())
    run = read_run(tmp_path)
    assert (to_rows(run.rows), run.students, run.sweeps) == (make.run(), [], ())
    write_students(tmp_path, students)
    write_sweeps(tmp_path, records)
    run = read_run(tmp_path)
    assert (to_rows(run.rows), run.students, run.sweeps) == (make.run(), students, records)
    written = json.loads((tmp_path / "sweep.json").read_text())
    assert (written["schema_version"], [one["stage"] for one in written["records"]]) == (3, ["structure", "slat"])
    (tmp_path / "students.jsonl").write_text("{}\n")
    with pytest.raises(MissingError, match=r"students\.jsonl line 1 is not a student"):
        read_students(tmp_path)
