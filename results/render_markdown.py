"""Tables as GitHub-flavoured Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable

from .cells import Cell
from .tables import Table

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>|~#$&])")


def to_markdown(tables: Iterable[Table]) -> str:
    """The tables; a block's name is a row of its own, what is marked is bold."""
    return "\n".join(_one(table) for table in tables)


def escape(text: str) -> str:
    """Text that shows as written, inside a table too."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))


def _one(table: Table) -> str:
    lines = [f"### {escape(table.title)}", ""]
    if table.rows:
        lines.append(_row(escape(column.heading) for column in table.columns))
        lines.append(_row(":---" if column.kind == "label" else "---:" for column in table.columns))
    for group, members in table.groups():
        lines.append(_row([f"*{escape(group)}*", *[""] * (len(table.columns) - 1)]))
        lines += [_row(_cell(cell) for cell in line.cells) for line in members]
    lines += [part for note in table.notes for part in ("", escape(note))]
    lines += [part for i, note in enumerate(table.footnotes, 1) for part in ("", f"<sup>{i}</sup> {escape(note)}")]
    return "\n".join(lines) + "\n"


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _cell(cell: Cell) -> str:
    text = escape(cell.text)
    if cell.best:
        text = f"**{text}**"
    return text + "".join(f"<sup>{number}</sup>" for number in cell.notes)
