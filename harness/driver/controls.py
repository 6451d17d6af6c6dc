"""Lines without a method: what the best and the worst possible numbers look like. Metrics say which are theirs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ...metrics import Metric
from ...metrics.agreement import Agreement
from ...metrics.contract import Level
from ..measure.extractors import Extractor
from ..measure.scores import ScoresJob
from ..measure.sides import Side

TRUTH = "truth"  # the test assets themselves, as a line
LEAST = 4  # assets that can be halved: a covariance needs two samples in each half
HALVES = "one half of the test assets against the other"


@dataclass(frozen=True)
class Control:
    """A line that no method makes.

    Attributes:
        sides: as of `ScoresJob`. shuffled: its things are scored with their neighbours' pictures.
        note: what a reader must know of it.
    """

    name: str
    level: Level
    sides: Mapping[str, Side]
    shuffled: bool = False
    note: str = ""

    def scores(self, root: Path, metrics: Iterable[Metric], extractors: Mapping[str, Extractor]) -> ScoresJob:
        """Of those metrics whose control this is."""
        chosen = [one for one in metrics if self.name in one.controls]
        if self.sides["made"] is self.sides["truth"]:
            chosen = [_of_truth(one) for one in chosen]
        return ScoresJob(root, self.name, tuple(chosen), self.sides, extractors, self.shuffled)


def controls(
    level: Level, against: Mapping[str, Side], best: Side | None = None, others: Side | None = None
) -> Iterator[Control]:
    """All controls of a level.

    reconstruction: the ground truth through encoder and decoder, the best that any flow can do.
    truth: the ground truth itself. shuffled: each picture with the next asset's ground truth.
    floor: what a distance says of two samples of good shapes: other assets at equal n, or one half of the test assets
        against the other.

    Args:
        against: "truth", "population" and "condition" of the test assets.
        best: their reconstruction. others: other assets. None: there are none.
    """
    truth, conditions = against["truth"], against["condition"]
    if best is not None:
        yield Control("reconstruction", level, {"made": best, **against})
    yield Control(TRUTH, level, {"made": truth, **against})
    yield Control("shuffled", level, {"made": truth, **against}, shuffled=True)
    count = len(truth.subjects)
    if others is not None:
        yield Control("floor", level, {"made": others, **against})
    elif count >= LEAST:
        even, odd = range(0, count, 2), range(1, count, 2)
        half, other = truth.part(even), truth.part(odd)
        halves = {"made": half, "truth": other, "population": other, "condition": conditions.part(even)}
        yield Control("floor", level, halves, note=f"{HALVES} (n = {len(even)} and {len(odd)})")


def _of_truth(metric: Metric) -> Metric:
    """Held against the truth's pictures rather than its own, which would be shuffled with it."""
    return replace(metric, of="truth") if isinstance(metric, Agreement) and metric.of == "made" else metric
