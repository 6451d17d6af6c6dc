"""The published schema is the model's, and docs/rows.md says every field."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from mdtbench.results.rows import COST_METRICS, Row, read_rows, write_rows
from mdtbench.results.schema import DIALECT, MEANINGS, SCHEMA_FILE, row_schema, schema_text

DOCS = Path(__file__).parents[2] / "docs" / "rows.md"


def fields_table() -> str:
    """The table of docs/rows.md: every field with type, unit and meaning."""
    lines = ["| field | type | unit | meaning |", "| :--- | :--- | :--- | :--- |"]
    for name, field in Row.model_json_schema()["properties"].items():
        meaning = MEANINGS[name]
        lines.append(f"| `{name}` | {type_of(field)} | {meaning.unit or '-'} | {meaning.text} |")
    return "\n".join(lines) + "\n"


def type_of(field: dict[str, Any]) -> str:
    if "const" in field:
        return str(field["const"])
    if "enum" in field:
        return ", ".join(field["enum"])
    kinds = [option["type"] for option in field.get("anyOf", [field])]
    return " or ".join(kinds)


def test_the_committed_schema_is_the_models():
    assert SCHEMA_FILE.read_text(encoding="utf-8") == schema_text()
    assert json.loads(schema_text()) == row_schema()


def test_every_field_has_a_meaning_and_stands_in_the_documentation():
    assert list(MEANINGS) == list(Row.model_fields)
    assert all(field["description"] for field in row_schema()["properties"].values())
    assert fields_table() in DOCS.read_text(encoding="utf-8")


def test_the_schema_closes_the_row_and_ties_value_to_status():
    schema = row_schema()
    assert schema["$schema"] == DIALECT
    assert schema["additionalProperties"] is False
    without_default = {name for name, field in Row.model_fields.items() if field.is_required()}
    assert set(schema["required"]) == {"schema_version", *without_default}
    ok, failed = schema["allOf"][0]["then"], schema["allOf"][0]["else"]
    assert ok["properties"] == {"value": {"type": "number"}, "error": {"type": "null"}}
    assert failed["properties"]["value"] == {"type": "null"}
    assert schema["allOf"][1]["then"]["properties"]["metric"]["enum"] == list(COST_METRICS)


def test_rows_are_checked_on_write_too(tmp_path, make):
    path = tmp_path / "rows.jsonl"
    write_rows(path, [make.row()])
    # model_copy checks nothing; NaN would have become null in a row that says ok.
    for change in ({"value": float("nan")}, {"n_ok": 65}, {"status": "failed"}):
        with pytest.raises(ValidationError):
            write_rows(path, [make.row().model_copy(update=change)])
    assert read_rows(path) == [make.row()]
