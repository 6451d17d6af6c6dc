"""Lines of a single seed, asset by asset: how uncertain the difference is, told from the same assets of both runs.

The verdict is then of assets like these, not of these alone: each asset's own noise and the choice of assets are both
in the spread of the differences.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..base.groups import grouped
from .asset_values import AssetValue
from .differences import MEASURING
from .places import Key, key_of
from .rows import COST_METRICS, Row
from .spread import Seeds, Variance

RESAMPLES: Final = 500  # of the assets; the standard error is then itself known to 3 %

Cell = tuple[str, Key, Seeds]  # with the run's id, so that values of another run are never taken


@dataclass(frozen=True)
class OverAssets:
    """The variance of a difference of averages over `count` assets."""

    variance: Variance
    count: int


@dataclass(frozen=True)
class BothAssets:
    """The values of the run and of the baseline, by cell."""

    run: Mapping[Cell, Sequence[AssetValue]] = field(default_factory=dict)
    baseline: Mapping[Cell, Sequence[AssetValue]] = field(default_factory=dict)


def cell_of(one: Row | AssetValue) -> Cell:
    return one.run_id, key_of(one), (one.train_seed, one.seed)


def by_cell(values: Iterable[AssetValue]) -> dict[Cell, list[AssetValue]]:
    return grouped(values, cell_of)


def single_seeded(rows: Iterable[Row]) -> set[Cell]:
    """Cells of lines with one seed only: those of which `compare` looks at single assets."""
    lines: dict[tuple[str, Key], set[Cell]] = {}
    for row in rows:
        if row.method not in MEASURING:
            lines.setdefault((row.run_id, key_of(row)), set()).add(cell_of(row))
    return {cell for cells in lines.values() if len(cells) == 1 for cell in cells}


def paired_over_assets(run: Sequence[Row], baseline: Sequence[Row], assets: BothAssets) -> OverAssets | None:
    """Of the rows of both runs at one place; None with several seeds, or unless both have values of the same assets."""
    if len(run) != 1 or len(baseline) != 1:
        return None
    a, b = _values(run[0], assets.run), _values(baseline[0], assets.baseline)
    if len(a) < 2 or a.keys() != b.keys():
        return None
    pairs = np.array([(a[name], b[name]) for name in sorted(a)])
    variance = _of_medians(pairs) if run[0].metric in COST_METRICS else float(np.diff(pairs).var(ddof=1)) / len(pairs)
    return OverAssets(Variance(variance, len(pairs) - 1), len(pairs))


def _values(row: Row, cells: Mapping[Cell, Sequence[AssetValue]]) -> dict[str, float]:
    """The metric of a row, by asset."""
    return {v.asset: v.values[row.metric] for v in cells.get(cell_of(row), ()) if row.metric in v.values}


def _of_medians(pairs: NDArray[np.float64]) -> float:
    """Variance of a difference of medians, as rows hold of seconds; pairs: [N, 2]. Bootstrap, both of an asset at once.

    Medians of pairs have no closed form that needs no density, and the mean's would be too small for them.
    """
    drawn = np.random.Generator(np.random.PCG64(0)).integers(len(pairs), size=(RESAMPLES, len(pairs)))
    medians = np.median(pairs[drawn], axis=1)
    return float(np.diff(medians).var(ddof=1))
