"""A comparison as a table, worse lines first, and as JSON."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from pydantic import TypeAdapter

from .cells import NO_VALUE, Cell, Column, decimals_of
from .differences import Comparison, Difference, Verdict
from .places import CONTROLS, label_of
from .tables import Line, Table

SCHEMA_VERSION: Final = 1
GROUPS: Final[dict[Verdict, str]] = {
    "worse": "Worse",
    "better": "Better",
    "not comparable": "Not comparable",
    "same": "Same",
    "not judged": "Seconds, not judged",
}
SHOWN: Final[tuple[Verdict, ...]] = ("worse", "better")
COLUMNS: Final = (
    Column("method", "Method", "label"),
    Column("stage", "Stage", "label"),
    Column("steps", "Steps", "count"),
    Column("metric", "Metric", "label"),
    Column("baseline", "Baseline", "count"),
    Column("run", "Run", "count"),
    Column("difference", "Difference", "count"),
    Column("tolerance", "Tolerance", "count"),
    Column("bound", "Bound", "count"),
    Column("verdict", "Verdict", "label"),
)


@dataclass(frozen=True)
class ComparisonReport:
    """What the JSON holds. regression: whether the exit code is 3."""

    schema_version: Literal[1]
    regression: bool
    summary: str
    comparison: Comparison


_ADAPTER = TypeAdapter(ComparisonReport)


def comparison_table(comparison: Comparison, title: str, *, everything: bool = False) -> Table:
    """Worse lines, then better ones; what else there is in notes, or as lines too with `everything`."""
    shown = tuple(GROUPS) if everything else SHOWN
    found = [group for verdict in shown for group in _merged(_ranked(comparison.of(verdict)))]
    footnotes: list[str] = []
    lines = tuple(_line(group, footnotes) for group in found)
    none = () if lines else (f"No line is {' or '.join(shown)}.",)
    return Table("comparison", title, COLUMNS, lines, (*none, *_notes(comparison, everything)), tuple(footnotes))


def to_json(comparison: Comparison) -> str:
    """The comparison with all its numbers, unrounded."""
    report = ComparisonReport(SCHEMA_VERSION, bool(comparison.of("worse")), comparison.summary, comparison)
    return _ADAPTER.dump_json(report, indent=1).decode() + "\n"


def _ranked(differences: Iterable[Difference]) -> list[Difference]:
    """What could not be measured first, then by how far beyond the tolerance."""
    return sorted(differences, key=lambda one: -_excess(one))


def _excess(one: Difference) -> float:
    if one.difference is None:
        return float("inf")
    limit = max(one.tolerance or 0.0, one.bound or 0.0)
    return abs(one.difference) / limit if limit else abs(one.difference)


def _merged(differences: Iterable[Difference]) -> list[list[Difference]]:
    """What failed or is missing for one reason in all metrics of a line is one line."""
    groups: dict[tuple, list[Difference]] = {}
    for one in differences:
        line = (one.stage, one.method, one.variant, one.sampler, one.steps)
        metric = one.metric if one.difference is not None else None
        groups.setdefault((line, metric, one.reason), []).append(one)
    return list(groups.values())


def _line(group: Sequence[Difference], footnotes: list[str]) -> Line:
    one = group[0]
    if one.reason and one.reason not in footnotes:
        footnotes.append(one.reason)
    notes = (footnotes.index(one.reason) + 1,) if one.reason else ()
    decimals, single = _decimals(one), len(group) == 1
    arrow = "↑" if one.higher_is_better else "↓"
    unit = f" ({one.unit})" if one.unit else ""
    cells = (
        Cell(label_of(one.method, one.variant, one.sampler)),
        Cell(one.stage),
        Cell(NO_VALUE if one.steps is None else str(one.steps)),
        Cell(f"{one.metric}{unit} {arrow}" if single else f"{len(group)} metrics"),
        Cell(_number(one.baseline if single else None, decimals), one.baseline if single else None),
        Cell(_number(one.run if single else None, decimals), one.run if single else None, n=one.n),
        Cell(_difference(one, decimals), one.difference, one.stderr),
        Cell(_number(one.tolerance, decimals), one.tolerance),
        Cell(_number(one.bound, decimals), one.bound),
        Cell(one.verdict, notes=notes),
    )
    role = "control" if one.method in CONTROLS else "student"
    return Line(GROUPS[one.verdict], one.method, one.variant, one.steps, role, cells, one.sampler or None)


def _decimals(one: Difference) -> int:
    """Two significant digits of the smallest of what the difference is held against."""
    scales = [abs(value) for value in (one.tolerance, one.bound, one.difference) if value]
    values = [abs(value) for value in (one.baseline, one.run) if value]
    if scales:
        return decimals_of(min(scales), significant=2)
    return decimals_of(max(values), significant=4) if values else 2


def _difference(one: Difference, decimals: int) -> str:
    if one.difference is None:
        return NO_VALUE
    spread = "" if one.stderr is None else f" ± {one.stderr:.{decimals}f}"
    return f"{one.difference:+.{decimals}f}{spread}"


def _number(value: float | None, decimals: int) -> str:
    return NO_VALUE if value is None else f"{value:.{decimals}f}"


def _notes(comparison: Comparison, everything: bool) -> Iterable[str]:
    yield from comparison.notes
    yield (
        "Difference: run less baseline, ± its standard error. One counts beyond its tolerance (what does not matter) "
        "and beyond its bound (what chance would not make)."
    )
    yield (
        f"Bounds: chance makes a difference beyond one anywhere with probability {comparison.alpha:g}; "
        f"{comparison.tests} differences are not exactly 0."
    )
    ways = Counter(one.pairing for one in comparison.differences if one.pairing)
    if ways["none"]:
        yield f"{ways['none']} differences are between other seeds, so not paired."
    paired = sum(one.assets > 0 for one in comparison.differences)
    if paired:
        yield f"{paired} differences are of one seed; their standard errors are of the differences of the same assets."
    of_averages = [one for one in comparison.differences if one.pairing == "assets" and one.stderr is not None]
    alone = sum(one.assets == 0 for one in of_averages)
    if alone:
        yield f"{alone} differences are of one seed; standard errors of averages are over assets, not paired."
    if everything:
        return
    for reason, count in Counter(one.reason for one in comparison.of("not comparable")).most_common():
        yield f"Not comparable, {count}: {reason}."
    yield from _seconds(comparison)


def _seconds(comparison: Comparison) -> Iterable[str]:
    """Ratios of seconds; those that were measured in another way have none."""
    ratios: dict[tuple[str, str], list[float]] = {}
    for one in comparison.of("not judged"):
        if one.run is not None and one.baseline:
            ratios.setdefault((one.metric, one.reason), []).append(one.run / one.baseline)
    for (metric, reason), found in ratios.items():
        if reason:
            yield f"{metric}: not compared in {len(found)} lines: {reason}."
        else:
            ratio = statistics.median(found)
            yield f"{metric}: {ratio:.2f} times the baseline's (median of {len(found)} lines; not judged)."
