"""Tables as the page shows them: what each cell sorts by, how it is marked, what its tooltip says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ...base.text import counted
from ..cells import FAILED, Cell, Column
from ..tables import Line, Table

MARKED = "Marked:"  # how the note begins that the page has once, above all tables
SD = " ± "  # between mean and spread in a cell's text
NO_BREAK = "\u00a0"  # a space that no line ends in


@dataclass(frozen=True)
class Head:
    """A column's head. first: the order that a first click sorts into, the best value first."""

    text: str
    unit: str
    style: str
    first: str
    title: str


@dataclass(frozen=True)
class Shown:
    """One cell. order: what it sorts by, "" last. spread: what follows the ± of its text."""

    text: str
    spread: str
    order: str
    style: str
    title: str
    mark: str
    notes: tuple[int, ...]


@dataclass(frozen=True)
class Body:
    """One block of lines."""

    group: str
    rows: tuple[ShownLine, ...]


@dataclass(frozen=True)
class ShownLine:
    """One line. name: what the filter looks at. style: the class of its role."""

    name: str
    style: str
    cells: tuple[Shown, ...]


@dataclass(frozen=True)
class TableView:
    """One table of the page. `has_paper`: some columns are the paper's numbers."""

    name: str
    title: str
    heads: tuple[Head, ...]
    bodies: tuple[Body, ...]
    notes: tuple[str, ...]
    footnotes: tuple[str, ...]
    has_paper: bool


def view(table: Table) -> TableView:
    """The numbers are those of the table, to the letter."""
    heads = tuple(_head(column) for column in table.columns)
    bodies = tuple(Body(group, _lines(table.columns, lines)) for group, lines in table.groups())
    has_paper = any(column.kind == "paper" for column in table.columns)
    notes = tuple(note for note in table.notes if not note.startswith(MARKED))
    return TableView(identifier(table.name), table.title, heads, bodies, notes, table.footnotes, has_paper)


def with_notes_once(tables: Sequence[TableView]) -> tuple[list[TableView], list[str]]:
    """The tables without the notes that several of them have, and these."""
    counts = Counter(note for table in tables for note in table.notes)
    common = [note for note, count in counts.items() if count > 1]
    return [replace(one, notes=tuple(note for note in one.notes if counts[note] == 1)) for one in tables], common


def identifier(name: str) -> str:
    """A name as an id of the page, without spaces or punctuation."""
    return "".join(letter if letter.isalnum() else "_" for letter in name)


def _head(column: Column) -> Head:
    better = {True: "higher is better", False: "lower is better", None: ""}[column.higher_is_better]
    version = f"version {column.version} of the metric" if column.version is not None else ""
    name = f"paper: {column.title}" if column.kind == "paper" else column.title
    first = "descending" if column.higher_is_better else "ascending"
    title = ", ".join(part for part in (better, version) if part)
    return Head(NO_BREAK.join(filter(None, (name, column.arrow))), column.unit, column.kind, first, title)


def _lines(columns: Sequence[Column], lines: Sequence[Line]) -> tuple[ShownLine, ...]:
    return tuple(
        ShownLine(
            " ".join((line.cells[0].text, line.method, line.variant)).strip(),
            line.role,
            tuple(_cell(column, cell) for column, cell in zip(columns, line.cells, strict=True)),
        )
        for line in lines
    )


def _cell(column: Column, cell: Cell) -> Shown:
    text, _, spread = cell.text.partition(SD) if column.kind == "metric" else (cell.text, "", "")
    order = text if column.kind == "label" and cell.value is None else _order(column, cell)
    failed = cell.text == FAILED or cell.n_failed > 0
    mark = "best" if cell.best else ""
    style = " ".join(part for part in (column.kind, mark, "failed" if failed else "") if part)
    return Shown(text, spread, order, style, _title(column, cell), mark, cell.notes)


def _order(column: Column, cell: Cell) -> str:
    if cell.value is None and column.kind == "count" and cell.n_ok is not None and cell.n_total:
        return repr(cell.n_ok / cell.n_total)
    return "" if cell.value is None else repr(cell.value)


def _title(column: Column, cell: Cell) -> str:
    """What the mean is over and how far it spreads; of metrics alone."""
    if column.kind != "metric":
        return ""
    parts = [f"mean of {cell.n} values" if cell.n > 1 else ""]
    parts.append(f"sd over generation seeds {cell.sd:.4g}" if cell.sd is not None else "")
    parts.append(f"sd over {cell.n_train} training seeds {cell.sd_train:.4g}" if cell.sd_train is not None else "")
    parts.append(f"{cell.n_ok} of {cell.n_total} assets" if cell.n_total else "")
    parts.append(f"{counted(cell.n_failed, 'seed')} failed" if cell.n_failed else "")
    return "; ".join(part for part in parts if part)
