"""The rows that a comparison is to look at."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from ..base.errors import UsageError, unknown_name
from .asset_values import AssetValue
from .differences import MEASURING
from .rows import Row

Named = TypeVar("Named", Row, AssetValue)


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
    names = _names(methods)
    if len(set(names.values())) < len(methods):
        raise UsageError(
            f"A method is named twice (got {','.join(methods)}) - one of the run for each of the baseline."
        )
    _check_known(names, run, "the run")
    _check_known(names.values(), baseline, "the baseline")
    mine = _chosen(run, names)
    wanted = {*names.values()}
    theirs = [row for row in baseline if _label(row) in wanted or row.method in MEASURING]
    notes = tuple(
        f"{mine} of the run against {theirs} of the baseline." for mine, theirs in names.items() if mine != theirs
    )
    return mine, theirs, notes


def assets_of_methods(run: Sequence[AssetValue], methods: Sequence[str]) -> Sequence[AssetValue]:
    """What goes with the rows of the run that `of_methods` returns."""
    return _chosen(run, _names(methods)) if methods else run


def _names(methods: Sequence[str]) -> dict[str, str]:
    """The baseline's name of each method of the run."""
    return {mine: theirs or mine for mine, _, theirs in (word.partition("=") for word in methods)}


def _chosen(run: Iterable[Named], names: Mapping[str, str]) -> list[Named]:
    return [_renamed(one, names) for one in run if _label(one) in names or one.method in MEASURING]


def _label(row: Row | AssetValue) -> str:
    return f"{row.method}:{row.variant}" if row.variant else row.method


def _renamed(row: Named, names: Mapping[str, str]) -> Named:
    if _label(row) not in names:
        return row
    method, _, variant = names[_label(row)].partition(":")
    return row.model_copy(update={"method": method, "variant": variant})


def _check_known(names: Iterable[str], rows: Iterable[Row], where: str) -> None:
    known = {_label(row) for row in rows}
    for name in names:
        if name not in known:
            raise unknown_name("method", name, known, f"These are in {where}.")
