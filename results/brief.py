"""A run on one screen: a line per method and number of steps, the leading columns of each level, short verdicts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final

from pandas import DataFrame

from .cells import NO_VALUE, Cell, Column, decimals_of, number_of
from .evaluation_tables import is_evaluation
from .frames import distinct
from .oracle_tables import is_oracle
from .paper_columns import NOTHING
from .places import ALL_METHODS, CONTROLS, Key, label_of, other_methods, place_of, step_group
from .report import RunResults, with_verdicts
from .rows import BOTH, COST_METRICS, LATENCY_METRIC, STRUCTURE
from .tables import METHOD, STEPS, Line, Lines, Measured, Table, decimals_by_metric
from .verdict_table import LEADING
from .verdicts import Standing, Verdict, Who, number, verdicts

LEVELS: Final = (BOTH, STRUCTURE)
LEAD: Final = (METHOD, STEPS, Column("nfe", "NFE", "count"), Column(LATENCY_METRIC, "s per\nasset", "cost"))
TEACHER: Final = "teacher"
UNDISTILLED: Final = "none"
GUIDED: Final = (UNDISTILLED, "cfg")
Levels = Mapping[str, Sequence[Column]]  # leading columns by stage
WIDE: Final = 9  # letters: longer headings get two lines
TWO_DIGITS: Final = 3.5  # an sd of larger first digits is shown with one


def brief_tables(run: RunResults, rest: str) -> tuple[Table, ...]:
    """One table of a run with stages; all tables of the others, which are short.

    Args:
        rest: The last note: where all else is.

    Raises:
        UsageError: as `report.tables`.
    """
    if is_oracle(run.rows) or is_evaluation(run.rows):
        return with_verdicts(run)
    found = tuple(verdicts(run.rows, run.assets))
    measured = Measured.of(run.rows, found)
    rows = measured.rows[measured.rows["stage"].isin(LEVELS) & (measured.rows["other_sampler"] == "")]
    levels = {stage: leading for stage in LEVELS if (leading := _leading(rows[rows["stage"] == stage]))}
    maker = Lines(measured, decimals_by_metric(rows), NOTHING, [])
    lines = tuple(_line(maker, who, levels) for who in _whos(rows))
    metrics = (_heading(column) for columns in levels.values() for column in columns)
    notes = (*run.notes, *_notes(found, levels, rows), rest)
    return (Table("brief", _title(run.rows), (*LEAD, *metrics), lines, notes, tuple(maker.footnotes)),)


def _title(rows: DataFrame) -> str:
    counts = rows["n_total"].max(), rows["seed"].nunique(), rows["train_seed"].nunique()
    words = "test assets", "generation seeds", "training seeds"
    runs = ", ".join(distinct(rows["run_id"]))
    said = [f"{n} {word[:-1] if n == 1 else word}" for n, word in zip(counts, words, strict=True)]
    return f"Run {runs}: {', '.join(said)}"


def _leading(rows: DataFrame) -> list[Column]:
    """The first columns of a level, in the order that the protocol has them and students' rows keep."""
    quality = rows[~rows["metric"].isin(COST_METRICS)]
    students = quality[~quality["method"].isin(CONTROLS)]
    first = (quality if students.empty else students).drop_duplicates("metric").head(LEADING)
    fields = first[["metric", "higher_is_better", "unit"]].itertuples(index=False, name=None)
    return [Column(metric, metric, "metric", bool(higher), unit) for metric, higher, unit in fields]


def _heading(column: Column) -> Column:
    """Of two lines, so that numbers decide the width; units are in the full tables."""
    head, mark, tail = column.title.rpartition("_")
    title = f"{head}\n{mark}{tail}" if head and len(column.title) > WIDE else f"{column.title}\n"
    return replace(column, title=title, unit="")


def _whos(rows: DataFrame) -> list[Who]:
    """Method, variant and steps of the lines: the teacher, then per number of steps students and the undistilled."""
    methods = (TEACHER, *ALL_METHODS, *other_methods(rows), UNDISTILLED)
    found = rows.loc[rows["method"].isin(methods), ["method", "variant", "order"]].drop_duplicates()
    whos = [(str(m), str(v), int(o)) for m, v, o in found.itertuples(index=False, name=None)]
    if any(who[:2] == GUIDED for who in whos):
        whos = [who for who in whos if who[:2] != (UNDISTILLED, "")]
    return sorted(whos, key=lambda who: (who[0] != TEACHER, who[2], methods.index(who[0]), who[1]))


