"""A run's files as data frames: rows, values of single assets, training curves.

The stored lines stay those of the models (`rows.Row`, `asset_values.AssetValue`), which check them when they are read
and written. A frame has a column per field, in the model's order: text is `string`, whole numbers `Int64`, truths
`boolean`, other numbers `float64`. What the model has as None is missing (`pandas.isna`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

import pandas as pd
from pandas import DataFrame, Series
from pydantic import BaseModel

from ..base.errors import MissingError, UsageError
from ..base.files import read_record, replacing
from ..base.parsing import parse_json
from .asset_values import AssetValue, read_asset_values
from .rows import STRUCTURE, Row, read_rows
from .students import StudentRecord, read_students
from .sums import check_file
from .sweep import SweepRecord, read_sweeps

# What tells measurements apart.
MEASUREMENT: Final = [
    *("stage", "split", "method", "variant", "sampler", "extra_sampler"),
    *("steps", "train_seed", "seed", "metric"),
]
STUDENT: Final = ["stage", "method", "variant", "train_seed", "folder"]  # columns of `curves` that say whose they are
_DTYPES: Final = {"string": "string", "integer": "Int64", "number": "float64", "boolean": "boolean"}
_FOLDER: Final = re.compile(r"(?:(?P<stage>structure|slat)-)?(?P<method>.+)-seed(?P<seed>\d+)-[0-9a-f]+")


def rows(run: Path) -> DataFrame:
    """One line per measured value, or failure to measure one; columns are the fields of `Row`.

    Args:
        run: The folder of a run, an evaluation or a baseline.
    Raises:
        MissingError: there is no file of rows, or a line of it is not a row; names the file and the line.
        UsageError: a row has another schema version.
    """
    return rows_frame(read_rows(run / "rows.jsonl"))


def assets(run: Path) -> DataFrame:
    """One line per asset, cell and metric; columns are the fields of `AssetValue`, `metric` and `value` for values.

    An asset without values has one line without a metric. Empty where the run has no such file.

    Raises:
        MissingError, UsageError: as `rows`.
    """
    return assets_frame(read_asset_values(run))


def curves(run: Path) -> DataFrame:
    """One line per logged training step of each student; columns are `STUDENT`, `step` and what was logged.

    What a method does not log is NaN in its lines. Empty where no student was trained.

    Raises:
        MissingError: a log, or a file that tells which students the tables show, is damaged.
    """
    return curves_frame(run, read_students(run), read_sweeps(run))


def latest(rows: DataFrame) -> DataFrame:
    """The last row of each measurement, so that a cell that was run again counts once, in first-seen order.

    Raises:
        UsageError: two runs hold the same measurement.
    """
    same = rows.groupby(MEASUREMENT, dropna=False, sort=False)
    first = same["run_id"].transform("first")
    for row, run in zip(records(rows[rows["run_id"] != first]), first[rows["run_id"] != first], strict=True):
        raise UsageError(
            f"Two runs hold the same measurement (got {row['method']} {row['metric']} seed {row['seed']} in "
            f"'{run}' and '{row['run_id']}') - a table shows one run - use `mdtbench compare`."
        )
    numbered = rows.set_axis(same.ngroup().to_numpy(), axis="index")
    return numbered[~numbered.index.duplicated(keep="last")].sort_index()


def to_rows(rows: DataFrame) -> list[Row]:
    """The lines of a frame as checked rows."""
    return [Row.model_validate(record) for record in records(rows[list(Row.model_fields)])]


def records(frame: DataFrame) -> list[dict[Any, Any]]:
    """The lines of a frame with None where there is no value."""
    return frame.astype(object).where(frame.notna(), None).to_dict("records")


def none_of(value: Any) -> Any:
    """None for what is missing in a frame, else the value."""
    return None if pd.isna(value) else value


def distinct(column: Series) -> list[Any]:
    """The values of a column, each once, in order, without what is missing."""
    return column.dropna().unique().tolist()


def rows_frame(found: Iterable[Row]) -> DataFrame:
    """Of rows in memory, as `rows`."""
    return _frame((row.model_dump() for row in found), _dtypes(Row))


def assets_frame(values: Iterable[AssetValue]) -> DataFrame:
    """Of values in memory, as `assets`."""
    dtypes = {name: dtype for name, dtype in _dtypes(AssetValue).items() if name != "values"}
    lines = (
        one.model_dump(exclude={"values"}) | {"metric": metric, "value": value}
        for one in values
        for metric, value in (one.values or {None: None}).items()
    )
    return _frame(lines, dtypes | {"metric": "string", "value": "float64"})


def curves_frame(run: Path, students: Sequence[StudentRecord], sweeps: Iterable[SweepRecord] = ()) -> DataFrame:
    """As `curves`: by stage, method in the students' order, and seed.

    Args:
        students: To tell which learning rate the tables show; without them all count.
        sweeps: To tell which of several settings with that rate was chosen.
    """
    beaten = {Path(trial.address).name for record in sweeps for trial in record.beaten()}
    shown = {(s.stage, s.method, s.variant, s.train_seed, s.lr) for s in students}
    order = list(dict.fromkeys((s.method, s.variant) for s in students))
    paths = [path for path in sorted(run.glob("students/*/log.jsonl")) if path.parent.name not in beaten]
    logs = [(who, path) for path in paths if (who := _student(path.parent, shown)) is not None]

    def place(log: tuple[tuple, Path]) -> tuple:
        stage, method, variant, seed, _ = log[0]
        known = order.index((method, variant)) if (method, variant) in order else len(order)
        return stage != STRUCTURE, stage, known, method, variant, seed

    found = sorted(logs, key=place)
    lines = [dict(zip(STUDENT, who, strict=True)) | line for who, path in found for line in _log(path, run)]
    dtypes = {name: "Int64" if name in ("train_seed", "step") else "string" for name in (*STUDENT, "step")}
    return DataFrame(lines, columns=None if lines else list(dtypes)).astype(dtypes)


def write_parquet(path: Path, frame: DataFrame) -> None:
    """Write a frame's columns with their types; the file is complete or unchanged. `pandas.read_parquet` reads it.

    Raises:
        UsageError: pyarrow is not installed.
        RunError: the file cannot be written.
    """
    with replacing(path) as part:
        try:
            frame.to_parquet(part, engine="pyarrow", index=False)
        except ImportError as error:
            raise UsageError(
                "Parquet files need pyarrow, which is not installed - `pip install 'mdtbench[parquet]'` brings it - "
                "or use --format csv or json."
            ) from error


def _frame(lines: Iterable[dict[str, Any]], dtypes: dict[str, str]) -> DataFrame:
    return DataFrame(list(lines), columns=list(dtypes), dtype=object).astype(dtypes)


@cache
def _dtypes(model: type[BaseModel]) -> dict[str, str]:
    """Of each field."""
    fields = model.model_json_schema()["properties"]
    kinds = {name: field.get("anyOf", [field])[0]["type"] for name, field in fields.items()}
    return {name: _DTYPES.get(kind, "object") for name, kind in kinds.items()}


def _student(folder: Path, shown: set[tuple]) -> tuple | None:
    """The columns `STUDENT`; None for a folder that is no student's, and for a student that no table shows."""
    named = _FOLDER.fullmatch(folder.name)
    if not named:
        return None
    account = folder / "training.json"
    known = read_record(account) if account.is_file() else {}
    method, _, variant = known.get("label", named["method"].replace("_", ":", 1)).partition(":")
    who = named["stage"] or STRUCTURE, method, variant, int(named["seed"])
    return None if shown and "lr" in known and (*who, known["lr"]) not in shown else (*who, folder.name)


def _log(path: Path, run: Path) -> list[dict[str, Any]]:
    check_file(path, run)
    try:
        entries = [parse_json(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except ValueError as error:
        raise MissingError(f"{path} is damaged ({error}). Delete its folder and run the same command again.") from error
    if not all(isinstance(entry, dict) and "step" in entry for entry in entries):
        raise MissingError(f"{path} has a line without a step. Delete its folder and run the same command again.")
    return entries
