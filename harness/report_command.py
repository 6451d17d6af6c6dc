"""The verb `report`. Imports no torch: a report must print at once, on any machine."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from ..base.errors import MissingError
from ..results.render_rich import to_rich
from ..results.report import RunResults, read_run, report, tables


def report_command(folder: Path | None, format: str) -> None:
    run = read_run(folder or newest_run(Path("runs")))
    if format == "rich":
        print_tables(run)
    else:
        sys.stdout.write(report(run, format))


def print_tables(run: RunResults) -> None:
    """The tables on standard output, as wide as the terminal."""
    width = max(100, min(200, shutil.get_terminal_size((140, 24)).columns))
    sys.stdout.write(to_rich(tables(run), width=width, color=sys.stdout.isatty()))


def newest_run(root: Path) -> Path:
    """The finished run of the latest date. Raises MissingError when there is none."""
    runs = sorted(root.glob("*/rows.jsonl"), key=lambda path: path.stat().st_mtime)
    if not runs:
        raise MissingError(f"There is no finished run under {root}/. Make one with `mdtbench run`, or name its folder.")
    return runs[-1].parent
