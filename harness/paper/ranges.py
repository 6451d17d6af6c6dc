"""Whether a row of the tables lies where the paper's does, within the tolerance that the preset gives it."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ...results.evaluation_tables import RANDOM_MARK
from ...results.paper import PaperRow
from ...results.rows import BOTH, Row
from ..listing import aligned
from ..protocol.calibration import Calibration, Teacher, calibrate
from ..protocol.model import Protocol
from .config import Tolerance
from .plan import REFERENCE, Line, TablesPlan

MAIN = ("FD_incep", "FD_dinov2", "ULIP_I")  # the metrics of Tables 1, 2 and 3


@dataclass(frozen=True)
class Range:
    """A published number and how far from it a measured one may lie."""

    published: float
    slack: float

    @property
    def low(self) -> float:
        return self.published - self.slack

    @property
    def high(self) -> float:
        return self.published + self.slack

    def __str__(self) -> str:
        return f"{self.published:g} ({self.low:.4g} to {self.high:.4g})"


@dataclass(frozen=True)
class Verdict:
    """One number of a row beside its range; inside: None where it was not measured or is not judged."""

    method: str
    steps: int
    metric: str
    found: float | None
    range: Range
    inside: bool | None

    @property
    def words(self) -> str:
        found = "failed" if self.found is None else f"{self.found:.4g}"
        return {True: f"{found} inside", False: f"{found} outside", None: f"{found} not judged"}[self.inside]

    def record(self) -> dict[str, Any]:
        """For JSON."""
        values = asdict(self)
        published = values.pop("range")["published"]
        return {**values, "published": published, "low": self.range.low, "high": self.range.high}


def ranges(paper: PaperRow | None, tolerance: Tolerance | None) -> dict[str, Range]:
    """By metric; empty for a row that the paper does not have."""
    if paper is None or tolerance is None:
        return {}
    slacks = {"FD_incep": tolerance.fd_relative, "FD_dinov2": tolerance.fd_relative}
    numbers = {metric: paper.number(metric) for metric in MAIN}
    return {
        metric: Range(number, slacks[metric] * number if metric in slacks else tolerance.ulip_absolute)
        for metric, number in numbers.items()
        if number is not None
    }


def calibration_of(plan: TablesPlan, protocol: Protocol, rows: Sequence[Row]) -> Calibration:
    """Whether the teacher of this run is the published one, decided on the main run seed."""
    line = next((line for line in plan.lines if line.name == REFERENCE), None)
    main = protocol.values.seeds.run_seeds[0]
    mine = [row for row in rows if row.method == REFERENCE and row.seed == main and row.value is not None]
    found = {_plain(row): row for row in mine if _plain(row) in MAIN}
    if line is None or not found:
        return calibrate(protocol.values.calibration, None)
    values = {metric: found[metric].value if metric in found else None for metric in MAIN}
    teacher = Teacher(
        line.row.steps,
        max(row.n_total for row in found.values()),
        *values.values(),
        random_weights=any(row.metric.endswith(RANDOM_MARK) for row in found.values()),
        smoke=protocol.smoke,
    )
    return calibrate(protocol.values.calibration, teacher)


def verdicts(plan: TablesPlan, rows: Sequence[Row], calibration: Calibration) -> list[Verdict]:
    """One per row of the preset and published number; where the teacher cannot be judged, no row is."""
    judged = calibration.verdict in ("calibrated", "uncalibrated")
    return [
        _verdict(line, metric, allowed, rows, judged=judged)
        for line in plan.lines
        for metric, allowed in ranges(line.paper, line.row.tolerance).items()
    ]


def verdicts_text(found: Sequence[Verdict], calibration: Calibration) -> str:
    """A line per row, after the teacher's verdict."""
    by_row: dict[tuple[str, int], list[Verdict]] = {}
    for verdict in found:
        by_row.setdefault((verdict.method, verdict.steps), []).append(verdict)
    cells: list[tuple[str, ...]] = [("row", "steps", *MAIN)]
    for (method, steps), row in by_row.items():
        words = {verdict.metric: f"{verdict.words} {verdict.range}" for verdict in row}
        cells.append((method, f"{steps}x2", *(words.get(metric, "-") for metric in MAIN)))
    title = "Expected: found, and the published number with the range in which a row counts as the same."
    return "\n".join([f"Calibration: {calibration.line}.", title, *(f"  {line}" for line in aligned(cells))]) + "\n"


def _verdict(line: Line, metric: str, allowed: Range, rows: Sequence[Row], *, judged: bool) -> Verdict:
    """Of the mean over training and run seeds."""
    values = [
        row.value
        for row in rows
        if row.value is not None and _plain(row) == metric and row.stage == BOTH and _is_of(row, line)
    ]
    found = statistics.fmean(values) if values else None
    inside = None if found is None or not judged else allowed.low <= found <= allowed.high
    return Verdict(line.row.method, line.row.steps, metric, found, allowed, inside)


def _is_of(row: Row, line: Line) -> bool:
    name, _, variant = line.row.method.partition(":")
    return (row.method, row.variant, row.steps) == (name, variant, line.row.steps)


def _plain(row: Row) -> str:
    return row.metric.removesuffix(RANDOM_MARK)
