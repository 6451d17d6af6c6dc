"""From rows to the paper's Tables 2 and 3, as data that no layout has touched.

Each number of steps is a block. After the paper's methods come all others, then one block of controls. A method
stands under its plain name with the sampler that it is made for; right below, the same students with others. How
a cell comes about is told in `cells`.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

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
from .rows import LATENCY_METRIC, Row, latest

LABELS = {
    "cm": "CM",
    "pcm": "PCM",
    "scm": "sCM",
    "vm": "VM",
    "mdt": "VM+VD (Ours)",
    "gd": "Guidance only",
    "kd": "Teacher's pairs",
    "floor": "Floor (held-out reference)",
    "reconstruction": "Reconstruction (VAE)",
    "truth": "Ground truth",
    "shuffled": "Ground truth, shuffled pairs",
    "teacher": "Teacher",
}
CONTROLS = ("floor", "truth", "shuffled", "reconstruction", "teacher", "none")
TABLE_2_METHODS = ("cm", "pcm", "scm", "mdt")
TABLE_3_METHODS = ("vm", "mdt")
ABLATED = ("none", "")  # method and variant of the ablation's first row
CONTROL_GROUP = "Controls"

Role = Literal["student", "control"]


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

    def groups(self) -> list[tuple[str, list[Line]]]:
        """The rows by group, in order."""
        groups: dict[str, list[Line]] = {}
        for line in self.rows:
            groups.setdefault(line.group, []).append(line)
        return list(groups.items())


@dataclass(frozen=True)
class _Place:
    """What a line of a table shows: one method at one number of steps. other_sampler: "" for the method's own."""

    method: str
    variant: str
    steps: int | None
    other_sampler: str
    group: str
    role: Role
    label: str

    @property
    def key(self) -> _Key:
        return self.method, self.variant, self.steps, self.other_sampler

    def holds(self, row: Row) -> bool:
        return _key(row) == self.key


_Key = tuple[str, str, int | None, str]


def _key(row: Row) -> _Key:
    return row.method, row.variant, row.steps, "" if row.own_sampler else row.sampler or ""


def table_2(rows: Sequence[Row]) -> Table:
    """The comparison of methods: CM, PCM, sCM, VM+VD, other methods, then the controls.

    Raises:
        UsageError: no rows, or rows of different runs, stages, splits or definitions of a metric.
    """
    rows = _checked(rows)
    known = {*TABLE_2_METHODS, *TABLE_3_METHODS, *CONTROLS}
    extra = sorted({row.method for row in rows} - known)
    places = [*_student_places(rows, (*TABLE_2_METHODS, *extra)), *_control_places(rows)]
    return _table("table_2", "Table 2. Distillation methods under equal conditions", rows, places)


def table_3(rows: Sequence[Row]) -> Table:
    """The ablation: no VM and no VD, VM, VM+VD, then the controls.

    Raises:
        UsageError: as `table_2`.
    """
    rows = _checked(rows)
    controls = _control_places(rows)
    ablated = [place for place in controls if (place.method, place.variant) == ABLATED]
    first = [replace(p, group=_step_group(p.steps), label="no VM, no VD (undistilled)") for p in ablated]
    # The sort is stable: within a block the undistilled row stays first.
    blocks = sorted([*first, *_student_places(rows, TABLE_3_METHODS)], key=lambda p: _step_order(p.steps))
    rest = [place for place in controls if place not in ablated]
    return _table("table_3", "Table 3. Ablation of velocity matching and distillation", rows, [*blocks, *rest])


def label_of(method: str, variant: str = "", other_sampler: str = "") -> str:
    """The name of a method in a table; unknown methods keep their own."""
    if method == "none":
        return "Undistilled, " + {"": "no CFG", "cfg": "CFG"}.get(variant, variant)
    label = LABELS.get(method, method) + (f" [{variant}]" if variant else "")
    return f"{label}, {other_sampler}" if other_sampler else label


def _checked(rows: Sequence[Row]) -> list[Row]:
    """The latest rows, all of one stage and split, each metric of one definition."""
    rows = latest(rows)
    if not rows:
        raise UsageError("No rows to show - a table needs at least one - make them with `mdtbench run`.")
    _check_single("stage", {row.stage for row in rows})
    _check_single("split", {row.split for row in rows})
    for metric in _metric_names(rows):
        mine = [row for row in rows if row.metric == metric]
        _check_single(f"version of {metric}", {str(row.metric_version) for row in mine})
        _check_single(f"unit of {metric}", {repr(row.unit) for row in mine})
        _check_single(f"better direction of {metric}", {str(row.higher_is_better) for row in mine})
    return rows


