"""From two sides to scores: every metric on one cell, in a worker, each kept under the digest of all its inputs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, is_dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...base.errors import MdtbenchError
from ...base.files import digest_of
from ...metrics import Comparison, Metric, NotMeasured, Score, Seen
from ..engine.jobs import Job, Place
from ..engine.store import Address, Arrays
from ..settings.methods import code_digest
from .extractors import Extractor
from .sides import Side
from .spool import Spooled

VERSION = 1  # part of every address: raise it when scores are kept or computed otherwise


@dataclass(frozen=True)
class Scored:
    """What a metric says of a cell; None: nothing, as it should.

    Attributes:
        error: why there is no value, "" where there is.
        ok: [N] whether each asset was made, as far as the metric looks; empty where it did not look.
    """

    score: Score | None
    error: str = ""
    ok: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, bool), compare=False)


@dataclass(frozen=True)
class ScoresJob(Job):
    """The scores of one cell or control, a place for each metric.

    Attributes:
        sides: "made", and what metrics hold it against: "truth", "population", "teacher", "condition". Without a
            teacher the metrics that need one say nothing.
        shuffled: whether things are scored with the pictures of their neighbours.
    """

    root: Path
    name: str
    metrics: tuple[Metric, ...]
    sides: Mapping[str, Side]
    extractors: Mapping[str, Extractor]
    shuffled: bool = False

    kind = label = "scores"

    @property
    def needs(self) -> tuple[Job, ...]:
        jobs: list[Job] = []
        for name, side in self.sides.items():
            jobs += side.jobs(self._needed(name), self.extractors)
        return tuple(jobs)

    @property
    def places(self) -> tuple[Place, ...]:
        return tuple(self._places.values())

    @cached_property
    def _places(self) -> dict[str, Place]:
        return {metric.name: self._place(metric) for metric in self.metrics}

    def _place(self, metric: Metric) -> Place:
        of = {
            name: side.key(getattr(metric, name), self.extractors) if getattr(metric, name) else []
            for name, side in self.sides.items()
        }
        code = code_digest(metric)
        settings = repr(metric) if is_dataclass(metric) and not code else ""
        what = [metric.name, metric.version, code, settings]
        inputs = {"version": VERSION, "metric": what, "of": of, "shuffled": self.shuffled}
        return Place(self.root, Address("scores", inputs))

    @property
    def made(self) -> list[Job]:
        """The jobs behind what was made: why assets failed is read of them, even where the scores are there."""
        return self.sides["made"].jobs(self._needed("made"), self.extractors)

    @property
    def told(self) -> list[Job]:
        """The jobs behind what is told of files on either side, as `made`."""
        sides = [name for name in ("made", "truth") if name in self.sides]
        return [job for name in sides for job in self.sides[name].jobs(self._needed(name), self.extractors)]

    @property
    def look_bytes(self) -> int:
        """What pictures and points of what was made take on disk, at most."""
        return self.sides["made"].look_bytes(self._needed("made"))

    def spent(self) -> list[Place]:
        """Pictures of what was made that nothing reads again when the scores are there."""
        held = {need for metric in self.metrics for need in metric.teacher if ":" not in need}
        return self.sides["made"].spent(self._needed("made") | held)

    def reasons(self, side: str = "made") -> dict[str, tuple[str, ...]]:
        """By look why each asset failed in it, "" where it did not; when it is done."""
        return self.sides[side].errors(self._needed(side), self.extractors)

    def notes(self, side: str = "made") -> tuple[str, ...]:
        """What is not shown of each asset's files as they say, "" where all is; when it is done."""
        return self.sides[side].notes(self._needed(side), self.extractors) if side in self.sides else ()

    def compute(self) -> list[Arrays]:
        look = _Looking(self.sides, self.extractors)
        return [
            place.get() if place.exists() else _stored(self._scored(metric, look))
            for metric, place in zip(self.metrics, self.places, strict=True)
        ]

    def read(self) -> dict[str, Scored]:
        """By metric, when it is done."""
        return {name: _scored(place.get()) for name, place in self._places.items()}

    def _needed(self, side: str) -> set[str]:
        return {need for metric in self.metrics for need in getattr(metric, side)}

    def _scored(self, metric: Metric, look: _Looking) -> Scored:
        if metric.teacher and "teacher" not in self.sides:
            return Scored(None)
        try:
            seen = {name: look.at(name, getattr(metric, name)) for name in self.sides if getattr(metric, name)}
        except NotMeasured as error:
            return Scored(None, str(error))
        made = _rolled(seen.pop("made")) if self.shuffled else seen.pop("made")
        try:
            score = metric.score(made, Comparison(**seen))
            return Scored(None if score is None else _counted(score, made), "", made.ok)
        except (NotMeasured, MdtbenchError) as error:
            return Scored(None, str(error), made.ok)
        except Exception as error:  # a metric may be anybody's code: its failure is a row, not the run's end
            return Scored(None, f"{type(error).__name__}: {error}", made.ok)


