"""Features that need not be in memory: whoever reads a few rows at a time can be given more than fit.

Shapes: N samples, D feature dimension.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from .frechet import Moments

CHUNK = 512  # rows in float64 at a time: 8 MB at D = 2048


class Features(Protocol):
    """What an array does, a mapped file, or anything that reads rows when they are asked for.

    It is indexed with a slice or with an array of the numbers of rows, of the first axis.
    """

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Any, /) -> NDArray: ...


class Stored(Features, Protocol):
    """Features that are no array."""

    @property
    def rows(self) -> Features:
        """[N, V, D] as [N V, D]."""
        ...


def flat(features: Features) -> Features:
    """[N, V, D] as [N V, D]: all views of all assets are samples."""
    if isinstance(features, np.ndarray):
        return features.reshape(-1, features.shape[-1])
    return cast(Stored, features).rows


def moments(features: Features, rows: NDArray[np.intp] | None = None) -> Moments:
    """Mean and scatter of [N, D], or of some of its rows.

    Raises:
        UsageError: features that are not finite.
    """
    found = Moments.empty(features.shape[-1])
    for part in _parts(len(features), rows):
        found = found.updated(features[part])
    return found


def mean(features: Features) -> NDArray[np.float64]:
    """[N, D] -> [D]."""
    total_D = np.zeros(features.shape[-1])
    for part in _parts(len(features), None):
        total_D += features[part].sum(0, dtype=np.float64)
    return total_D / len(features)


def _parts(count: int, rows: NDArray[np.intp] | None) -> Iterator[slice | NDArray[np.intp]]:
    for start in range(0, count if rows is None else len(rows), CHUNK):
        part = slice(start, start + CHUNK)
        yield part if rows is None else rows[part]
