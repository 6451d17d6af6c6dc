"""What the verbs `show` and `import` do, and what `list runs` prints. None imports torch: they must answer at once."""

from __future__ import annotations

import json
import textwrap
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import typer

from ...base.errors import MissingError, UsageError, printable, unknown_name
from ...base.files import digest_of, file_sha256, write_json
from ...base.text import aligned
from ...results import frames
from ...results.catalog import MANIFEST_FILE, ROWS_FILE, RunInfo, disk_use, is_run, read_info, runs_in
from ...results.frames import distinct, latest, records, to_rows
from ...results.importing import Import, imported_rows, read_csv
from ...results.merge import IMPORTED
from ...results.places import name_of
from ...results.rows import write_rows
from ...results.schema import schema_text
from ..protocol.show import show_protocol
from .origin import Origin, command_of, origin_of

RUNS: Final = Path("runs")
WIDTH: Final = 118
SHOWN: Final = 10  # failures on the page; all are in the run's files
DIGITS: Final = 12  # of a digest
NONE: Final = "-"
FORMATS: Final = ("text", "json")
WHAT: Final = ("protocol", "run", "schema")


def runs_table(root: Path = RUNS) -> str:
    """One line per run of a folder, the newest first.

    Raises:
        MissingError: there is no such folder, or no run in it.
    """
    runs = runs_in(root)
    if not runs:
        raise MissingError(f"There is no run in {root}. Make one with `mdtbench run`, or name another folder.")
    heading = ("name", "kind", "preset/protocol", "methods", "train seeds", "seeds", "n", "date", "commit", "state")
    lines = aligned([heading, *map(_line, runs)])
    return printable("\n".join([*lines, *(f"{run.name}: {run.damage}" for run in runs if run.damage)]) + "\n")


def shown(what: str, name: str, form: str) -> str:
    """What `mdtbench show` prints: a run's folder, or what `what` says with its name.

    Raises:
        UsageError: an unknown word, name or form.
        MissingError: there is no run of that name.
    """
    if form not in FORMATS:
        raise unknown_name("format", form, FORMATS)
    if what == "protocol":
        return show_protocol(name or "trellis-v1", form)
    if what == "schema":
        return schema_text()
    folder = _folder(name) if what == "run" else _found(what)
    if folder is None:
        known = [run.name for run in runs_in(RUNS)] if RUNS.is_dir() else []
        raise unknown_name("thing to show", what, [*WHAT, *known], "Or name the folder of a run.")
    if what != "run" and name:
        raise UsageError(f"`mdtbench show {what}` shows one run (got '{name}' as well). Leave it out.")
    return page(folder, form)


def page(folder: Path, form: str = "text") -> str:
    """All about one run that can be told without computing.

    Raises:
        MissingError: there is no run in the folder.
    """
    run = read_info(folder)
    origin = origin_of(run)
    if form == "json":
        return json.dumps(_facts(run, origin), indent=1) + "\n"
    sections = {title: lines for title, make in _SECTIONS.items() if (lines := list(make(run, origin)))}
    text = "\n".join(f"{title}\n" + "".join(f"  {line}\n" for line in lines) for title, lines in sections.items())
    return printable(text)


def imported(file: Path, name: str, like: Path | None, out: Path | None) -> None:
    """Write a run's folder of another tool's values, and say where; arguments as the verb's options."""
    if not name.strip() or not name.isprintable() or set(name) & set("/\\"):
        raise UsageError(f"--name takes a name for the table (got '{name}') - no slashes - for example LGM.")
    their_rows = to_rows(latest(frames.rows(like))) if like else []
    now = datetime.now(UTC)
    rows = imported_rows(read_csv(file), Import(file.name, name, their_rows, now.isoformat(timespec="seconds")))
    out = out or RUNS / f"import-{name.replace(' ', '_')}-{rows[0].run_id[:8]}"
    if is_run(out) and read_info(out).kind != "imported":
        raise UsageError(f"{out} holds a run that was not imported - another folder is needed - give another --out.")
    write_rows(out / ROWS_FILE, rows)
    manifest = {
        "kind": IMPORTED,
        "run_id": rows[0].run_id,
        "key": digest_of([row.model_dump(mode="json", exclude={"created_utc"}) for row in rows]),
        "name": name,
        "source": {"file": file.name, "sha256": file_sha256(file)},
        "like": {"run": like.resolve().name, "run_ids": sorted({row.run_id for row in their_rows})} if like else None,
        "finished_s": now.timestamp(),
    }
    write_json(out / MANIFEST_FILE, manifest)
    typer.echo(f"Imported from {file}, not measured here: {out} (rows: {len(rows)})")


