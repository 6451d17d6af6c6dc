"""The report of a run: the paper's tables from its rows, in the format that is asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pandas import DataFrame

from ..base.errors import unknown_name
from . import frames
from .evaluation_tables import evaluation_table, is_evaluation
from .oracle_tables import is_oracle, oracle_tables
from .render_csv import to_csv
from .render_json import to_json
from .render_latex import to_latex
from .render_markdown import to_markdown
from .render_rich import to_rich
from .students import StudentRecord, read_students
from .sweep import SweepRecord, read_sweeps
from .tables import Measured, Table, table_2, table_3
from .training_tables import budget_table, sweep_table
from .verdict_table import verdict_table
from .verdicts import Verdict, verdicts
from .whole_tables import is_whole, whole_tables

FORMATS: dict[str, Callable[[Sequence[Table]], str]] = {
    "csv": to_csv,
    "json": to_json,
    "latex": to_latex,
    "markdown": to_markdown,
    "md": to_markdown,
    "rich": to_rich,
    "tex": to_latex,
}
PROSE = ("markdown", "md", "rich")  # formats for people, not for papers or programs


@dataclass(frozen=True)
class RunResults:
    """What a run left, or several (`merge.read_runs`).

    Attributes:
        rows, assets: As of `frames`; assets may be empty.
        students: empty in runs of earlier versions. sweeps: one per stage that was swept.
        notes: what a reader must know of all tables.
    """

    rows: DataFrame
    students: Sequence[StudentRecord] = ()
    sweeps: tuple[SweepRecord, ...] = ()
    notes: tuple[str, ...] = ()
    assets: DataFrame = field(default_factory=lambda: frames.assets_frame(()))


def read_run(folder: Path) -> RunResults:
    """Raises MissingError when there are no rows, or a file is damaged."""
    students, sweeps = read_students(folder), read_sweeps(folder)
    return RunResults(frames.rows(folder), students, sweeps, assets=frames.assets(folder))


def tables(run: RunResults) -> tuple[Table, ...]:
    """Tables 2 and 3, the training budget, a table per sweep; of an oracle run one table per problem.

    With whole assets Tables 1 to 3 are of those, and tables of the stages follow. Raises UsageError as `table_2`.
    """
    return tables_marked(run, tuple(verdicts(run.rows, run.assets)))


def tables_marked(run: RunResults, found: Sequence[Verdict]) -> tuple[Table, ...]:
    """The same, with the verdicts at hand."""
    first, *others = _measured(run.rows, found)
    budget = [budget_table(run.students)] if run.students else []
    swept = [sweep_table(record) for record in run.sweeps]
    return replace(first, notes=(*run.notes, *first.notes)), *others, *budget, *swept


def with_verdicts(run: RunResults) -> tuple[Table, ...]:
    """The tables, and the verdicts for people to read."""
    found = tuple(verdicts(run.rows, run.assets))
    judged = verdict_table(found)
    return (*tables_marked(run, found), *([judged] if judged else []))


def _measured(rows: DataFrame, found: Sequence[Verdict]) -> tuple[Table, ...]:
    if is_oracle(rows):
        return oracle_tables(rows)
    if is_evaluation(rows):
        return (evaluation_table(rows, found),)
    measured = Measured.of(rows, found)
    if is_whole(rows):
        return whole_tables(measured)
    return table_2(measured), table_3(measured)


def report(run: RunResults, format: str = "rich") -> str:
    """The tables as one text, ending in a newline. For a terminal of known width call `to_rich` itself.

    Raises:
        UsageError: unknown format, no rows, or rows that do not belong in one table.
    """
    if format not in FORMATS:
        raise unknown_name("format", format, FORMATS)
    return FORMATS[format](with_verdicts(run) if format in PROSE else tables(run))
