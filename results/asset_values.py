"""The values of single assets: what a metric says of each asset of a cell, where a row holds the average.

A run keeps them in `assets.jsonl` beside its rows, one line per asset of each cell and of each control that has
scores of single assets. A distance between distributions has none. What a metric says nothing about is absent, never
NaN. Runs of versions before this file have none.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from ..base.errors import MissingError, UsageError
from ..base.files import replacing
from ..base.parsing import parse_json
from .rows import STRUCTURE, Count, Name
from .sums import check_file

ASSET_VALUES_FILE: Final = "assets.jsonl"
SCHEMA_VERSION: Final = 3
READABLE: Final = (1, 2, 3)


class AssetValue(BaseModel):
    """One asset of one cell or control. The fields up to `seed` mean what they mean in `rows.Row`.

    `asset` is its id. `error` says why a cell's asset is not `ok`; of controls no reason is recorded. `values` are by
    name of the metric, in its unit; seconds (`rows.COST_METRICS`) are among them where they are known. An asset that
    is not `ok` has the values that entered the averages, such as 0 of an agreement. `note` says what is not shown of
    its files as they say. Version 1 has no `extra_sampler`, versions 1 and 2 have no `note`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    schema_version: Literal[3] = SCHEMA_VERSION
    run_id: Name
    stage: Name = STRUCTURE
    method: Name
    variant: str = ""
    train_seed: int | None = None
    sampler: Name | None = None
    own_sampler: bool = True
    extra_sampler: bool = False
    steps: Count | None = None
    seed: int | None = None
    asset: Name
    ok: bool
    error: str = ""
    note: str = ""
    values: dict[str, float]

    @model_validator(mode="after")
    def _is_consistent(self) -> AssetValue:
        if self.ok and self.error:
            raise ValueError("an asset that is ok has no error")
        return self


@dataclass(frozen=True)
class Extremes:
    """The ends of an order: worst and best value first."""

    worst: tuple[AssetValue, ...]
    best: tuple[AssetValue, ...]


def write_asset_values(folder: Path, values: Iterable[AssetValue]) -> None:
    """Write the file of a run; it is complete or unchanged.

    Raises:
        RunError: the file cannot be written.
    """
    with replacing(folder / ASSET_VALUES_FILE) as part, part.open("w", encoding="utf-8") as stream:
        stream.writelines(value.model_dump_json() + "\n" for value in values)


def read_asset_values(folder: Path) -> list[AssetValue]:
    """The values of a run, in the order written; none where the file is absent, as in runs of earlier versions.

    Raises:
        MissingError: a line is not an asset's values; names the file and the line.
        UsageError: a line has another schema version.
    """
    path = folder / ASSET_VALUES_FILE
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise MissingError(f"{path} is not a file of assets' values ({error}). Restore it or run again.") from error
    check_file(path)
    return [_parse(path, number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]


def worst_and_best(values: Iterable[AssetValue], metric: str, higher_is_better: bool, count: int) -> Extremes:
    """At most `count` values of a metric at either end, assets of equal value by id.

    None is at both ends: of fewer than 2 * count values either end has half, and the worst the odd one.
    """
    known = sorted((value for value in values if metric in value.values), key=attrgetter("asset"))
    ranked = sorted(known, key=lambda value: value.values[metric], reverse=not higher_is_better)  # worst first
    half = (len(ranked) + 1) // 2
    best = ranked[max(half, len(ranked) - count) :]
    return Extremes(tuple(ranked[: min(count, half)]), tuple(reversed(best)))


def _parse(path: Path, number: int, line: str) -> AssetValue:
    try:
        return AssetValue.model_validate_json(line)
    except ValidationError as error:
        return _parse_earlier(path, number, line, error)


def _parse_earlier(path: Path, number: int, line: str, error: ValidationError) -> AssetValue:
    """A line that the model refuses: one of an earlier version, else a mistake. Apart, as files are long."""
    try:
        values = parse_json(line)
    except ValueError:
        values = None
    values = values if isinstance(values, dict) else {}
    version = values.get("schema_version", SCHEMA_VERSION)
    if version not in READABLE:
        raise UsageError(
            f"{path} line {number} has an unknown schema_version (got {version!r}) - this version of mdtbench reads "
            f"{', '.join(map(str, READABLE))} - install the version that wrote the file."
        )
    if version == SCHEMA_VERSION:
        raise _bad_line(path, number, error) from error
    renewed: dict[str, object] = {"schema_version": SCHEMA_VERSION}
    if version == 1:
        renewed["extra_sampler"] = values.get("own_sampler") is False
    try:
        return AssetValue.model_validate(values | renewed)
    except ValidationError as mistake:
        raise _bad_line(path, number, mistake) from mistake


def _bad_line(path: Path, number: int, error: ValidationError) -> MissingError:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    reason = f"{where}: {first['msg']}" if where else first["msg"]
    return MissingError(f"{path} line {number} is not an asset's values ({reason}). Remove that line, then run again.")