def _line(run: RunInfo) -> tuple[str, ...]:
    return (
        run.name,
        run.kind,
        _setting(run),
        _listed(run.methods),
        _listed(run.train_seeds),
        _listed(run.seeds),
        _listed(run.counts),
        run.made.strftime("%Y-%m-%d %H:%M") if run.made else NONE,
        run.commit or NONE,
        "unfinished, resumable" if run.state == "unfinished" else run.state,
    )


def _setting(run: RunInfo) -> str:
    """Preset or protocol; a * stands for changed keys."""
    if run.kind == "evaluation":
        return (run.manifest.get("protocol") or {}).get("name", NONE)
    if run.kind == "imported":
        return f"like {run.manifest['like']['run']}" if run.manifest.get("like") else NONE
    origin = origin_of(run)
    return origin.preset + ("*" if origin.changes else "") or NONE


def _listed(values: Sequence[object]) -> str:
    return ",".join(map(str, values)) or NONE


def _folder(name: str) -> Path:
    folder = _found(name) if name else None
    if folder is None:
        raise MissingError(f"There is no run '{name}'. Name its folder, or what `mdtbench list runs` calls it.")
    return folder


def _found(name: str) -> Path | None:
    """The folder of a run: a path, or a name under runs/."""
    return next((folder for folder in (Path(name), RUNS / name) if is_run(folder)), None)


def _about(run: RunInfo, origin: Origin) -> Iterator[str]:
    yield f"{run.kind}, {'unfinished: it can be resumed' if run.state == 'unfinished' else run.state}"
    if run.damage:
        yield run.damage
    yield f"{'protocol' if run.kind == 'evaluation' else 'preset'}: {_setting(run)}"
    manifest = run.manifest
    for name in ("name", "run_id", "key", "device"):
        if name in manifest:
            yield f"{name.replace('_', ' ')}: {manifest[name]}"
    if "world" in run.config:
        yield f"world: {run.config['world']}"
    for name in ("test", "reference", "source"):
        if name in manifest:
            yield f"{name}: {_brief(manifest[name])}"
    yield from _times(manifest)
    yield f"training seeds {_listed(run.train_seeds)}; generation seeds {_listed(run.seeds)}; n {_listed(run.counts)}"


def _brief(values: dict[str, Any]) -> str:
    """One line of a small table; digests are cut."""
    named = {key: value for key, value in values.items() if not isinstance(value, list) and value is not None}
    return ", ".join(f"{key} {str(value)[:DIGITS] if key == 'sha256' else value}" for key, value in named.items())


def _times(manifest: Any) -> Iterator[str]:
    started, finished = manifest.get("started_s"), manifest.get("finished_s")
    if started is not None:
        yield f"started {_clock(started)}"
    if finished is not None:
        # A run that was resumed is timed from its last start.
        took = f", {finished - started:.0f} s after its last start" if started is not None else ""
        yield f"finished {_clock(finished)}{took}"


