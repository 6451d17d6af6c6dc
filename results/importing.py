"""Rows from a CSV of another tool's numbers, marked as such.

One line is one value. With a run to be comparable to, what that run says of a metric (version, unit, direction,
assets, reference, extractor) is taken over on the importer's word; without one the rows stand alone.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from ..base.errors import MissingError, UsageError, unknown_name
from ..base.files import digest_of
from .evaluation_tables import SEPARATOR
from .merge import IMPORTED
from .paper import QUANTITIES
from .places import CONTROLS
from .rows import BOTH, COST_METRICS, LATENCY_METRIC, SECONDS_VERSION, Row

REQUIRED: Final = ("metric", "value")
OPTIONAL: Final = (
    "method",
    "variant",
    "steps",
    "nfe",
    "seed",
    "stderr",
    "n",
    "latency_s",
    "unit",
    "higher_is_better",
    "note",
)
COLUMNS: Final = (*REQUIRED, *OPTIONAL)
STAGE: Final = "imported"  # of rows that stand alone
SHORT: Final = 12
DIGITS: Final = 15  # of a whole number
SHOWN: Final = 40  # letters of a wrong cell in a message
DIRECTIONS: Final = {
    **{quantity.name: quantity.higher_is_better for quantity in QUANTITIES},
    **dict.fromkeys(COST_METRICS, False),
}
_TRUTHS: Final = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


@dataclass(frozen=True)
class Value:
    """One line of the CSV; None where it says nothing. where: the file and line, for errors."""

    where: str
    metric: str
    value: float
    method: str | None = None
    variant: str = ""
    steps: int | None = None
    nfe: int | None = None
    seed: int | None = None
    stderr: float | None = None
    n: int | None = None
    latency_s: float | None = None
    unit: str | None = None
    higher_is_better: bool | None = None
    note: str = ""


@dataclass(frozen=True)
class Setting:
    """What a value was measured on, as fields of a row, and what a reader must know of that."""

    fields: Mapping[str, Any]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Import:
    """What is imported: the file's name, the system's name, the rows to be comparable to (none: to nothing)."""

    file: str
    name: str
    like: Sequence[Row] = ()
    created_utc: str = ""


def read_csv(path: Path) -> list[Value]:
    """The values of a CSV file with the columns `COLUMNS`, those of `REQUIRED` at least.

    Raises:
        MissingError: there is no such file, or it is not text.
        UsageError: an unknown, missing or repeated column, or a value that cannot be; names the line.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream, strict=True)
            _check_columns(path, reader.fieldnames or ())
            values = [_value(f"{path} line {reader.line_num}", line) for line in reader]
    except FileNotFoundError as error:
        raise MissingError(f"Missing file {path}. Give the path of a CSV file.") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise MissingError(f"{path} is not a CSV file ({error}). Give a file with the columns metric,value.") from error
    if not values:
        raise UsageError(f"{path} has no values - one line per value below the line of columns - add them.")
    return values


def imported_rows(values: Iterable[Value], about: Import) -> list[Row]:
    """The rows, one per value, and one per time that lines of a method share.

    Raises:
        UsageError: a measurement given twice, a control's name, or a metric that the run to compare with lacks or
            measured otherwise.
    """
    values = list(values)
    like_ids = sorted({row.run_id for row in about.like})
    run_id = digest_of([about.name, [vars(value) | {"where": ""} for value in values], like_ids])[:SHORT]
    stage = _main_stage(about.like)
    references = {row.metric: row for row in reversed(about.like) if row.stage == stage}
    rows: dict[tuple, Row] = {}
    for value in values:
        _check_method(value, about.name)
        for one in (value, *_times(value)):
            row = _row(one, about, run_id, stage, references)
            key = (row.method, row.variant, row.steps, row.seed, row.metric)
            if key in rows and (one is value or rows[key].value != row.value):
                raise _bad(value, f"{row.metric} of {row.method} is given twice", "one value per measurement")
            rows.setdefault(key, row)
    return list(rows.values())


def _check_columns(path: Path, names: Sequence[str]) -> None:
    for name in names:
        if name not in COLUMNS:
            raise unknown_name("column", name, COLUMNS, f"Of {path}.")
    missing = [name for name in REQUIRED if name not in names]
    if missing:
        raise UsageError(f"{path} has no column {' and no column '.join(missing)} - metric and value are needed.")
    if len(set(names)) < len(names):
        raise UsageError(f"{path} has a column twice (got {','.join(names)}) - each is allowed once - remove one.")


def _value(where: str, line: Mapping[str | None, Any]) -> Value:
    if None in line or None in line.values():
        raise UsageError(f"{where} has another number of cells than there are columns - correct the line.")
    cells = {str(name): text.strip() for name, text in line.items() if text.strip()}
    for name in REQUIRED:
        if name not in cells:
            raise UsageError(f"{where} has no {name} - each line is one measured value - fill it in or leave it out.")
    numbers = {name: _number(where, name, cells) for name in ("value", "stderr", "latency_s") if name in cells}
    counts = {name: _count(where, name, cells[name]) for name in ("steps", "nfe", "seed", "n") if name in cells}
    fields: dict[str, Any] = {**cells, **numbers, **counts}
    if "higher_is_better" in cells:
        fields["higher_is_better"] = _truth(where, cells["higher_is_better"])
    return Value(where, **fields)


