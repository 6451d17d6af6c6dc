"""The rows that a comparison is to look at."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pandas import DataFrame, Series

from ..base.errors import UsageError, unknown_name
from .asset_values import AssetValue
from .differences import MEASURING
from .places import name_of


def of_metrics(run: DataFrame, baseline: DataFrame, metrics: Sequence[str]) -> tuple[DataFrame, DataFrame]:
    known = {*run["metric"], *baseline["metric"]}
    for name in metrics:
        if name not in known:
            raise unknown_name("metric", name, known)
    wanted = metrics or known
    return run[run["metric"].isin(wanted)], baseline[baseline["metric"].isin(wanted)]


def of_methods(
    run: DataFrame, baseline: DataFrame, methods: Sequence[str]
) -> tuple[DataFrame, DataFrame, tuple[str, ...]]:
    """The rows of the methods asked for, those of the run under the names of the baseline; what was renamed."""
    if not methods:
        return run, baseline, ()
    names = _names(methods)
    if len(set(names.values())) < len(methods):
        raise UsageError(
            f"A method is named twice (got {','.join(methods)}) - one of the run for each of the baseline."
        )
    mine, theirs = _labels(run), _labels(baseline)
    _check_known(names, mine, "the run")
    _check_known(names.values(), theirs, "the baseline")
    renamed = mine.replace(names).str.partition(":")
    run = run.assign(method=renamed[0], variant=renamed[2])
    run = run[mine.isin(names) | run["method"].isin(MEASURING)]
    baseline = baseline[theirs.isin(names.values()) | baseline["method"].isin(MEASURING)]
    changed = ((mine, theirs) for mine, theirs in names.items() if mine != theirs)
    return run, baseline, tuple(f"{mine} of the run against {theirs} of the baseline." for mine, theirs in changed)


def assets_of_methods(run: Sequence[AssetValue], methods: Sequence[str]) -> Sequence[AssetValue]:
    """What goes with the rows of the run that `of_methods` returns."""
    names = _names(methods)
    if not methods:
        return run
    chosen = []
    for one in run:
        label = name_of(one.method, one.variant)
        method, _, variant = names.get(label, label).partition(":")
        if label in names or one.method in MEASURING:
            chosen.append(one.model_copy(update={"method": method, "variant": variant}))
    return chosen


def _names(methods: Sequence[str]) -> dict[str, str]:
    """The baseline's name of each method of the run."""
    return {mine: theirs or mine for mine, _, theirs in (word.partition("=") for word in methods)}


def _labels(rows: DataFrame) -> Series:
    return rows["method"].str.cat(rows["variant"].map(lambda variant: variant and f":{variant}"))


def _check_known(names: Iterable[str], labels: Series, where: str) -> None:
    known = {*labels}
    for name in names:
        if name not in known:
            raise unknown_name("method", name, known, f"These are in {where}.")
