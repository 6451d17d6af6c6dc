"""A run's files as data frames: dtypes, what is missing, and tables as frames."""

from __future__ import annotations

import json
import math
import sys

import pandas as pd
import pytest

from mdtbench.base.errors import MissingError, UsageError
from mdtbench.base.files import write_text
from mdtbench.results import frames
from mdtbench.results.asset_values import AssetValue, write_asset_values
from mdtbench.results.report import read_run, tables
from mdtbench.results.rows import Row, write_rows


@pytest.fixture
def folder(tmp_path, make):
    write_rows(tmp_path / "rows.jsonl", make.whole_run())
    return tmp_path


def test_rows_have_a_column_per_field_and_typed_gaps(folder, make):
    write_rows(folder / "rows.jsonl", [make.row(value=None), make.row("floor", train_seed=None, sampler="euler")])
    rows = frames.rows(folder)
    assert list(rows) == list(Row.model_fields)
    kinds = {"method": "string", "train_seed": "Int64", "own_sampler": "boolean", "value": "float64", "n_ok": "Int64"}
    assert {name: str(rows[name].dtype) for name in kinds} == kinds
    assert rows["train_seed"].tolist() == [0, pd.NA]
    assert rows["sampler"].tolist() == [pd.NA, "euler"]
    assert math.isnan(rows["value"][0])
    assert rows["value"][1] == 1.0


def test_rows_round_trip_exactly(tmp_path, make):
    pytest.importorskip("pyarrow")
    rows = [
        *make.whole_run(),
        make.row(value=0.1 + 0.2, stderr=1e-300, sampler="euler", own_sampler=False, git_dirty=True, note="ü\n\u2028"),
        make.row(value=None, status="lost", error="out of memory", sampler="euler", extra_sampler=True),
        make.row(value=None, error="lost", train_seed=None, seed=2**40, steps=None, cfg_strength=None),
    ]
    frame, path = frames.rows_frame(rows), tmp_path / "new" / "rows.parquet"
    assert frames.to_rows(frame) == rows
    frames.write_parquet(path, frame)
    pd.testing.assert_frame_equal(pd.read_parquet(path), frame)


def test_without_pyarrow_the_message_says_how_to_get_it(tmp_path, make, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UsageError, match=r"pip install 'mdtbench\[parquet\]'"):
        frames.write_parquet(tmp_path / "rows.parquet", frames.rows_frame([make.row()]))
    assert list(tmp_path.iterdir()) == []


def test_no_rows_have_the_same_columns(make):
    empty, one = frames.rows_frame([]), frames.rows_frame([make.row(train_seed=None, cfg_strength=None)])
    assert empty.dtypes.to_dict() == one.dtypes.to_dict()


def test_values_of_assets_have_a_line_per_metric(tmp_path):
    at = {"run_id": "r", "method": "cm", "train_seed": 0, "steps": 1, "seed": 2}
    values = [
        AssetValue(**at, asset="a", ok=True, values={"IoU": 0.5, "latency_s": 0.25}),
        AssetValue(**at, asset="b", ok=False, error="no mesh", values={}),
    ]
    assert frames.assets(tmp_path).empty
    write_asset_values(tmp_path, values)
    lines = frames.assets(tmp_path)
    assert lines["asset"].tolist() == ["a", "a", "b"]
    assert lines["metric"].tolist() == ["IoU", "latency_s", pd.NA]
    assert lines["value"].tolist()[:2] == [0.5, 0.25]
    assert math.isnan(lines["value"][2])
    assert lines["error"].tolist() == ["", "", "no mesh"]
    assert (lines["seed"] == 2).all()
    assert "values" not in lines


def test_curves_say_whose_they_are_and_lack_what_was_not_logged(tmp_path):
    logs = {"slat-mdt_paper-seed1-ef": {"rms": 2.0}, "cm-seed0-ab": {"skipped": 0}, "notes": {}}
    for name, more in logs.items():
        lines = [json.dumps({"step": step, "loss": 0.5 / (step + 1), **more}) + "\n" for step in (0, 10)]
        write_text(tmp_path / "students" / name / "log.jsonl", "".join(lines))
    curves = frames.curves(tmp_path)
    assert list(curves) == [*frames.STUDENT, "step", "loss", "skipped", "rms"]
    whose = curves[["stage", "method", "variant", "train_seed"]].drop_duplicates().to_numpy().tolist()
    assert whose == [["structure", "cm", "", 0], ["slat", "mdt", "paper", 1]]
    assert curves["step"].tolist() == [0, 10, 0, 10]
    assert curves["loss"].tolist() == [0.5, 0.5 / 11, 0.5, 0.5 / 11]
    assert curves["rms"].isna().tolist() == [True, True, False, False]
    write_text(tmp_path / "students" / "cm-seed0-ab" / "log.jsonl", "{")
    with pytest.raises(MissingError, match="is damaged"):
        frames.curves(tmp_path)


def test_a_run_without_students_has_no_curves(tmp_path):
    assert list(frames.curves(tmp_path)) == [*frames.STUDENT, "step"]


def test_tables_are_frames_of_numbers_or_of_what_is_printed(folder):
    made = tables(read_run(folder))
    numbers, printed, spread = ({table.name: table.frame(of) for table in made} for of in ("value", "text", "sd"))
    assert list(numbers) == ["table_1", "table_2", "table_3", "stage_structure", "stages_apart"]
    line = "1 step per stage", "cm", "", None, 1
    assert numbers["table_2"].loc[line, "FD_gs"] == 500.5  # 100 * index of CM, seeds 0 and 1
    assert spread["table_2"].loc[line, "FD_gs"] == pytest.approx(0.5**0.5)
    assert printed["table_2"].loc[line, "FD_gs"] == "500.5 ± 0.7"
    assert numbers["table_2"].loc[line, "n"] == "64/64"
    assert numbers["table_2"]["FD_gs"].dtype == "float64"
    assert numbers["table_2"].loc[line, "nfe"] == 2
    floor = numbers["table_2"].xs("floor", level="method")
    assert floor["FD_gs"].tolist() == [0.25]
    assert floor["latency_s"].isna().all()
    assert set(numbers["stages_apart"]["slat"]) == {"own", "teacher's"}