def _check_single(what: str, found: set[str]) -> None:
    if len(found) > 1:
        raise UsageError(
            f"Rows with more than one {what} (got {', '.join(sorted(found))}) - a table shows one - select the rows."
        )


def _metric_names(rows: Iterable[Row]) -> list[str]:
    """In order of first appearance, latency apart."""
    return [name for name in dict.fromkeys(row.metric for row in rows) if name != LATENCY_METRIC]


def _step_group(steps: int | None) -> str:
    if steps is None:
        return "No steps"
    return "1 step" if steps == 1 else f"{steps} steps"


def _step_order(steps: int | None) -> int:
    return -1 if steps is None else steps


def _student_places(rows: Sequence[Row], methods: Sequence[str]) -> list[_Place]:
    """Blocks of rising steps; within a block the given order of methods, the default variant first."""
    keys = {_key(row) for row in rows if row.method in methods}
    ordered = sorted(keys, key=lambda key: (_step_order(key[2]), methods.index(key[0]), key[1], key[3]))
    return [_Place(*key, _step_group(key[2]), "student", label_of(key[0], key[1], key[3])) for key in ordered]


def _control_places(rows: Sequence[Row]) -> list[_Place]:
    keys = {_key(row) for row in rows if row.method in CONTROLS}
    ordered = sorted(keys, key=lambda key: (CONTROLS.index(key[0]), _step_order(key[2]), key[1]))
    return [_Place(*key, CONTROL_GROUP, "control", label_of(key[0], key[1])) for key in ordered]


def _table(name: str, title: str, rows: Sequence[Row], places: Sequence[_Place]) -> Table:
    columns = (
        Column("method", "Method", "label"),
        Column("steps", "Steps", "count"),
        Column("nfe", "NFE", "count"),
        Column(LATENCY_METRIC, "time", "cost", higher_is_better=False, unit="s/asset"),
        *_metric_columns(rows),
        Column("n", "ok/n", "count"),
        *_paper_columns(places),
    )
    footnotes: list[str] = []
    lines = [_line(place, rows, columns, footnotes) for place in places]
    notes = (*_notes(rows, columns), *_sampler_notes(rows, places))
    return Table(name, title, columns, _with_best(lines, columns), notes, tuple(footnotes))


def _metric_columns(rows: Sequence[Row]) -> list[Column]:
    """Under the names that the rows give: a metric is never renamed."""
    first = {row.metric: row for row in reversed(rows)}
    return [
        Column(name, name, "metric", first[name].higher_is_better, first[name].unit, first[name].metric_version)
        for name in _metric_names(rows)
    ]


def _paper_columns(places: Iterable[_Place]) -> list[Column]:
    if not any(_published(place) for place in places):
        return []
    return [
        Column(f"paper:{quantity.name}", quantity.name, "paper", quantity.higher_is_better, quantity.unit)
        for quantity in paper.QUANTITIES
        if quantity.name != "seconds"
    ]


def _published(place: _Place) -> paper.PaperRow | None:
    return None if place.variant or place.other_sampler else paper.published(place.method, place.steps)


def _notes(rows: Sequence[Row], columns: Sequence[Column]) -> tuple[str, ...]:
    notes = [
        f"Stage {rows[0].stage}, split {rows[0].split}. NFE: network forward passes per asset, both passes "
        f"of guidance counted. ok/n: assets measured, in the seed that lost most."
    ]
    if len({row.seed for row in rows} - {None}) > 1:
        notes.append("Mean ± sd over generation seeds.")
    notes.append("Marked per block: the best student, and the second best where the format can.")
    if len({row.train_seed for row in rows} - {None}) > 1:
        notes.append("Means are over all training seeds; the sd over training seeds is in the CSV and JSON.")
    if any(column.kind == "paper" for column in columns):
        notes.append(paper.PROTOCOL_NOTE)
    return tuple(notes)


def _sampler_notes(rows: Sequence[Row], places: Iterable[_Place]) -> list[str]:
    """Which sampler each method is made for, and what the lines with another one are."""
    users: dict[str, dict[str, None]] = {}
    for place in places:
        for row in rows if not place.other_sampler else ():
            if row.sampler and place.holds(row):
                label = "Undistilled" if place.method == "none" else label_of(place.method, place.variant)
                users.setdefault(row.sampler, {})[label] = None
    own = "; ".join(f"{name} for {', '.join(labels)}" for name, labels in users.items())
    others = [
        "A method's name with a sampler: the same students with that sampler. It has no line where it computes what "
        "the method's own does, as all do at 1 step."
    ]
    return ([f"Samplers: {own}."] if users else []) + (others if any(place.other_sampler for place in places) else [])


