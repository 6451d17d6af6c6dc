"""Agreement of a shape with its conditioning picture, by a dual encoder of pictures and points."""

from __future__ import annotations

import numpy as np

from .contract import METRICS, Comparison, Metric, Score, Shapes, mean_score


class UlipTiny(Metric[Shapes]):
    """100 x cosine between the picture's and the points' embedding, mean over assets; a failed shape scores 0."""

    name, version, unit, higher_is_better = "ULIP_tiny", 1, "x100", True
    controls = ("reconstruction", "truth", "shuffled")

    def score(self, shapes: Shapes, against: Comparison[Shapes]) -> Score:
        cosine = (shapes.embedding * against.image_embedding).sum(1)
        return mean_score(100 * np.where(shapes.ok, cosine, 0.0))


METRICS.register("ULIP_tiny", version=1, source="after ULIP-2, arXiv:2305.08275, with our encoders")(UlipTiny())
