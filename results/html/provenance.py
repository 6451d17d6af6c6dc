"""Where the numbers come from, for the end of the index: manifest and rows as lists of names and values."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pandas import DataFrame

from ..frames import distinct
from .data import ReportData

Pairs = tuple[tuple[str, str], ...]
MERGED = "runs"  # key of the manifest of several runs: theirs, by name
SHAS = {"config_sha": "configuration", "weights_sha": "weights", "reference_sha": "reference"}


@dataclass(frozen=True)
class Provenance:
    """Of one run: titled lists of names and values, digests of the rows, and the manifest's own text.

    Attributes:
        name: Of the run's folder, empty where the report is of one run.
        groups: Title and pairs. digests: What of, and all its digests.
        methods: Label, version, parameters.
        config, manifest: Pretty JSON, empty where there is none.
    """

    name: str
    groups: tuple[tuple[str, Pairs], ...]
    digests: tuple[tuple[str, tuple[str, ...]], ...]
    methods: tuple[tuple[str, str, str], ...]
    config: str
    manifest: str


def provenances(data: ReportData) -> tuple[Provenance, ...]:
    """One per run of the report. Of a run without a manifest, as of earlier versions, from the rows alone."""
    manifest = data.manifest or {}
    if not manifest.get(MERGED):
        return (_provenance("", manifest, data.rows),)
    of_runs = [(name, one, _rows_of(one, data.rows)) for name, one in manifest[MERGED].items()]
    return tuple(_provenance(name, one, rows) for name, one, rows in of_runs)


def _rows_of(manifest: Mapping[str, Any], rows: DataFrame) -> DataFrame:
    """The rows of one of several runs; all, where its manifest does not tell them."""
    mine = rows[rows["run_id"] == manifest.get("run_id", "")]
    return rows if mine.empty else mine


def _provenance(name: str, manifest: Mapping[str, Any], rows: DataFrame) -> Provenance:
    versions = manifest.get("versions") or {"torch": ", ".join(distinct(rows["torch"]))}
    groups = (
        ("Run", _run(manifest, rows)),
        ("Code", _code(manifest, rows)),
        ("Data", _flat({key: manifest.get(key) for key in ("test", "protocol", "world_sha256")})),
        ("Machine", _flat(manifest.get("machine") or {}) + _flat({"peak memory (GB)": manifest.get("peak_memory_gb")})),
        ("Versions", _flat({"python": manifest.get("python")} | versions)),
    )
    return Provenance(
        name=name,
        groups=tuple(group for group in groups if group[1]),
        digests=tuple((name, tuple(found)) for key, name in SHAS.items() if (found := distinct(rows[key]))),
        methods=_methods(manifest),
        config=_json(manifest.get("config") or manifest.get("settings")),
        manifest=_json(manifest),
    )


def _run(manifest: Mapping[str, Any], rows: DataFrame) -> Pairs:
    started, finished = manifest.get("started_s"), manifest.get("finished_s")
    took = f"{finished - started:.0f} s" if started and finished else None
    seeds = ", ".join(map(str, manifest.get("train_seeds", ()))) or None
    return _flat(
        {
            "run": ", ".join(distinct(rows["run_id"])),
            "key": manifest.get("key"),
            "started": _date(started),
            "finished": _date(finished) or rows["created_utc"].max(),
            "took": took,
            "device": manifest.get("device") or ", ".join(distinct(rows["device"])),
            "training seeds": seeds,
        }
    )


def _code(manifest: Mapping[str, Any], rows: DataFrame) -> Pairs:
    commit = manifest.get("git_commit") or ", ".join(distinct(rows["git_commit"])) or None
    dirty = manifest.get("git_dirty", bool(rows["git_dirty"].any()))
    state = "with uncommitted changes" if dirty else "clean"
    return _flat({"git commit": commit, "checkout": state if commit else None})


def _methods(manifest: Mapping[str, Any]) -> tuple[tuple[str, str, str], ...]:
    listed = manifest.get("methods") or {}
    return tuple((label, str(m.get("version", "")), str(m.get("parameters", ""))) for label, m in listed.items())


def _flat(values: Mapping[str, Any], prefix: str = "") -> Pairs:
    """Names and values, those of inner objects as outer.inner; without what is not known."""
    pairs: list[tuple[str, str]] = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            pairs += _flat(value, f"{prefix}{key}.")
        elif value is not None and value != "":
            pairs.append((f"{prefix}{key}", value if isinstance(value, str) else json.dumps(value)))
    return tuple(pairs)


def _date(seconds: float | None) -> str | None:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC") if seconds else None


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) if value else ""
