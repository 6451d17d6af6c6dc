"""`mdtbench evaluate`: a run whose cells are files that any system made, and which has no students.

OUT/rows.jsonl, assets.jsonl    measured values, and those of single assets
OUT/failures.csv                files that failed, assets of the reference that cannot be used
OUT/export/                     pictures of all assets, meshes of the first few, for the pages of the report
OUT/manifest.json               what was measured, by what; with its times last
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ...base.errors import MissingError, UsageError
from ...base.files import write_json
from ...base.text import counted, counted_notes, joined_notes
from ...metrics import Metric
from ...results.asset_values import write_asset_values
from ...results.evaluation_tables import CALIBRATION, NOT_CALIBRATED, RANDOM_MARK, SEPARATOR
from ...results.frames import rows_frame
from ...results.report import RunResults
from ...results.rows import EVALUATION, LATENCY_METRIC, Row, read_rows, write_rows
from ...results.sums import REFERENCE, SUMS, write_sums
from ..engine.engine import Engine
from ..engine.jobs import until_there
from ..engine.provenance import provenance
from ..engine.tracking import Board, tracking
from ..measure.rows import Measurement, joined, measurement, seconds_row, stamp
from ..measure.scores import Scored, ScoresJob
from ..protocol.calibration import Calibration, Teacher, calibrate
from .controls import Control
from .evaluation import Evaluation, some
from .export import export_evaluation
from .export_folder import FAILURES, write_failures
from .lock import driving
from .measuring import unseen
from .run import MANIFEST, Outcome

SHORT = 12  # digits of a digest in a note


def evaluate(found: Evaluation, out: Path, engine: Engine, track: Sequence[str] = ()) -> Outcome:
    """Measure, and write the files. track: trackers to write to.

    Raises:
        MissingError: fewer than 2 assets of the reference can be used, none of the condition pictures can, or weights
            are absent or damaged.
        RunError: a file cannot be written, a worker was killed, or a tracker failed.
        UsageError: another process writes the folder.
    """

    def attempt() -> Outcome:
        with tracking(track, out, found.key[:SHORT]) as board:
            return _evaluate(found, out, engine, board)

    with driving(out):
        return until_there(attempt, engine.team.reporter.note)


def _evaluate(found: Evaluation, out: Path, engine: Engine, board: Board) -> Outcome:
    started = time.time()
    torch.set_num_threads(1)  # as the workers: what is measured here must round the same way everywhere
    if found.unused:
        count = counted(len(found.unused), "asset")
        engine.team.reporter.note(f"{count} not in the reference, so not measured: {some(found.unused)}")
    (out / SUMS).unlink(missing_ok=True)  # until all files are those of this call
    found = _usable(found, engine)
    _check_conditions(found, engine)
    system = found.system()
    lines = [(line, line.scores(found.options.cache, found.metrics, found.extractors)) for line in found.controls()]
    engine.do([system, *(job for _, job in lines)])
    engine.do(system.told)
    calibration = calibration_of(found, system.read())
    measured = joined(_measurements(found, system, lines, calibration))
    rows, failures = keep_time(list(measured.rows), out / "rows.jsonl"), tuple(_failures(system))
    export_evaluation(found, out, engine)
    write_failures(out / FAILURES, [*(("reference", *one) for one in found.dropped), *failures], "where")
    write_asset_values(out, measured.assets)  # first: no rows stand beside the values of an earlier call
    write_rows(out / "rows.jsonl", rows)
    times = {"started_s": started, "finished_s": time.time()}
    about = manifest(found, calibration)
    write_json(out / MANIFEST, about | provenance() | times)
    write_sums(out)
    board.settings(about)
    board.rows(rows)
    return Outcome(RunResults(rows_frame(rows)), found.dropped, {}, None, failures)


def _usable(found: Evaluation, engine: Engine) -> Evaluation:
    """Without assets of the reference that cannot be read or seen. Raises MissingError: fewer than 2 are left."""
    least = found.protocol.values.assets.min_alpha_share
    found = found.without(unseen(found.truth, engine, least, found.metrics))
    count, gone = len(found.ids), found.dropped
    if count < 2:
        raise MissingError(
            f"{count} of {counted(count + len(gone), 'asset')} of the reference can be used; at least 2 are needed. "
            f"First reason: {gone[0][1] if gone else 'there are no more'}."
        )
    return found


def _check_conditions(found: Evaluation, engine: Engine) -> None:
    """Raises MissingError when something is compared with condition pictures and none of them can be used."""
    looks = {need.partition(":")[0] for metric in found.metrics for need in metric.condition}
    engine.do(found.condition.jobs(looks, {}))
    for reasons in found.condition.errors(looks, {}).values():
        if all(reasons):
            raise MissingError(f"None of the {len(reasons)} condition images can be used. First reason: {reasons[0]}.")


def _failures(system: ScoresJob) -> Iterator[tuple[str, str, str]]:
    """(what, id, reason) of meshes, Gaussians and condition pictures, each once."""
    seen: set[tuple[str, str]] = set()
    for side in ("made", "condition"):
        ids = [subject.id for subject in system.sides[side].subjects]
        for look, reasons in system.reasons(side).items():
            what = look.partition("_")[0]
            what = "mesh" if what == "points" else what
            for name, reason in zip(ids, reasons, strict=True):
                if reason and (what, name) not in seen:
                    seen.add((what, name))
                    yield what, name, reason


# ------------------------------------------------------------------------------------------------------------- the rows


def _measurements(
    found: Evaluation, system: ScoresJob, lines: Sequence[tuple[Control, ScoresJob]], calibration: Calibration | None
) -> Iterator[Measurement]:
    """Of the system, with its time as given, then of the controls."""
    options, notes = found.options, notes_of(found)
    common = {
        **stamp(options.device),
        "method_version": 1,
        "stage": EVALUATION,
        "split": found.reference,
        "n_total": len(found.ids),
        "config_sha": found.protocol.sha256,
        "reference_sha": found.reference_sha,
    }

    def networks(metric: Metric) -> str:
        """Which networks a column is of, and which condition pictures."""
        names = dict.fromkeys(need.partition(":")[2] for side in metric.sides for need in getattr(metric, side))
        versions = [found.extractors[name].version for name in names if name]
        return " ".join([*versions, *([f"conditions:{found.conditions_sha[:16]}"] if metric.condition else [])])

    own = {"method": options.name, "steps": options.steps, "nfe": options.nfe, "seed": options.seed}
    made, true = noted(found, system), system.notes("truth")
    counts = [*counted_notes(made, "assets"), *counted_notes(true, "assets of the reference")]
    both = [joined_notes([one, f"reference: {other}" if other else ""]) for one, other in zip(made, true, strict=True)]
    own |= {"run_id": found.key[:SHORT], "note": _joined(*notes, *counts, _told(calibration))}
    yield measurement(system, {**common, **own}, system.reasons(), networks, both)
    if options.latency is not None:
        own["note"] = _joined(own["note"], "time: as given by --latency, not measured here")
        timed = {**common, **own, "n_ok": len(found.ids)}
        yield Measurement((seconds_row(LATENCY_METRIC, options.latency, None, timed),))
    for line, job in lines:
        # The controls of all systems that are compared with one reference are the same measurement.
        whose = {"run_id": f"{REFERENCE}{found.reference_sha[:SHORT]}", "method": line.name}
        yield measurement(job, {**common, **whose, "note": _joined(*notes, line.note)}, networks=networks)


def noted(found: Evaluation, system: ScoresJob) -> list[str]:
    """Of each asset, how it was found and what is not shown of its files."""
    named = zip(found.ids, found.made.files, system.notes(), strict=True)
    return [joined_notes([*found.found_by.get(name, ()), *files.notes, seen]) for name, files, seen in named]


def notes_of(found: Evaluation) -> list[str]:
    """What a reader must know of all columns."""
    protocol, compared = found.protocol, f"{counted(len(found.ids), 'asset')} of '{found.reference}'"
    notes = [
        f"protocol {protocol.name} ({protocol.sha256[:SHORT]})",
        f"reference: {compared}, drawn by {found.drawn_by}",
    ]
    if found.own_reference:
        notes[1] = f"reference: the assets themselves ({compared}), so this run checks the path and nothing else"
    if found.random:
        notes.append(f"{RANDOM_MARK}: extractors with random weights, whose numbers mean nothing")
    if protocol.smoke:
        notes.append("subset smoke: too few assets for FD")
    if found.dropped:
        notes.append(f"{counted(len(found.dropped), 'asset')} of the reference cannot be used: left out on both sides")
    return notes


def calibration_of(found: Evaluation, scored: Mapping[str, Scored]) -> Calibration | None:
    """Whether the teacher's numbers are the published ones; None for a system that is not the teacher."""
    options, rule = found.options, found.protocol.values.calibration
    if not options.calibrates or options.steps is None or rule is None:
        return None
    values = {name: one.score.value for name, one in scored.items() if one.score}
    teacher = Teacher(
        steps=options.steps,
        n=len(found.ids),
        fd_incep=values.get("FD_incep"),
        fd_dinov2=values.get("FD_dinov2"),
        ulip_i=values.get("ULIP_I"),
        random_weights=found.random,
        smoke=found.protocol.smoke,
    )
    return calibrate(rule, teacher)


