"""Tables for a terminal."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.padding import Padding
from rich.table import Table as Grid
from rich.text import Text

from .cells import Cell, Column
from .tables import Line, Table

REPEATED = ("method", "structure", "slat", "steps", "metric", "where")  # in every panel of a table too wide for one
GAP = 2  # blanks between columns
RULE = Column("|", "", "label")  # stands for the line between our numbers and the paper's


def to_rich(tables: Iterable[Table], *, width: int = 140, color: bool = False) -> str:
    """The tables as text of at most `width` characters per line.

    A table that is too wide is cut between columns into panels, never inside a cell. What a
    table marks has a *, and with `color` is bold by ANSI codes.
    """
    console = Console(
        force_jupyter=False,  # text in notebooks too
        file=io.StringIO(),
        width=width,
        force_terminal=color,
        color_system="standard" if color else None,
        highlight=False,
        emoji=False,
        legacy_windows=False,
    )
    for table in tables:
        console.print(Text(table.title, style="bold"))
        for columns in panels(table, width) if table.rows else ():
            console.print(_grid(table, columns))
        for note in table.notes:
            console.print(Padding(Text(note, style="dim"), (0, 0, 0, 1)))
        for number, note in enumerate(table.footnotes, 1):
            console.print(Padding(Text(f"[{number}] {note}"), (0, 0, 0, 1)))
        console.print()
    text = console.file.getvalue()  # type: ignore[attr-defined]
    return "\n".join(line.rstrip() for line in text.split("\n"))


def panels(table: Table, width: int) -> list[list[Column]]:
    """Columns of each panel: as many as fit. The paper's stand behind a rule, or apart."""
    widths = {column: _width(table, column) for column in (*table.columns, RULE)}

    def fits(columns: Sequence[Column]) -> bool:
        return sum(widths[column] for column in columns) + GAP * (len(columns) - 1) <= width

    def filled(columns: Sequence[Column]) -> list[list[Column]]:
        found = [list(repeated)]
        for column in columns:
            if found[-1] != repeated and not fits([*found[-1], column]):
                found.append(list(repeated))
            found[-1].append(column)
        return found

    repeated = [column for column in table.columns if column.key in REPEATED]
    others = [column for column in table.columns if column not in repeated]
    if not all(fits([*repeated, column]) for column in others):
        repeated = [column for column in repeated if column.key != "steps"]  # blocks are named by them
    ours = [column for column in table.columns if column.kind != "paper" and column not in repeated]
    papers = [column for column in table.columns if column.kind == "paper"]
    found = filled(ours)
    if papers and fits([*found[-1], RULE, *papers]):
        return [*found[:-1], [*found[-1], RULE, *papers]]
    return [*found, *filled(papers)] if papers else found


def _width(table: Table, column: Column) -> int:
    """Letters of the widest cell; the first column has the names of blocks too."""
    if column is RULE:
        return 1
    index = table.columns.index(column)
    texts = [_spelled(line.cells[index], column, _indent(line.group)).plain for line in table.rows]
    texts += [line.group for line in table.rows if index == 0]
    return max(map(cell_len, (*texts, *_heading(column).split("\n"))))


def _grid(table: Table, columns: Sequence[Column]) -> Grid:
    """One panel; lines that have nothing in it are left out."""
    grid = Grid(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    for column in columns:
        justify = "left" if column.kind == "label" else "right"
        style = "dim" if column.kind == "paper" or column is RULE else ""
        grid.add_column(Text(_heading(column)), justify=justify, no_wrap=True, style=style)
    for group, lines in table.groups():
        shown = [cells for cells in (_by_column(table, line) for line in lines) if _says_something(cells, columns)]
        if not shown:
            continue
        if group:
            grid.add_row(Text(group, style="italic"), *("│" if column is RULE else "" for column in columns[1:]))
        for cells in shown:
            grid.add_row(*(Text("│") if c is RULE else _spelled(cells[c], c, _indent(group)) for c in columns))
        grid.add_section()
    return grid


def _indent(group: str) -> str:
    return "  " if group else ""


def _by_column(table: Table, line: Line) -> dict[Column, Cell]:
    """Not by keys: several problems have a column of one metric each."""
    return dict(zip(table.columns, line.cells, strict=True))


def _says_something(cells: dict[Column, Cell], columns: Sequence[Column]) -> bool:
    return any(cells[c].text for c in columns if c is not RULE and c.key not in REPEATED)


def _heading(column: Column) -> str:
    """Two lines: whose number it is or its unit below or above the name."""
    if column is RULE:
        return "│\n│"
    if column.kind == "paper":
        return f"paper\n{column.title} {column.arrow}"
    unit = f"\n({column.unit})" if column.unit else ""
    mark = " " if column.kind == "metric" else ""  # above the cells' place for the star
    return f"{column.title} {column.arrow}".rstrip() + mark + unit


def _spelled(cell: Cell, column: Column, indent: str) -> Text:
    """A column of metrics keeps one place for the star, so that the numbers stay aligned."""
    if column.key == "method":
        return Text(f"{indent}{cell.text}")
    text = Text()
    text.append(cell.text, "bold" if cell.best else "")
    if column.kind == "metric":
        text.append("*" if cell.best else " ")
    for number in cell.notes:
        text.append(f"[{number}]")
    return text
