"""Tables as tidy CSV: one line per cell that holds a metric, a cost or a number of the paper."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable

from .cells import Cell, Column
from .tables import Line, Table

FIELDS: tuple[str, ...] = (
    "table",
    "source",
    "group",
    "role",
    "method",
    "variant",
    "label",
    "sampler",
    "steps",
    "nfe",
    "metric",
    "metric_version",
    "unit",
    "higher_is_better",
    "status",
    "value",
    "sd",
    "n",
    "sd_train",
    "n_train",
    "n_ok",
    "n_total",
    "n_failed",
    "best",
    "notes",
)


def to_csv(tables: Iterable[Table]) -> str:
    """All tables in one CSV with the columns `FIELDS`.

    `source` is "run" for our values and "paper" for the published ones, which are under another protocol.
    Numbers are written in full. Cells that were not measured have no line; failed ones have status "failed".
    """
    stream = io.StringIO()
    writer = csv.DictWriter(stream, FIELDS, lineterminator="\n")
    writer.writeheader()
    for table in tables:
        for line in table.rows:
            writer.writerows({key: _harmless(value) for key, value in one.items()} for one in _records(table, line))
    return stream.getvalue()


def _harmless(value: object) -> object:
    """A text that a spreadsheet would take for a formula, as a text: names of methods and systems are anybody's."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


def _records(table: Table, line: Line) -> list[dict[str, object]]:
    pairs = list(zip(table.columns, line.cells, strict=True))
    return [
        _record(table, line, column, cell)
        for column, cell in pairs
        if column.kind in ("metric", "cost", "paper") and (cell.value is not None or cell.n_failed)
    ]


def _record(table: Table, line: Line, column: Column, cell: Cell) -> dict[str, object]:
    labels = [column.key for column in table.columns if column.kind == "label"]
    by_key = dict(zip((column.key for column in table.columns), line.cells, strict=True))
    return {
        "table": table.name,
        "source": "paper" if column.kind == "paper" else "run",
        "group": line.group,
        "role": line.role,
        "method": line.method,
        "variant": line.variant,
        "label": ", ".join(cell.text for key, cell in by_key.items() if key in labels),
        "sampler": line.sampler,
        "steps": line.steps,
        "nfe": _whole(by_key["nfe"].value) if "nfe" in by_key else None,
        "metric": column.title if column.kind == "paper" else column.key,
        "metric_version": column.version,
        "unit": column.unit,
        "higher_is_better": column.higher_is_better,
        "status": "failed" if cell.value is None else "ok",
        "value": cell.value,
        "sd": cell.sd,
        "n": cell.n,
        "sd_train": cell.sd_train,
        "n_train": cell.n_train,
        "n_ok": cell.n_ok,
        "n_total": cell.n_total,
        "n_failed": cell.n_failed,
        "best": cell.best,
        "notes": " ".join(table.footnotes[number - 1] for number in cell.notes),
    }


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)
