"""Whether a row of the tables lies where the paper's does, within the tolerance that the preset gives it."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ...base.groups import grouped
from ...base.text import aligned
from ...results.evaluation_tables import CALIBRATION, RANDOM_MARK, SEPARATOR
from ...results.paper import PaperRow
from ...results.rows import BOTH, Row
from ..measure.columns import OF_PAPER as MAIN
from ..plan.plan import REFERENCE, Line, Plan
from ..protocol.calibration import Calibration, Teacher, calibrate
from ..settings.config import Tolerance


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


@dataclass(frozen=True)
class Expected:
    """What the lines of a run say of the paper's: the teacher's calibration, and each line beside its range."""

    calibration: Calibration
    verdicts: tuple[Verdict, ...]

    def text(self) -> str:
        """A line per row, after the teacher's verdict."""
        by_row = grouped(self.verdicts, lambda verdict: (verdict.method, verdict.steps))
        cells: list[tuple[str, ...]] = [("row", "steps", *MAIN)]
        for (method, steps), row in by_row.items():
            words = {verdict.metric: f"{verdict.words} {verdict.range}" for verdict in row}
            cells.append((method, f"{steps}x2", *(words.get(metric, "-") for metric in MAIN)))
        lines = [f"Calibration: {self.calibration.line}."]
        if self.verdicts:
            lines.append("Expected: found, and the published number with the range in which a row counts as the same.")
            lines += [f"  {line}" for line in aligned(cells)]
        return "\n".join(lines) + "\n"

    def record(self) -> dict[str, Any]:
        """For JSON."""
        return {"calibration": self.calibration.line, "rows": [verdict.record() for verdict in self.verdicts]}

    def noted(self, rows: Sequence[Row], of_all: Sequence[str] = ()) -> list[Row]:
        """With what holds for all lines, and the calibration, as parts of the note of the teacher's rows."""
        text = CALIBRATION + self.calibration.line.replace(SEPARATOR, " / ")

        def note(row: Row) -> str:
            return SEPARATOR.join(part for part in (row.note, *of_all, text) if part)

        return [row.model_copy(update={"note": note(row)}) if row.method == REFERENCE else row for row in rows]


def expected_of(plan: Plan, rows: Sequence[Row]) -> Expected | None:
    """None under a protocol without a published teacher."""
    rule = plan.protocol.values.calibration
    if rule is None or not plan.config.slat:
        return None
    calibration = calibrate(rule, _teacher(plan, rows))
    judged = calibration.verdict in ("calibrated", "uncalibrated")
    found = [
        _verdict(line, metric, allowed, rows, judged=judged)
        for line in plan.lines
        for metric, allowed in ranges(line.paper, line.tolerance).items()
    ]
    return Expected(calibration, tuple(found))


def _teacher(plan: Plan, rows: Sequence[Row]) -> Teacher | None:
    """The teacher of this run, on the main run seed; None where it was not measured."""
    main = plan.run_seeds[0]
    mine = [row for row in rows if row.method == REFERENCE and row.stage == BOTH and row.seed == main]
    found = {_plain(row): row for row in mine if row.value is not None and _plain(row) in MAIN}
    if not found:
        return None
    values = {metric: found[metric].value if metric in found else None for metric in MAIN}
    return Teacher(
        max(row.steps or 0 for row in found.values()),
        max(row.n_total for row in found.values()),
        *values.values(),
        random_weights=any(row.metric.endswith(RANDOM_MARK) for row in found.values()),
        smoke=plan.protocol.smoke,
    )


def _verdict(line: Line, metric: str, allowed: Range, rows: Sequence[Row], *, judged: bool) -> Verdict:
    """Of the mean over training and run seeds."""
    values = [
        row.value
        for row in rows
        if row.value is not None and _plain(row) == metric and row.stage == BOTH and _is_of(row, line)
    ]
    found = statistics.fmean(values) if values else None
    inside = None if found is None or not judged else allowed.low <= found <= allowed.high
    return Verdict(line.label, line.steps, metric, found, allowed, inside)


def _is_of(row: Row, line: Line) -> bool:
    mine = (row.method, row.variant, row.steps) == (line.name, line.variant, line.steps)
    return mine and not row.extra_sampler


def _plain(row: Row) -> str:
    return row.metric.removesuffix(RANDOM_MARK)
