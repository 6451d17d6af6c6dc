"""From rows to the paper's Tables 2 and 3, as data that no layout has touched.

Which lines there are is told in `places`, how a cell comes about in `cells`, whole assets in `whole_tables`.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from pandas import DataFrame, MultiIndex

from ..base.errors import UsageError
from . import paper
from .cells import (
    FAILED,
    NO_VALUE,
    Cell,
    Column,
    counts,
    decimals_of,
    failure_notes,
    flag_best,
    measured,
    ok_share,
    sd_of,
    with_counts,
)
from .paper_columns import SCORES, Beside
from .places import (
    CONTROLS,
    TABLE_2_METHODS,
    TABLE_3_METHODS,
    Place,
    Role,
    block_places,
    control_places,
    label_of,
    other_methods,
    step_group,
    step_order,
)
from .rows import (
    COST_METRICS,
    LATENCY_METRIC,
    STRUCTURE_THEN_TEACHER,
    TEACHER_THEN_SLAT,
    WHOLE_ASSETS,
    Row,
    latest,
)

ABLATED = ("none", "cfg")  # method and variant of the ablation's first row: the teacher as it is, guided
_INDEX = ["group", "method", "variant", "sampler", "steps"]
METHOD = Column("method", "Method", "label")
STEPS = Column("steps", "Steps", "count")
LEAD = (
    METHOD,
    STEPS,
    Column("nfe", "NFE", "count"),
    Column(LATENCY_METRIC, "time", "cost", higher_is_better=False, unit="s/asset"),
)


@dataclass(frozen=True)
class Line:
    """One row of a table; one cell per column."""

    group: str
    method: str
    variant: str
    steps: int | None
    role: Role
    cells: tuple[Cell, ...]
    sampler: str | None = None


@dataclass(frozen=True)
class Table:
    """`rows` of one `group` are adjacent; renderers draw a rule between groups."""

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[Line, ...]
    notes: tuple[str, ...] = ()
    footnotes: tuple[str, ...] = ()

    def column(self, key: str) -> list[Cell]:
        """The cells of one column, top to bottom."""
        index = [column.key for column in self.columns].index(key)
        return [line.cells[index] for line in self.rows]

    def frame(self, of: str = "value") -> DataFrame:
        """The table as a data frame: a line per line, a column per column, by key.

        Args:
            of: A field of `Cell`: "value" (the mean, NaN where there is none), "sd", "n", ..., or "text" (as printed).
        Returns:
            Indexed by group, method, variant, sampler and steps. Labels and counts as "63/64" are always text.
        """
        named = {column.key: i for i, column in enumerate(self.columns) if column.key not in _INDEX}
        as_text = {key for key, i in named.items() if self.columns[i].kind in ("label", "count") and key != "nfe"}
        lines = [
            {key: getattr(line.cells[i], "text" if key in as_text else of) for key, i in named.items()}
            for line in self.rows
        ]
        index = DataFrame([[getattr(line, name) for name in _INDEX] for line in self.rows], columns=_INDEX)
        frame = DataFrame(lines, columns=list(named), index=MultiIndex.from_frame(index.astype({"steps": "Int64"})))
        numbers = [] if of == "text" else [key for key in named if key not in as_text]
        return frame.astype(dict.fromkeys(numbers, "float64")) if of in ("value", "sd", "sd_train") else frame

    def groups(self) -> list[tuple[str, list[Line]]]:
        """The rows by group, in order."""
        groups: dict[str, list[Line]] = {}
        for line in self.rows:
            groups.setdefault(line.group, []).append(line)
        return list(groups.items())


def table_2(rows: Sequence[Row]) -> Table:
    """The comparison of methods: CM, PCM, sCM, VM+VD, other methods, then the controls.

    Raises:
        UsageError: no rows, or rows of different runs, stages, splits or definitions of a metric.
    """
    rows = checked(rows)
    places = [*block_places(rows, (*TABLE_2_METHODS, *other_methods(rows))), *control_places(rows)]
    return build("table_2", "Table 2. Distillation methods under equal conditions", rows, places)


def table_3(rows: Sequence[Row]) -> Table:
    """The ablation: no VM and no VD, VM, VM+VD, then the controls.

    Raises:
        UsageError: as `table_2`.
    """
    rows = checked(rows)
    controls = control_places(rows)
    ablated = [place for place in controls if (place.method, place.variant) == ABLATED]
    label = "no VM, no VD (undistilled)"
    first = [replace(place, group=step_group(place.steps, place.stage), label=label) for place in ablated]
    # The sort is stable: within a block the undistilled row stays first.
    blocks = sorted([*first, *block_places(rows, TABLE_3_METHODS)], key=lambda place: step_order(place.steps))
    rest = [place for place in controls if place not in ablated]
    return build("table_3", "Table 3. Ablation of velocity matching and distillation", rows, [*blocks, *rest])


def build(
    name: str,
    title: str,
    rows: Sequence[Row],
    places: Sequence[Place],
    *,
    lead: tuple[Column, ...] = LEAD,
    beside: Beside = SCORES,
) -> Table:
    """A table with a line per place: the leading columns, the metrics of the rows, ok/n, the paper's numbers.

    Best values are marked among the students of one block and stage.
    """
    columns = (*lead, *_metric_columns(rows), Column("n", "ok/n", "count"), *beside.columns(places))
    footnotes: list[str] = []
    lines = [_line(place, rows, columns, beside, footnotes) for place in places]
    marked = _with_best(lines, columns, [(place.group, place.stage) for place in places])
    notes = (*_notes(rows, columns), *_sampler_notes(rows, places))
    return Table(name, title, columns, marked, notes, tuple(footnotes))


def checked(rows: Sequence[Row]) -> list[Row]:
    """The latest rows, all of one stage and split, each metric of one definition.

    Raises:
        UsageError: they are not, or there are none.
    """
    rows = latest(rows)
    if not rows:
        raise UsageError("No rows to show - a table needs at least one - make them with `mdtbench run`.")
    check_single("stage", {row.stage for row in rows})
    check_definitions(rows)
    return rows


def check_definitions(rows: Sequence[Row]) -> None:
    """Raises UsageError when rows are of different splits or definitions of a metric."""
    check_single("split", {row.split for row in rows})
    for metric in _metric_names(rows):
        mine = [row for row in rows if row.metric == metric]
        check_single(f"version of {metric}", {str(row.metric_version) for row in mine})
        check_single(f"unit of {metric}", {repr(row.unit) for row in mine})
        check_single(f"better direction of {metric}", {str(row.higher_is_better) for row in mine})


def check_single(what: str, found: set[str]) -> None:
    """Raises UsageError when more than one `what` was found."""
    if len(found) > 1:
        raise UsageError(
            f"Rows with more than one {what} (got {', '.join(sorted(found))}) - a table shows one - select the rows."
        )


def _metric_names(rows: Iterable[Row]) -> list[str]:
    """In order of first appearance, costs apart."""
    return [name for name in dict.fromkeys(row.metric for row in rows) if name not in COST_METRICS]


def _metric_columns(rows: Sequence[Row]) -> list[Column]:
    """Under the names that the rows give: a metric is never renamed."""
    first = {row.metric: row for row in reversed(rows)}
    return [
        Column(name, name, "metric", first[name].higher_is_better, first[name].unit, first[name].metric_version)
        for name in _metric_names(rows)
    ]


def _notes(rows: Sequence[Row], columns: Sequence[Column]) -> tuple[str, ...]:
    stages = {row.stage for row in rows}
    notes = [_measured_note(rows[0], whole=stages <= {*WHOLE_ASSETS})]
    if len({row.seed for row in rows} - {None}) > 1:
        notes.append("Mean ± sd over generation seeds.")
    race = "block and set of own stages" if len(stages) > 1 else "block"
    notes.append(f"Marked per {race}: the best student, and the second best where the format can.")
    if len({row.train_seed for row in rows} - {None}) > 1:
        notes.append("Means are over all training seeds; the sd over training seeds is in the CSV and JSON.")
    if any(column.kind == "paper" for column in columns):
        notes.append(paper.PROTOCOL_NOTE)
    return tuple(notes)


def _measured_note(row: Row, *, whole: bool) -> str:
    what = "Whole assets" if whole else f"Stage {row.stage}"
    counted = "both stages and both passes of guidance" if whole else "both passes of guidance"
    return (
        f"{what}, split {row.split}. NFE: network forward passes per asset, {counted} counted. ok/n: assets measured, "
        f"in the seed that lost most."
    )


def _sampler_notes(rows: Sequence[Row], places: Iterable[Place]) -> list[str]:
    """Which samplers there are, which are not what a method is made for, and what the lines with another one are."""
    places = list(places)
    plain = [
        (place, row)
        for place in places
        for row in (rows if not place.other_sampler else ())
        if row.sampler and place.holds(row)
    ]
    foreign = [(place, row) for place, row in plain if not row.own_sampler]
    notes = [f"Samplers: {_by_sampler(plain)}."] if plain else []
    if foreign:
        notes.append(f"The protocol's sampler computes something else than the method's own: {_by_sampler(foreign)}.")
    if any(place.other_sampler for place in places):
        notes.append(
            "A method's name with a sampler: the same students with that sampler. It has no line where it computes "
            "the same as the plain line, as samplers mostly do at 1 step."
        )
    return notes


def _by_sampler(pairs: Iterable[tuple[Place, Row]]) -> str:
    """Which methods each sampler is used for."""
    users: dict[str, dict[str, None]] = {}
    for place, row in pairs:
        label = "Undistilled" if place.method == "none" else label_of(place.method, place.variant)
        users.setdefault(row.sampler or "", {})[label] = None
    return "; ".join(f"{name} for {', '.join(labels)}" for name, labels in users.items())


def _line(place: Place, rows: Sequence[Row], columns: Sequence[Column], beside: Beside, footnotes: list[str]) -> Line:
    mine = [row for row in rows if place.holds(row)]

    def metric_cell(column: Column) -> Cell:
        here = [row for row in mine if row.metric == column.key]
        return measured(here, _column_decimals(rows, column.key), place.where, footnotes)

    def other_cell(column: Column) -> Cell:
        if column.kind == "paper":
            return beside.cell(place, column.title)
        return _COUNTED[column.key](place, mine, footnotes)

    metrics = iter(with_counts([metric_cell(column) for column in columns if column.kind == "metric"]))
    cells = tuple(next(metrics) if column.kind == "metric" else other_cell(column) for column in columns)
    sampler = next((row.sampler for row in mine), None)
    return Line(place.group, place.method, place.variant, place.steps, place.role, cells, sampler)


def _column_decimals(rows: Iterable[Row], metric: str) -> int:
    """Four significant digits of the column's largest student value (largest of all without students)."""
    mine = [row for row in rows if row.metric == metric]
    students = [row for row in mine if row.method not in CONTROLS]
    return decimals_of(max((abs(row.value or 0.0) for row in students or mine), default=0.0), significant=4)


