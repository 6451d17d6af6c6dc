"""Features, distances, scores. One file per metric; a new one is registered there and listed below."""

from . import fd, fidelity, ulip, whole  # noqa: F401  (importing a module registers its metrics)
from .contract import ASSET_METRICS, METRICS, Comparison, Metric, Score, Shapes, WholeAssets

__all__ = ["ASSET_METRICS", "METRICS", "Comparison", "Metric", "Score", "Shapes", "WholeAssets"]
