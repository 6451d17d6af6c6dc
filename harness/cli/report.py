"""What the verb `report` does. Imports no torch: a report must print at once, on any machine."""

from __future__ import annotations

import math
import shutil
import sys
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from ...base.errors import MissingError, UsageError, unknown_name
from ...base.text import counted
from ...results.asset_values import read_asset_values
from ...results.brief import Screen, brief_tables
from ...results.frames import assets_frame, write_parquet
from ...results.manifest import read_manifest
from ...results.merge import read_runs
from ...results.merged_folder import merged_folder
from ...results.recorded import recording_of, to_json
from ...results.render_rich import to_rich
from ...results.report import FORMATS, RunResults, report, with_verdicts

HTML_FOLDER = "report"
LINES = 24  # of the smallest terminal
PROMPT = 1  # line
FILES = ("html", "parquet", "power")  # formats beside those of `results.report`
ROWS_FILE, ASSETS_FILE = "rows.parquet", "assets.parquet"


def reported(folders: Sequence[Path], format: str, out: Path | None, *, everything: bool) -> None:
    """Print or write what runs found; arguments as the verb's options."""
    if format not in (*FORMATS, *FILES):
        raise unknown_name("format", format, (*FORMATS, *FILES))
    folders = folders or [newest_run(Path("runs"))]
    if format == "html":
        sys.stdout.write(f"{_html(folders, out)}\n")
    elif format == "parquet":
        sys.stdout.write(_parquet(folders, out))
    elif format == "power":
        world = read_manifest(folders[0] / "manifest.json").get("world_sha256", "")
        sys.stdout.write(to_json(recording_of(read_runs(folders), world)))
    elif out is not None:
        raise UsageError(f"--out is for html and parquet (got --format {format}) - text is printed - use > FILE.")
    elif format == "rich":
        print_run(read_runs(folders), folders, everything=everything)
    else:
        sys.stdout.write(report(read_runs(folders), format))


def print_run(run: RunResults, folders: Sequence[Path], *, everything: bool = False, closing: str = "") -> None:
    """A screen of it, and where the rest is, on standard output; as wide as the terminal.

    Args:
        everything: all tables instead.
        closing: Lines below, on the same screen.
    """
    rest = f"All tables: mdtbench report {' '.join(map(str, folders))} --all; with pictures: --format html."
    terminal = shutil.get_terminal_size((140, LINES))
    width = min(200, terminal.columns)
    below = sum(max(1, math.ceil(len(line) / width)) for line in closing.splitlines())
    screen = Screen(width, max(LINES, terminal.lines) - below - PROMPT)
    shown = with_verdicts(run) if everything else brief_tables(run, rest, screen)
    sys.stdout.write(to_rich(shown, width=width, color=sys.stdout.isatty()) + closing)


def newest_run(root: Path) -> Path:
    """The finished run of the latest date. Raises MissingError when there is none."""
    runs = sorted(root.glob("*/rows.jsonl"), key=lambda path: path.stat().st_mtime)
    if not runs:
        raise MissingError(f"There is no finished run under {root}/. Make one with `mdtbench run`, or name its folder.")
    return runs[-1].parent


def _html(folders: Sequence[Path], out: Path | None) -> Path:
    """Write the pages; where they begin."""
    from ...results.html.report import write_report  # jinja2, which no other format needs

    if len(folders) == 1:
        return write_report(folders[0], out or folders[0] / HTML_FOLDER)
    if out is None:
        raise UsageError("--format html of several runs needs --out DIR, as no run's folder is that of all.")
    with merged_folder(folders) as folder:
        return write_report(folder, out)


def _parquet(folders: Sequence[Path], out: Path | None) -> str:
    """Write all rows, and the values of single assets beside them where there are any; says where."""
    if out is None and len(folders) > 1:
        raise UsageError("--format parquet of several runs needs --out FILE, as no run's folder is that of all.")
    path = out or folders[0] / ROWS_FILE
    if path.name == ASSETS_FILE or path.is_dir():
        raise UsageError(f"--out takes a file for the rows (got {path}) - for example {ROWS_FILE}.")
    rows = read_runs(folders).rows
    write_parquet(path, rows)
    lines = [f"{counted(len(rows), 'row')}: {path}"]
    values = list(chain.from_iterable(read_asset_values(folder) for folder in folders))
    if values:
        write_parquet(path.with_name(ASSETS_FILE), assets_frame(values))
        lines.append(f"{counted(len(values), 'line')} of values of assets: {path.with_name(ASSETS_FILE)}")
    return "\n".join(lines) + "\n"
