"""Features, distances, scores. One file per metric; a new one is registered there and listed below."""

from . import agreement, fd, fidelity, law  # noqa: F401  (importing a module registers its metrics)
from .contract import CONTROLS, METRICS, Cells, Comparison, Metric, NotMeasured, Score, Seen

__all__ = ["CONTROLS", "METRICS", "Cells", "Comparison", "Metric", "NotMeasured", "Score", "Seen"]
