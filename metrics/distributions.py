"""Columns that compare distributions of features beside the Fréchet distance: KD, precision and recall, FD_infinity.

Under a protocol's values, so they are made for it (`harness.measure.columns`) and not registered here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..base.seeds import seed_of
from .contract import Comparison, Level, Metric, Score, Seen
from .extrapolation import frechet_infinity
from .kernel import draw_subsets, kernel_distance
from .manifold import NEIGHBOURS, Manifold, manifold
from .streams import Features, flat, moments


@dataclass(frozen=True)
class OfFeatures(Metric):
    """A column of one extractor's features of one look, of what was made and of the truth."""

    name: str
    look: str
    extractor: str
    level: Level = "assets"
    version: int = 1
    unit: str = ""
    higher_is_better: bool = False
    controls: tuple[str, ...] = ("reconstruction", "floor")

    @property
    def made(self) -> tuple[str, ...]:  # type: ignore[override]
        return (f"{self.look}:{self.extractor}",)

    truth = made  # type: ignore[assignment]

    def pair(self, made: Seen, against: Comparison) -> tuple[Features, Features]:
        """Features of what was made and of the truth, [N, V, D]."""
        assert against.truth is not None
        return made[self.made[0]], against.truth[self.truth[0]]


@dataclass(frozen=True)
class KernelDistance(OfFeatures):
    """KD, unbiased, of subsets. stderr: the sd over subsets, unless each of them is all there is."""

    unit: str = "x100"
    scale: float = 100.0
    subsets: int = 100
    subset_size: int = 1000
    seed: int = 0

    def score(self, made: Seen, against: Comparison) -> Score:
        fake, real = map(flat, self.pair(made, against))
        stream = np.random.RandomState(self.seed)  # the protocol's: it never changes
        drawn = draw_subsets(stream, len(fake), len(real), count=self.subsets, size=self.subset_size)
        kd = kernel_distance(fake, real, drawn)
        varies = self.subset_size < len(fake) and self.subsets > 1
        return Score(self.scale * kd.mean, self.scale * kd.sd if varies else None)


_last: list[tuple[Features, Features, Manifold]] = []


def _manifold(fake: Features, real: Features) -> Manifold:
    """Of [N, V, D]. Four columns in a row ask for the same, and distances of all pairs take minutes."""
    if not (_last and _last[0][0] is fake and _last[0][1] is real):
        _last[:] = [(fake, real, manifold(flat(real), flat(fake)))]
    return _last[0][2]


@dataclass(frozen=True)
class ManifoldShare(OfFeatures):
    """precision, recall, density or coverage, as `part` says; nothing for too few samples."""

    higher_is_better: bool = True
    part: str = "precision"

    def score(self, made: Seen, against: Comparison) -> Score | None:
        fake, real = self.pair(made, against)
        if fake.shape[0] * fake.shape[1] <= NEIGHBOURS:
            return None
        return Score(float(getattr(_manifold(fake, real), self.part)))


@dataclass(frozen=True)
class FrechetInfinity(OfFeatures):
    """FD extrapolated to infinitely many samples; nothing where there are too few for it."""

    seed: int = 0

    def score(self, made: Seen, against: Comparison) -> Score | None:
        fake, real = self.pair(made, against)
        count, views, dim = fake.shape
        if count * views < needed_for_infinity(dim, views):
            return None
        random = np.random.default_rng(seed_of("FD_inf", self.seed))
        return Score(frechet_infinity(moments(flat(real)), flat(fake), random, views=views).value)


def needed_for_infinity(dim: int, views: int) -> int:
    """Pictures from which `frechet_infinity` works: twice as many as make a covariance regular, in whole assets."""
    return 2 * -(-(dim + 1) // views) * views
