"""From the assets of a cell to its rows in Tables 1, 2 and 3, through `mdtbench evaluate`.

All columns of an evaluation stay in the cell's own folder; the tables have those that the paper has. A control that
needs no generated assets is one measurement per run seed, whichever cell it comes from.
"""

from __future__ import annotations

import csv
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from ...base.errors import MissingError
from ...base.files import digest_of, read_json, replacing, write_json
from ...methods import METHODS
from ...results.evaluation_tables import CALIBRATION, NOT_CALIBRATED, RANDOM_MARK, SEPARATOR
from ...results.places import CONTROLS
from ...results.rows import (
    BOTH,
    DECODE_SECONDS,
    LATENCY_METRIC,
    SLAT_SECONDS,
    STRUCTURE_SECONDS,
    Row,
    read_rows,
    write_rows,
)
from ..evaluate.command import evaluate
from ..evaluate.measure import Measured
from ..evaluate.options import EvaluateOptions
from ..evaluate.plan import resolve
from ..evaluate.scores import SCORES_VERSION
from ..measurement import seconds_row
from ..progress import Reporter
from ..provenance import device_name, git_state
from .generate import Account
from .plan import REFERENCE, Cell, TablesPlan
from .ranges import MAIN
from .subjects import TestSet

ROWS, MARK, FAILURES = "table_rows.jsonl", "cell.json", "failures.csv"
UNITS = {"ULIP_I": "x100"}


@dataclass(frozen=True)
class Setup:
    """What all cells of a run are measured with. count: of worker processes; device: that generated."""

    plan: TablesPlan
    tests: TestSet
    run_id: str
    cache: Path
    device: str
    count: int
    report: Reporter


@dataclass(frozen=True)
class CellResult:
    """Rows for the tables; what a reader must know of all columns; (asset id, reason) of what failed."""

    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    failures: tuple[tuple[str, str], ...] = ()


def cell_name(cell: Cell) -> str:
    """Of a cell's folders: `vm_official-1x2-train0-run2`."""
    row = cell.line.row
    trained = "" if cell.train_seed is None else f"-train{cell.train_seed}"
    return f"{row.method.replace(':', '_')}-{row.steps}x2{trained}-run{cell.run_seed}"


def cell_key(setup: Setup, sources: Sequence[str]) -> str:
    """Digest of all that decides a cell's rows. sources: of its assets."""
    tests, section = setup.tests, setup.plan.config.protocol
    shown = [[subject.id, subject.sha256] for subject in tests.subjects]
    return digest_of([tests.protocol.sha256, section.model_dump(mode="json"), shown, list(sources), SCORES_VERSION])


def kept_result(folder: Path, key: str) -> CellResult | None:
    """The result of an earlier call, if it is of the same assets and settings."""
    try:
        mark = read_json(folder / MARK)
        if mark["key"] != key:
            return None
        return CellResult(tuple(read_rows(folder / ROWS)), tuple(mark["notes"]), tuple(map(tuple, mark["failures"])))
    except (MissingError, KeyError, TypeError):
        return None


def measure_cell(setup: Setup, cell: Cell, accounts: Sequence[Account], assets: Path, folder: Path) -> CellResult:
    """Measure the files in `assets`; the evaluation, and the cell's rows for the tables, are kept in `folder`.

    Raises:
        MissingError: fewer than 2 assets of the reference can be used, or weights are absent or damaged.
        RunError: a file cannot be written, or a worker was killed.
    """
    ok = [account for account in accounts if not account.error]
    reasons = [
        (subject.id, account.error)
        for subject, account in zip(setup.tests.subjects, accounts, strict=True)
        if account.error
    ]
    if not ok:
        return CellResult(failed_rows(setup, cell, f"no asset could be made: {reasons[0][1]}"), (), tuple(reasons))
    plan = resolve(_options(setup, cell, statistics.fmean(_total(account) for account in ok), assets, folder))
    threads = torch.get_num_threads()
    try:
        found, measured = evaluate(plan, folder, setup.cache, setup.count, setup.report)
    finally:
        torch.set_num_threads(threads)  # of which the rounding of what is generated next must not depend
    result = _result(setup, cell, found, measured, ok, reasons)
    write_rows(folder / ROWS, result.rows)
    return result


def keep(folder: Path, key: str, result: CellResult) -> None:
    """Say that a cell is measured; last of all."""
    write_json(folder / MARK, {"key": key, "notes": result.notes, "failures": result.failures})


def failed_rows(setup: Setup, cell: Cell, reason: str) -> tuple[Row, ...]:
    """The rows of a cell that could not be measured."""
    mark = RANDOM_MARK if setup.plan.config.protocol.extractors == "random" else ""
    common = _fields(setup, cell) | {"status": "failed", "error": reason, "n_ok": 0}
    return tuple(
        Row(
            **common,
            metric=metric + mark,
            metric_version=SCORES_VERSION,
            unit=UNITS.get(metric, ""),
            higher_is_better=metric.startswith("ULIP"),
            n_total=len(setup.tests.subjects),
        )
        for metric in MAIN
    )


