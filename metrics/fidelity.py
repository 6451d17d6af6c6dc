"""How close an asset is to the teacher's asset from the same noise, and to the ground truth.

A failed asset has no latents to compare: it is no pair of a mean squared distance, and its row says how many are. Its
shape is empty, and so agrees with nothing.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .contract import METRICS, Cells, Comparison, Metric, Score, Seen, known_mean

NO_PAIR = "no asset was made both here and by the teacher"


def iou(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Intersection over union of occupancy grids [N, R, R, R]: [N]; 0 of two empty ones."""
    both = (a & b).sum((1, 2, 3))
    either = (a | b).sum((1, 2, 3))
    return both / np.maximum(either, 1)


class TeacherIoU(Metric):
    """IoU with the shape that the teacher's full sampler makes from the same noise: the least noisy measure.

    What failed scores 0; where the teacher's failed there is nothing to agree with.
    """

    name, version, higher_is_better, level = "IoU_teacher", 2, True, "structure"
    made = teacher = ("occupancy",)

    def score(self, made: Seen, against: Comparison) -> Score | None:
        if against.teacher is None:
            return None
        found = np.where(made.ok, iou(made["occupancy"], against.teacher["occupancy"]), 0.0)
        return known_mean(found, against.teacher.ok, why=NO_PAIR)


class TeacherMSE(Metric):
    """Mean squared distance of latents to the teacher's from the same noise; latents have unit variance."""

    name, version, higher_is_better, level = "MSE_teacher", 2, False, "structure"
    made = teacher = ("latents",)

    def score(self, made: Seen, against: Comparison) -> Score | None:
        if against.teacher is None:
            return None
        gap = made["latents"].astype(np.float64) - against.teacher["latents"]
        return known_mean(np.square(gap).reshape(len(gap), -1).mean(1), made.ok & against.teacher.ok, why=NO_PAIR)


class TruthIoU(Metric):
    """IoU with the ground truth. It rewards the mean of all shapes that fit the picture, hence blur: a check only."""

    name, version, higher_is_better, level = "IoU_truth", 2, True, "structure"
    made = truth = ("occupancy",)
    controls = ("reconstruction",)

    def score(self, made: Seen, against: Comparison) -> Score:
        assert against.truth is not None
        return known_mean(np.where(made.ok, iou(made["occupancy"], against.truth["occupancy"]), 0.0))


class SlatMSE(Metric):
    """Mean squared distance of SLAT latents to the teacher's from the same noise; latents have unit variance.

    Only where all assets have the teacher's voxels: elsewhere there are no pairs of latents. An asset without voxels,
    whose structure is the teacher's empty one, has nothing to be compared.
    """

    name, version, higher_is_better, level = "MSE_slat", 2, False, "assets"
    made = teacher = ("cells",)

    def score(self, made: Seen, against: Comparison) -> Score | None:
        if against.teacher is None:
            return None
        mine: Cells = made["cells"]
        theirs: Cells = against.teacher["cells"]
        if not np.array_equal(mine.counts, theirs.counts) or not np.array_equal(mine.coords, theirs.coords):
            return None
        filled = mine.counts > 0
        if not filled.any():
            return None
        gap = np.square(mine.latents.astype(np.float64) - theirs.latents).mean(1)
        starts = (np.cumsum(mine.counts) - mine.counts)[filled]
        per_asset = np.zeros(len(filled))
        per_asset[filled] = np.add.reduceat(gap, starts) / mine.counts[filled]
        return known_mean(per_asset, filled & made.ok & against.teacher.ok, why=NO_PAIR)


for metric in (TeacherIoU(), TeacherMSE(), TruthIoU(), SlatMSE()):
    METRICS.register(metric.name, version=metric.version, source="ours")(metric)