def _number(where: str, name: str, cells: Mapping[str, str]) -> float:
    try:
        number = float(cells[name]) if "_" not in cells[name] else math.nan  # Python reads 1_000 as 1000
    except ValueError:
        number = math.nan
    signed = name == "value" and cells["metric"] not in COST_METRICS
    if not math.isfinite(number) or (number < 0 and not signed):
        kind = "a finite number" if signed else "a number from 0"
        raise UsageError(
            f"{where}: {name} cannot be that (got '{cells[name][:SHOWN]}') - {kind} is allowed - correct it."
        )
    return number


def _count(where: str, name: str, text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= DIGITS):
        raise UsageError(
            f"{where}: {name} is not a whole number (got '{text[:SHOWN]}') - from 0, with at most {DIGITS} digits, is "
            "allowed - correct it."
        )
    return int(text)


def _truth(where: str, text: str) -> bool:
    if text.lower() not in _TRUTHS:
        raise UsageError(f"{where}: higher_is_better (got '{text}') - true or false is allowed - correct it.")
    return _TRUTHS[text.lower()]


def _bad(value: Value, what: str, allowed: str) -> UsageError:
    return UsageError(f"{value.where}: {what} - {allowed} - correct the line.")


def _check_method(value: Value, name: str) -> None:
    method = value.method or name
    if method in CONTROLS:
        raise _bad(
            value,
            f"'{method}' is the name of a control",
            f"any but {', '.join(CONTROLS)} is allowed, here or as --name",
        )


def _main_stage(like: Sequence[Row]) -> str:
    """Whole assets where the run has them, else the first stage that it measured."""
    stages = dict.fromkeys(row.stage for row in like)
    return BOTH if BOTH in stages else next(iter(stages), STAGE)


def _times(value: Value) -> list[Value]:
    """The column latency_s as a value of its own."""
    if value.latency_s is None:
        return []
    return [
        replace(
            value,
            metric=LATENCY_METRIC,
            value=value.latency_s,
            unit="s",
            stderr=None,
            note="",
            higher_is_better=False,
        )
    ]


def _row(value: Value, about: Import, run_id: str, stage: str, references: Mapping[str, Row]) -> Row:
    reference = _reference(value, references, stage)
    setting = _alike(value, reference) if reference else _alone(value)
    source = f"imported from {about.file}, not measured here"
    return Row(
        run_id=run_id,
        status="ok",
        method=value.method or about.name,
        method_version=1,
        variant=value.variant,
        steps=value.steps,
        nfe=value.nfe,
        seed=value.seed,
        stage=stage,
        metric=value.metric,
        value=value.value,
        stderr=value.stderr,
        note=SEPARATOR.join(part for part in (source, *setting.notes, value.note) if part),
        git_commit=IMPORTED,
        torch=IMPORTED,
        device="imported, not measured here",
        wall_s=value.value if value.metric in COST_METRICS else None,
        created_utc=about.created_utc,
        **setting.fields,
    )


def _reference(value: Value, references: Mapping[str, Row], stage: str) -> Row | None:
    """A row that the value is to be comparable to; None without a run. Seconds need no counterpart."""
    if not references:
        return None
    if value.metric not in references:
        if value.metric != LATENCY_METRIC:
            raise unknown_name("metric", value.metric, references, f"{value.where}; the run has these in '{stage}'.")
        some = next(iter(references.values()))
        own = {"metric": LATENCY_METRIC, "metric_version": SECONDS_VERSION, "unit": "s", "higher_is_better": False}
        return some.model_copy(update=own | {"n_total": 1, "weights_sha": None})
    return references[value.metric]


def _alike(value: Value, reference: Row) -> Setting:
    """What a comparable row has in common with the run's."""
    for name in ("unit", "higher_is_better"):
        given, theirs = getattr(value, name), getattr(reference, name)
        if given is not None and given != theirs:
            raise _bad(value, f"{name} of {value.metric} is '{given}'", f"that of the run of --like is '{theirs}'")
    timed = value.metric in COST_METRICS  # the run may have timed fewer assets than it measured
    if value.n is not None and value.n > reference.n_total and not timed:
        raise _bad(value, f"n is {value.n}", f"the run of --like has {reference.n_total} assets")
    shared = ("split", "metric_version", "unit", "higher_is_better", "n_total", "config_sha")
    fields = {name: getattr(reference, name) for name in (*shared, "reference_sha", "weights_sha")}
    notes = ("taken to be comparable on the importer's word",)
    if value.n is None and not timed:
        notes += (f"n not given, taken to be all {reference.n_total}",)
    return Setting(fields | {"n_ok": min(reference.n_total if value.n is None else value.n, reference.n_total)}, notes)


def _alone(value: Value) -> Setting:
    higher = DIRECTIONS.get(value.metric) if value.higher_is_better is None else value.higher_is_better
    if higher is None:
        raise _bad(
            value,
            f"the direction of {value.metric} is not known",
            "a column higher_is_better (true or false), or --like RUN with that metric, says it",
        )
    fields = {
        "split": STAGE,
        "metric_version": 1,
        "unit": value.unit or "",
        "higher_is_better": higher,
        "n_ok": value.n or 0,
        "n_total": value.n or 0,
        "config_sha": IMPORTED,
    }
    return Setting(fields, () if value.n is not None else ("n not known",))