def failures_csv(path: Path, failures: Iterable[tuple[str, str, str]]) -> None:
    """Write (cell, asset id, reason)."""
    with replacing(path) as part, part.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream, lineterminator="\n").writerows([("cell", "id", "reason"), *failures])


def _options(setup: Setup, cell: Cell, latency: float, assets: Path, folder: Path) -> EvaluateOptions:
    config, row = setup.plan.config, cell.line.row
    return EvaluateOptions(
        folder=assets,
        name=cell_name(cell),
        reference=setup.tests.option,
        conditions=Path(config.places.conditions).expanduser() if config.places.conditions else None,
        protocol=config.protocol.name,
        changes=(f"extractors={config.protocol.extractors}", f"run_seed={cell.run_seed}"),
        latency=latency,
        seed=cell.run_seed,
        calibrates=cell.line.name == REFERENCE,
        geometry_only=False,
        steps=row.steps,
        nfe=sum(setup.plan.passes(cell.line).values()),
        limit=setup.plan.n,
        weights=Path(config.places.weights).expanduser(),
        out=folder,
        cache=setup.cache,
        workers=setup.count,
        blender=config.places.blender,
    )


def _result(
    setup: Setup,
    cell: Cell,
    found: Sequence[Row],
    measured: Measured,
    ok: Sequence[Account],
    reasons: Sequence[tuple[str, str]],
) -> CellResult:
    chosen = [row for row in found if row.metric.removesuffix(RANDOM_MARK) in MAIN]
    reference = digest_of([[[pair.id, pair.truth.content] for pair in measured.pairs], setup.tests.protocol.sha256])
    common = _fields(setup, cell)
    control = common | {"variant": "", "train_seed": None, "sampler": None, "steps": None, "nfe": None}
    control |= {"cfg_strength": None, "method_version": 1}
    rows = [
        row.model_copy(
            update=(control | {"method": row.method} if row.method in CONTROLS_MADE else common)
            | {"reference_sha": reference, "note": ""}
        )
        for row in chosen
    ]
    rows += _seconds(common, ok, len(setup.tests.subjects))
    known = {name for name, _ in reasons}
    other = [(f.id, f"{f.side} {f.what}: {f.reason}") for f in (*measured.dropped, *measured.failures)]
    failures = (*reasons, *((name, reason) for name, reason in other if name not in known))
    return CellResult(tuple(rows), _notes(chosen), failures)


CONTROLS_MADE = tuple(name for name in CONTROLS if name not in ("teacher", "none"))


def _notes(rows: Sequence[Row]) -> tuple[str, ...]:
    """Parts of the notes, each once. A run has one calibration, and not one per cell."""
    parts = [part for row in rows if row.method not in CONTROLS_MADE for part in row.note.split(SEPARATOR) if part]
    return tuple(dict.fromkeys(part for part in parts if not part.startswith((CALIBRATION, NOT_CALIBRATED))))


def _seconds(common: Mapping[str, Any], ok: Sequence[Account], n_total: int) -> list[Row]:
    """Seconds per asset: medians over assets, as the first ones of a GPU are slow; their sum."""
    parts = {
        STRUCTURE_SECONDS: statistics.median(account.structure_s for account in ok),
        SLAT_SECONDS: statistics.median(account.slat_s for account in ok),
        DECODE_SECONDS: statistics.median(account.decode_s for account in ok),
    }
    values = {**parts, LATENCY_METRIC: sum(parts.values())}
    return [
        seconds_row(metric, value, {**common, "n_ok": len(ok), "n_total": n_total}) for metric, value in values.items()
    ]


def _fields(setup: Setup, cell: Cell) -> dict[str, Any]:
    """What all rows of a cell have in common."""
    plan, line = setup.plan, cell.line
    sampler = plan.sampler(line)
    name, _, variant = line.row.method.partition(":")
    commit, dirty = git_state()
    return {
        "run_id": setup.run_id,
        "method": name,
        "method_version": METHODS.get(name).version,
        "variant": variant,
        "train_seed": cell.train_seed,
        "sampler": "euler",
        "steps": line.row.steps,
        "nfe": sum(plan.passes(line).values()),
        "cfg_strength": sampler.cfg_strength("ss"),
        "seed": cell.run_seed,
        "stage": BOTH,
        "split": setup.tests.name,
        "config_sha": setup.tests.protocol.sha256,
        "git_commit": commit,
        "git_dirty": dirty,
        "torch": torch.__version__,
        "device": device_name(setup.device),
        "created_utc": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _total(account: Account) -> float:
    return account.structure_s + account.slat_s + account.decode_s
