"""What the training of each student wrote to its log: the loss and the diagnostics of its method."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...base.errors import MissingError
from ...base.files import read_json
from ..rows import STRUCTURE
from ..students import StudentRecord
from ..sweep import SweepRecord

LOSS = "loss"
SLAT = "slat"
LEFT_OUT = frozenset({"step", "skipped", "step_s"})  # the table of the training budget has them
POINTS = 120  # of one curve; longer ones are averaged down to so many
_FOLDER = re.compile(r"(?:(?P<stage>structure|slat)-)?(?P<method>.+)-seed(?P<seed>\d+)-[0-9a-f]+")

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
    """The logs of a run's students by stage, method and seed; of a sweep only the students that the tables show.

    Args:
        folder: Of the run.
        students: To tell which rate the tables show; without them all rates count.
        sweeps: To tell which of several settings with that rate was chosen.

    Raises:
        MissingError: a log is damaged.
    """
    shown = {(s.stage, _label(s), s.train_seed, s.lr) for s in students}
    beaten = {Path(trial.address).name for record in sweeps for trial in record.beaten()}
    paths = [path for path in sorted(folder.glob("students/*/log.jsonl")) if path.parent.name not in beaten]
    logs = [_read(path, shown) for path in paths]
    order = list(dict.fromkeys(_label(student) for student in students))
    return tuple(sorted((log for log in logs if log), key=lambda log: _rank(log, order)))


def downsampled(points: Sequence[tuple[float, float]], count: int = POINTS) -> Curve:
    """At most `count` points: means of neighbours, where there are more."""
    size = math.ceil(len(points) / count)
    groups = [points[i : i + size] for i in range(0, len(points), max(size, 1))]
    return tuple((_mean(step for step, _ in group), _mean(value for _, value in group)) for group in groups)


def _label(student: StudentRecord) -> str:
    return f"{student.method}:{student.variant}" if student.variant else student.method


def _rank(log: TrainingLog, order: Sequence[str]) -> tuple:
    place = order.index(log.label) if log.label in order else len(order)
    return log.stage != STRUCTURE, log.stage, place, log.label, log.seed


def _read(path: Path, shown: set[tuple[str, str, int, float]]) -> TrainingLog | None:
    """None for a folder that is no student's, and for a student that no table shows."""
    named = _FOLDER.fullmatch(path.parent.name)
    if not named:
        return None
    account = path.parent / "training.json"
    known = read_json(account) if account.is_file() else {}
    stage, seed = named["stage"] or STRUCTURE, int(named["seed"])
    label = known.get("label", named["method"].replace("_", ":", 1))
    if shown and "lr" in known and (stage, label, seed, known["lr"]) not in shown:
        return None
    return TrainingLog(stage, label, seed, _curves(_entries(path)))


def _entries(path: Path) -> list[dict[str, Any]]:
    try:
        entries = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except ValueError as error:
        raise MissingError(f"{path} is damaged ({error}). Delete its folder and run the same command again.") from error
    if not all(isinstance(entry, dict) and "step" in entry for entry in entries):
        raise MissingError(f"{path} has a line without a step. Delete its folder and run the same command again.")
    return entries


def _curves(entries: Sequence[Mapping[str, Any]]) -> dict[str, Curve]:
    names = dict.fromkeys(name for entry in entries for name in entry if name not in LEFT_OUT)
    curves = {name: [(e["step"], e[name]) for e in entries if _is_number(e.get(name))] for name in names}
    return {name: downsampled(points) for name, points in curves.items() if points}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _mean(values: Iterable[float]) -> float:
    listed = list(values)
    return sum(listed) / len(listed)
