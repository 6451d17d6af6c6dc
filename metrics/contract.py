"""What a metric is: a name, a version, and a score of what one cell of a sweep produced."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ..base.registry import Registry


@dataclass(frozen=True)
class Shapes:
    """N shapes in the order of their assets' ids, and what the extractors saw of them.

    A shape that could not be made is empty here (no voxel, black pictures, all-zero embedding) and not `ok`:
    it lowers the scores and is counted, it is never left out.

    Attributes:
        ok: [N] bool.
        latents: [N, C, r, r, r] float32.
        occupancy: [N, R, R, R] bool.
        picture_features: [N, 4, D] float32, of the four protocol views.
        point_features: [N, D] float32.
        embedding: [N, E] float32 unit vectors of the dual encoder's point tower.
    """

    ok: NDArray[np.bool_]
    latents: NDArray[np.float32]
    occupancy: NDArray[np.bool_]
    picture_features: NDArray[np.float32]
    point_features: NDArray[np.float32]
    embedding: NDArray[np.float32]


@dataclass(frozen=True)
class Comparison:
    """What the shapes of a cell are measured against.

    Attributes:
        truth: the test assets themselves.
        image_embedding: [N, E] unit vectors of the dual encoder's picture tower, of the conditioning pictures.
        teacher: the reference sampler's shapes from the same noise; None for rows that start from no noise.
    """

    truth: Shapes
    image_embedding: NDArray[np.float32]
    teacher: Shapes | None


@dataclass(frozen=True)
class Score:
    """value in the metric's unit; stderr over assets for averages, None for distances of distributions."""

    value: float
    stderr: float | None = None


class Metric(ABC):
    """One column of the table."""

    name: ClassVar[str]
    version: ClassVar[int]
    unit: ClassVar[str]
    higher_is_better: ClassVar[bool]

    @abstractmethod
    def score(self, shapes: Shapes, against: Comparison) -> Score | None:
        """None when the metric says nothing about such a row."""


def mean_score(per_asset: NDArray) -> Score:
    """Mean over assets and its standard error. per_asset: [N]."""
    values = np.asarray(per_asset, np.float64)
    spread = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else None
    return Score(float(values.mean()), None if spread is None else float(spread))


METRICS: Registry[Metric] = Registry("metric", group="mdtbench.metrics")
