"""All that the pages of a report show, read from a run's folder."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pandas import DataFrame

from ...base.errors import MissingError
from ..asset_values import AssetValue, read_asset_values
from ..manifest import read_manifest
from ..report import read_run, tables_marked
from ..students import StudentRecord
from ..sums import check_file
from ..sweep import SweepRecord
from ..tables import Table
from ..verdicts import Verdict, verdicts


@dataclass(frozen=True)
class Failure:
    """An asset that could not be used or made. `what` says by whom, or of which part, where a run says so."""

    asset: str
    reason: str
    what: str = ""

    @property
    def of_truth(self) -> bool:
        """Whether it is the test asset itself, and so of no method."""
        return self.what.partition(",")[0] in ("", "test", "reference")


@dataclass(frozen=True)
class ReportData:
    """What a run left. All but rows and tables are empty where the run has no such file, as those of earlier versions.

    Attributes:
        folder: Of the run.
        manifest: `manifest.json`: configuration, versions, machine.
        failures: Test assets that could not be prepared.
        verdicts: Of students, or of systems.
        asset_values: A value per asset, method and metric, of metrics that have one.
    """

    folder: Path
    rows: DataFrame
    tables: Sequence[Table]
    verdicts: Sequence[Verdict] = ()
    students: Sequence[StudentRecord] = ()
    sweeps: tuple[SweepRecord, ...] = ()
    manifest: Mapping[str, Any] | None = None
    failures: Sequence[Failure] = ()
    asset_values: Sequence[AssetValue] = ()


def read_data(folder: Path) -> ReportData:
    """Raises MissingError when there are no rows or a file is damaged, UsageError when rows do not fit in one table."""
    run = read_run(folder)
    found = tuple(verdicts(run.rows, run.assets))
    return ReportData(
        folder=folder,
        rows=run.rows,
        tables=tables_marked(run, found),
        verdicts=found,
        students=run.students,
        sweeps=run.sweeps,
        manifest=_read_manifest(folder),
        failures=_read_failures(folder / "failures.csv"),
        asset_values=read_asset_values(folder),
    )


def _read_manifest(folder: Path) -> Mapping[str, Any] | None:
    path = folder / "manifest.json"
    return read_manifest(path) if path.is_file() else None


def _read_failures(path: Path) -> tuple[Failure, ...]:
    if not path.is_file():
        return ()
    check_file(path)
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            return tuple(_failure(row) for row in csv.DictReader(stream))
    except (OSError, KeyError, UnicodeDecodeError, csv.Error) as error:
        raise MissingError(f"{path} is not a list of failures ({error}). Run the same command again.") from error


def _failure(row: Mapping[str, str]) -> Failure:
    parts = [row[name] for name in ("where", "side", "what") if row.get(name)]
    return Failure(row["id"] or "", row["reason"] or "", ", ".join(parts))
