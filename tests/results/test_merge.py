"""Several runs in one table: what is pooled, what is shown once, what is refused and how it is said."""

from __future__ import annotations

import json

import pytest

from mdtbench.base.errors import UsageError
from mdtbench.results.frames import rows_frame
from mdtbench.results.merge import Run, merged, read_runs
from mdtbench.results.merged_folder import merged_folder
from mdtbench.results.report import FORMATS, RunResults, read_run, report, tables
from mdtbench.results.rows import write_rows
from mdtbench.results.students import StudentRecord, write_students
from mdtbench.results.sweep import SweepRecord, Trial, write_sweeps

CONTROL = {"train_seed": None, "steps": None, "nfe": None, "seed": None}


def run(name, rows, manifest=None, students=(), sweeps=()) -> Run:
    rows = [row.model_copy(update={"run_id": name}) for row in rows]
    return Run(name, RunResults(rows_frame(rows), students, sweeps), manifest or {})


def student(method="cm", **changes) -> StudentRecord:
    given = {"method": method, "train_seed": 0, "steps": 20, "batch": 16, "forwards": 6.0, "lr": 1e-3} | changes
    return StudentRecord(**given)


def cells(results: RunResults, method: str, key="FD_tiny2d", index=0):
    table = tables(results)[index]
    column = [column.key for column in table.columns].index(key)
    return [line.cells[column] for line in table.rows if line.method == method]


def test_a_run_split_by_method_merges_to_the_same_tables(make):
    rows = make.whole_run()
    halves = [
        run("a", [row for row in rows if row.method != "mdt"]),
        run("b", [row for row in rows if row.method in ("mdt", "teacher", "none", "floor", "truth")]),
    ]
    whole, both = RunResults(rows_frame(rows)), merged(halves)
    for format in set(FORMATS) - {"json"}:
        lines = report(both, format).splitlines()
        notes = [line for line in lines if "Rows of 2 runs: a, b." in line]
        assert len(notes) == (0 if format == "csv" else 1)
    assert report(both, "csv") == report(whole, "csv")
    assert json.loads(report(both, "json"))["tables"][0]["notes"][0].startswith("Rows of 2 runs: a, b.")


@pytest.mark.parametrize("field", ["seed", "train_seed"])
def test_seeds_of_one_method_are_pooled(make, field):
    runs = [
        run(name, [make.row("cm", value=value, **{field: seed})]) for name, value, seed in (("a", 1, 0), ("b", 4, 1))
    ]
    cell = cells(merged(runs), "cm")[0]
    assert (cell.value, cell.n) == (2.5, 2)
    spread = cell.sd if field == "seed" else cell.sd_train
    assert spread == pytest.approx(4.5**0.5)  # of 1 and 4, ddof 1


def test_what_both_measured_is_shown_once_when_equal_and_refused_when_not(make):
    same = merged([run("a", [make.row()]), run("b", [make.row()])])
    assert same.rows["run_id"].tolist() == ["a"]
    with pytest.raises(UsageError, match=r"a and b have other values of FD_tiny2d of cm .*: 1 and 1.001 .*--seeds"):
        merged([run("a", [make.row()]), run("b", [make.row(value=1.001)])])
    with pytest.raises(UsageError, match="1 and failed"):
        merged([run("a", [make.row()]), run("b", [make.row(value=None)])])


def test_what_one_run_lost_is_the_others(make):
    lost = make.row(value=None, status="lost", error="out of memory")
    for first, second in (([lost], [make.row()]), ([make.row()], [lost])):
        assert merged([run("a", first), run("b", second)]).rows["value"].tolist() == [1.0]
    assert merged([run("a", [lost]), run("b", [lost])]).rows["run_id"].tolist() == ["b"]


def test_a_plain_line_has_one_sampler_and_others_stand_below(make):
    plain, extra = make.row(sampler="euler"), make.row(sampler="renoise", extra_sampler=True, value=2.0)
    with pytest.raises(UsageError, match=r"other sampler of cm at 1 steps, stage structure \(got euler and renoise\)"):
        merged([run("a", [plain]), run("b", [make.row(sampler="renoise", seed=1)])])
    both = merged([run("a", [plain]), run("b", [extra, make.row(seed=1, value=3.0)])])  # the last of version 1
    assert [cell.value for cell in cells(both, "cm")] == [2.0, 2.0]
    assert [cell.n for cell in cells(both, "cm")] == [2, 1]


