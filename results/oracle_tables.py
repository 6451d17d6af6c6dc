"""The tables of an oracle run: one per problem, methods against exact answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd
from pandas import DataFrame

from .cells import NO_VALUE, Cell, Column, flag_best, measured, number_of, summary
from .frames import distinct, latest
from .places import CONTROL_GROUP, CONTROLS, keyed, label_of, step_order
from .tables import Line, Table

PREFIX = "oracle/"  # of the stage of every row
TRANSPORT, SLICED_W2 = "transport_rmse", "SW2"
DECIMALS = 3
WHO = ["method", "variant"]
NOTES = (
    "transport: root mean square distance of samples from where the exact flow takes their noise. SW2: sliced "
    "2-Wasserstein distance from exact data. Both in the data's units, at the line's steps with the method's own "
    "sampler; the other columns are SW2 at more steps, by sampler. Mean ± sd over training seeds.",
    "Floor: two independent sets of exact data. Undistilled and teacher: Euler steps along the exact velocity.",
)


def is_oracle(rows: DataFrame) -> bool:
    """Whether rows are of an oracle run."""
    return bool(rows["stage"].str.startswith(PREFIX).any())


def oracle_tables(rows: DataFrame) -> tuple[Table, ...]:
    """One table per problem, in the order of the rows; the last has the notes.

    Raises:
        UsageError: rows of two runs.
    """
    tables = [_table(str(stage), mine) for stage, mine in keyed(latest(rows)).groupby("stage", sort=False)]
    return (*tables[:-1], *(replace(table, notes=NOTES) for table in tables[-1:]))


def _table(stage: str, rows: DataFrame) -> Table:
    control = rows["method"].isin(CONTROLS)
    columns, footnotes = _columns(rows if control.all() else rows[~control], rows), []
    own = summary(rows[rows["own_sampler"]], [*WHO, "order", "metric"])
    of_samplers = summary(rows, [*WHO, "order", "metric", "sampler"])
    ordered = pd.concat([rows[~control], rows[control]]).groupby(WHO, sort=False)
    lines = [_line(mine, own | of_samplers, columns, footnotes) for _, mine in ordered]
    strength = next((one for one in distinct(rows["cfg_strength"]) if one), None)
    guidance = f"guidance strength {strength:g}" if strength else "no guidance"
    name = stage.removeprefix(PREFIX)
    title = f"Exact answers: {name} ({guidance})"
    return Table(f"oracle_{name}", title, columns, _with_best(lines, columns), (), tuple(footnotes))


def _columns(shown: DataFrame, rows: DataFrame) -> tuple[Column, ...]:
    counts = sorted(distinct(shown["steps"]))
    version = int(rows["metric_version"].iloc[0])
    known = {*zip(shown["steps"], shown["sampler"], strict=True)}
    more = [
        Column(_key(steps, name), f"{steps} {name}", "metric", False, version=version)
        for steps in counts[1:]
        for name in distinct(shown["sampler"])
        if (steps, name) in known
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


def _line(
    mine: DataFrame, found: Mapping[tuple, Mapping[str, Any]], columns: Sequence[Column], footnotes: list[str]
) -> Line:
    who = mine["method"].iloc[0], mine["variant"].iloc[0]
    label, first = label_of(*who), min(distinct(mine["steps"]), default=None)
    order = step_order(first)
    passes = distinct(mine.loc[mine["order"] == order, "nfe"])
    remarks = [number_of(f"{label}: {note}", footnotes) for note in distinct(mine["note"]) if note]
    cells = {
        "method": Cell(label, notes=tuple(remarks)),
        "steps": _count(first),
        "nfe": _count(passes[0] if passes else None),
        TRANSPORT: _cell(found.get((*who, order, TRANSPORT)), label, footnotes),
        SLICED_W2: _cell(found.get((*who, order, SLICED_W2)), label, footnotes),
    }
    for steps, sampler in mine[["order", "sampler"]].drop_duplicates().itertuples(index=False):
        about = found.get((*who, steps, SLICED_W2, sampler))
        cells[_key(steps, sampler)] = _cell(about, label, footnotes)
    group, role = (CONTROL_GROUP, "control") if who[0] in CONTROLS else ("Students", "student")
    return Line(group, *who, first, role, tuple(cells.get(column.key, Cell(NO_VALUE)) for column in columns))


def _cell(about: Mapping[str, Any] | None, where: str, footnotes: list[str]) -> Cell:
    """Mean and sd over training seeds."""
    cell = measured(about, DECIMALS, where, footnotes)
    if about is None or about["sd_all"] is None:
        return cell
    return replace(cell, text=f"{about['value']:.{DECIMALS}f} ± {about['sd_all']:.{DECIMALS}f}")


def _count(number: int | None) -> Cell:
    return Cell(NO_VALUE) if number is None else Cell(str(number), float(number))


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
