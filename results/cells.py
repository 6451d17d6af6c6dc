"""One cell of a table from the rows it summarises: mean, spread, spelling, failures.

`value` is the mean over all seeds. `sd` is the sd over generation seeds: the variance (ddof=1) within each
training seed, averaged over training seeds, then the root. `sd_train` is the sd over training seeds of their
means; it is in the CSV and JSON only. An sd of fewer than two values is None.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev, variance
from typing import Any, Literal

import numpy as np
from pandas import DataFrame, Series
from pandas.api.typing import DataFrameGroupBy

from .frames import records

NO_VALUE = "-"
FAILED = "failed"


@dataclass(frozen=True)
class Column:
    """One column. The paper's columns are of kind "paper"."""

    key: str
    title: str
    kind: Literal["label", "count", "cost", "metric", "paper"]
    higher_is_better: bool | None = None
    unit: str = ""
    version: int | None = None

    @property
    def arrow(self) -> str:
        """Which way is better, empty where neither is."""
        return {True: "↑", False: "↓", None: ""}[self.higher_is_better]

    @property
    def heading(self) -> str:
        """Title, unit and arrow; the paper's columns say so."""
        name = f"paper: {self.title}" if self.kind == "paper" else self.title
        unit = f"({self.unit})" if self.unit else ""
        return " ".join(part for part in (name, unit, self.arrow) if part)


@dataclass(frozen=True)
class Cell:
    """One value with its spread; `text` is its plain spelling, without marks for best or footnotes.

    Attributes:
        n: Values that the mean is over (training seeds times generation seeds).
        sd: Over generation seeds, see the module. sd_train, n_train: Over training seeds.
        n_ok, n_total: Assets, in the measured seed that lost most.
        n_failed: Seeds whose value is missing, as the method failed or the machine lost it.
        best: Whether the table marks it: it cannot be told from the best of its race.
        notes: Numbers, from 1, of the table's footnotes.
    """

    text: str
    value: float | None = None
    sd: float | None = None
    n: int = 0
    sd_train: float | None = None
    n_train: int = 0
    n_ok: int | None = None
    n_total: int | None = None
    n_failed: int = 0
    best: bool = False
    notes: tuple[int, ...] = ()


def summary(rows: DataFrame, by: list[str]) -> dict[tuple, dict[str, Any]]:
    """What cells say of their rows over seeds, by the values of `by`.

    Each has `value`, `sd`, `sd_train` as in `Cell`, `sd_all` (over all seeds), `n`, `n_train`, `n_ok`, `n_total`,
    `n_rows`, and the `reasons` of the rows without a value: status and reason of each.
    """
    ok, failed = rows[rows["value"].notna()], rows[rows["value"].isna()]
    values, means = _groups(ok, by)["value"], _groups(ok, [*by, "train_seed"])["value"].agg(fmean).reset_index()
    variances = _of_several(ok, [*by, "train_seed"], variance)
    # Of rows with a value that which lost most, else of all.
    ranked = rows.assign(share=ok_shares(rows), missing=rows["value"].isna())
    ranked = ranked.sort_values(["missing", "share"], kind="stable")
    cells = ranked.drop_duplicates(by).set_index(by)[["n_ok", "n_total"]].astype(object)
    cells["value"], cells["sd_all"] = values.agg(fmean), _of_several(ok, by, stdev)
    cells["sd"] = np.sqrt(variances.groupby(level=by, dropna=False).agg(fmean).astype("float64"))
    cells["sd_train"] = _of_several(means, by, stdev)
    for name, count in {"n": values.size(), "n_train": _groups(means, by).size()}.items():
        cells[name] = count.reindex(cells.index, fill_value=0)
    cells["n_rows"] = _groups(rows, by).size()
    reasons = [(status, reason_of(status, error)) for status, error in failed[["status", "error"]].to_numpy()]
    failed = failed.assign(reason=Series(reasons, index=failed.index, dtype=object))
    cells["reasons"] = _groups(failed, by)["reason"].agg(list)
    return dict(zip(cells.index, records(cells), strict=True))