@dataclass(frozen=True)
class PruneJob(Job):
    """Removes pictures that nothing reads again.

    A job and not a chore of the driver: it begins when the scores of all cells that may read them have ended, so
    nobody finds pictures gone that it was about to look at, wherever it looks.

    Attributes:
        scores: of cells that were made at one time.
    """

    scores: tuple[ScoresJob, ...]

    kind = label = "prune"

    @property
    def places(self) -> tuple[Place, ...]:
        """None: it makes nothing."""
        return ()

    @cached_property
    def key(self) -> str:
        return f"prune-{digest_of([job.key for job in self.scores])[:20]}"

    @property
    def needs(self) -> tuple[Job, ...]:
        return self.scores

    @property
    def done(self) -> bool:
        return all(job.done for job in self.scores) and not any(place.exists() for place in self._spent())

    def compute(self) -> list[Arrays]:
        for place in self._spent():
            place.remove()
        return []

    def _spent(self) -> list[Place]:
        return [place for job in self.scores for place in job.spent()]


@dataclass(frozen=True)
class _Looking:
    """What metrics need of each side. The last is kept: several metrics in a row are of the same features."""

    sides: Mapping[str, Side]
    extractors: Mapping[str, Extractor]
    last: dict[str, tuple[tuple[str, ...], Seen]] = field(default_factory=dict)

    def at(self, name: str, needs: tuple[str, ...]) -> Seen:
        """Raises NotMeasured when it cannot be put together."""
        if self.last.get(name, ((),))[0] != needs:
            self.last.pop(name, None)  # first: there is memory for one
            self.last[name] = needs, self.sides[name].seen(needs, self.extractors)
        return self.last[name][1]


def _counted(score: Score, made: Seen) -> Score:
    """With how many assets entered it. Raises NotMeasured: it has numbers that no row can hold."""
    if not math.isfinite(score.value):
        raise NotMeasured(f"the value is not finite ({score.value})")
    if score.stderr is not None and not math.isfinite(score.stderr):
        raise NotMeasured(f"the standard error is not finite ({score.stderr})")
    per_asset, whole = score.per_asset, len(made)
    if per_asset is not None and (np.shape(per_asset) != (whole,) or np.isinf(per_asset).any()):
        raise NotMeasured(f"the values of single assets are not {whole} numbers")
    counted = int(made.ok.sum())  # what failed may enter an average as 0, and is not ok all the same
    return replace(score, n_ok=counted if score.n_ok is None else min(counted, score.n_ok))


def _rolled(made: Seen) -> Seen:
    """Each asset in the place of the one before it."""
    data = {need: _front(thing) for need, thing in made.data.items()}
    return Seen(made.ids, np.roll(made.ok, -1), data)


def _front(thing: Any) -> Any:
    return thing.rolled() if isinstance(thing, Spooled) else np.roll(thing, -1, axis=0)


def _stored(scored: Scored) -> Arrays:
    score = scored.score
    arrays = {"error": np.array(scored.error), "said": np.array(score is not None), "ok": scored.ok}
    if score is None:
        return arrays
    arrays |= {"value": np.array(score.value), "n_ok": np.array(score.n_ok), "note": np.array(score.note)}
    if score.stderr is not None:
        arrays["stderr"] = np.array(score.stderr)
    if score.per_asset is not None:
        arrays["per_asset"] = score.per_asset
    return arrays


def _scored(arrays: Arrays) -> Scored:
    if not arrays["said"]:
        return Scored(None, str(arrays["error"]), arrays["ok"])
    stderr = float(arrays["stderr"]) if "stderr" in arrays else None
    value, counted, note = float(arrays["value"]), int(arrays["n_ok"]), str(arrays["note"])
    return Scored(Score(value, stderr, arrays.get("per_asset"), counted, note), "", arrays["ok"])
