"""One cell of a table from the rows it summarises: mean, spread, spelling, failures, best flags.

`value` is the mean over all seeds. `sd` is the sd over generation seeds: the variance (ddof=1) within each
training seed, averaged over training seeds, then the root. `sd_train` is the sd over training seeds of their
means; it is in the CSV and JSON only. An sd of fewer than two values is None.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from .rows import Row

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
    second: bool = False
    notes: tuple[int, ...] = ()


def measured(rows: Sequence[Row], decimals: int, where: str, footnotes: list[str]) -> Cell:
    """The cell of one metric from its rows over seeds.

    Args:
        rows: The same method, variant, steps and metric; any seeds.
        decimals: Digits after the point of the column.
        where: Names the line in footnotes.
        footnotes: Of the table; the reasons of failures are added.
    """
    if not rows:
        return Cell(NO_VALUE)
    failed = [row for row in rows if row.value is None]
    ok = [row for row in rows if row.value is not None]
    worst = min(ok or failed, key=ok_share)
    cell = Cell(FAILED, n_ok=worst.n_ok, n_total=worst.n_total, n_failed=len(failed))
    cell = replace(cell, notes=failure_notes(failed, len(rows), where, footnotes))
    if not ok:
        return cell
    groups = _by_training_seed(ok)
    mean, sd = statistics.fmean(row.value or 0.0 for row in ok), _pooled_sd(groups)
    text = _spelled(mean, sd, decimals)
    sd_train = sd_of([statistics.fmean(group) for group in groups])
    return replace(cell, text=text, value=mean, sd=sd, n=len(ok), sd_train=sd_train, n_train=len(groups))


def with_counts(cells: Sequence[Cell]) -> list[Cell]:
    """The metric cells of one line; where they lost different numbers of assets, those say how many."""
    if len({(cell.n_ok, cell.n_total) for cell in cells if cell.value is not None}) < 2:
        return list(cells)
    short = [cell.value is not None and (cell.n_ok or 0) < (cell.n_total or 0) for cell in cells]
    return [
        replace(cell, text=f"{cell.text} ({cell.n_ok}/{cell.n_total})") if lost else cell
        for cell, lost in zip(cells, short, strict=True)
    ]


def failure_notes(failed: Sequence[Row], n_rows: int, where: str, footnotes: list[str]) -> tuple[int, ...]:
    """Numbers of the footnotes that say what failed or was lost, and why; equal footnotes are written once."""
    reasons = [(row.status, reason_of(row)) for row in failed]
    numbers = []
    for status, reason in dict.fromkeys(reasons):
        share = f"{reasons.count((status, reason))} of {n_rows} seeds {status}" if n_rows > 1 else status
        note = f"{where}: {share}: {reason}"
        if note not in footnotes:
            footnotes.append(note)
        numbers.append(footnotes.index(note) + 1)
    return tuple(numbers)


def reason_of(row: Row) -> str:
    """Why a row has no value, in one line; of a lost one also that it can be mended."""
    reason = _one_line(row.error or "")
    return f"{reason.rstrip('.')}; the same command tries again" if row.status == "lost" else reason


def flag_best(cells: Sequence[Cell], *, higher: bool) -> list[Cell]:
    """The cells of one column and block with `best` and `second` set; equal values share a place.

    A cell with a failed seed is out of the race: its mean leaves out the seed that went wrong. A cell
    alone in the race is not flagged.
    """
    values = [cell.value for cell in cells if cell.value is not None and not cell.n_failed]
    if len(values) < 2:
        return list(cells)
    ranked = sorted(set(values), reverse=higher)[:2]
    flags = [ranked.index(cell.value) if cell.value in ranked and not cell.n_failed else None for cell in cells]
    return [replace(c, best=flag == 0, second=flag == 1) for c, flag in zip(cells, flags, strict=True)]


def counts(row: Row) -> str:
    """Assets measured of all, as in 63/64."""
    return f"{row.n_ok}/{row.n_total}"


def ok_share(row: Row) -> float:
    """The part of the assets that was measured."""
    return row.n_ok / row.n_total if row.n_total else 0.0


def sd_of(values: Sequence[float]) -> float | None:
    """With ddof=1; None of fewer than two values."""
    return statistics.stdev(values) if len(values) > 1 else None


def decimals_of(value: float, *, significant: int) -> int:
    """Digits after the point that show `value` with so many significant digits, at most 6."""
    if not value:
        return 2
    return min(max(significant - 1 - math.floor(math.log10(abs(value))), 0), 6)


def _one_line(text: str) -> str:
    return "".join(letter for letter in " ".join(text.split()) if letter.isprintable())


def _by_training_seed(rows: Iterable[Row]) -> list[list[float]]:
    groups: dict[int | None, list[float]] = {}
    for row in rows:
        if row.value is not None:
            groups.setdefault(row.train_seed, []).append(row.value)
    return list(groups.values())


def _pooled_sd(groups: Iterable[Sequence[float]]) -> float | None:
    variances = [statistics.variance(group) for group in groups if len(group) > 1]
    return math.sqrt(statistics.fmean(variances)) if variances else None


def _spelled(mean: float, sd: float | None, decimals: int) -> str:
    """More digits than the column's where those would show fewer than two of the mean, or none of the sd."""
    if mean:
        decimals = max(decimals, decimals_of(mean, significant=2))
    if sd:
        decimals = max(decimals, decimals_of(sd, significant=1))
    return f"{mean:.{decimals}f}" if sd is None else f"{mean:.{decimals}f} ± {sd:.{decimals}f}"