def test_controls_may_differ_by_rounding_only(make):
    def pair(value):
        return [
            run("a", [make.row("floor", value=10.0, **CONTROL)]),
            run("b", [make.row("floor", value=value, **CONTROL)]),
        ]

    assert merged(pair(10.009)).rows["value"][0] == 10.0
    with pytest.raises(UsageError, match="what measures or the teacher has changed"):
        merged(pair(10.02))


def test_seconds_are_those_of_the_first_run_and_other_machines_are_named(make):
    def timed(seconds, device):
        return [make.row(metric="latency_s", value=seconds, wall_s=seconds, unit="s", device=device)]

    both = merged([run("a", timed(1.0, "slow")), run("b", timed(0.5, "fast"))])
    assert both.rows["value"].tolist() == [1.0]
    assert "Seconds are of different machines: slow; fast." in both.notes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"split": "validation"}, "other split of FD_tiny2d .*got test and validation"),
        ({"n_total": 65}, "other number of assets .*64 and 65"),
        ({"metric_version": 2}, "other version of FD_tiny2d"),
        ({"unit": "x"}, "other unit"),
        ({"higher_is_better": True}, "other better direction"),
        ({"reference_sha": "r"}, "other reference"),
        ({"weights_sha": "w"}, "other networks"),
        ({"stage": "slat"}, "other stages .*structure and slat"),
    ],
)
def test_the_first_difference_and_the_two_runs_are_named(make, changes, message):
    fine, other = run("a", [make.row()]), run("c", [make.row("mdt", **changes)])
    with pytest.raises(UsageError, match=f"(a|b) and c cannot be in one table: {message}"):
        merged([fine, run("b", [make.row("vm")]), other])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"nfe": 2}, "network passes of cm"),
        ({"method_version": 2}, "version of cm"),
        ({"cfg_strength": 1.0}, "guidance"),
    ],
)
def test_pooled_seeds_are_of_one_method(make, changes, message):
    with pytest.raises(UsageError, match=message):
        merged([run("a", [make.row()]), run("b", [make.row(seed=1, **changes)])])


def test_pooled_students_were_given_the_same(make):
    def pair(other, **config):
        manifests = [{"config": {"train": {"warmup": warmup}}} for warmup in (2, config.get("warmup", 2))]
        return [
            run("a", [make.row()], manifests[0], [student()]),
            run("b", [make.row(train_seed=1)], manifests[1], [other]),
        ]

    assert [one.train_seed for one in merged(pair(student(train_seed=1))).students] == [0, 1]
    for other in (student(train_seed=1, steps=100), student(train_seed=1, lr=1e-4)):
        with pytest.raises(UsageError, match=r"(steps|lr) of cm \(structure\)"):
            merged(pair(other))
    with pytest.raises(UsageError, match=r"other train.warmup of cm \(got 2 and 3\)"):
        merged(pair(student(train_seed=1), warmup=3))


def test_parameters_of_the_manifest_count(make):
    def of(delta):
        return {"methods": {"cm": {"version": 1, "parameters": f"CM(delta={delta})"}}}

    with pytest.raises(UsageError, match=r"parameters of cm \(got CM\(delta=1\) and CM\(delta=2\)\)"):
        merged([run("a", [make.row()], of(1)), run("b", [make.row(seed=1)], of(2))])
    merged([run("a", [make.row()], of(1)), run("b", [make.row("vm")], of(2))])  # its own rows have no cm


def test_other_methods_may_have_other_settings_and_a_note_says_so(make):
    runs = [
        run("a", [make.row(git_commit="1" * 40)], {"config": {"train": {"steps": 20}}}, [student()]),
        run(
            "b",
            [make.row("mdt", git_commit="2" * 40)],
            {"config": {"train": {"steps": 50}}},
            [student("mdt", steps=50)],
        ),
    ]
    notes = merged(runs).notes
    assert any("different settings (train.steps)" in note for note in notes)
    assert any("different versions of the code: 1111111, 2222222" in note for note in notes)
    budget = tables(merged(runs))[-1]
    assert [line.method for line in budget.rows] == ["cm", "mdt"]


