"""The row: one measured value, or one failure to measure it, with all that tells where it came from.

A run's rows hold, for each (stage, method, variant, train_seed, sampler, steps, seed), one row per metric. They are
stored as JSON lines. A value that could not be measured is a row with `status` "failed" or "lost", never a missing row
and never NaN.

Files of earlier versions are read too. Version 1 knows no samplers, all of its rows are of the methods' own; versions 1
and 2 know no whole assets; up to version 3 the lines beside a method's own sampler are those with another one.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from ..base.errors import MissingError, UsageError
from ..base.files import write_text
from ..base.parsing import parse_json
from .sums import check_file, check_one_run

SCHEMA_VERSION: Final = 4
READABLE: Final = (1, 2, 3, 4)

# Stages, the values of `Row.stage`. The set is open: runs on problems with exact answers have stages of their own.
STRUCTURE: Final = "structure"  # structures alone
BOTH: Final = "both"  # whole assets, both stages with the row's method at `steps` each
STRUCTURE_THEN_TEACHER: Final = "structure+teacher"  # whole assets: the method's structure, then the teacher's own SLAT
TEACHER_THEN_SLAT: Final = "teacher+slat"  # whole assets: the teacher's own structure, then the method's SLAT
EVALUATION: Final = "evaluation"  # systems' assets, measured by `mdtbench evaluate`
WHOLE_ASSETS: Final = (BOTH, STRUCTURE_THEN_TEACHER, TEACHER_THEN_SLAT)

# Seconds per asset. Of whole assets the latency is the sum of the three parts.
LATENCY_METRIC: Final = "latency_s"
STRUCTURE_SECONDS: Final = "structure_s"
SLAT_SECONDS: Final = "slat_s"
DECODE_SECONDS: Final = "decode_s"
COST_METRICS: Final = (STRUCTURE_SECONDS, SLAT_SECONDS, DECODE_SECONDS, LATENCY_METRIC)
# Their `metric_version`. 2: the median of repeats, alone on the machine. 1: the median over assets, as they were made.
SECONDS_VERSION: Final = 2

Name = Annotated[str, Field(min_length=1)]
Count = Annotated[int, Field(ge=0, le=2**53)]
Amount = Annotated[float, Field(ge=0)]


class Row(BaseModel):
    """One value.

    `steps`, `nfe`, `cfg_strength`, `train_seed` and `seed` are None where they have no meaning (the floor has
    no sampler, the teacher no training seed). `nfe` counts network forward passes per asset, both passes of
    guidance and, of whole assets, both stages included; `steps` are those of each stage that the method samples.
    `n_ok` of `n_total` assets entered the value. `stderr` is in the value's unit: a standard error over assets, in the
    rows of `COST_METRICS` the sd over repeats. `wall_s` (seconds per asset) may be set only in those rows. `note` is
    what a reader of the table must know of the method's use.
    `sampler` names the sampler that was used, None where there is none or where it was not recorded; `own_sampler` says
    whether it does what the one that the method is made for does. `extra_sampler` is true of lines beside the
    protocol's own, which stand under the method's plain name. `status` is "lost" where a fault of the machine was in
    the way, which another call may mend; "failed" where the method was.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    schema_version: Literal[4] = SCHEMA_VERSION
    run_id: Name
    status: Literal["ok", "failed", "lost"]
    error: str | None = None
    method: Name
    method_version: int
    variant: str = ""
    train_seed: int | None = None
    sampler: Name | None = None
    own_sampler: bool = True
    extra_sampler: bool = False
    steps: Count | None = None
    nfe: Count | None = None
    cfg_strength: float | None = None
    seed: int | None = None
    stage: Name = STRUCTURE
    split: Name
    metric: Name
    metric_version: int
    unit: str = ""
    value: float | None = None
    stderr: Amount | None = None
    n_ok: Count
    n_total: Count
    higher_is_better: bool
    note: str = ""
    config_sha: str
    weights_sha: str | None = None
    reference_sha: str | None = None
    git_commit: str | None = None
    git_dirty: bool | None = None
    torch: str
    device: str
    wall_s: Amount | None = None
    peak_mem_gb: Amount | None = None
    created_utc: str

    @field_validator("created_utc")
    @classmethod
    def _is_a_time(cls, text: str) -> str:
        datetime.fromisoformat(text)
        return text

    @model_validator(mode="after")
    def _is_consistent(self) -> Row:
        if self.status == "ok" and (self.value is None or self.error is not None):
            raise ValueError("a row with status 'ok' needs a value and no error")
        if self.status != "ok" and (self.value is not None or not self.error):
            raise ValueError(f"a row with status '{self.status}' needs an error and no value")
        if self.n_ok > self.n_total:
            raise ValueError(f"n_ok ({self.n_ok}) is greater than n_total ({self.n_total})")
        if self.wall_s is not None and self.metric not in COST_METRICS:
            raise ValueError(f"wall_s belongs to the metrics {', '.join(COST_METRICS)} (got '{self.metric}')")
        return self


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Write a whole file of rows; it is complete or unchanged.

    Raises:
        RunError: the file cannot be written.
    """
    # Checked again: `model_copy(update=...)` checks nothing, and NaN would be written as null.
    checked = (Row.model_validate(row.model_dump()) for row in rows)
    write_text(path, "".join(row.model_dump_json() + "\n" for row in checked))


def read_rows(path: Path) -> list[Row]:
    """All rows of a file, validated, in the order written.

    Raises:
        MissingError: the file is absent, or a line of it is not a row (names the file and the line); or it is not what
            its run wrote, or lies beside the manifest of another run.
        UsageError: a row has another schema version.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise MissingError(f"Missing file {path}. Make it with `mdtbench run`.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise MissingError(f"{path} is not a file of rows ({error}). Restore it or run again.") from error
    check_file(path)
    rows = [_parse(path, number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    check_one_run(path, {row.run_id for row in rows})
    return rows


def _parse(path: Path, number: int, line: str) -> Row:
    try:
        values = parse_json(line)
    except ValueError as error:
        raise _bad_line(path, number, str(error)) from error
    if not isinstance(values, dict) or "schema_version" not in values:
        raise _bad_line(path, number, "no schema_version")
    if values["schema_version"] not in READABLE:
        raise UsageError(
            f"{path} line {number} has an unknown schema_version (got {values['schema_version']!r}) - this "
            f"version of mdtbench reads {', '.join(map(str, READABLE))} - install the version that wrote the file."
        )
    try:
        if values["schema_version"] < SCHEMA_VERSION:
            values["extra_sampler"] = values.get("own_sampler") is False
        return Row.model_validate(values | {"schema_version": SCHEMA_VERSION})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise _bad_line(path, number, f"{where}: {first['msg']}" if where else first["msg"]) from error


def _bad_line(path: Path, number: int, reason: str) -> MissingError:
    return MissingError(f"{path} line {number} is not a row ({reason}). Remove that line, then run again.")