def _clock(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _changes(run: RunInfo, origin: Origin) -> Iterator[str]:
    if origin.unread:
        yield f"not known: {origin.unread}"
    elif origin.preset:
        yield from [change.text for change in origin.changes] or ["none"]


def _methods(run: RunInfo, origin: Origin) -> Iterator[str]:
    for label, about in (run.manifest.get("methods") or {}).items():
        text = f"{label} v{about.get('version', '?')}: {about.get('parameters', '')}"
        yield from textwrap.wrap(text, WIDTH, subsequent_indent="  ", break_on_hyphens=False)
    if run.kind == "evaluation":
        yield from (f"{name}: {version}" for name, version in (run.manifest.get("extractors") or {}).items())


def _students(run: RunInfo, origin: Origin) -> Iterator[str]:
    if not run.students:
        return
    lines = [
        (
            name_of(one.method, one.variant),
            one.stage,
            str(one.train_seed),
            str(one.steps),
            str(one.batch),
            f"{one.lr:g}",
            NONE if one.seconds is None else f"{one.seconds:.1f}",
            one.error or "",
        )
        for one in run.students
    ]
    yield from aligned([("student", "stage", "seed", "steps", "batch", "lr", "seconds", ""), *lines])


def _cells(run: RunInfo, origin: Origin) -> Iterator[str]:
    if run.rows.empty:
        yield "no rows yet"
        return
    lines = []
    for stage, rows in run.rows.groupby("stage", sort=False):
        cells = rows[["method", "variant", "train_seed", "sampler", "steps", "seed"]].drop_duplicates()
        counts = str(len(cells)), f"{rows['value'].count()}/{len(rows)}"
        lines.append((str(stage), *counts, ", ".join(distinct(rows["metric"]))))
    yield from aligned([("stage", "cells", "values", "metrics"), *lines])


def _failures(run: RunInfo, origin: Origin) -> Iterator[str]:
    found = [
        (f"{name_of(row['method'], row['variant'])} {row['metric']} ({row['stage']})", row["error"])
        for row in records(run.failed)
    ]
    failed = [one for one in run.students if one.error]
    found += [(f"student {name_of(one.method, one.variant)} seed {one.train_seed}", one.error) for one in failed]
    found += [(f"asset {what}", reason) for what, reason in run.assets_failed]
    counted = Counter(reason for _, reason in found)
    for what, reason in found[:SHOWN]:
        yield f"{what}: {reason}"
    if len(found) > SHOWN:
        yield f"... {len(found)} in all; reasons: " + "; ".join(
            f"{reason} ({n})" for reason, n in counted.most_common(5)
        )
    if not found:
        yield "none"


def _provenance(run: RunInfo, origin: Origin) -> Iterator[str]:
    dirty = ", with changes that were not committed" if run.commit.endswith("+") else ""
    yield f"commit {run.commit.rstrip('+') or 'not known'}{dirty}"
    manifest = run.manifest
    versions = ", ".join(f"{name} {number}" for name, number in (manifest.get("versions") or {}).items())
    if versions:
        yield f"python {manifest.get('python')}, {versions}"
    if manifest.get("machine"):
        yield _brief(manifest["machine"])
    if "peak_memory_gb" in manifest:
        yield f"peak memory {manifest['peak_memory_gb']:g} GB"
    for name in ("weights_sha", "reference_sha"):
        digests = distinct(run.rows[name].str[:DIGITS])
        if digests:
            yield f"{'networks' if name == 'weights_sha' else 'reference'} {', '.join(digests)}"


def _files(run: RunInfo, origin: Origin) -> Iterator[str]:
    used = disk_use(run.folder)
    lines = [(f"{name}/" if (run.folder / name).is_dir() else name, _bytes(size)) for name, size in used.items()]
    yield from aligned([*lines, ("all", _bytes(sum(used.values())))])


def _bytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"


def _next(run: RunInfo, origin: Origin) -> Iterator[str]:
    command = command_of(run)
    if command:
        yield f"{'resume' if run.state == 'unfinished' else 'made by'}: {command}"
    elif run.kind in ("run", "oracle"):
        yield "no command is recorded, as in runs of earlier versions"
    if len(run.rows):
        yield f"tables: mdtbench report {run.folder}"


_SECTIONS: Final[dict[str, Callable[[RunInfo, Origin], Iterator[str]]]] = {
    "Run": _about,
    "Differences from the preset": _changes,
    "Methods": _methods,
    "Students": _students,
    "Cells": _cells,
    "Failures": _failures,
    "Provenance": _provenance,
    "Files": _files,
    "Next": _next,
}


def _facts(run: RunInfo, origin: Origin) -> dict[str, Any]:
    """The page for programs."""
    return {
        "folder": str(run.folder),
        "kind": run.kind,
        "state": run.state,
        "damage": run.damage,
        "setting": _setting(run),
        "changes": {change.key: {"preset": change.preset, "run": change.run} for change in origin.changes},
        "methods": run.methods,
        "train_seeds": run.train_seeds,
        "seeds": run.seeds,
        "n": run.counts,
        "made_utc": run.made.isoformat(timespec="seconds") if run.made else None,
        "commit": run.commit,
        "rows": len(run.rows),
        "failed": len(run.failed),
        "students": [student.model_dump(mode="json") for student in run.students],
        "disk_bytes": disk_use(run.folder),
        "command": command_of(run) or None,
        "manifest": dict(run.manifest),
    }
