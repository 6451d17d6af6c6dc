"""The report of a run: the paper's tables from its rows, in the format that is asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..base.errors import unknown_name
from .render_csv import to_csv
from .render_json import to_json
from .render_latex import to_latex
from .render_markdown import to_markdown
from .render_rich import to_rich
from .rows import Row
from .tables import Table, table_2, table_3

FORMATS: dict[str, Callable[[Sequence[Table]], str]] = {
    "csv": to_csv,
    "json": to_json,
    "latex": to_latex,
    "markdown": to_markdown,
    "md": to_markdown,
    "rich": to_rich,
    "tex": to_latex,
}


def tables(rows: Sequence[Row]) -> tuple[Table, ...]:
    """Tables 2 and 3. Raises UsageError as `table_2`."""
    return table_2(rows), table_3(rows)


def report(rows: Sequence[Row], format: str = "rich") -> str:
    """The tables as one text, ending in a newline. For a terminal of known width call `to_rich` itself.

    Raises:
        UsageError: unknown format, no rows, or rows that do not belong in one table.
    """
    if format not in FORMATS:
        raise unknown_name("format", format, FORMATS)
    return FORMATS[format](tables(rows))
