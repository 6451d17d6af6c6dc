"""What is read from a folder of runs."""

from __future__ import annotations

import pytest

from mdtbench.base.errors import MissingError
from mdtbench.base.files import write_json, write_text
from mdtbench.results.catalog import disk_use, read_info, runs_in
from mdtbench.results.rows import write_rows


@pytest.fixture
def put(tmp_path):
    """Writes the files of a run."""

    def files(name, rows=(), **manifest):
        if rows:
            write_rows(tmp_path / name / "rows.jsonl", rows)
        if manifest:
            write_json(tmp_path / name / "manifest.json", manifest)
        return tmp_path / name

    return files


def test_kinds_are_told_by_manifest_or_rows(put, make):
    row = make.row()
    assert read_info(put("a", [row], config={"world": "tiny"})).kind == "run"
    assert read_info(put("b", [row], config={"oracle": {"seeds": [0]}})).kind == "oracle"
    assert read_info(put("c", [make.row(stage="oracle/modes")])).kind == "oracle"
    assert read_info(put("d", [row], reference={"name": "toys4k"})).kind == "evaluation"
    assert read_info(put("e", [make.row(stage="evaluation")])).kind == "evaluation"
    assert read_info(put("f", [row], kind="imported")).kind == "imported"
    assert read_info(put("g", [make.row(stage="evaluation", git_commit="imported")])).kind == "imported"


def test_states(put, make):
    assert read_info(put("done", [make.row()], finished_s=1.0)).state == "complete"
    assert read_info(put("begun", config={"world": "tiny"}, started_s=1.0)).state == "unfinished"
    assert read_info(put("again", [make.row()], started_s=1.0)).state == "unfinished"  # a second call is under way
    lost = make.row(value=None, status="lost", error="out of memory")
    assert read_info(put("lost", [lost], finished_s=1.0)).state == "unfinished"
    assert read_info(put("failed", [make.row(value=None)], finished_s=1.0)).state == "complete"
    assert read_info(put("baseline", [make.row()])).state == "rows only"
    write_text(put("bad", [make.row()]) / "rows.jsonl", "{\n")
    bad = read_info(put("bad"))
    assert (bad.state, "line 1" in bad.damage) == ("damaged", True)
    with pytest.raises(MissingError, match="There is no run at"):
        read_info(put("none"))


def test_facts_come_from_rows_or_from_what_was_planned(put, make):
    rows = [make.row("cm", seed=1), make.row("cm", variant="x", train_seed=3), make.row("floor", seed=None)]
    rows += [make.row("cm", seed=1, value=7.0), make.row("mdt", stage="both", n_total=16, n_ok=16, value=1.0)]
    rows.append(make.row("mdt", "latency_s", stage="both", n_total=1, n_ok=1, value=1.0))
    info = read_info(put("a", [row.model_copy(update={"git_commit": "a" * 40, "git_dirty": True}) for row in rows]))
    assert info.methods == ["cm", "cm:x", "mdt"]
    assert (info.train_seeds, info.seeds, info.counts) == ([0, 3], [0, 1], [64, 16])
    assert info.commit == "aaaaaaa+"
    assert len(info.rows) == 5  # the measurement that was made twice counts once
    assert info.made.isoformat() == "2026-11-21T12:00:00+00:00"
    planned = read_info(
        put("b", methods={"mdt": {}, "cm": {}, "teacher": {}}, train_seeds=[2], config={"evaluate": {"seeds": [5]}})
    )
    assert (planned.methods, planned.train_seeds, planned.seeds, planned.made) == (["cm", "mdt"], [2], [5], None)


def test_failures_of_assets_in_both_forms(put, make):
    folder = put("a", [make.row()])
    write_text(folder / "failures.csv", "id,reason\nchair,no faces\n")
    write_text(folder / "export" / "failures.csv", "made_by,id,reason\ncm-1x2,lamp,empty\n")
    assert read_info(folder).assets_failed == [("chair", "no faces"), ("cm-1x2 lamp", "empty")]
    write_text(folder / "failures.csv", "id,reason\n")
    assert read_info(folder).assets_failed == [("cm-1x2 lamp", "empty")]


def test_runs_are_listed_newest_first_and_other_folders_left_out(put, make, tmp_path):
    put("old", [make.row()], finished_s=1.0)
    put("new", [make.row()], finished_s=2e9)
    put("undated", config={"world": "tiny"})
    (tmp_path / "other").mkdir()
    write_text(tmp_path / "rows.jsonl", "")
    assert [run.name for run in runs_in(tmp_path)] == ["new", "old", "undated"]
    with pytest.raises(MissingError, match="no folder"):
        runs_in(tmp_path / "none")


def test_disk_use_counts_everything_below_but_no_links(put, tmp_path):
    folder = put("a", finished_s=1.0)
    write_text(folder / "deep" / "er" / "file", "x" * 1000)
    (folder / "link").symlink_to(tmp_path)
    used = disk_use(folder)
    assert list(used) == ["deep", "manifest.json"]
    assert used["deep"] == 1000