def measured(about: Mapping[str, Any] | None, decimals: int, where: str, footnotes: list[str]) -> Cell:
    """The cell of one metric.

    Args:
        about: Of `summary`; None where nothing was measured.
        decimals: Digits after the point of the column.
        where: Names the line in footnotes.
        footnotes: Of the table; the reasons of failures are added.
    """
    if about is None:
        return Cell(NO_VALUE)
    names = ("value", "sd", "n", "sd_train", "n_train", "n_ok", "n_total")
    cell = Cell(FAILED, **{name: about[name] for name in names}, n_failed=len(about["reasons"] or ()))
    cell = replace(cell, notes=failure_notes(about, where, footnotes))
    return cell if cell.value is None else replace(cell, text=_spelled(cell.value, cell.sd, decimals))


def with_counts(cells: Sequence[Cell]) -> list[Cell]:
    """The metric cells of one line; where they lost different numbers of assets, those say how many."""
    if len({(cell.n_ok, cell.n_total) for cell in cells if cell.value is not None}) < 2:
        return list(cells)
    short = [cell.value is not None and (cell.n_ok or 0) < (cell.n_total or 0) for cell in cells]
    return [
        replace(cell, text=f"{cell.text} ({cell.n_ok}/{cell.n_total})") if lost else cell
        for cell, lost in zip(cells, short, strict=True)
    ]


def failure_notes(about: Mapping[str, Any], where: str, footnotes: list[str]) -> tuple[int, ...]:
    """Numbers of the footnotes that say what failed or was lost, and why; equal footnotes are written once."""
    numbers = []
    reasons: Sequence[tuple[str, str]] = about["reasons"] or ()
    for (status, reason), count in Counter(reasons).items():
        share = f"{count} of {about['n_rows']} seeds {status}" if about["n_rows"] > 1 else status
        numbers.append(number_of(f"{where}: {share}: {reason}", footnotes))
    return tuple(numbers)


def number_of(note: str, footnotes: list[str]) -> int:
    """Of a footnote, from 1; it is added unless it is there."""
    if note not in footnotes:
        footnotes.append(note)
    return footnotes.index(note) + 1


def reason_of(status: str, error: str) -> str:
    """Why a row has no value, in one line; of a lost one also that it can be mended."""
    reason = _one_line(error)
    return f"{reason.rstrip('.')}; the same command tries again" if status == "lost" else reason


def ok_shares(rows: DataFrame) -> Series:
    """The part of the assets that was measured, of each row."""
    return (rows["n_ok"] / rows["n_total"]).where(rows["n_total"] > 0, 0.0)


def decimals_of(value: float, *, significant: int) -> int:
    """Digits after the point that show `value` with so many significant digits, at most 6."""
    if not value:
        return 2
    return min(max(significant - 1 - math.floor(math.log10(abs(value))), 0), 6)


def _one_line(text: str) -> str:
    return "".join(letter for letter in " ".join(text.split()) if letter.isprintable())


def _groups(rows: DataFrame, by: list[str]) -> DataFrameGroupBy:
    """With those that lack a value of `by`."""
    return rows.groupby(by, dropna=False, sort=False)


def _of_several(rows: DataFrame, by: list[str], statistic: Callable[[Iterable[float]], float]) -> Series:
    """A statistic of the values of each group that has at least two."""
    several = rows[_groups(rows, by)["value"].transform("size") > 1]
    return _groups(several, by)["value"].agg(statistic)


def _spelled(mean: float, sd: float | None, decimals: int) -> str:
    """More digits than the column's where those would show fewer than two of the mean, or none of the sd."""
    if mean:
        decimals = max(decimals, decimals_of(mean, significant=2))
    if sd:
        decimals = max(decimals, decimals_of(sd, significant=1))
    return f"{mean:.{decimals}f}" if sd is None else f"{mean:.{decimals}f} ± {sd:.{decimals}f}"