def _told(calibration: Calibration | None) -> str:
    """The verdict as one part of a note."""
    return f"{CALIBRATION}{calibration.line.replace(SEPARATOR, ' / ')}" if calibration else NOT_CALIBRATED


def _joined(*parts: str) -> str:
    return SEPARATOR.join(part for part in parts if part)


def keep_time(rows: list[Row], path: Path) -> list[Row]:
    """The rows of an earlier call where they say the same, so that a repeat changes no byte."""
    try:
        before = read_rows(path) if path.is_file() else []
    except (MissingError, UsageError):  # damaged, of another run, or of another version: written anew
        before = []
    return before if _timeless(before) == _timeless(rows) else rows


def _timeless(rows: list[Row]) -> list[dict[str, Any]]:
    return [row.model_dump(exclude={"created_utc"}) for row in rows]


def manifest(found: Evaluation, calibration: Calibration | None) -> dict[str, Any]:
    """What was measured, by what."""
    options = found.options
    more = {"run_seed": options.run_seed, "more": list(options.columns)}
    return {
        "key": found.key,
        "run_id": found.key[:SHORT],
        "name": options.name,
        "protocol": {"name": found.protocol.name, "sha256": found.protocol.sha256},
        "settings": options.section.model_dump(mode="json") | more,
        "geometry_only": options.geometry_only,
        "extractors": {name: one.version for name, one in found.extractors.items()},
        "device": options.device,
        "reference": {
            "name": found.reference,
            "the_assets_themselves": found.own_reference,
            "sha256": found.reference_sha,
            "ids": list(found.ids),
            "dropped": len(found.dropped),
        },
        "not_in_the_reference": list(found.unused),
        "conditions": {"sha256": found.conditions_sha} if any(found.condition.paths) else None,
        "calibration": asdict(calibration) if calibration else None,
        "seed": options.seed,
        "latency_s": options.latency,
    }
