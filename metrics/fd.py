"""Fréchet distances between the features of the shapes and those of the same test objects' ground truth."""

from __future__ import annotations

from numpy.typing import NDArray

from .contract import METRICS, Comparison, Metric, Score, Shapes
from .frechet import Moments, frechet_distance


def distance(a: NDArray, b: NDArray) -> float:
    """Fréchet distance of two sets of features [..., D]; leading axes are all samples."""
    dim = a.shape[-1]
    return frechet_distance(Moments.of(a.reshape(-1, dim)), Moments.of(b.reshape(-1, dim)))


class PictureFD(Metric[Shapes]):
    """Of `tiny2d` features on the four protocol views, stacked: 4 N samples on each side."""

    name, version, unit, higher_is_better = "FD_tiny2d", 1, "", False
    controls = ("reconstruction", "floor")

    def score(self, shapes: Shapes, against: Comparison[Shapes]) -> Score:
        return Score(distance(shapes.picture_features, against.truth.picture_features))


class PointFD(Metric[Shapes]):
    """Of `tiny3d` features on surface points: N samples on each side."""

    name, version, unit, higher_is_better = "FD_tiny3d", 1, "", False
    controls = ("reconstruction", "floor")

    def score(self, shapes: Shapes, against: Comparison[Shapes]) -> Score:
        return Score(distance(shapes.point_features, against.truth.point_features))


METRICS.register("FD_tiny2d", version=1, source="Heusel et al., arXiv:1706.08500, with our features")(PictureFD())
METRICS.register("FD_tiny3d", version=1, source="Heusel et al., arXiv:1706.08500, with our features")(PointFD())
