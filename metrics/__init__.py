"""Features, distances, scores. One file per metric; a new one is registered there and listed below."""

from . import fd, fidelity, ulip  # noqa: F401  (importing a module registers its metrics)
from .contract import METRICS, Comparison, Metric, Score, Shapes

__all__ = ["METRICS", "Comparison", "Metric", "Score", "Shapes"]