def _label_cell(place: Place, rows: Sequence[Row], footnotes: list[str]) -> Cell:
    remarks = [f"{place.where}: {note}" for note in dict.fromkeys(row.note for row in rows) if note]
    footnotes += [remark for remark in remarks if remark not in footnotes]
    return Cell(place.label, notes=tuple(footnotes.index(remark) + 1 for remark in remarks))


def _steps_cell(place: Place, rows: Sequence[Row], footnotes: list[str]) -> Cell:
    return Cell(NO_VALUE) if place.steps is None else Cell(place.sampling, float(place.steps))


def _nfe_cell(place: Place, rows: Sequence[Row], footnotes: list[str]) -> Cell:
    found = sorted({row.nfe for row in rows if row.nfe is not None})
    if len(found) == 1:
        return Cell(str(found[0]), float(found[0]))
    return Cell(f"{found[0]}-{found[-1]}" if found else NO_VALUE)


def _seconds_cell(place: Place, rows: Sequence[Row], footnotes: list[str], *, metric: str) -> Cell:
    timed = [row for row in rows if row.metric == metric]
    failed = [row for row in timed if row.value is None]
    values = [row.value for row in timed if row.value is not None]
    if not timed:
        return Cell(NO_VALUE)
    notes = failure_notes(failed, len(timed), place.where, footnotes)
    if not values:
        return Cell(FAILED, n_failed=len(failed), notes=notes)
    mean = statistics.fmean(values)
    text = f"{mean:.{decimals_of(mean, significant=3)}f}"
    return Cell(text, mean, sd_of(values), len(values), n_failed=len(failed), notes=notes)


