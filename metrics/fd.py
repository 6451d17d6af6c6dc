"""Fréchet distances between features of what was made and those of the truth."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

from .contract import METRICS, Comparison, Level, Metric, Score, Seen
from .frechet import frechet_distance
from .streams import Features, flat, moments


def distance(a: Features, b: Features) -> float:
    """Fréchet distance of two sets of features [N, V, D]; all views of all assets are samples."""
    return frechet_distance(moments(flat(a)), moments(flat(b)))


@dataclass(frozen=True)
class FrechetDistance(Metric):
    """Of one extractor's features of one look: N V samples on each side.

    Attributes:
        against: what it is held against: the test assets (as published distances are), or all assets of their law.
        few: what a note on too few pictures calls it; "": none is written.
    """

    name: str
    look: str
    extractor: str
    level: Level
    controls: tuple[str, ...] = ("reconstruction", "floor")
    version: int = 1
    unit: str = ""
    higher_is_better: bool = False
    few: str = ""
    against: Literal["truth", "population"] = "truth"

    @property
    def made(self) -> tuple[str, ...]:  # type: ignore[override]
        return (f"{self.look}:{self.extractor}",)

    @property
    def truth(self) -> tuple[str, ...]:  # type: ignore[override]
        return self.made if self.against == "truth" else ()

    @property
    def population(self) -> tuple[str, ...]:  # type: ignore[override]
        return self.made if self.against == "population" else ()

    def score(self, made: Seen, against: Comparison) -> Score:
        other = against.truth if self.against == "truth" else against.population
        assert other is not None
        seen = made[self.made[0]]
        count, dim = seen.shape[0] * seen.shape[1], seen.shape[-1]
        few = f"{self.few}: {count} pictures, fewer than its {dim} features: dominated by bias"
        return Score(distance(seen, other[self.made[0]]), note=few if self.few and count < dim else "")


FID = "Heusel et al., arXiv:1706.08500, with our features"
_of_law = partial(FrechetDistance, version=2, against="population")
for metric in (
    _of_law("FD_tiny2d", "voxels", "tiny2d", "structure"),
    _of_law("FD_tiny3d", "voxel_points", "tiny3d", "structure"),
    _of_law("FD_tiny_gs", "gaussians", "tiny_rgb", "assets", controls=("reconstruction",)),
    _of_law("FD_tiny_mesh", "mesh", "tiny_rgb", "assets"),
):
    METRICS.register(metric.name, version=metric.version, source=FID)(metric)