def _line(maker: Lines, who: Who, levels: Levels) -> Line:
    """Passes and seconds are those of the first level that has the line, remarks those of all."""
    method, variant, order = who
    label, lead = _label(who), LEAD[1:]
    first: Line | None = None
    metrics: list[Cell] = []
    remarks: dict[int, None] = {}
    for stage, columns in levels.items():
        key: Key = (method, variant, order, "", stage)
        if key not in maker.of.lines:
            metrics += [Cell(NO_VALUE)] * len(columns)
            continue
        place = place_of(key, "", "control" if method in CONTROLS else "student", label)
        line = maker.line(place, (*lead, *columns))
        first = first or line
        metrics += map(_short, line.cells[len(lead) :])
        remarks |= {number_of(f"{label}: {note}", maker.footnotes): None for note in maker.of.lines[key]["notes"]}
    assert first is not None
    return replace(first, cells=(Cell(label, notes=tuple(remarks)), *first.cells[: len(lead)], *metrics))


def _short(cell: Cell) -> Cell:
    """With as many digits as the sd leaves certain: one or two of its own."""
    if cell.value is None or not cell.sd:
        return cell
    leading = cell.sd / 10 ** math.floor(math.log10(cell.sd))
    decimals = decimals_of(cell.sd, significant=2 if leading < TWO_DIGITS else 1)
    counted = cell.text[cell.text.index(" (") :] if cell.text.endswith(")") else ""
    return replace(cell, text=f"{cell.value:.{decimals}f}±{cell.sd:.{decimals}f}{counted}")


def _notes(found: Sequence[Verdict], levels: Levels, rows: DataFrame) -> Iterator[str]:
    order = [(stage, column.key) for stage, columns in levels.items() for column in columns]
    shown = [one for one in found if (one.stage, one.metric) in order]
    shown.sort(key=lambda one: (order.index((one.stage, one.metric)), one.steps or 0))
    for one in shown:
        if one.standing.worse:
            yield f"{one.metric}, {_steps(one)}: {_decided(one.standing)}."
    undecided = [one for one in shown if not one.standing.worse and one.standing.smallest is not None]
    if undecided:
        yield f"No difference shown in {_listed(undecided)}."
    unknown = [one for one in shown if one.standing.smallest is None]
    if unknown:
        yield f"One value of each method does not tell chance in {_listed(unknown)}."
    legend = ["±: sd over generation seeds."] if rows["seed"].nunique() > 1 else []
    legend += ["*: not told from the best student."] if any(one.standing.marked for one in shown) else []
    if len(levels) > 1:
        whole, *_ = levels.values()
        legend.append(f"Whole assets: {', '.join(one.key for one in whole)}.")
    if shown and min(one.standing.trainings for one in shown) < 2:
        legend.append("One training seed: another is in no verdict (`--seeds 0,1,2`).")
    if legend:
        yield " ".join(legend)


def _listed(found: Sequence[Verdict]) -> str:
    """Metrics with their numbers of steps and what could have been shown."""
    metrics: dict[str, list[str]] = {}
    for one in found:
        smallest = one.standing.smallest
        reach = "" if smallest is None else f" from {number(smallest)}"
        metrics.setdefault(one.metric, []).append(f"{_steps(one)}{reach}")
    return ", ".join(f"{metric} ({', '.join(said)})" for metric, said in metrics.items())


def _steps(verdict: Verdict) -> str:
    return step_group(verdict.steps) if verdict.stage != BOTH else f"{verdict.steps}x2"


def _decided(one: Standing) -> str:
    worse = ", ".join(f"{_label(late.who)} by {number(late.difference)}±{number(late.sd)}" for late in one.worse)
    return f"{' = '.join(map(_label, one.top))} best; worse {worse}"


def _label(who: Who) -> str:
    return label_of(*who[:2])
