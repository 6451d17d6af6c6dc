"""The verb `evaluate`."""

from __future__ import annotations

import csv
import io
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ...base.files import write_json, write_text
from ...results.report import RunResults
from ...results.rows import Row, write_rows
from ..cache import Store
from ..pool import cores, workers
from ..progress import Reporter, reporter
from ..provenance import provenance
from ..report_command import print_tables
from .looks import LookJob
from .measure import Failure, Measured, measure, spread
from .options import EvaluateOptions
from .plan import Plan, resolve
from .rows import calibration_of, keep_time, rows_of

SHOWN = 20  # failures on the screen; all are in failures.csv


def evaluate_command(options: EvaluateOptions) -> None:
    """Raises the errors of base.errors; prints the table and where everything is."""
    plan = resolve(options)
    out = options.out or Path("runs") / f"evaluate-{plan.name.replace(' ', '_')}-{plan.key[:8]}"
    try:
        with reporter() as report:
            rows, measured = evaluate(plan, out, options.cache.expanduser(), options.workers or cores(), report)
    except KeyboardInterrupt:
        sys.stderr.write("mdtbench: interrupted; the same command goes on with what is in the cache.\n")
        raise
    print_tables(RunResults(rows))
    sys.stdout.write(closing(measured, out))


def evaluate(plan: Plan, out: Path, cache: Path, count: int, report: Reporter) -> tuple[list[Row], Measured]:
    """Measure, and write rows.jsonl, failures.csv and, last, manifest.json.

    Args:
        count: of worker processes and of the threads of networks. Values that are computed anew agree to float32
            rounding whatever it is; those from the cache are the same to the bit.
    Raises:
        MissingError: as `measure`.
        RunError: a file cannot be written, or a worker was killed.
    """
    started = time.time()
    if plan.unused:
        names = ", ".join(plan.unused[:5]) + (", ..." if len(plan.unused) > 5 else "")
        report.note(f"{len(plan.unused)} asset(s) are not in the reference and are not measured: {names}")

    def run(jobs: Sequence[LookJob]) -> list[str]:
        with workers(min(count, len(jobs)), report) as team:
            return spread(team, jobs)

    torch.set_num_threads(count)
    measured = measure(plan, Store(cache, report.note), report, run)
    rows = keep_time(rows_of(plan, measured), out / "rows.jsonl")
    write_rows(out / "rows.jsonl", rows)
    write_text(out / "failures.csv", failures_csv([*measured.dropped, *measured.failures]))
    write_json(out / "manifest.json", manifest(plan, measured) | {"started_s": started, "finished_s": time.time()})
    return rows, measured


def manifest(plan: Plan, measured: Measured) -> dict[str, Any]:
    """What was measured, by what."""
    calibration = calibration_of(plan, measured)
    shown = any(pair.condition for pair in plan.pairs)
    return {
        "key": plan.key,
        "name": plan.name,
        "protocol": {"name": plan.protocol.name, "sha256": plan.protocol.sha256},
        "settings": plan.settings.model_dump(mode="json"),
        "geometry_only": plan.geometry_only,
        "extractors": plan.towers.versions,
        "reference": {
            "name": plan.reference,
            "the_assets_themselves": plan.own_reference,
            "sha256": plan.reference_sha(measured.pairs),
            "ids": [pair.id for pair in measured.pairs],
            "dropped": len(measured.dropped),
        },
        "not_in_the_reference": list(plan.unused),
        "conditions": {"sha256": plan.conditions_sha(measured.pairs)} if shown else None,
        "calibration": asdict(calibration) if calibration else None,
        "seed": plan.seed,
        "latency_s": plan.latency,
        **provenance(),
    }


def failures_csv(failures: Sequence[Failure]) -> str:
    text = io.StringIO()
    listed = [(failure.side, failure.id, failure.what, failure.reason) for failure in failures]
    csv.writer(text, lineterminator="\n").writerows([("side", "id", "what", "reason"), *listed])
    return text.getvalue()


def closing(measured: Measured, out: Path) -> str:
    """The last lines: which assets failed and why, where everything is."""
    lines = _listed("asset(s) of the reference cannot be used", measured.dropped)
    lines += _listed(
        "failure(s) count as black pictures in distances and 0 in ULIP_I and CLIP_score", measured.failures
    )
    return "\n".join([*lines, f"Rows, failures and manifest: {out}"]) + "\n"


def _listed(what: str, failures: Sequence[Failure]) -> list[str]:
    if not failures:
        return []
    rest = [f"  ... and {len(failures) - SHOWN} more"] if len(failures) > SHOWN else []
    shown = [f"  {failure.id} ({failure.what}): {failure.reason}" for failure in failures[:SHOWN]]
    return [f"{len(failures)} {what}:", *shown, *rest]
