"""Agreement of an asset with pictures: the conditioning picture, views of the truth, views of itself.

100 x cosine of embeddings, mean over pictures, then over assets; a failed asset scores 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .contract import METRICS, Comparison, Level, Metric, NotMeasured, Score, Seen, known_mean
from .streams import Features

CHUNK = 256  # assets at a time


@dataclass(frozen=True)
class Agreement(Metric):
    """Cosine between what was made and pictures.

    Attributes:
        thing: look and extractor of what was made.
        picture: look and extractor of the pictures. of: whose they are.
    """

    name: str
    thing: str
    picture: str
    of: Literal["condition", "truth", "made"]
    level: Level
    controls: tuple[str, ...] = ("reconstruction", "truth", "shuffled")
    version: int = 1
    unit: str = "x100"
    higher_is_better: bool = True

    @property
    def made(self) -> tuple[str, ...]:  # type: ignore[override]
        return (self.thing, self.picture) if self.of == "made" else (self.thing,)

    @property
    def truth(self) -> tuple[str, ...]:  # type: ignore[override]
        return (self.picture,) if self.of == "truth" else ()

    @property
    def condition(self) -> tuple[str, ...]:  # type: ignore[override]
        return (self.picture,) if self.of == "condition" else ()

    def score(self, made: Seen, against: Comparison) -> Score:
        shown = {"condition": against.condition, "truth": against.truth, "made": made}[self.of]
        assert shown is not None
        ok = made.ok & shown.ok
        found = known_mean(cosines(made[self.thing], shown[self.picture], ok))
        note = f"{self.name} over valid assets alone: {found.per_asset[ok].mean():.2f}" if ok.any() else ""  # type: ignore[index]
        return Score(found.value, found.stderr, found.per_asset, int(ok.sum()), "" if ok.all() else note)


def cosines(things: Features, pictures: Features, ok: NDArray[np.bool_]) -> NDArray[np.float64]:
    """100 x cosine between each thing and its pictures, mean over all pairs of views: [N]; 0 where not ok.

    Args:
        things: [N, V, E]. pictures: [N, W, E]. Of any length; read a few assets at a time.
    Raises:
        NotMeasured: an embedding that counts is not finite.
    """
    per_asset = np.zeros(len(ok))
    for start in range(0, len(ok), CHUNK):
        here = slice(start, start + CHUNK)
        counted = ok[here]
        if counted.any():
            pairs = np.einsum("nve,nwe->nvw", *(_unit(side[here][counted]) for side in (things, pictures)))
            per_asset[here][counted] = 100 * pairs.mean((1, 2))
    if not np.isfinite(per_asset).all():
        raise NotMeasured("embeddings of assets that did not fail hold NaN or infinity")
    return per_asset


def _unit(vectors: NDArray) -> NDArray[np.float64]:
    """Unit vectors along the last axis; a vector of zeros stays one, so its cosines are 0."""
    vectors = np.asarray(vectors, np.float64)
    norm = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.where(norm == 0, 1, norm)


SOURCE = "after ULIP-2, arXiv:2305.08275, with our encoders"
for metric in (
    Agreement("ULIP_tiny", "voxel_points:ulip_tiny", "condition:ulip_tiny", "condition", "structure", version=2),
    Agreement("ULIP_tiny_mesh", "points:ulip_tiny_mesh", "condition:ulip_tiny_mesh", "condition", "assets", version=2),
):
    METRICS.register(metric.name, version=metric.version, source=SOURCE)(metric)
