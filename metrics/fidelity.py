"""How close a shape is to the teacher's shape from the same noise, and to the ground truth."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .contract import METRICS, Comparison, Metric, Score, Shapes, mean_score


def iou(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Intersection over union of occupancy grids [N, R, R, R]: [N]; two empty grids agree fully."""
    both = (a & b).sum((1, 2, 3))
    either = (a | b).sum((1, 2, 3))
    return np.where(either == 0, 1.0, both / np.maximum(either, 1))


class TeacherIoU(Metric[Shapes]):
    """IoU with the shape that the teacher's full sampler makes from the same noise: the least noisy measure."""

    name, version, unit, higher_is_better = "IoU_teacher", 1, "", True

    def score(self, shapes: Shapes, against: Comparison[Shapes]) -> Score | None:
        if against.teacher is None:
            return None
        return mean_score(iou(shapes.occupancy, against.teacher.occupancy))


class TeacherMSE(Metric[Shapes]):
    """Mean squared distance of latents to the teacher's from the same noise; latents have unit variance."""

    name, version, unit, higher_is_better = "MSE_teacher", 1, "", False

    def score(self, shapes: Shapes, against: Comparison[Shapes]) -> Score | None:
        if against.teacher is None:
            return None
        gap = shapes.latents.astype(np.float64) - against.teacher.latents
        return mean_score(np.square(gap).reshape(len(gap), -1).mean(1))


class TruthIoU(Metric[Shapes]):
    """IoU with the ground truth. It rewards the mean of all shapes that fit the picture, hence blur: a check only."""

    name, version, unit, higher_is_better = "IoU_truth", 1, "", True
    controls = ("reconstruction",)

    def score(self, shapes: Shapes, against: Comparison[Shapes]) -> Score | None:
        return mean_score(iou(shapes.occupancy, against.truth.occupancy))


METRICS.register("IoU_teacher", version=1, source="ours")(TeacherIoU())
METRICS.register("MSE_teacher", version=1, source="ours")(TeacherMSE())
METRICS.register("IoU_truth", version=1, source="ours")(TruthIoU())