def _assets_cell(place: Place, rows: Sequence[Row], footnotes: list[str]) -> Cell:
    worst = min((row for row in rows if row.metric not in COST_METRICS), key=ok_share, default=None)
    return Cell(NO_VALUE) if worst is None else Cell(counts(worst), n_ok=worst.n_ok, n_total=worst.n_total)


def _maker_cell(place: Place, rows: Sequence[Row], footnotes: list[str], *, teachers: str) -> Cell:
    """Who samples a stage; `teachers` names the rows in which it is the teacher."""
    return Cell("teacher's" if teachers == place.stage or place.method == "teacher" else "own")


_COUNTED: dict[str, Callable[[Place, Sequence[Row], list[str]], Cell]] = {
    "method": _label_cell,
    "structure": partial(_maker_cell, teachers=TEACHER_THEN_SLAT),
    "slat": partial(_maker_cell, teachers=STRUCTURE_THEN_TEACHER),
    "steps": _steps_cell,
    "nfe": _nfe_cell,
    **{metric: partial(_seconds_cell, metric=metric) for metric in COST_METRICS},
    "n": _assets_cell,
}


def _with_best(lines: Sequence[Line], columns: Sequence[Column], races: Sequence[tuple[str, str]]) -> tuple[Line, ...]:
    """Best and second of each metric, among the students of each race."""
    cells = [list(line.cells) for line in lines]
    for race in dict.fromkeys(races):
        members = [i for i, line in enumerate(lines) if races[i] == race and line.role == "student"]
        for j, column in enumerate(columns):
            if column.kind != "metric":
                continue
            flagged = flag_best([cells[i][j] for i in members], higher=bool(column.higher_is_better))
            for i, cell in zip(members, flagged, strict=True):
                cells[i][j] = cell
    return tuple(replace(line, cells=tuple(row)) for line, row in zip(lines, cells, strict=True))
