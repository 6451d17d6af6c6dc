"""Parquet files hold exactly the rows, with types; without pyarrow the message says how to get it."""

from __future__ import annotations

import sys

import pytest

from mdtbench.base.errors import MissingError, UsageError
from mdtbench.results.asset_values import AssetValue
from mdtbench.results.parquet import read_rows_parquet, write_assets_parquet, write_rows_parquet
from mdtbench.results.rows import Row

parquet = pytest.importorskip("pyarrow.parquet")

TYPES = {
    "schema_version": "int64",
    "run_id": "string",
    "train_seed": "int64",
    "own_sampler": "bool",
    "extra_sampler": "bool",
    "cfg_strength": "double",
    "value": "double",
    "n_ok": "int64",
    "higher_is_better": "bool",
    "git_dirty": "bool",
    "created_utc": "string",
}


def test_rows_round_trip_exactly(tmp_path, make):
    rows = [
        *make.whole_run(),
        make.row(value=0.1 + 0.2, stderr=1e-300, sampler="euler", own_sampler=False, git_dirty=True, note="ü\n\u2028"),
        make.row(value=None, status="lost", error="out of memory", sampler="euler", extra_sampler=True),
        make.row(value=None, error="lost", train_seed=None, seed=2**40, steps=None, cfg_strength=None),
    ]
    path = tmp_path / "new" / "rows.parquet"
    write_rows_parquet(path, rows)
    assert read_rows_parquet(path) == rows


def test_columns_are_the_fields_with_their_types(tmp_path, make):
    path = tmp_path / "rows.parquet"
    for rows in ([make.row(train_seed=None, cfg_strength=None)], []):  # a column of nulls keeps its type, so does none
        write_rows_parquet(path, rows)
        schema = parquet.read_schema(path)
        assert schema.names == list(Row.model_fields)
        assert {name: str(schema.field(name).type) for name in TYPES} == TYPES
        assert schema.field("value").nullable
        assert not schema.field("run_id").nullable


def test_values_of_assets_have_a_line_per_metric(tmp_path):
    at = {"run_id": "r", "method": "cm", "train_seed": 0, "steps": 1, "seed": 2}
    values = [
        AssetValue(**at, asset="a", ok=True, values={"IoU": 0.5, "latency_s": 0.25}),
        AssetValue(**at, asset="b", ok=False, error="no mesh", values={}),
    ]
    path = tmp_path / "assets.parquet"
    write_assets_parquet(path, values)
    lines = parquet.read_table(path).to_pylist()
    assert [(line["asset"], line["ok"], line["metric"], line["value"]) for line in lines] == [
        ("a", True, "IoU", 0.5),
        ("a", True, "latency_s", 0.25),
        ("b", False, None, None),
    ]
    assert lines[2]["error"] == "no mesh"
    assert all(line["seed"] == 2 and line["schema_version"] == 2 for line in lines)
    assert "values" not in lines[0]


def test_what_is_no_file_of_rows_is_refused(tmp_path):
    path = tmp_path / "rows.parquet"
    with pytest.raises(MissingError, match="Missing file"):
        read_rows_parquet(path)
    path.write_bytes(b"no")
    with pytest.raises(MissingError, match="does not hold rows"):
        read_rows_parquet(path)


def test_without_pyarrow_the_message_says_how_to_get_it(tmp_path, make, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UsageError, match=r"pip install 'mdtbench\[parquet\]'"):
        write_rows_parquet(tmp_path / "rows.parquet", [make.row()])
    assert list(tmp_path.iterdir()) == []
