"""The rows that a comparison is to look at."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from ..base.errors import UsageError, unknown_name
from .differences import MEASURING
from .rows import Row


def of_metrics(
    run: Sequence[Row], baseline: Sequence[Row], metrics: Sequence[str]
) -> tuple[Sequence[Row], Sequence[Row]]:
    known = {row.metric for row in (*run, *baseline)}
    for name in metrics:
        if name not in known:
            raise unknown_name("metric", name, known)
    if not metrics:
        return run, baseline
    return [row for row in run if row.metric in metrics], [row for row in baseline if row.metric in metrics]


def of_methods(
    run: Sequence[Row], baseline: Sequence[Row], methods: Sequence[str]
) -> tuple[Sequence[Row], Sequence[Row], tuple[str, ...]]:
    """The rows of the methods asked for, those of the run under the names of the baseline; what was renamed."""
    if not methods:
        return run, baseline, ()
    names = {mine: theirs or mine for mine, _, theirs in (word.partition("=") for word in methods)}
    if len(set(names.values())) < len(methods):
        raise UsageError(
            f"A method is named twice (got {','.join(methods)}) - one of the run for each of the baseline."
        )
    _check_known(names, run, "the run")
    _check_known(names.values(), baseline, "the baseline")
    mine = [_renamed(row, names) for row in run if _label(row) in names or row.method in MEASURING]
    wanted = {*names.values()}
    theirs = [row for row in baseline if _label(row) in wanted or row.method in MEASURING]
    notes = tuple(
        f"{mine} of the run against {theirs} of the baseline." for mine, theirs in names.items() if mine != theirs
    )
    return mine, theirs, notes


def _label(row: Row) -> str:
    return f"{row.method}:{row.variant}" if row.variant else row.method


def _renamed(row: Row, names: Mapping[str, str]) -> Row:
    if _label(row) not in names:
        return row
    method, _, variant = names[_label(row)].partition(":")
    return row.model_copy(update={"method": method, "variant": variant})


def _check_known(names: Iterable[str], rows: Iterable[Row], where: str) -> None:
    known = {_label(row) for row in rows}
    for name in names:
        if name not in known:
            raise unknown_name("method", name, known, f"These are in {where}.")
