"""Two metrics of your own: one of structures, one of whole coloured assets.

mdtbench run --plugin my_metric.py
"""

from __future__ import annotations

import numpy as np

from mdtbench.metrics.contract import ASSET_METRICS, METRICS, Comparison, Metric, Score, Shapes, WholeAssets, mean_score


class FillGap(Metric[Shapes]):
    """How much too full or too empty a shape is: |filled cells - the true shape's|, in percent of the true shape's."""

    name, version, unit, higher_is_better = "fill_gap", 1, "%", False
    controls = ("reconstruction",)  # what the VAE alone leaves

    def score(self, shapes: Shapes, against: Comparison[Shapes]) -> Score:
        made, true = (each.occupancy.sum((1, 2, 3)).astype(np.float64) for each in (shapes, against.truth))
        return mean_score(100 * np.abs(made - true) / true)


class CellsGap(Metric[WholeAssets]):
    """|cells of the asset - cells of the teacher's from the same noise|. Without a teacher it says nothing."""

    name, version, unit, higher_is_better = "cells_gap", 1, "cells", False

    def score(self, shapes: WholeAssets, against: Comparison[WholeAssets]) -> Score | None:
        if against.teacher is None:
            return None
        return mean_score(np.abs(shapes.counts - against.teacher.counts))


METRICS.register("fill_gap", version=1, source="example of the documentation")(FillGap())
ASSET_METRICS.register("cells_gap", version=1, source="example of the documentation")(CellsGap())
