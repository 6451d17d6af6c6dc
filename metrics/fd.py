"""Fréchet distances between features of what was made and those of the same test objects' ground truth."""

from __future__ import annotations

from dataclasses import dataclass

from .contract import METRICS, Comparison, Level, Metric, Score, Seen
from .frechet import frechet_distance
from .streams import Features, flat, moments


def distance(a: Features, b: Features) -> float:
    """Fréchet distance of two sets of features [N, V, D]; all views of all assets are samples."""
    return frechet_distance(moments(flat(a)), moments(flat(b)))


@dataclass(frozen=True)
class FrechetDistance(Metric):
    """Of one extractor's features of one look: N V samples on each side."""

    name: str
    look: str
    extractor: str
    level: Level
    controls: tuple[str, ...] = ("reconstruction", "floor")
    version: int = 1
    unit: str = ""
    higher_is_better: bool = False
    few: str = ""

    @property
    def made(self) -> tuple[str, ...]:  # type: ignore[override]
        return (f"{self.look}:{self.extractor}",)

    truth = made  # type: ignore[assignment]

    def score(self, made: Seen, against: Comparison) -> Score:
        assert against.truth is not None
        seen = made[self.made[0]]
        count, dim = seen.shape[0] * seen.shape[1], seen.shape[-1]
        few = f"{self.few}: {count} pictures, fewer than its {dim} features: dominated by bias"
        return Score(distance(seen, against.truth[self.truth[0]]), note=few if self.few and count < dim else "")


FID = "Heusel et al., arXiv:1706.08500, with our features"
for metric in (
    FrechetDistance("FD_tiny2d", "voxels", "tiny2d", "structure"),
    FrechetDistance("FD_tiny3d", "voxel_points", "tiny3d", "structure"),
    FrechetDistance("FD_tiny_gs", "gaussians", "tiny_rgb", "assets", controls=("reconstruction",)),
    FrechetDistance("FD_tiny_mesh", "mesh", "tiny_rgb", "assets"),
):
    METRICS.register(metric.name, version=metric.version, source=FID)(metric)
