"""Several runs as one: their rows in one table where they measured the same thing in the same way.

Lines of one run stay as they are. Seeds of one method that are in several runs are pooled, when all else about the
method is the same. What two runs both measured is shown once, when they agree.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from pandas import DataFrame, Series

from ..base.errors import UsageError
from ..base.groups import grouped
from .frames import MEASUREMENT, distinct, latest, none_of, records
from .manifest import read_manifest
from .places import CONTROLS, LINE, NO_STEPS, keyed, name_of
from .report import RunResults, read_run
from .rows import COST_METRICS, EVALUATION, Row
from .students import StudentRecord
from .sweep import SweepRecord, Trial

IMPORTED: Final = "imported"  # in place of a commit in rows of other tools
ROUNDING: Final = 1e-3  # of a control's value: what another machine's rounding may change, as `compare` allows
COMMIT_LENGTH: Final = 7
ADVICE: Final = "report them one by one, or use `mdtbench compare`"

# What rows of one stage and metric must have in common, as errors name it. Of evaluations the networks are the
# extractor and the configuration is the protocol.
_SHARED: Final = {
    "split": "split",
    "n_total": "number of assets",
    "metric_version": "version",
    "unit": "unit",
    "higher_is_better": "better direction",
    "reference_sha": "reference",
    "weights_sha": "networks",
}
_SHARED_BY_EVALUATIONS: Final = _SHARED | {"weights_sha": "extractor", "config_sha": "protocol"}
_OF_A_METHOD: Final = {
    "method_version": "version",
    "cfg_strength": "guidance strength",
    "nfe": "network passes",
    "sampler": "sampler",
}
_TRAINING: Final = ("world", "train", "slat", "data.train", "data.seed", "oracle.width")  # keys of a configuration

Key = tuple[Any, ...]


@dataclass(frozen=True)
class Run:
    """One of the runs. name: as errors name it. manifest: empty where a run has none."""

    name: str
    results: RunResults
    manifest: Mapping[str, Any]

    @property
    def stages(self) -> set[str]:
        """What was measured."""
        return {*self.results.rows["stage"]}


def read_runs(folders: Sequence[Path]) -> RunResults:
    """The results of one run, or of several as one.

    Raises:
        MissingError: as `read_run`.
        UsageError: the runs cannot be in one table; names the first difference and the two runs.
    """
    if len(folders) == 1:
        return read_run(folders[0])
    for folder in folders:
        if [other.resolve() for other in folders].count(folder.resolve()) > 1:
            raise UsageError(f"{folder} is named twice - each run is shown once - name another run.")
    return merged([Run(str(folder), read_run(folder), _manifest(folder)) for folder in folders])


def merged(runs: Sequence[Run]) -> RunResults:
    """Rows, students and sweeps of all runs, in their order; what several runs hold is that of the first.

    What a machine lost in one run is taken from another that has it.

    Raises:
        UsageError: as `read_runs`.
    """
    for first, other in pairwise(runs):
        if first.stages.isdisjoint(other.stages):
            raise _different(first.name, other.name, "stages", [_spelled(run.stages) for run in (first, other)])
    for check in (_shared, _made):
        _check_equal((run.name, check(run)) for run in runs)
    found = pd.concat([latest(run.results.rows).assign(run=run.name) for run in runs], ignore_index=True)
    number = found.groupby(MEASUREMENT, dropna=False, sort=False).ngroup()
    lost = (found["status"] == "lost").astype(bool)
    at = Series(found.index).where(~lost, -found.index)  # the first that is not lost, else the last that is
    ranked = found.assign(number=number, lost=lost, at=at).sort_values(["number", "lost", "at"])
    kept = ranked.drop_duplicates("number").set_index("number")
    _check_agree(found, kept.loc[number].reset_index())
    sources = f"Rows of {len(runs)} runs: {', '.join(run.name for run in runs)}. What several hold is shown once."
    notes = (sources, *_differences(runs, found))
    rows = kept[list(Row.model_fields)].reset_index(drop=True)
    assets = pd.concat([run.results.assets for run in runs], ignore_index=True)
    return RunResults(rows, _students(runs), _sweeps(runs), notes, assets)


def _manifest(folder: Path) -> Mapping[str, Any]:
    path = folder / "manifest.json"
    return read_manifest(path) if path.is_file() else {}


def _shared(run: Run) -> dict[str, Any]:
    """What must be the same where both runs have it: per stage and metric, the split, reference, ..."""
    found = {}
    for (stage, metric), rows in run.results.rows.groupby(["stage", "metric"], sort=False):
        names = _SHARED_BY_EVALUATIONS if stage == EVALUATION else _SHARED
        found |= {f"{title} of {metric} (stage {stage})": _spelled(rows[name]) for name, title in names.items()}
    return found


def _made(run: Run) -> dict[str, Any]:
    """What must be the same of a method whose seeds are pooled."""
    made: dict[str, Any] = {}
    for key, rows in keyed(run.results.rows).groupby(LINE, sort=False):
        label = name_of(str(key[0]), str(key[1]))
        _, _, order, other_sampler, stage = key
        steps, beside = None if order == NO_STEPS else order, f", {other_sampler}" if other_sampler else ""
        line = f"{label} at {steps} steps{beside}, stage {stage}"
        for name, title in _OF_A_METHOD.items():
            found = rows["sampler"].dropna() if name == "sampler" else rows[name]  # rows of version 1 do not say it
            made |= {f"{title} of {line}": _spelled(found)} if len(found) else {}
    for student in run.results.students:
        given = student.model_dump(include={"budget", "steps", "batch", "forwards", "lr"})
        whose = f"{name_of(student.method, student.variant)} ({student.stage})"
        made |= {f"{name} of {whose}": str(value) for name, value in given.items()}
    labels = {name_of(*who) for who in zip(run.results.rows["method"], run.results.rows["variant"], strict=True)}
    known = {label: about for label, about in run.manifest.get("methods", {}).items() if label in labels}
    made |= {f"parameters of {label}": str(about.get("parameters")) for label, about in known.items()}
    trained = {name_of(student.method, student.variant) for student in run.results.students}
    settings = _settings(run.manifest)
    return made | {f"{name} of {label}": value for label in sorted(trained) for name, value in settings.items()}


def _settings(manifest: Mapping[str, Any]) -> dict[str, str]:
    """How students were trained, by dotted key."""
    return {
        key: str(value)
        for key, value in flat(manifest.get("config") or {}).items()
        if any(key == name or key.startswith(f"{name}.") for name in _TRAINING)
    }


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as one, with dotted keys."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        leaves |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return leaves


def _check_equal(found: Iterable[tuple[str, Mapping[str, Any]]]) -> None:
    """Raises UsageError where two runs have another value under the same name."""
    seen: dict[str, tuple[Any, str]] = {}
    for run, values in found:
        for name, value in values.items():
            before, first = seen.setdefault(name, (value, run))
            if before != value:
                raise _different(first, run, name, [before, value])


def _different(first: str, other: str, what: str, got: Sequence[Any]) -> UsageError:
    values = " and ".join(str(value) or "none" for value in got)
    return UsageError(
        f"{first} and {other} cannot be in one table: other {what} (got {values}) - what is shown or pooled together "
        f"must be the same - {ADVICE}."
    )


def _check_agree(rows: DataFrame, shown: DataFrame) -> None:
    """Raises UsageError when a measurement has another value than the one `shown`, of each row.

    Seconds are never the same: the first run's are shown.
    """
    control = rows["method"].isin(CONTROLS)
    a, b = shown["value"], rows["value"]
    agree = (a - b).abs() <= (ROUNDING * control) * np.maximum(a.abs(), b.abs())
    agree |= (a.isna() & b.isna()) | rows["metric"].isin(COST_METRICS) | (rows["status"] == "lost")
    for row, again in zip(records(shown[~agree]), records(rows[~agree]), strict=True):
        values = " and ".join(one["status"] if one["value"] is None else f"{one['value']:.6g}" for one in (row, again))
        seeds = f"seeds {row['train_seed']} (training) and {row['seed']} (generation)"
        label = name_of(row["method"], row["variant"])
        where = f"{row['metric']} of {label} ({row['stage']}, steps {row['steps']}, {seeds})"
        measured = "what measures or the teacher has changed"
        way_out = measured if row["method"] in CONTROLS else "run one of them with other --seeds or name"
        raise UsageError(
            f"{row['run']} and {again['run']} have other values of {where}: {values} - a table shows one value of a "
            f"measurement - {way_out}; {ADVICE}."
        )


def _students(runs: Iterable[Run]) -> list[StudentRecord]:
    students: dict[Key, StudentRecord] = {}
    for student in chain.from_iterable(run.results.students for run in runs):
        students.setdefault((student.method, student.variant, student.stage, student.train_seed), student)
    return list(students.values())


def _sweeps(runs: Iterable[Run]) -> tuple[SweepRecord, ...]:
    """One of each stage where all sweeps scored in the same way; one table cannot show sweeps that did not."""
    stages = grouped(chain.from_iterable(run.results.sweeps for run in runs), lambda record: record.stage)
    return tuple(
        _joined(records)
        for records in stages.values()
        if all(_scored(record) == _scored(records[0]) for record in records)
    )


def _joined(records: Sequence[SweepRecord]) -> SweepRecord:
    """The trials of all records."""
    trials: dict[Key, Trial] = {}
    for trial in chain.from_iterable(record.trials for record in records):
        trials.setdefault((trial.method, trial.variant, trial.lr, trial.cfg_strength), trial)
    return records[0].model_copy(update={"trials": tuple(trials.values())})


def _scored(record: SweepRecord) -> dict[str, Any]:
    return record.model_dump(exclude={"trials"})


def _differences(runs: Sequence[Run], rows: DataFrame) -> list[str]:
    """What may differ between runs of one table, and the reader must know."""
    notes = []
    machines = distinct(rows.loc[rows["metric"].isin(COST_METRICS), "device"])
    if len(machines) > 1:
        notes.append(f"Seconds are of different machines: {'; '.join(machines)}.")
    commits = distinct(rows.loc[rows["git_commit"] != IMPORTED, "git_commit"].str[:COMMIT_LENGTH])
    if len(commits) > 1:
        notes.append(f"Made by different versions of the code: {', '.join(commits)}.")
    trained = [_settings(run.manifest) for run in runs if run.results.students]
    names = dict.fromkeys(chain.from_iterable(trained))
    changed = [name for name in names if len({settings.get(name) for settings in trained}) > 1]
    if changed:
        notes.append(f"Trained under different settings ({', '.join(changed)}), so not under equal conditions.")
    return notes


def _spelled(values: Iterable[Any]) -> str:
    return ", ".join(sorted({str(none_of(value)) for value in values}))
