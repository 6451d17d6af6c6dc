"""A comparison as a table, worse lines first, and as JSON."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from pydantic import TypeAdapter

from ..base.groups import grouped
from .cells import NO_VALUE, Cell, Column, decimals_of
from .differences import MEASURING, MORE_ASSETS, MORE_TRAININGS, Comparison, Difference, Verdict
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
SHOWN: Final[tuple[Verdict, ...]] = ("worse", "better", "same")  # of the last what differs, and is no control
SIDES: Final = ("Run", "Baseline")
METHOD: Final = Column("method", "Method", "label")  # where lines are of several
COLUMNS: Final = (
    Column("metric", "Metric", "label"),
    Column("where", "Stage, steps", "label"),
    Column("difference", "Difference", "count"),
    Column("smallest", "Smallest", "count"),
    Column("run", "Run", "count"),
    Column("baseline", "Baseline", "count"),
    Column("bound", "Bound", "count"),
    Column("tolerance", "Tolerance", "count"),
)


@dataclass(frozen=True)
class ComparisonReport:
    """What the JSON holds. regression: whether the exit code is 3."""

    schema_version: Literal[1]
    regression: bool
    summary: str
    comparison: Comparison


_ADAPTER = TypeAdapter(ComparisonReport)


def comparison_table(
    comparison: Comparison, title: str, *, sides: tuple[str, str] = SIDES, everything: bool = False
) -> Table:
    """Worse lines, better ones, what differs no more than by chance; the rest in notes, or with `everything` too.

    Args:
        sides: what the run and the baseline are called.
    """
    shown = tuple(GROUPS) if everything else SHOWN
    listed = {verdict: [one for one in comparison.of(verdict) if everything or _differs(one)] for verdict in shown}
    # what could not be measured first, then by how far beyond the tolerance
    ranked = [sorted(listed[verdict], key=lambda one: -_excess(one)) for verdict in shown]
    found = [group for differences in ranked for group in _merged(differences)]
    footnotes: list[str] = []
    lines = tuple(_line(group, footnotes) for group in found)
    called = {"run": sides[0], "baseline": sides[1]}
    columns = [replace(column, title=called.get(column.key, column.title)) for column in (METHOD, *COLUMNS)]
    left_out = {"tolerance"} if comparison.within else set()
    if comparison.within and not everything:
        left_out.add("bound")  # the verdict says which differences are beyond it
    if comparison.within and len({(line.method, line.variant) for line in lines}) < 2:
        left_out.add("method")  # the title names it
    kept = [i for i, column in enumerate(columns) if column.key not in left_out]
    shown_columns = tuple(columns[i] for i in kept)
    lines = tuple(replace(line, cells=tuple(line.cells[i] for i in kept)) for line in lines)
    none = () if lines else ("No method's line differs.",)
    notes = (*none, *_notes(comparison, sides, everything))
    return Table("comparison", title, shown_columns, lines, notes, tuple(footnotes))


def to_json(comparison: Comparison) -> str:
    """The comparison with all its numbers, unrounded."""
    report = ComparisonReport(SCHEMA_VERSION, comparison.regression, comparison.summary, comparison)
    return _ADAPTER.dump_json(report, indent=1).decode() + "\n"


def _differs(one: Difference) -> bool:
    return one.verdict != "same" or bool(one.difference and one.method not in MEASURING)


def _excess(one: Difference) -> float:
    if one.difference is None:
        return float("inf")
    limit = max(one.tolerance or 0.0, one.bound or 0.0)
    return abs(one.difference) / limit if limit else abs(one.difference)


def _merged(differences: Iterable[Difference]) -> list[list[Difference]]:
    """What failed or is missing for one reason in all metrics of a line is one line."""

    def line(one: Difference) -> tuple:
        metric = one.metric if one.difference is not None else None
        return one.stage, one.method, one.variant, one.sampler, one.steps, metric, one.reason

    return list(grouped(differences, line).values())


def _line(group: Sequence[Difference], footnotes: list[str]) -> Line:
    one = group[0]
    if one.reason and one.reason not in footnotes:
        footnotes.append(one.reason)
    notes = (footnotes.index(one.reason) + 1,) if one.reason else ()
    decimals, single = _decimals(one), len(group) == 1
    arrow = "↑" if one.higher_is_better else "↓"
    steps = "" if one.steps is None else f" {one.steps}"
    values = [(one.smallest, 0), (one.run, one.n), (one.baseline, 0), (one.bound, 0), (one.tolerance, 0)]
    cells = (
        Cell(label_of(one.method, one.variant, one.sampler)),
        Cell(f"{one.metric} {arrow}" if single else f"{len(group)} metrics", notes=notes),
        Cell(f"{one.stage}{steps}"),
        Cell(_difference(one, decimals), one.difference, one.stderr),
        *(Cell(_number(value if single else None, decimals), value if single else None, n=n) for value, n in values),
    )
    role = "control" if one.method in CONTROLS else "student"
    return Line(GROUPS[one.verdict], one.method, one.variant, one.steps, role, cells, one.sampler or None)


def _decimals(one: Difference) -> int:
    """Two significant digits of the smallest of what the difference is held against; none that its error hides."""
    least = max(abs(one.difference or 0.0), one.stderr or 0.0)
    scales = [abs(value) for value in (one.tolerance, one.bound, least) if value]
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


def _notes(comparison: Comparison, sides: tuple[str, str], everything: bool) -> Iterable[str]:
    yield from comparison.notes
    if comparison.within:
        yield (
            f"Difference: {sides[0]} minus {sides[1]}, ± its standard error over training seeds and assets (of "
            "distances, generation seeds). Judged as in the report's verdicts: equal methods are called the same in "
            f"{1 - comparison.alpha:.0%} of columns."
        )
        yield from _reach(comparison)
        yield from () if everything else _not_comparable(comparison)
        return
    yield (
        "Difference: run minus baseline, ± its standard error. One counts beyond its tolerance (what does not matter) "
        "and beyond its bound (what chance would not make)."
    )
    yield (
        f"Bounds: chance makes a difference beyond one anywhere with probability {comparison.alpha:g}; "
        f"{comparison.tests} differences are not exactly 0."
    )
    yield from _reach(comparison)
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
    yield from _not_comparable(comparison)
    yield from _seconds(comparison)


def _not_comparable(comparison: Comparison) -> Iterable[str]:
    """Why, and how many of each reason."""
    for reason, count in Counter(one.reason for one in comparison.of("not comparable")).most_common():
        yield f"Not comparable, {count}: {reason}."


def _reach(comparison: Comparison) -> Iterable[str]:
    """How small a difference could have been shown, and what would show smaller ones."""
    reached = [one for one in comparison.differences if one.smallest is not None]
    if not reached:
        return
    yield "Smallest: the true difference that data like these would show in four of five cases."
    parts: dict[str, list[float]] = {}
    for one in reached:
        for name, part in one.more.items():
            parts.setdefault(name, []).append(part)
    said = [f"{name} to {statistics.median(found):.2f} of it" for name, found in parts.items()]
    said += [] if MORE_ASSETS in parts else [f"{MORE_ASSETS} at best to 0.71 of it"]
    yield f"What would show smaller ones, by reducing the standard error (medians): {', '.join(said)}."
    if MORE_TRAININGS not in parts:
        yield "The chance of training is not in these numbers; three training seeds (`--seeds 0,1,2`) bring it in."


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
