"""The tables of an oracle run: one per problem, methods against exact answers."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace

from .cells import NO_VALUE, Cell, Column, flag_best, measured, sd_of
from .places import CONTROL_GROUP, CONTROLS, label_of
from .rows import Row, latest
from .tables import Line, Table

PREFIX = "oracle/"  # of the stage of every row
TRANSPORT, SLICED_W2 = "transport_rmse", "SW2"
DECIMALS = 3
NOTES = (
    "transport: root mean square distance of samples from where the exact flow takes their noise. SW2: sliced "
    "2-Wasserstein distance from exact data. Both in the data's units, at the line's steps with the method's own "
    "sampler; the other columns are SW2 at more steps, by sampler. Mean ± sd over training seeds.",
    "Floor: two independent sets of exact data. Undistilled and teacher: Euler steps along the exact velocity.",
)


def is_oracle(rows: Sequence[Row]) -> bool:
    """Whether rows are of an oracle run."""
    return any(row.stage.startswith(PREFIX) for row in rows)


def oracle_tables(rows: Sequence[Row]) -> tuple[Table, ...]:
    """One table per problem, in the order of the rows; the last has the notes.

    Raises:
        UsageError: rows of two runs.
    """
    rows = latest(rows)
    stages = dict.fromkeys(row.stage for row in rows)
    tables = [_table(stage, [row for row in rows if row.stage == stage]) for stage in stages]
    return (*tables[:-1], *(replace(table, notes=NOTES) for table in tables[-1:]))


def _table(stage: str, rows: Sequence[Row]) -> Table:
    who = list(dict.fromkeys((row.method, row.variant) for row in rows))
    ordered = [key for key in who if key[0] not in CONTROLS] + [key for key in who if key[0] in CONTROLS]
    columns = _columns(rows)
    footnotes: list[str] = []
    lines = [_line(key, rows, columns, footnotes) for key in ordered]
    strength = next((row.cfg_strength for row in rows if row.cfg_strength), None)
    guidance = f"guidance strength {strength:g}" if strength else "no guidance"
    name = stage.removeprefix(PREFIX)
    title = f"Exact answers: {name} ({guidance})"
    return Table(f"oracle_{name}", title, columns, _with_best(lines, columns), (), tuple(footnotes))


def _columns(rows: Sequence[Row]) -> tuple[Column, ...]:
    students = [row for row in rows if row.method not in CONTROLS]
    counts = sorted({row.steps for row in students or rows if row.steps is not None})
    samplers = list(dict.fromkeys(row.sampler for row in students or rows if row.sampler))
    version = rows[0].metric_version
    more = [
        Column(_key(steps, name), f"{steps} {name}", "metric", False, version=version)
        for steps in counts[1:]
        for name in samplers
        if any((row.steps, row.sampler) == (steps, name) for row in students or rows)
    ]
    return (
        Column("method", "Method", "label"),
        Column("steps", "Steps", "count"),
        Column("nfe", "NFE", "count"),
        Column(TRANSPORT, "transport", "metric", False, version=version),
        Column(SLICED_W2, "SW2", "metric", False, version=version),
        *more,
    )


def _key(steps: int, sampler: str) -> str:
    return f"{SLICED_W2}:{steps}:{sampler}"


def _line(who: tuple[str, str], rows: Sequence[Row], columns: Sequence[Column], footnotes: list[str]) -> Line:
    mine = [row for row in rows if (row.method, row.variant) == who]
    label, first = label_of(*who), min((row.steps for row in mine if row.steps is not None), default=None)
    here = [row for row in mine if row.steps == first]
    cells = {
        "method": Cell(label, notes=_remarks(label, mine, footnotes)),
        "steps": _count(first),
        "nfe": _count(next((row.nfe for row in here if row.nfe is not None), None)),
        TRANSPORT: _cell([row for row in here if row.metric == TRANSPORT and row.own_sampler], label, footnotes),
        SLICED_W2: _cell([row for row in here if row.metric == SLICED_W2 and row.own_sampler], label, footnotes),
    }
    for row in mine:
        key = _key(row.steps or 0, row.sampler or "")
        same = [r for r in mine if (r.metric, r.steps, r.sampler) == (SLICED_W2, row.steps, row.sampler)]
        cells.setdefault(key, _cell(same, label, footnotes))
    group, role = (CONTROL_GROUP, "control") if who[0] in CONTROLS else ("Students", "student")
    return Line(group, *who, first, role, tuple(cells.get(column.key, Cell(NO_VALUE)) for column in columns))


def _cell(rows: Sequence[Row], where: str, footnotes: list[str]) -> Cell:
    """Mean and sd over training seeds."""
    cell = measured(rows, DECIMALS, where, footnotes)
    values = [row.value for row in rows if row.value is not None]
    spread = sd_of(values)
    if spread is None:
        return cell
    return replace(cell, text=f"{statistics.fmean(values):.{DECIMALS}f} ± {spread:.{DECIMALS}f}")


def _count(number: int | None) -> Cell:
    return Cell(NO_VALUE) if number is None else Cell(str(number), float(number))


def _remarks(label: str, rows: Sequence[Row], footnotes: list[str]) -> tuple[int, ...]:
    remarks = [f"{label}: {note}" for note in dict.fromkeys(row.note for row in rows) if note]
    footnotes += [remark for remark in remarks if remark not in footnotes]
    return tuple(footnotes.index(remark) + 1 for remark in remarks)


def _with_best(lines: Sequence[Line], columns: Sequence[Column]) -> tuple[Line, ...]:
    """Best and second of each metric among the students."""
    students = [line for line in lines if line.role == "student"]
    flagged = [
        flag_best([line.cells[i] for line in students], higher=False)
        if column.kind == "metric"
        else [line.cells[i] for line in students]
        for i, column in enumerate(columns)
    ]
    marked = [replace(line, cells=row) for line, row in zip(students, zip(*flagged, strict=True), strict=True)]
    return (*marked, *(line for line in lines if line.role == "control"))
