"""What a metric is: a name, a version, and a score of what one cell of a sweep produced."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar, Final, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..base.errors import unknown_name
from ..base.registry import Registry

CONTROLS: Final = ("reconstruction", "truth", "shuffled", "floor")  # lines that no method makes


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
class WholeAssets:
    """N coloured assets in the order of their ids, and what the extractors saw of them.

    As with `Shapes`, one that could not be made is empty and not `ok`, and is never left out.

    Attributes:
        ok: [N] bool.
        gaussian_features: [N, 4, D] float32, of the four protocol views of the 3D Gaussians.
        mesh_features: [N, 4, D] float32, the same of the mesh.
        embedding: [N, E] float32 unit vectors of the dual encoder's point tower, of points on the mesh.
        counts: [N] cells of each. coords: [M, 3] int32, latents: [M, C] float32: of all cells, asset by asset.
    """

    ok: NDArray[np.bool_]
    gaussian_features: NDArray[np.float32]
    mesh_features: NDArray[np.float32]
    embedding: NDArray[np.float32]
    counts: NDArray[np.int64]
    coords: NDArray[np.int32]
    latents: NDArray[np.float32]


Seen = TypeVar("Seen", Shapes, WholeAssets)


@dataclass(frozen=True)
class Comparison(Generic[Seen]):
    """What a cell is measured against.

    Attributes:
        truth: the test assets themselves.
        image_embedding: [N, E] unit vectors of the dual encoder's picture tower, of the conditioning pictures.
        teacher: what the reference samplers make of the same noise; None for rows that start from no noise.
    """

    truth: Seen
    image_embedding: NDArray[np.float32]
    teacher: Seen | None


@dataclass(frozen=True)
class Score:
    """value in the metric's unit; stderr over assets for averages, None for distances of distributions.

    per_asset: [N] float64 what an average is of, in the metric's unit and the order of the assets' ids, NaN for an
    asset that the metric says nothing about; None for distances of distributions. No part of two scores' equality.
    """

    value: float
    stderr: float | None = None
    per_asset: NDArray[np.float64] | None = field(default=None, compare=False)


class Metric(ABC, Generic[Seen]):
    """One column of the table: of structures (`METRICS`) or of whole assets (`ASSET_METRICS`).

    Attributes:
        controls: those of `CONTROLS` whose lines have the metric: where its value says what good or bad numbers are.
    """

    name: ClassVar[str]
    version: ClassVar[int]
    unit: ClassVar[str]
    higher_is_better: ClassVar[bool]
    controls: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls) -> None:
        """Raises UsageError for an unknown control."""
        super().__init_subclass__()
        for name in cls.controls:
            if name not in CONTROLS:
                raise unknown_name("control", name, CONTROLS, f"Of the metric {cls.__name__}.")

    @abstractmethod
    def score(self, shapes: Seen, against: Comparison[Seen]) -> Score | None:
        """None when the metric says nothing about such a row."""


def mean_score(per_asset: NDArray, known: NDArray[np.bool_] | None = None) -> Score:
    """Mean over assets and its standard error.

    Args:
        per_asset: [N].
        known: [N] assets that the metric says something about, at least one; the others do not count. None: all.
    """
    every = np.asarray(per_asset, np.float64)
    values = every if known is None else every[known]
    spread = float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None
    return Score(float(values.mean()), spread, every if known is None else np.where(known, every, np.nan))


METRICS: Registry[Metric[Shapes]] = Registry("metric", group="mdtbench.metrics")
ASSET_METRICS: Registry[Metric[WholeAssets]] = Registry("asset metric", group="mdtbench.asset_metrics")
