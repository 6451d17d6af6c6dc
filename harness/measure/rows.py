"""From scores to rows, one writer for all that is measured; and the values of single assets beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import torch

from ...metrics import Metric
from ...metrics.official.weights import RANDOM
from ...results.asset_values import AssetValue
from ...results.evaluation_tables import RANDOM_MARK, SEPARATOR
from ...results.rows import (
    COST_METRICS,
    DECODE_SECONDS,
    LATENCY_METRIC,
    SECONDS_VERSION,
    SLAT_SECONDS,
    STRUCTURE_SECONDS,
    Row,
)
from ..engine.provenance import device_name, git_state
from .extractors import Extractor
from .scores import Scored, ScoresJob

PARTS = (STRUCTURE_SECONDS, SLAT_SECONDS, DECODE_SECONDS)  # of the seconds of a whole asset


@dataclass(frozen=True)
class Measurement:
    """Rows, and the values of single assets that they are averages of."""

    rows: tuple[Row, ...] = ()
    assets: tuple[AssetValue, ...] = ()


def joined(parts: Iterable[Measurement]) -> Measurement:
    """All parts, in order."""
    parts = list(parts)
    rows = chain.from_iterable(part.rows for part in parts)
    assets = chain.from_iterable(part.assets for part in parts)
    return Measurement(tuple(rows), tuple(assets))


def stamp(device: str) -> dict[str, Any]:
    """What all rows of a call have in common whatever they measure."""
    commit, dirty = git_state()
    return {
        "git_commit": commit,
        "git_dirty": dirty,
        "torch": torch.__version__,
        "device": device_name(device),
        "created_utc": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def measurement(
    job: ScoresJob,
    row_fields: Mapping[str, Any],
    errors: Mapping[str, Sequence[str]] = MappingProxyType({}),
    networks: Callable[[Metric], str] | None = None,
    notes: Sequence[str] = (),
) -> Measurement:
    """Of a cell or a control, whose job is done.

    Args:
        row_fields: those of the rows that do not depend on the metric.
        errors: by look why each asset failed. networks: identity of those that a column is of, where that differs.
        notes: of each asset, what is not shown of its files as they say.
    """
    metrics, scored, extractors = job.metrics, job.read(), job.extractors
    ids = [subject.id for subject in job.sides["made"].subjects]

    def fields_of(metric: Metric) -> Mapping[str, Any]:
        return {**row_fields, "weights_sha": networks(metric)} if networks else row_fields

    found = [_row(metric, scored[metric.name], extractors, fields_of(metric)) for metric in metrics]
    named = {_name(metric, extractors): scored[metric.name].score for metric in metrics}
    columns = {name: one.per_asset for name, one in named.items() if one is not None and one.per_asset is not None}
    known = [one.ok for one in scored.values() if len(one.ok)]
    ok = np.all(known, axis=0) if known else np.ones(len(ids), bool)
    reasons = [next((why for why in whys if why), "") for whys in zip(*errors.values(), strict=True)] if errors else []
    about = zip(ids, ok, reasons or [""] * len(ids), notes or [""] * len(ids), strict=True)
    values = _asset_values(columns, row_fields, list(about))
    return Measurement(tuple(row for row in found if row), tuple(values))


def failed(
    metrics: Sequence[Metric],
    extractors: Mapping[str, Extractor],
    reason: str,
    row_fields: Mapping[str, Any],
    status: Literal["failed", "lost"],
) -> Measurement:
    """The rows of a cell that there is not."""
    return Measurement(
        tuple(
            Row(**{**row_fields, "n_ok": 0}, status=status, error=reason, **_of_metric(metric, extractors))
            for metric in metrics
        )
    )


def seconds_rows(parts: Mapping[str, tuple[float, float]], row_fields: Mapping[str, Any]) -> Measurement:
    """Median seconds per asset of each part, with the sd over repeats; and the sum, where all of an asset are known.

    Args:
        parts: by metric; the whole of a structure, or the parts of a whole asset.
    """
    known = dict(parts)
    if all(name in parts for name in PARTS):
        known[LATENCY_METRIC] = sum(value for value, _ in parts.values()), sum(sd**2 for _, sd in parts.values()) ** 0.5
    return Measurement(tuple(seconds_row(name, *known[name], row_fields) for name in COST_METRICS if name in known))


def seconds_row(metric: str, seconds: float, spread: float | None, row_fields: Mapping[str, Any]) -> Row:
    """The row of what an asset costs, or of a part of that."""
    return Row(
        **row_fields,
        status="ok",
        metric=metric,
        metric_version=SECONDS_VERSION,
        unit="s",
        value=seconds,
        stderr=spread,
        wall_s=seconds,
        higher_is_better=False,
    )


def _row(
    metric: Metric, scored: Scored, extractors: Mapping[str, Extractor], row_fields: Mapping[str, Any]
) -> Row | None:
    if scored.error:
        fields = {**row_fields, "n_ok": 0}
        return Row(**fields, status="failed", error=scored.error, **_of_metric(metric, extractors))
    score = scored.score
    if score is None:
        return None
    note = SEPARATOR.join(part for part in (row_fields.get("note", ""), score.note) if part)
    fields = {**row_fields, "note": note, "n_ok": score.n_ok}
    return Row(**fields, status="ok", value=score.value, stderr=score.stderr, **_of_metric(metric, extractors))


def _of_metric(metric: Metric, extractors: Mapping[str, Extractor]) -> dict[str, Any]:
    return {
        "metric": _name(metric, extractors),
        "metric_version": metric.version,
        "unit": metric.unit,
        "higher_is_better": metric.higher_is_better,
    }


def _name(metric: Metric, extractors: Mapping[str, Extractor]) -> str:
    """A number measured with random weights never has the name of an official one."""
    used = [extractors[need.partition(":")[2]] for need in metric.needs() if ":" in need]
    return metric.name + (RANDOM_MARK if any(f"/{RANDOM}:" in one.version for one in used) else "")


def _asset_values(
    columns: Mapping[str, Any], row_fields: Mapping[str, Any], about: Sequence[tuple[str, bool, str, str]]
) -> Iterator[AssetValue]:
    """One per asset; none when nothing is known of single assets.

    Args:
        about: id, whether it was made, why not, and its notes.
    """
    if not columns and not any(note for *_, note in about):
        return
    whose = {name: row_fields[name] for name in AssetValue.model_fields if name in row_fields and name != "note"}
    for i, (asset, ok, reason, note) in enumerate(about):
        # Without what a metric says nothing about, which is NaN in its arrays.
        values = {name: float(found[i]) for name, found in columns.items() if found[i] == found[i]}
        yield AssetValue(**whose, asset=asset, ok=bool(ok) and not reason, error=reason, note=note, values=values)
