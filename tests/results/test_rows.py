from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from mdtbench.base.errors import MissingError, UsageError
from mdtbench.results.frames import latest, rows_frame, to_rows
from mdtbench.results.rows import COST_METRICS, read_rows, write_rows


def test_rows_round_trip_exactly(tmp_path, make):
    path = tmp_path / "new" / "rows.jsonl"
    # U+2028 is a line break to str.splitlines, not to JSON lines
    rows = [make.row(value=0.1 + 0.2), make.row(value=None, error="bad\n\u2028 name ü")]
    write_rows(path, rows)
    assert read_rows(path) == rows
    assert path.read_text().startswith('{"schema_version":4,')


@pytest.mark.parametrize(
    "changes",
    [
        {"value": float("nan")},
        {"value": float("inf")},
        {"status": "failed"},
        {"status": "failed", "value": None, "error": ""},
        {"value": None},
        {"error": "but it is ok"},
        {"n_ok": 65},
        {"n_ok": -1},
        {"steps": -1},
        {"run_id": ""},
        {"unknown": 1},
        {"created_utc": "yesterday"},
        {"wall_s": 1.0},
        {"higher_is_better": None},
        {"schema_version": 3},
        {"status": "lost"},
        {"status": "gone", "value": None, "error": "x"},
        {"sampler": ""},
    ],
)
def test_a_row_that_cannot_be_is_refused(make, changes):
    with pytest.raises(ValidationError):
        make.row(**changes) if "value" not in changes else type(make.row()).model_validate(
            make.row().model_dump() | changes
        )


def test_a_row_does_not_change(make):
    with pytest.raises(ValidationError):
        make.row().value = 2.0


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "Expecting"),
        ("[]", "no schema_version"),
        ('{"schema_version": 1}', "run_id: Field required"),
        ('{"value": NaN, "schema_version": 1}', "value"),
    ],
)
def test_a_bad_line_is_named(tmp_path, make, line, reason):
    path = tmp_path / "rows.jsonl"
    write_rows(path, [make.row()])
    if "NaN" in line:
        line = json.dumps(make.row().model_dump() | {"value": float("nan")})
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(MissingError, match=rf"rows.jsonl line 2 is not a row \(.*{reason}"):
        read_rows(path)


def test_an_unknown_schema_is_a_usage_error(tmp_path, make):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(make.row().model_dump() | {"schema_version": 99}) + "\n")
    with pytest.raises(UsageError, match=r"line 1 has an unknown schema_version \(got 99"):
        read_rows(path)


def test_rows_of_version_1_are_those_of_the_methods_own_samplers(tmp_path, make):
    path = tmp_path / "rows.jsonl"
    old = make.row().model_dump(exclude={"sampler", "own_sampler", "extra_sampler"}) | {"schema_version": 1}
    path.write_text(json.dumps(old) + "\n")
    [row] = read_rows(path)
    assert row == make.row()
    assert (row.sampler, row.own_sampler, row.extra_sampler, row.schema_version) == (None, True, False, 4)


def test_rows_of_version_2_are_of_structures(tmp_path, make):
    path = tmp_path / "rows.jsonl"
    path.write_text(
        json.dumps(make.row().model_dump(exclude={"stage", "extra_sampler"}) | {"schema_version": 2}) + "\n"
    )
    assert read_rows(path) == [make.row(stage="structure")]


def test_rows_of_version_3_with_another_sampler_are_lines_beside_the_methods_own(tmp_path, make):
    path = tmp_path / "rows.jsonl"
    own, other = make.row(sampler="renoise"), make.row(sampler="euler", own_sampler=False)
    old = [row.model_dump(exclude={"extra_sampler"}) | {"schema_version": 3} for row in (own, other)]
    old.append({key: value for key, value in old[0].items() if key != "own_sampler"})  # as in baselines: the default
    path.write_text("".join(json.dumps(values) + "\n" for values in old))
    read = read_rows(path)
    assert read == [own, other.model_copy(update={"extra_sampler": True}), own]
    write_rows(path, [other])  # of this version: what the protocol asks for need not be the method's own
    assert read_rows(path) == [other]


def test_a_lost_row_has_a_reason_and_no_value(tmp_path, make):
    path = tmp_path / "rows.jsonl"
    lost = make.row(value=None, status="lost", error="the disk was full")
    write_rows(path, [lost])
    assert read_rows(path) == [lost]


def test_all_parts_of_the_time_may_have_their_seconds(make):
    assert COST_METRICS == ("structure_s", "slat_s", "decode_s", "latency_s")
    assert [make.row(metric=name, wall_s=1.0).wall_s for name in COST_METRICS] == [1.0] * 4


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(MissingError, match=r"none\.jsonl"):
        read_rows(tmp_path / "none.jsonl")


def test_the_latest_row_counts(make):
    rows = [make.row(value=None), make.row("pcm"), make.row(value=2.0)]
    assert to_rows(latest(rows_frame(rows))) == [make.row(value=2.0), make.row("pcm")]
    samplers = [make.row(sampler="renoise"), make.row(sampler="euler", own_sampler=False)]
    assert to_rows(latest(rows_frame(samplers))) == samplers
    same_name = [make.row(sampler="euler"), make.row(sampler="euler", extra_sampler=True)]  # with other guidance
    assert to_rows(latest(rows_frame(same_name))) == same_name
    stages = [make.row(stage=stage) for stage in ("structure", "both", "structure+teacher", "teacher+slat")]
    assert to_rows(latest(rows_frame(stages))) == stages
    with pytest.raises(UsageError, match="Two runs"):
        latest(rows_frame([make.row(), make.row(run_id="other")]))
