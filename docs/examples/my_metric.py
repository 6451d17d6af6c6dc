"""Two metrics of your own: one of structures, one of whole coloured assets.

mdtbench run --plugin my_metric.py
"""

from __future__ import annotations

import numpy as np

from mdtbench.metrics import METRICS, Comparison, Metric, Score, Seen
from mdtbench.metrics.contract import known_mean


class FillGap(Metric):
    """How much too full or too empty a shape is: |filled cells - the true shape's|, in percent of the true shape's.

    A failed shape is empty, and so 100 % off.
    """

    name, version, unit, higher_is_better, level = "fill_gap", 1, "%", False, "structure"
    made = truth = ("occupancy",)  # what it is given of each side; names are those of `metrics.contract.LOOKS`
    controls = ("reconstruction",)  # what the VAE alone leaves

    def score(self, made: Seen, against: Comparison) -> Score:
        assert against.truth is not None  # it was asked for
        filled, true = (side["occupancy"].sum((1, 2, 3)).astype(np.float64) for side in (made, against.truth))
        return known_mean(100 * np.abs(filled - true) / true)


class CellsGap(Metric):
    """|cells of the asset - cells of the teacher's from the same noise|. Without a teacher it says nothing."""

    name, version, unit, higher_is_better, level = "cells_gap", 1, "cells", False, "assets"
    made = teacher = ("cells",)

    def score(self, made: Seen, against: Comparison) -> Score | None:
        if against.teacher is None:
            return None
        gap = np.abs(made["cells"].counts - against.teacher["cells"].counts)
        return known_mean(gap, made.ok & against.teacher.ok, why="no asset was made both here and by the teacher")


METRICS.register("fill_gap", version=1, source="example of the documentation")(FillGap())
METRICS.register("cells_gap", version=1, source="example of the documentation")(CellsGap())
