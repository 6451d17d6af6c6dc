"""What lies in a folder of runs: each run with its kind, state and size, read from the files that it left."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Literal

from pandas import DataFrame

from ..base.errors import MdtbenchError, MissingError
from . import frames
from .evaluation_tables import is_evaluation
from .frames import distinct, latest, records
from .manifest import read_manifest
from .merge import IMPORTED
from .oracle_tables import is_oracle
from .places import ALL_METHODS, CONTROLS, name_of
from .rows import COST_METRICS
from .students import StudentRecord, read_students
from .sums import check_file

ROWS_FILE: Final = "rows.jsonl"
MANIFEST_FILE: Final = "manifest.json"
COMMIT_LENGTH: Final = 7

Kind = Literal["run", "oracle", "evaluation", "imported"]
State = Literal["complete", "unfinished", "rows only", "damaged"]


@dataclass(frozen=True)
class RunInfo:
    """One run.

    Attributes:
        manifest: empty where there is none, as in baselines.
        rows: the latest of each measurement.
        damage: why a file cannot be read, else empty.
    """

    folder: Path
    manifest: Mapping[str, Any]
    rows: DataFrame = field(default_factory=lambda: frames.rows_frame([]))
    students: Sequence[StudentRecord] = ()
    damage: str = ""

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    @property
    def kind(self) -> Kind:
        """Told by the manifest, without one by the rows."""
        if self.manifest.get("kind") == IMPORTED or (self.rows["git_commit"] == IMPORTED).any():
            return "imported"
        if "reference" in self.manifest or is_evaluation(self.rows):
            return "evaluation"
        return "oracle" if "oracle" in self.config or is_oracle(self.rows) else "run"

    @property
    def state(self) -> State:
        """unfinished: the command that made it goes on from where it stopped, or tries again what it lost."""
        if self.damage:
            return "damaged"
        if not self.manifest:
            return "rows only"
        lost = (self.rows["status"] == "lost").any()
        return "complete" if len(self.rows) and "finished_s" in self.manifest and not lost else "unfinished"

    @property
    def config(self) -> Mapping[str, Any]:
        return self.manifest.get("config") or {}

    @property
    def methods(self) -> list[str]:
        """Labels of what was, or is to be, measured, controls left out; manifests do not keep the order."""
        whos = self.rows[["method", "variant"]].drop_duplicates()
        measured = [name_of(*who) for who in whos.itertuples(index=False)]
        planned = self.manifest.get("methods", {})
        known = {*measured, *planned}
        asked = (self.config.get("oracle") or {}).get("methods", ALL_METHODS)
        ordered = dict.fromkeys([*measured, *(label for label in asked if label in known), *planned])
        return [label for label in ordered if label.partition(":")[0] not in CONTROLS]

    @property
    def train_seeds(self) -> list[int]:
        return sorted({*distinct(self.rows["train_seed"])} | set(self.manifest.get("train_seeds") or ()))

    @property
    def seeds(self) -> list[int]:
        """Of generation."""
        planned = self.manifest.get("seeds") or (self.config.get("evaluate") or {}).get("seeds", ())
        return sorted(distinct(self.rows["seed"]) or set(planned))

    @property
    def counts(self) -> list[int]:
        """Numbers of assets that were measured, the largest first; stages may have different ones."""
        return sorted(distinct(self.rows.loc[~self.rows["metric"].isin(COST_METRICS), "n_total"]), reverse=True)

    @cached_property
    def made(self) -> datetime | None:
        """When it was finished, or else begun."""
        for key in ("finished_s", "started_s"):
            if key in self.manifest:
                return datetime.fromtimestamp(self.manifest[key], UTC)
        times = map(datetime.fromisoformat, distinct(self.rows["created_utc"]))
        return max((time if time.tzinfo else time.replace(tzinfo=UTC) for time in times), default=None)

    @property
    def commit(self) -> str:
        """Of the code, short, with a + when there were changes beside it; empty where it is not known."""
        about = {**self.manifest, **next(iter(records(self.rows[:1])), {})}
        commit, dirty = about.get("git_commit"), about.get("git_dirty")
        if not commit or commit == IMPORTED:
            return commit or ""
        return f"{commit[:COMMIT_LENGTH]}{'+' if dirty else ''}"

    @property
    def failed(self) -> DataFrame:
        """Measurements without a value."""
        return self.rows[self.rows["value"].isna()]

    @property
    def assets_failed(self) -> list[tuple[str, str]]:
        """(what, reason) of each line of the run's lists of failures. Raises MissingError when one is damaged."""
        files = (self.folder / "failures.csv", self.folder / "export" / "failures.csv")
        return [failure for file in files if file.is_file() for failure in _failures(file)]


def is_run(folder: Path) -> bool:
    """Whether a folder has what a run leaves."""
    return any((folder / name).is_file() for name in (MANIFEST_FILE, ROWS_FILE))


def read_info(folder: Path) -> RunInfo:
    """A run, as far as its files can be read.

    Raises:
        MissingError: there is no run in the folder.
    """
    if not is_run(folder):
        raise MissingError(f"There is no run at {folder}. Name a folder with a {MANIFEST_FILE} or {ROWS_FILE}.")
    manifest: Mapping[str, Any] = {}
    rows = frames.rows_frame([])
    try:
        if (folder / MANIFEST_FILE).is_file():
            manifest = read_manifest(folder / MANIFEST_FILE)
        if (folder / ROWS_FILE).is_file():
            rows = latest(frames.rows(folder))
        return RunInfo(folder, manifest, rows, read_students(folder))
    except MdtbenchError as error:
        return RunInfo(folder, manifest, rows, damage=str(error))


def runs_in(root: Path) -> list[RunInfo]:
    """The runs right below a folder, the newest first, those without a date last.

    Raises:
        MissingError: there is no such folder.
    """
    if not root.is_dir():
        raise MissingError(f"There is no folder {root}. Make a run with `mdtbench run`, or name another folder.")
    runs = [read_info(folder) for folder in sorted(root.iterdir()) if folder.is_dir() and is_run(folder)]
    oldest = datetime.min.replace(tzinfo=UTC)
    return sorted(runs, key=lambda run: run.made or oldest, reverse=True)


def disk_use(folder: Path) -> dict[str, int]:
    """Bytes of each file and folder right in `folder`, the largest first; links are not followed."""
    found = {entry.name: _size(Path(entry)) for entry in os.scandir(folder) if not entry.is_symlink()}
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def _size(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    files = [Path(folder) / name for folder, _, names in os.walk(path) for name in names]
    return sum(file.lstat().st_size for file in files)


def _failures(path: Path) -> list[tuple[str, str]]:
    """The last column is the reason; what comes before says of what."""
    check_file(path)
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            _, *lines = [line for line in csv.reader(stream) if line] or [[]]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise MissingError(f"{path} is not a list of failures ({error}). Run the same command again.") from error
    return [(" ".join(line[:-1]), line[-1]) for line in lines]
