"""The verb `compare`. Imports no torch: it must answer at once, on any machine."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from ..base.errors import MissingError, UsageError, unknown_name
from ..base.files import canonical_json, write_text
from ..results import __file__ as results_file
from ..results.compare import compare
from ..results.compare_tables import comparison_table, to_json
from ..results.differences import Comparison
from ..results.render_markdown import to_markdown
from ..results.render_rich import to_rich
from ..results.rows import COST_METRICS, SCHEMA_VERSION, Row, latest, read_rows
from ..results.tolerances import read_tolerances

BASELINES = Path(results_file).parent / "baselines"
FORMATS = ("json", "markdown", "md", "text")
TOLERANCES_FILE = "tolerances.toml"
REGRESSION = 3  # the exit code


@dataclass(frozen=True)
class CompareOptions:
    """What the command line says. run and baseline: a folder, a file of rows, or the name of a shipped baseline."""

    run: str
    baseline: str
    metrics: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    tolerance: Path | None = None
    format: str = "text"
    everything: bool = False


def compare_command(options: CompareOptions) -> int:
    """Print the comparison.

    Returns:
        The exit code, 0 or 3.
    Raises:
        UsageError: an unknown name, or nothing in both runs can be compared.
        MissingError: a file that is not there.
    """
    if options.format not in FORMATS:
        raise unknown_name("format", options.format, FORMATS)
    files = find_rows(options.run), find_rows(options.baseline)
    run, baseline = map(read_rows, files)
    tolerance = options.tolerance or _beside(files[1])
    tolerances = read_tolerances(tolerance, {row.metric for row in (*run, *baseline)}) if tolerance else None
    comparison = compare(run, baseline, metrics=options.metrics, methods=options.methods, tolerances=tolerances)
    if tolerance:
        comparison = replace(comparison, notes=(*comparison.notes, f"Tolerances of {tolerance}."))
    sys.stdout.write(_text(comparison, options))
    _check_judged(comparison)
    return REGRESSION if comparison.of("worse") else 0


def save_baseline(run: str, folder: Path) -> str:
    """Keep of a run what `compare` needs: the latest rows, of seconds the sum alone, fields at their defaults left out.

    Raises:
        UsageError: the run failed somewhere, so it is no measure for others.
    """
    rows = [row for row in latest(read_rows(find_rows(run))) if row.metric not in COST_METRICS[:-1]]
    failed = sum(row.status == "failed" for row in rows)
    if failed:
        raise UsageError(
            f"{failed} measurements of {run} failed - a baseline has none - run again, or choose another run."
        )
    write_text(folder / "rows.jsonl", "".join(f"{_shortened(row)}\n" for row in rows))
    return f"{len(rows)} rows at {folder / 'rows.jsonl'}\n"


def find_rows(text: str) -> Path:
    """The file of rows that a folder, a file or the name of a shipped baseline stands for.

    Raises:
        MissingError: a path at which there is nothing.
        UsageError: a name that no shipped baseline has.
    """
    path = Path(text)
    if path.is_dir():
        return path / "rows.jsonl"
    if path.is_file():
        return path
    if os.sep in text or path.suffix:
        raise MissingError(f"There is no run at {path}. Name a folder of `mdtbench run`, or its rows.jsonl.")
    shipped = {file.parent.name: file for file in sorted(BASELINES.glob("*/rows.jsonl"))}
    if text not in shipped:
        raise unknown_name("baseline", text, shipped, "Or name the folder of a run, or its rows.jsonl.")
    return shipped[text]


def _beside(rows: Path) -> Path | None:
    """The tolerances that a baseline brings along."""
    path = rows.with_name(TOLERANCES_FILE)
    return path if path.is_file() else None


def _shortened(row: Row) -> str:
    return canonical_json({"schema_version": SCHEMA_VERSION} | row.model_dump(mode="json", exclude_defaults=True))


def _text(comparison: Comparison, options: CompareOptions) -> str:
    if options.format == "json":
        return to_json(comparison)
    table = comparison_table(comparison, f"{options.run} against {options.baseline}", everything=options.everything)
    if options.format == "text":
        width = max(100, min(200, shutil.get_terminal_size((140, 24)).columns))
        return to_rich([table], width=width, color=sys.stdout.isatty()) + comparison.summary + "\n"
    return f"{to_markdown([table])}\n{comparison.summary}\n"


def _check_judged(comparison: Comparison) -> None:
    """A check that compared nothing must not pass."""
    if not comparison.judged:
        reasons = dict.fromkeys(one.reason for one in comparison.differences if one.reason)
        raise UsageError(
            f"Nothing can be compared ({next(iter(reasons), 'no rows')}) - both runs need measurements of the same "
            f"assets with the same networks - choose another baseline."
        )
