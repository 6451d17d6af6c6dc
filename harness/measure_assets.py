"""From whole assets to rows: every metric on every cell, and the controls. As `measure`, for both stages."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..metrics import ASSET_METRICS, Comparison, Metric, WholeAssets
from ..results.rows import BOTH, COST_METRICS, LATENCY_METRIC, STRUCTURE_THEN_TEACHER, Row
from .asset_jobs import AssembledCell
from .measure import common_fields
from .measurement import Assets, Measurement, failed_row, joined, measurement, scored, seconds_row
from .plan import REFERENCE, AssetCell, Plan
from .prepare import Prepared
from .workshop import AssetTruth


@dataclass(frozen=True)
class AssetReferences:
    """What whole assets are measured with; as `measure.References`."""

    truth: AssetTruth
    reconstruction: WholeAssets
    held_out: WholeAssets | None


def measure_assets(
    plan: Plan,
    cells: Sequence[AssetCell],
    test: Prepared,
    references: AssetReferences,
    failed: Mapping[str, str],
    assembled: Callable[[AssetCell], AssembledCell],
) -> Measurement:
    """All rows of the whole assets of a run, and the values of single ones.

    Args:
        failed: reason of each student that could not be trained, by folder; cells that need it become failed rows.
        assembled: the assets of a cell.
    """
    truth, common = references.truth, common_fields(plan, test)
    teachers = {
        cell.seed: assembled(cell).assets for cell in cells if cell.stage == BOTH and cell.who.label == REFERENCE
    }
    parts: list[Measurement] = []
    for cell in cells:
        cell_fields = common | _cell_fields(cell, test)
        reasons = [failed[training.folder] for training in cell.trainings if training.folder in failed]
        if reasons:
            parts.append(Measurement(tuple(failed_row(metric, reasons[0], cell_fields) for metric in _metrics())))
            continue
        teacher = None if cell.who.label == REFERENCE else teachers[cell.seed]
        made, against = assembled(cell), Comparison(truth.assets, truth.embedding, teacher)
        parts.append(_of_cell(made, against, test.ids, cell_fields | _counts(made)))
    parts += [_of_control(name, assets, against, test, common) for name, assets, against in _controls(references)]
    return joined(parts)


def _controls(references: AssetReferences) -> Iterator[tuple[str, WholeAssets, Comparison[WholeAssets]]]:
    """As `measure.controls`. reconstruction: through encoder and decoders. The floor has no Gaussians, only meshes."""
    truth, embedding = references.truth.assets, references.truth.embedding
    against = Comparison(truth, embedding, None)
    yield "reconstruction", references.reconstruction, against
    yield "truth", truth, against
    yield "shuffled", replace(truth, embedding=np.roll(truth.embedding, 1, axis=0)), against
    if references.held_out is not None:
        yield "floor", references.held_out, against


def _of_cell(
    made: AssembledCell, against: Comparison[WholeAssets], ids: Sequence[str], cell_fields: dict[str, Any]
) -> Measurement:
    seconds = made.seconds | {LATENCY_METRIC: sum(made.seconds.values(), np.zeros(len(ids)))}
    assets = Assets(ids, made.assets.ok, made.errors, seconds)
    scores = scored(_metrics(), made.assets, against)
    return measurement(scores, assets, cell_fields) + Measurement(tuple(_costs(made, cell_fields)))


def _of_control(
    name: str, assets: WholeAssets, against: Comparison[WholeAssets], test: Prepared, common: dict[str, Any]
) -> Measurement:
    counts = {"n_ok": int(assets.ok.sum()), "n_total": test.total}
    control_fields = common | {"method": name, "method_version": 1, "stage": BOTH} | counts
    chosen = [metric for metric in _metrics() if name in metric.controls]
    return measurement(
        scored(chosen, assets, against), Assets(test.ids, assets.ok, ("",) * len(test.ids)), control_fields
    )


def _costs(made: AssembledCell, row_fields: dict[str, Any]) -> Iterator[Row]:
    """Median seconds per asset of each part, and their sum."""
    parts = {name: float(np.median(seconds)) for name, seconds in made.seconds.items()}
    for name in COST_METRICS:
        seconds = sum(parts.values()) if name == LATENCY_METRIC else parts[name]
        yield seconds_row(name, seconds, row_fields)


def _counts(made: AssembledCell) -> dict[str, Any]:
    return {"nfe": int(made.nfe.max()), "n_ok": made.errors.count("")}


def _cell_fields(cell: AssetCell, test: Prepared) -> dict[str, Any]:
    who, trained = cell.who, cell.trainings
    sampler = cell.structure.sampler if cell.stage == STRUCTURE_THEN_TEACHER else cell.sampler  # the method's own
    return {
        "stage": cell.stage,
        "method": who.name,
        "variant": who.variant,
        "method_version": who.version,
        "train_seed": trained[0].seed if trained else None,
        "sampler": sampler.name,
        "steps": cell.steps,
        "cfg_strength": who.method.cfg_strength,
        "seed": cell.seed,
        "note": sampler.note(),
        "n_total": test.total,
    }


def _metrics() -> list[Metric[WholeAssets]]:
    return [ASSET_METRICS.get(name).value for name in ASSET_METRICS.names()]
