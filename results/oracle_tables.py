"""The tables of a run on problems with a known law: one per problem, methods against exact answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
from pandas import DataFrame

from .cells import NO_VALUE, Cell, Column, measured, number_of, summary
from .frames import distinct, latest
from .places import CONTROL_GROUP, CONTROLS, PROBLEM, keyed, label_of, problem_of, step_order
from .tables import Line, Table
from .verdicts import Race, Who

DECIMALS = 3
OWN = "own"  # in place of a sampler's name: each method's own
WHO = ["method", "variant"]
_OF_VALUES = [*WHO, "order", "metric", "sampler", "own_sampler", "train_seed", "value"]


@dataclass(frozen=True)
class Shown:
    """How a metric is headed, and what a reader must know of it."""

    title: str
    meaning: str


METRICS = {  # in the order of the columns; others follow under their own names
    "valid": Shown(
        "valid", "share of samples that are of the law: the template of their class at one place, noise within bounds"
    ),
    "coverage": Shown("coverage", "places of a class in use among valid samples: exp of the entropy, by their number"),
    "FD": Shown("FD", "Fréchet distance of pixels from the law's own mean and covariance"),
    "MSE_teacher": Shown("MSE to teacher", "mean square distance from the teacher's own 100 steps of the same noise"),
    "transport_rmse": Shown(
        "transport", "root mean square distance of samples from where the exact flow takes their noise"
    ),
    "SW2": Shown("SW2", "sliced 2-Wasserstein distance from exact data"),
}
NOTE = (
    "All in the data's units, at the line's steps with the method's own sampler; the other columns are {main} at more "
    "steps, with it and with others. Mean ± sd over training seeds. Marked: all that cannot be told from a column's "
    "best student, which needs two training seeds."
)
FLOOR = "Floor: other exact data. Undistilled and teacher: Euler steps along the teacher's velocity."


def is_oracle(rows: DataFrame) -> bool:
    """Whether rows are of an oracle run."""
    return bool(rows["stage"].str.startswith(PROBLEM).any())


def oracle_tables(rows: DataFrame) -> tuple[Table, ...]:
    """One table per problem, in the order of the rows; the last has the notes.

    Raises:
        UsageError: rows of two runs.
    """
    rows = keyed(latest(rows))
    tables = [_table(str(stage), mine) for stage, mine in rows.groupby("stage", sort=False)]
    return (*tables[:-1], *(replace(table, notes=_notes(rows)) for table in tables[-1:]))


def _notes(rows: DataFrame) -> tuple[str, ...]:
    shown = [METRICS[name] for name in _metrics(rows) if name in METRICS]
    meanings = [f"{one.title}: {one.meaning}." for one in shown]
    return " ".join([*meanings, NOTE.format(main=_title(_main(rows)))]), FLOOR


def _metrics(rows: DataFrame) -> list[str]:
    """Those of the rows, in the order of the columns."""
    found = distinct(rows["metric"])
    return [*(name for name in METRICS if name in found), *(name for name in found if name not in METRICS)]


def _title(metric: str) -> str:
    return METRICS[metric].title if metric in METRICS else metric


def _main(rows: DataFrame) -> str:
    """The first metric that is known at all steps and samplers: some say nothing of samples with fresh noise."""
    places = rows[["metric", "steps", "sampler"]].drop_duplicates().value_counts("metric")
    return max(_metrics(rows), key=lambda name: int(places[name]))


def _table(stage: str, rows: DataFrame) -> Table:
    control = rows["method"].isin(CONTROLS)
    columns, footnotes = _columns(rows if control.all() else rows[~control], rows), []
    own = summary(rows[rows["own_sampler"]], [*WHO, "order", "metric"])
    of_samplers = summary(rows, [*WHO, "order", "metric", "sampler"])
    ordered = pd.concat([rows[~control], rows[control]]).groupby(WHO, sort=False)
    lines = [_line(mine, own | of_samplers, _metrics(rows), columns, footnotes) for _, mine in ordered]
    strength = next((one for one in distinct(rows["cfg_strength"]) if one), None)
    guidance = f"guidance strength {strength:g}" if strength else "no guidance"
    name = problem_of(stage)
    title = f"Exact answers: {name} ({guidance})"
    return Table(f"oracle_{name}", title, columns, _with_marks(lines, columns, rows), (), tuple(footnotes))


def _columns(shown: DataFrame, rows: DataFrame) -> tuple[Column, ...]:
    counts, main = sorted(distinct(shown["steps"])), _main(rows)
    others = shown[shown["extra_sampler"]]
    known = {*zip(others["steps"], others["sampler"], strict=True)}
    names = [name for name in distinct(shown["sampler"]) if name in set(others["sampler"])]
    more = [
        _column(rows, main, _key(main, steps, name), f"{steps} {name}")
        for steps in counts[1:]
        for name in (OWN, *names)
        if name == OWN or (steps, name) in known
    ]
    return (
        Column("method", "Method", "label"),
        Column("steps", "Steps", "count"),
        Column("nfe", "NFE", "count"),
        *(_column(rows, metric, metric, _title(metric)) for metric in _metrics(rows)),
        *more,
    )


def _column(rows: DataFrame, metric: str, key: str, title: str) -> Column:
    row = rows[rows["metric"] == metric].iloc[0]
    return Column(key, title, "metric", bool(row["higher_is_better"]), row["unit"], int(row["metric_version"]))


def _key(metric: str, steps: int, sampler: str) -> str:
    return f"{metric}:{steps}:{sampler}"


def _line(
    mine: DataFrame,
    found: Mapping[tuple, Mapping[str, Any]],
    metrics: Sequence[str],
    columns: Sequence[Column],
    footnotes: list[str],
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
    }
    for metric in metrics:
        cells[metric] = _cell(found.get((*who, order, metric)), label, footnotes)
    for metric, steps, sampler in mine[["metric", "order", "sampler"]].drop_duplicates().itertuples(index=False):
        about = found.get((*who, steps, metric, sampler))
        cells.setdefault(_key(metric, steps, sampler), _cell(about, label, footnotes))
    for metric, steps in mine[["metric", "order"]].drop_duplicates().itertuples(index=False):
        cells[_key(metric, steps, OWN)] = _cell(found.get((*who, steps, metric)), label, footnotes)
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


def _with_marks(lines: Sequence[Line], columns: Sequence[Column], rows: DataFrame) -> tuple[Line, ...]:
    """Students first; marked are those that cannot be told from the best of a column, over training seeds."""
    values: dict[str, dict[Who, dict[int, dict[int, float]]]] = {}  # by column
    known = rows[rows["value"].notna() & ~rows["method"].isin(CONTROLS)]
    for method, variant, order, metric, sampler, own, seed, value in known[_OF_VALUES].itertuples(False, None):
        for name in (_key(metric, order, sampler), *([metric, _key(metric, order, OWN)] if own else [])):
            values.setdefault(name, {}).setdefault((method, variant, order), {})[seed] = {0: value}
    ordered = [line for role in ("student", "control") for line in lines if line.role == role]
    cells = [list(line.cells) for line in ordered]
    for j, column in enumerate(columns):
        steps = column.key.split(":")[1:2]
        who = [(one.method, one.variant, int(steps[0]) if steps else step_order(one.steps)) for one in ordered]
        found = values.get(column.key, {})
        race = {at: found[at] for at, line in zip(who, cells, strict=True) if at in found and not line[j].n_failed}
        marked = Race(race, bool(column.higher_is_better)).standing.marked if len(race) > 1 else ()
        for at, line in zip(who, cells, strict=True):
            line[j] = replace(line[j], best=at in marked)
    return tuple(replace(line, cells=tuple(row)) for line, row in zip(ordered, cells, strict=True))
