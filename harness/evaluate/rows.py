"""From values to rows, and what stands beside them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from ...results.evaluation_tables import CALIBRATION, EVALUATION, NOT_CALIBRATED, RANDOM_MARK, SEPARATOR
from ...results.rows import LATENCY_METRIC, Row, read_rows
from ..measurement import seconds_row
from ..protocol.calibration import Calibration, Teacher, calibrate
from ..provenance import device_name, git_state
from .measure import Measured
from .plan import Plan
from .scores import SCORES_VERSION, Value

SHORT = 12  # digits of a digest in a note


def rows_of(plan: Plan, measured: Measured) -> list[Row]:
    """Of the system, then of the controls. What is common to all comes first in each note."""
    commit, dirty = git_state()
    common: dict[str, Any] = {
        "method_version": 1,
        "stage": EVALUATION,
        "split": plan.reference,
        "n_total": len(measured.pairs),
        "config_sha": plan.protocol.sha256,
        "reference_sha": plan.reference_sha(measured.pairs),
        "git_commit": commit,
        "git_dirty": dirty,
        "torch": torch.__version__,
        "device": device_name(),
        "created_utc": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    notes = notes_of(plan, measured)
    own = {"run_id": plan.key[:SHORT], "method": plan.name, "steps": plan.steps, "nfe": plan.nfe, "seed": plan.seed}
    system = common | own
    told = [*notes, _calibration_note(plan, measured)]
    rows = [_row(plan, value, told, system) for value in measured.system]
    rows += _latency(plan, measured, told, system)
    for name, value in measured.controls.items():
        # The controls of all systems that are compared with one reference are the same measurement.
        control = common | {"run_id": f"reference-{common['reference_sha'][:SHORT]}", "method": name}
        rows.append(_row(plan, value, notes, control))
    return rows


def notes_of(plan: Plan, measured: Measured) -> list[str]:
    """What a reader must know of all columns."""
    protocol = plan.protocol
    compared = f"{len(measured.pairs)} assets of '{plan.reference}'"
    notes = [
        f"protocol {protocol.name} ({protocol.sha256[:SHORT]})",
        f"reference: {compared}, drawn by {plan.drawn_by}",
        "no floor row: a folder has no held-out assets",
    ]
    if plan.own_reference:
        notes[1] = f"reference: the assets themselves ({compared}), so this run checks the path and nothing else"
    if plan.towers.random:
        notes.append(f"{RANDOM_MARK}: extractors with random weights, whose numbers mean nothing")
    if protocol.smoke:
        notes.append("subset smoke: too few assets for FD")
    if measured.dropped:
        notes.append(f"{len(measured.dropped)} assets of the reference cannot be used and are on neither side")
    return [*notes, *measured.notes]


def calibration_of(plan: Plan, measured: Measured) -> Calibration | None:
    """Whether the teacher's numbers are the published ones; None for a system that is not the teacher."""
    if not plan.calibrates or plan.steps is None:
        return None
    found = {value.metric: value.value for value in measured.system}
    teacher = Teacher(
        steps=plan.steps,
        n=len(measured.pairs),
        fd_incep=found.get("FD_incep"),
        fd_dinov2=found.get("FD_dinov2"),
        ulip_i=found.get("ULIP_I"),
        random_weights=plan.towers.random,
        smoke=plan.protocol.smoke,
    )
    return calibrate(plan.protocol.values.calibration, teacher)


def keep_time(rows: list[Row], path: Path) -> list[Row]:
    """The rows of an earlier call where they say the same, so that a repeat changes no byte."""
    if not path.is_file():
        return rows
    before = read_rows(path)
    return before if _timeless(before) == _timeless(rows) else rows


def _timeless(rows: list[Row]) -> list[dict[str, Any]]:
    return [row.model_dump(exclude={"created_utc"}) for row in rows]


def _calibration_note(plan: Plan, measured: Measured) -> str:
    """One part of a note."""
    calibration = calibration_of(plan, measured)
    return f"{CALIBRATION}{calibration.line.replace(SEPARATOR, ' / ')}" if calibration else NOT_CALIBRATED


def _row(plan: Plan, value: Value, notes: list[str], row_fields: dict[str, Any]) -> Row:
    return Row(
        **row_fields,
        status="ok",
        metric=value.metric + (RANDOM_MARK if plan.towers.random else ""),
        metric_version=SCORES_VERSION,
        unit=value.unit,
        value=value.value,
        stderr=value.stderr,
        n_ok=value.n_ok,
        higher_is_better=value.higher_is_better,
        weights_sha=value.extractor,
        note=SEPARATOR.join([*notes, *([value.note] if value.note else [])]),
    )


def _latency(plan: Plan, measured: Measured, notes: list[str], row_fields: dict[str, Any]) -> Iterator[Row]:
    if plan.latency is not None:
        note = SEPARATOR.join([*notes, "time: as given by --latency, not measured here"])
        yield seconds_row(LATENCY_METRIC, plan.latency, row_fields | {"n_ok": len(measured.pairs), "note": note})
