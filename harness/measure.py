"""From generated shapes to rows: every metric on every cell, and the controls."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import torch

from ..base.files import digest_of
from ..metrics import METRICS, Comparison, Metric, Shapes
from ..results.rows import LATENCY_METRIC
from .generate import Generated
from .measurement import Assets, Measurement, failed_row, joined, measurement, scored, seconds_row
from .plan import REFERENCE, Cell, Plan
from .prepare import Prepared
from .provenance import device_name, git_state
from .references import Truth


@dataclass(frozen=True)
class References:
    """What cells and controls are measured with.

    Attributes:
        truth: of the test assets. reconstruction: the same assets through the VAE.
        held_out: other assets for the floor row; None: the test assets are split in two.
    """

    truth: Truth
    reconstruction: Shapes
    held_out: Shapes | None


def measure(
    plan: Plan,
    test: Prepared,
    references: References,
    failed: Mapping[str, str],
    generated: Callable[[Cell], Generated],
) -> Measurement:
    """All rows of a run, a metric per row, for each cell and each control; and the values of single assets.

    Args:
        failed: reason of each student that could not be trained, by folder; its cells become failed rows.
        generated: the shapes of a cell.
    """
    truth, common = references.truth, common_fields(plan, test)
    teachers = {cell.seed: generated(cell) for cell in plan.cells if cell.entrant.label == REFERENCE}
    parts: list[Measurement] = []
    for cell in plan.cells:
        cell_fields = common | _cell_fields(cell, test)
        if cell.training and cell.training.folder in failed:
            reason = failed[cell.training.folder]
            parts.append(Measurement(tuple(failed_row(metric, reason, cell_fields) for metric in _metrics())))
            continue
        teacher = None if cell.entrant.label == REFERENCE else teachers[cell.seed].shapes
        against = Comparison(truth.shapes, truth.embedding, teacher)
        parts.append(_of_cell(generated(cell), against, test.ids, cell_fields))
    parts += [_of_control(name, shapes, against, test, common) for name, shapes, against in controls(references)]
    return joined(parts)


def controls(references: References) -> Iterator[tuple[str, Shapes, Comparison]]:
    """Rows without a method: what the best and the worst possible numbers look like. Metrics say which are theirs.

    reconstruction: the ground truth through the VAE, the best that any flow can do.
    truth: the ground truth itself. shuffled: each picture with the next asset's ground truth.
    floor: other assets at equal n, or one half of the test assets against the other (its n_ok says so; from 4 assets
        on): what the distance says of two independent samples of good shapes.
    """
    truth, embedding = references.truth.shapes, references.truth.embedding
    against = Comparison(truth, embedding, None)
    yield "reconstruction", references.reconstruction, against
    yield "truth", truth, against
    yield "shuffled", replace(truth, embedding=np.roll(truth.embedding, 1, axis=0)), against
    if references.held_out is not None:
        yield "floor", references.held_out, against
    elif len(truth.ok) >= 4:  # a covariance needs two samples in each half
        even, odd = (_rows_of(truth, slice(start, None, 2)) for start in (0, 1))
        yield "floor", even, Comparison(odd, embedding, None)


def _rows_of(shapes: Shapes, rows: slice) -> Shapes:
    return Shapes(**{field.name: getattr(shapes, field.name)[rows] for field in fields(shapes)})


def _of_cell(generated: Generated, against: Comparison, ids: Sequence[str], cell_fields: dict[str, Any]) -> Measurement:
    made: dict[str, Any] = {"nfe": int(generated.nfe.max()), "n_ok": generated.errors.count("")}
    shapes, seconds = generated.shapes, float(np.median(generated.seconds))
    assets = Assets(ids, shapes.ok, generated.errors, {LATENCY_METRIC: generated.seconds})
    latency = seconds_row(LATENCY_METRIC, seconds, cell_fields | made)
    return measurement(scored(_metrics(), shapes, against), assets, cell_fields | made) + Measurement((latency,))


def _cell_fields(cell: Cell, test: Prepared) -> dict[str, Any]:
    who = cell.entrant
    return {
        "method": who.name,
        "variant": who.variant,
        "method_version": who.version,
        "train_seed": cell.training.seed if cell.training else None,
        "sampler": cell.sampler.name,
        "own_sampler": cell.own,
        "steps": cell.steps,
        "cfg_strength": who.method.cfg_strength,
        "seed": cell.seed,
        "note": cell.sampler.note(),
        "n_total": test.total,
    }


def _of_control(name: str, shapes: Shapes, against: Comparison, test: Prepared, common: dict[str, Any]) -> Measurement:
    n_ok = int(shapes.ok.sum())
    control_fields = common | {"method": name, "method_version": 1, "n_ok": n_ok, "n_total": test.total}
    chosen = [metric for metric in _metrics() if name in metric.controls]
    assets = Assets(test.ids, shapes.ok, ("",) * len(test.ids))
    return measurement(scored(chosen, shapes, against), assets, control_fields)


def _metrics() -> list[Metric]:
    return [METRICS.get(name).value for name in METRICS.names()]


def common_fields(plan: Plan, test: Prepared) -> dict[str, Any]:
    """What all rows of a run have in common."""
    commit, dirty = git_state()
    return {
        "run_id": plan.run_id,
        "split": "test",
        "config_sha": plan.key,
        "weights_sha": plan.world_sha,
        "reference_sha": digest_of([plan.test.digest(), list(test.ids)]),
        "git_commit": commit,
        "git_dirty": dirty,
        "torch": torch.__version__,
        "device": device_name(plan.device),
        "created_utc": datetime.now(UTC).isoformat(timespec="seconds"),
    }
