"""What a metric is: a name, a version, what it needs to see, and a score of what one cell of a run produced."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, Literal

import numpy as np
from numpy.typing import NDArray

from ..base.errors import unknown_name
from ..base.registry import Registry

CONTROLS: Final = ("reconstruction", "truth", "shuffled", "floor")  # lines that no method makes
Level = Literal["structure", "assets"]

# What can be seen of N things, by level. LOOK alone: what it says; LOOK:EXTRACTOR: features of it, [N, V, D].
LOOKS: Final[Mapping[str, Mapping[str, str]]] = {
    "structure": {
        "voxels": "pictures [N, 4, 3, S, S] uint8 of occupied cells, from the protocol's views",
        "voxel_points": "points [N, 1, P, 6] on their surface",
        "occupancy": "[N, R, R, R] bool",
        "latents": "[N, C, r, r, r] float32",
        "law": "geometry.Law or None of each: all that fits the conditioning picture",
    },
    "assets": {
        "gaussians": "pictures [N, V, 3, S, S] uint8 of 3D Gaussians; of the truth, of its mesh",
        "mesh": "the same of the mesh",
        "points": "points [N, 1, P, 6] on the mesh, with colours",
        "gaussians_turn": "pictures of the Gaussians from the cameras of the CLIP score",
        "mesh_turn": "the same of the mesh",
        "cells": "Cells: latents of the second stage",
        "cell_colours": "[N, R, R, R, 4] float32: mean colour of the Gaussians of each cell, and 1; zeros elsewhere",
        "law": "as of structures",
    },
    "condition": {
        "condition": "the conditioning picture [N, 1, 3, S, S] uint8, whole, on black",
        "condition_rgb": "the same with its alpha dropped",
    },
}
ONLY_OF: Final[Mapping[str, tuple[str, ...]]] = {"law": ("truth",), "cell_colours": ("made", "teacher")}  # sides


@dataclass(frozen=True)
class Cells:
    """Latents of the second stage: counts [N], coords [M, 3] int32, latents [M, C] float32, asset by asset."""

    counts: NDArray[np.int64]
    coords: NDArray[np.int32]
    latents: NDArray[np.float32]


@dataclass(frozen=True)
class Seen:
    """N things in the order of their ids, and what a metric needs of them.

    One that could not be made is empty here (black pictures, no cell) and not `ok`: it lowers the scores and is
    counted, it is never left out. Features may be a `streams.Features`: index it, a few rows at a time.

    Attributes:
        ok: [N] bool, of all that the metric needs.
        data: by the names that the metric asked for.
    """

    ids: tuple[str, ...]
    ok: NDArray[np.bool_]
    data: Mapping[str, Any]

    def __getitem__(self, need: str) -> Any:
        return self.data[need]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Comparison:
    """What a cell is measured against; None: the metric did not ask for it, or there is none.

    Attributes:
        truth: the test assets themselves.
        population: what distributions are held against: all assets of a known law, or else the test assets.
        teacher: what the reference samplers make of the same noise; None for rows that start from no noise.
        condition: the conditioning pictures.
    """

    truth: Seen | None = None
    population: Seen | None = None
    teacher: Seen | None = None
    condition: Seen | None = None


@dataclass(frozen=True)
class Score:
    """value in the metric's unit; stderr over assets for averages, None for distances of distributions.

    Attributes:
        per_asset: [N] float64 what an average is of, in the metric's unit and the order of the assets' ids, NaN for an
            asset that the metric says nothing about; None for distances of distributions.
        n_ok: assets that entered the value, of which those that are not ok are not counted; None: all that are ok.
        note: what a reader must know of the value.
    """

    value: float
    stderr: float | None = None
    per_asset: NDArray[np.float64] | None = field(default=None, compare=False)
    n_ok: int | None = None
    note: str = ""


class NotMeasured(Exception):
    """There is no value although there should be one; the message is the reason in the failed row."""


class Metric(ABC):
    """One column of the tables: of structures, or of whole assets.

    Attributes:
        level: what it is of.
        made, truth, population, teacher, condition: what it needs of each side, by names of `LOOKS`. A row without a
            teacher has no value of a metric that needs one.
        controls: those of `CONTROLS` whose lines have the metric: where its value says what good or bad numbers are.
    """

    name: str
    version: int
    unit: str = ""
    higher_is_better: bool
    level: Level
    made: tuple[str, ...]
    truth: tuple[str, ...] = ()
    population: tuple[str, ...] = ()
    teacher: tuple[str, ...] = ()
    condition: tuple[str, ...] = ()
    controls: tuple[str, ...] = ()
    sides: ClassVar[tuple[str, ...]] = ("made", "truth", "population", "teacher", "condition")

    @abstractmethod
    def score(self, made: Seen, against: Comparison) -> Score | None:
        """None when the metric says nothing about such a row.

        Raises:
            NotMeasured: it should say something and cannot.
        """

    def needs(self) -> set[str]:
        """Of all sides."""
        return {need for side in self.sides for need in getattr(self, side)}


def check_metric(metric: Metric) -> None:
    """Raises UsageError for an unknown control, or a look that a side has not."""
    for name in metric.controls:
        if name not in CONTROLS:
            raise unknown_name("control", name, CONTROLS, f"Of the metric {metric.name}.")
    for side in metric.sides:
        looks = LOOKS["condition" if side == "condition" else metric.level]
        known = [look for look in looks if side in ONLY_OF.get(look, metric.sides)]
        for need in getattr(metric, side):
            if need.partition(":")[0] not in known:
                raise unknown_name("look", need, known, f"Of the metric {metric.name}, {side}.")


def known_mean(per_asset: NDArray, known: NDArray[np.bool_] | None = None, *, why: str = "") -> Score:
    """Mean over assets and its standard error.

    Args:
        per_asset: [N].
        known: [N] assets that the metric says something about; the others do not count. None: all.
        why: there may be none.
    Raises:
        NotMeasured: none is known.
    """
    every = np.asarray(per_asset, np.float64)
    if known is None:
        known = np.ones(len(every), bool)
    if not known.any():
        raise NotMeasured(why or "no asset can be measured")
    values = every[known]
    spread = float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None
    return Score(float(values.mean()), spread, np.where(known, every, np.nan), int(known.sum()))


METRICS: Registry[Metric] = Registry("metric", group="mdtbench.metrics")
