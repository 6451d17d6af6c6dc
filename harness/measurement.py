"""What measuring a cell or a control leaves: its rows, and the values of its assets that they are averages of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..metrics import Comparison, Metric, Score, Shapes, WholeAssets
from ..results.asset_values import AssetValue
from ..results.rows import Row

Seen = TypeVar("Seen", Shapes, WholeAssets)


@dataclass(frozen=True)
class Measurement:
    """Of a cell, a control, or a run."""

    rows: tuple[Row, ...]
    assets: tuple[AssetValue, ...] = ()

    def __add__(self, other: Measurement) -> Measurement:
        return Measurement(self.rows + other.rows, self.assets + other.assets)


@dataclass(frozen=True)
class Assets:
    """N assets as they came out, in the order of a cell's arrays.

    Attributes:
        ok: [N] bool. errors: [N] reason of each failure, "" for a good asset or where none was recorded.
        seconds: [N] each, by name.
    """

    ids: Sequence[str]
    ok: NDArray[np.bool_]
    errors: Sequence[str]
    seconds: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)


@dataclass(frozen=True)
class Scored:
    """A metric and what it says."""

    metric: Metric
    score: Score


def scored(metrics: Iterable[Metric[Seen]], seen: Seen, against: Comparison[Seen]) -> list[Scored]:
    """The scores of all metrics that say something."""
    scores = ((metric, metric.score(seen, against)) for metric in metrics)
    return [Scored(metric, score) for metric, score in scores if score is not None]


def joined(parts: Iterable[Measurement]) -> Measurement:
    """All parts, in order."""
    parts = list(parts)
    rows = chain.from_iterable(part.rows for part in parts)
    assets = chain.from_iterable(part.assets for part in parts)
    return Measurement(tuple(rows), tuple(assets))


def measurement(scores: Iterable[Scored], assets: Assets, row_fields: Mapping[str, Any]) -> Measurement:
    """Rows and values of single assets. `row_fields` are those of the rows that do not depend on the metric."""
    scores = list(scores)
    rows = tuple(metric_row(one.metric, one.score, row_fields) for one in scores)
    return Measurement(rows, tuple(asset_values(scores, assets, row_fields)))


def metric_row(metric: Metric, score: Score, row_fields: Mapping[str, Any]) -> Row:
    """The row of a score."""
    return Row(
        **row_fields,
        status="ok",
        metric=metric.name,
        metric_version=metric.version,
        unit=metric.unit,
        value=score.value,
        stderr=score.stderr,
        higher_is_better=metric.higher_is_better,
    )


def failed_row(metric: Metric, reason: str, row_fields: Mapping[str, Any]) -> Row:
    """The row of a score that there is not."""
    return Row(
        **row_fields,
        status="failed",
        error=reason,
        metric=metric.name,
        metric_version=metric.version,
        unit=metric.unit,
        n_ok=0,
        higher_is_better=metric.higher_is_better,
    )


def seconds_row(metric: str, seconds: float, row_fields: Mapping[str, Any]) -> Row:
    """The row of what an asset costs, or of a part of that."""
    return Row(
        **row_fields,
        status="ok",
        metric=metric,
        metric_version=1,
        unit="s",
        value=seconds,
        wall_s=seconds,
        higher_is_better=False,
    )


def asset_values(scores: Iterable[Scored], assets: Assets, row_fields: Mapping[str, Any]) -> list[AssetValue]:
    """One per asset; none when nothing is known of single assets."""
    columns = {one.metric.name: one.score.per_asset for one in scores if one.score.per_asset is not None}
    columns |= assets.seconds
    if not columns:
        return []
    whose = {name: row_fields[name] for name in AssetValue.model_fields if name in row_fields}
    by_asset = zip(*(column.tolist() for column in columns.values()), strict=True)
    return [
        AssetValue(**whose, asset=asset, ok=ok, error=error, values=_known(columns, values))
        for asset, ok, error, values in zip(assets.ids, assets.ok.tolist(), assets.errors, by_asset, strict=True)
    ]


def _known(names: Iterable[str], values: Iterable[float]) -> dict[str, float]:
    """Without what a metric says nothing about, which is NaN in its arrays."""
    return {name: value for name, value in zip(names, values, strict=True) if value == value}