def _line(place: _Place, rows: Sequence[Row], columns: Sequence[Column], footnotes: list[str]) -> Line:
    mine = [row for row in rows if place.holds(row)]

    def metric_cell(column: Column) -> Cell:
        here = [row for row in mine if row.metric == column.key]
        return measured(here, _column_decimals(rows, column.key), _where(place), footnotes)

    def other_cell(column: Column) -> Cell:
        if column.kind == "paper":
            return _paper_cell(place, column.title)
        return _COUNTED[column.key](place, mine, footnotes)

    metrics = iter(with_counts([metric_cell(column) for column in columns if column.kind == "metric"]))
    cells = tuple(next(metrics) if column.kind == "metric" else other_cell(column) for column in columns)
    sampler = next((row.sampler for row in mine), None)
    return Line(place.group, place.method, place.variant, place.steps, place.role, cells, sampler)


def _where(place: _Place) -> str:
    return place.label if place.steps is None else f"{place.label}, {_step_group(place.steps)}"


def _column_decimals(rows: Iterable[Row], metric: str) -> int:
    """Four significant digits of the column's largest student value (largest of all without students)."""
    mine = [row for row in rows if row.metric == metric]
    students = [row for row in mine if row.method not in CONTROLS]
    return decimals_of(max((abs(row.value or 0.0) for row in students or mine), default=0.0), significant=4)


def _label_cell(place: _Place, rows: Sequence[Row], footnotes: list[str]) -> Cell:
    remarks = [f"{_where(place)}: {note}" for note in dict.fromkeys(row.note for row in rows) if note]
    footnotes += [remark for remark in remarks if remark not in footnotes]
    return Cell(place.label, notes=tuple(footnotes.index(remark) + 1 for remark in remarks))


def _steps_cell(place: _Place, rows: Sequence[Row], footnotes: list[str]) -> Cell:
    return Cell(NO_VALUE) if place.steps is None else Cell(str(place.steps), float(place.steps))


def _nfe_cell(place: _Place, rows: Sequence[Row], footnotes: list[str]) -> Cell:
    found = sorted({row.nfe for row in rows if row.nfe is not None})
    if len(found) == 1:
        return Cell(str(found[0]), float(found[0]))
    return Cell(f"{found[0]}-{found[-1]}" if found else NO_VALUE)


def _seconds_cell(place: _Place, rows: Sequence[Row], footnotes: list[str]) -> Cell:
    timed = [row for row in rows if row.metric == LATENCY_METRIC]
    failed = [row for row in timed if row.value is None]
    values = [row.value for row in timed if row.value is not None]
    if not timed:
        return Cell(NO_VALUE)
    notes = failure_notes(failed, len(timed), _where(place), footnotes)
    if not values:
        return Cell(FAILED, n_failed=len(failed), notes=notes)
    mean = statistics.fmean(values)
    text = f"{mean:.{decimals_of(mean, significant=3)}f}"
    return Cell(text, mean, sd_of(values), len(values), n_failed=len(failed), notes=notes)


def _assets_cell(place: _Place, rows: Sequence[Row], footnotes: list[str]) -> Cell:
    worst = min((row for row in rows if row.metric != LATENCY_METRIC), key=ok_share, default=None)
    return Cell(NO_VALUE) if worst is None else Cell(counts(worst), n_ok=worst.n_ok, n_total=worst.n_total)


_COUNTED: dict[str, Callable[[_Place, Sequence[Row], list[str]], Cell]] = {
    "method": _label_cell,
    "steps": _steps_cell,
    "nfe": _nfe_cell,
    LATENCY_METRIC: _seconds_cell,
    "n": _assets_cell,
}


def _paper_cell(place: _Place, quantity: str) -> Cell:
    row = _published(place)
    value = row.number(quantity) if row else None
    if value is None:
        return Cell("")
    return Cell(f"{value:.1f}" if value >= 100 else f"{value:.2f}", value, n=1)


def _with_best(lines: Sequence[Line], columns: Sequence[Column]) -> tuple[Line, ...]:
    """Best and second of each metric, among the students of each block."""
    cells = [list(line.cells) for line in lines]
    for group in dict.fromkeys(line.group for line in lines):
        members = [i for i, line in enumerate(lines) if line.group == group and line.role == "student"]
        for j, column in enumerate(columns):
            if column.kind != "metric":
                continue
            flagged = flag_best([cells[i][j] for i in members], higher=bool(column.higher_is_better))
            for i, cell in zip(members, flagged, strict=True):
                cells[i][j] = cell
    return tuple(replace(line, cells=tuple(row)) for line, row in zip(lines, cells, strict=True))
