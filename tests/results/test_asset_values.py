"""Values of single assets: written, read, damaged, ordered."""

from __future__ import annotations

import json
import math

import pytest
from pydantic import ValidationError

from mdtbench.base.errors import MissingError, UsageError
from mdtbench.results.asset_values import ASSET_VALUES_FILE, read_asset_values, worst_and_best, write_asset_values

NAMES = ("chair", "<b>lamp</b>", 'Tür "3"', "line\nbreak\u2028", "0")


def test_what_is_written_is_read(make, tmp_path):
    values = [make.asset(name, {"ULIP": index / 3}, steps=index) for index, name in enumerate(NAMES)]
    values += [make.asset("x", {}, ok=False, error="no surface"), make.asset("y", {}, "truth", steps=None, seed=None)]
    write_asset_values(tmp_path / "run", values)
    assert read_asset_values(tmp_path / "run") == values
    assert [path.name for path in (tmp_path / "run").iterdir()] == [ASSET_VALUES_FILE]
    write_asset_values(tmp_path / "run", [])
    assert read_asset_values(tmp_path / "run") == []


def test_runs_of_earlier_versions_have_none(tmp_path):
    assert read_asset_values(tmp_path / "run") == []


@pytest.mark.parametrize(
    ("change", "error", "part"),
    [
        ({"schema_version": 4}, UsageError, "unknown schema_version (got 4) - this version of mdtbench reads 1, 2, 3"),
        ({"schema_version": 1, "asset": ""}, MissingError, "asset: String should have at least 1 character"),
        ({"values": {"ULIP": None}}, MissingError, "values.ULIP: Input should be a valid number"),
        ({"asset": ""}, MissingError, "asset: String should have at least 1 character"),
        ({"colour": "red"}, MissingError, "colour: Extra inputs are not permitted"),
        ({"error": "lost"}, MissingError, "an asset that is ok has no error"),
        ({"ok": None}, MissingError, "ok: Input should be a valid boolean"),
    ],
)
def test_a_damaged_line_is_named(make, tmp_path, change: dict, error: type[Exception], part: str):
    good = make.asset("a").model_dump_json()
    (tmp_path / ASSET_VALUES_FILE).write_text(f"{good}\n{json.dumps(json.loads(good) | change)}\n")
    with pytest.raises(error) as found:
        read_asset_values(tmp_path)
    assert f"{ASSET_VALUES_FILE} line 2" in str(found.value)
    assert part in str(found.value)
    assert "\n" not in str(found.value)


def test_values_of_version_1_with_another_sampler_are_of_lines_beside_the_methods_own(make, tmp_path):
    own, other = make.asset("a", {"IoU": 0.5}, sampler="renoise"), make.asset("a", sampler="euler", own_sampler=False)
    old = [value.model_dump(exclude={"extra_sampler"}) | {"schema_version": 1} for value in (own, other)]
    old.append({key: value for key, value in old[0].items() if key != "own_sampler"})
    (tmp_path / ASSET_VALUES_FILE).write_text("".join(json.dumps(values) + "\n" for values in old))
    assert read_asset_values(tmp_path) == [own, other.model_copy(update={"extra_sampler": True}), own]


@pytest.mark.parametrize("line", ["{", "[]", '"text"', "{}", '{"values":{"a":NaN}}'])
def test_a_line_that_is_something_else_is_named(tmp_path, line: str):
    (tmp_path / ASSET_VALUES_FILE).write_text(line + "\n")
    with pytest.raises(MissingError, match="line 1 is not an asset's values"):
        read_asset_values(tmp_path)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_no_value_is_not_finite(make, value: float):
    with pytest.raises(ValidationError):
        make.asset("a", {"ULIP": value})


def test_the_ends_of_an_order(make):
    scores = {"a": 3.0, "b": 1.0, "c": 2.0, "d": 1.0, "e": 5.0, "f": 4.0}
    values = [make.asset(name, {"ULIP": score}) for name, score in scores.items()] + [make.asset("g", {"MSE": 9.0})]

    def ends(*, higher_is_better: bool, count: int, of=values) -> tuple[str, str]:
        found = worst_and_best(of, "ULIP", higher_is_better, count)
        return "".join(v.asset for v in found.worst), "".join(v.asset for v in found.best)

    assert ends(higher_is_better=True, count=2) == ("bd", "ef")
    assert ends(higher_is_better=False, count=2) == ("ef", "db")
    assert ends(higher_is_better=True, count=9) == ("bdc", "efa")  # none at both ends
    assert ends(higher_is_better=True, count=9, of=values[:3]) == ("bc", "a")
    assert ends(higher_is_better=True, count=9, of=values[:1]) == ("a", "")
    assert ends(higher_is_better=True, count=0) == ("", "")
    assert ends(higher_is_better=True, count=1, of=values[6:]) == ("", "")


def test_values_of_version_2_have_no_notes_and_keep_the_rest(make, tmp_path):
    value = make.asset("a", {"IoU": 0.5}, sampler="euler", own_sampler=False, extra_sampler=True)
    old = value.model_dump(exclude={"note"}) | {"schema_version": 2}
    (tmp_path / ASSET_VALUES_FILE).write_text(json.dumps(old) + "\n")
    assert read_asset_values(tmp_path) == [value]