def test_sweeps_are_joined_when_they_scored_alike(make):
    def sweep(method, assets=64, stage="structure"):
        trials = tuple(Trial(method=method, lr=1e-3, cfg_strength=g, score=g, chosen=g == 0) for g in (0.0, 2.0))
        scored = {"metric": "FD", "higher_is_better": False, "steps": 1, "assets": assets, "seed": 0}
        return SweepRecord(**scored, stage=stage, trials=trials)

    def both(assets):
        first, second = [sweep("cm")], [sweep("vm", assets), sweep("vm", stage="slat")]
        return merged([run("a", [make.row()], sweeps=first), run("b", [make.row("vm")], sweeps=second)]).sweeps

    structure, slat = both(64)
    assert (structure.stage, slat.stage) == ("structure", "slat")
    assert [trial.method for trial in structure.trials] == ["cm", "cm", "vm", "vm"]
    assert [trial.method for trial in slat.trials] == ["vm", "vm"]
    assert [record.stage for record in both(32)] == ["slat"]


def test_evaluations_of_systems_make_one_table(make):
    at = {"stage": "evaluation", "split": "toys", "reference_sha": "r", "config_sha": "p", "weights_sha": "w"} | CONTROL

    def system(name, value, **changes):
        rows = [make.row(name, "ULIP_I", value, unit="x100", higher_is_better=True, **at | changes)]
        truth = make.row("truth", "ULIP_I", 60.0, unit="x100", higher_is_better=True, **at | changes)
        return run(name, [*rows, truth])

    both = merged([system("FlashVDM", 37.0), system("Mine", 39.0)])
    assert [(line.method, line.cells[1].text) for line in tables(both)[0].rows] == [
        ("FlashVDM", "37.00"),
        ("Mine", "39.00"),
        ("truth", "60.00"),
    ]
    for changes, what in (({"config_sha": "q"}, "protocol"), ({"weights_sha": "v"}, "extractor")):
        with pytest.raises(UsageError, match=f"FlashVDM and Mine cannot be in one table: other {what}"):
            merged([system("FlashVDM", 37.0), system("Mine", 39.0, **changes)])


def test_folders_are_read_and_merged(make, tmp_path):
    for name, method in (("a", "cm"), ("b", "mdt")):
        write_rows(tmp_path / name / "rows.jsonl", [make.row(method, run_id=name)])
        write_students(tmp_path / name, [student(method)])
        scored = {"metric": "FD", "higher_is_better": False, "steps": 1, "assets": 8, "seed": 0}
        write_sweeps(tmp_path / name, [SweepRecord(**scored, trials=(Trial(method=method, lr=1e-3, score=1.0),))])
        (tmp_path / name / "students" / f"{method}-x").mkdir(parents=True)
    folders = [tmp_path / "a", tmp_path / "b"]
    assert read_runs(folders).rows["method"].tolist() == ["cm", "mdt"]
    assert read_runs(folders[:1]).rows.equals(read_run(folders[0]).rows)
    with pytest.raises(UsageError, match="named twice"):
        read_runs([folders[0], folders[1], tmp_path / "b" / ".." / "a"])
    with merged_folder(folders) as folder:
        assert folder.name == "a + b"
        assert read_run(folder).rows["method"].tolist() == ["cm", "mdt"]
        assert [one.method for one in read_run(folder).students] == ["cm", "mdt"]
        assert [[trial.method for trial in one.trials] for one in read_run(folder).sweeps] == [["cm", "mdt"]]
        assert sorted(path.name for path in folder.glob("students/*")) == ["cm-x", "mdt-x"]
        assert json.loads((folder / "manifest.json").read_text())["notes"][0].startswith("Rows of 2 runs")
    assert not folder.exists()
    assert (tmp_path / "a" / "students" / "cm-x").is_dir()
