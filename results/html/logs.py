"""What the training of each student wrote to its log: the loss and the diagnostics of its method."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from pandas import DataFrame

from ..frames import STUDENT, curves_frame
from ..students import StudentRecord
from ..sweep import SweepRecord

LOSS = "loss"
SLAT = "slat"
LEFT_OUT = ("skipped", "step_s")  # the table of the training budget has them
POINTS = 120  # of one curve; longer ones are averaged down to so many

Curve = tuple[tuple[float, float], ...]  # step and value


@dataclass(frozen=True)
class TrainingLog:
    """One student. `label` is method:variant as in the command line; a curve per quantity, without other numbers."""

    stage: str
    label: str
    seed: int
    curves: Mapping[str, Curve]

    @property
    def method(self) -> str:
        return self.label.partition(":")[0]

    @property
    def variant(self) -> str:
        return self.label.partition(":")[2]


def read_logs(
    folder: Path, students: Sequence[StudentRecord], sweeps: Iterable[SweepRecord] = ()
) -> tuple[TrainingLog, ...]:
    """The logs of a run's students, as `frames.curves_frame` has them."""
    found = curves_frame(folder, students, sweeps)
    return tuple(_log(lines) for _, lines in found.groupby(STUDENT, sort=False))


def downsampled(points: Sequence[tuple[float, float]], count: int = POINTS) -> Curve:
    """At most `count` points: means of neighbours, where there are more."""
    size = math.ceil(len(points) / count)
    groups = [points[i : i + size] for i in range(0, len(points), max(size, 1))]
    return tuple((_mean(step for step, _ in group), _mean(value for _, value in group)) for group in groups)


def _log(lines: DataFrame) -> TrainingLog:
    """Of the lines of one student; curves are of what is a finite number."""
    stage, method, variant, seed, _ = lines[STUDENT].iloc[0]
    quantities = lines.drop(columns=[*STUDENT, "step", *LEFT_OUT], errors="ignore")
    known = quantities.apply(pd.to_numeric, errors="coerce").replace([math.inf, -math.inf], math.nan)
    points = {name: zip(lines["step"], values.tolist(), strict=True) for name, values in known.items()}
    curves = {name: downsampled([one for one in found if not math.isnan(one[1])]) for name, found in points.items()}
    label = f"{method}:{variant}" if variant else method
    return TrainingLog(stage, label, int(seed), {str(name): curve for name, curve in curves.items() if curve})


def _mean(values: Iterable[float]) -> float:
    listed = list(values)
    return sum(listed) / len(listed)
