"""The verb `compare`. Imports no torch: it must answer at once, on any machine."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import typer
from pandas import DataFrame

from ...base.errors import MissingError, UsageError, unknown_name
from ...base.files import canonical_json, write_text
from ...results.asset_values import ASSET_VALUES_FILE, AssetValue, read_asset_values, write_asset_values
from ...results.compare import compare
from ...results.compare_assets import cell_of, single_seeded
from ...results.compare_tables import SIDES, comparison_table, to_json
from ...results.compare_within import within
from ...results.differences import Comparison
from ...results.frames import assets_frame, latest, rows_frame, to_rows
from ...results.places import label_of
from ...results.render_markdown import to_markdown
from ...results.render_rich import to_rich
from ...results.rows import COST_METRICS, SCHEMA_VERSION, Row, read_rows
from ...results.tolerances import read_tolerances
from ...results.verdicts import verdicts
from . import completion
from .completion import BASELINES
from .options import words

FORMATS = ("json", "markdown", "md", "text")
TOLERANCES_FILE = "tolerances.toml"
REGRESSION = 3  # the exit code
LARGEST_ASSETS = 5_000_000  # bytes of assets' values in a baseline, which is committed


@dataclass(frozen=True)
class CompareOptions:
    """What the command line says.

    Attributes:
        run, baseline: a folder, a file of rows, or the name of a shipped baseline.
        any_change: whether what is better counts too: for code that is meant to compute the same.
    """

    run: str
    baseline: str
    metrics: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    tolerance: Path | None = None
    format: str = "text"
    everything: bool = False
    any_change: bool = False


def compare_command(
    run: Annotated[
        str, typer.Argument(help="Folder of a run, or its rows.jsonl.", autocompletion=completion.baselines)
    ],
    baseline: Annotated[
        str,
        typer.Argument(
            help="The same of another run, or the name of a shipped baseline. Not needed with --methods mine=vm, which "
            "then holds two methods of RUN against each other.",
            autocompletion=completion.baselines,
        ),
    ] = "",
    metrics: Annotated[str, typer.Option(help="Comma-separated metrics; all by default.")] = "",
    methods: Annotated[
        str,
        typer.Option(
            help="Comma-separated methods; all by default. mine=mdt: the run's against the baseline's.",
            autocompletion=completion.methods,
        ),
    ] = "",
    tolerance: Annotated[
        Path | None, typer.Option(metavar="FILE", help="TOML with tolerances; from the seeds' spread by default.")
    ] = None,
    format: Annotated[
        str,
        typer.Option(
            "--format",
            "-f",
            help="text, markdown or json.",
            autocompletion=completion.one_of(("text", "markdown", "json")),
        ),
    ] = "text",
    everything: Annotated[bool, typer.Option("--all", help="Also show what is the same or not comparable.")] = False,
    any_change: Annotated[
        bool,
        typer.Option("--any-change", help="Exit with 3 on what is better, too: for checks of every commit."),
    ] = False,
    save: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Keep the run as a baseline in this folder instead of comparing.")
    ] = None,
) -> None:
    """Say where a run is better or worse than a baseline; exit code 3 when it is worse anywhere.

    Examples:

      mdtbench compare runs/today runs/yesterday

      mdtbench compare runs/today runs/yesterday --metrics FD_tiny2d --tolerance tolerances.toml

      mdtbench compare runs/mine --methods mine=mdt

      mdtbench compare runs/today --save baselines/ours
    """
    if not baseline and not save and "=" in methods:
        baseline = run
    if bool(baseline) == (save is not None):
        raise UsageError(
            "`mdtbench compare RUN` needs one of: a BASELINE, --methods mine=vm for two methods of the run, --save DIR."
        )
    if save is not None:
        typer.echo(save_baseline(run, save), nl=False)
        return
    options = CompareOptions(run, baseline, words(metrics), words(methods), tolerance, format, everything, any_change)
    raise typer.Exit(compared(options))


def compared(options: CompareOptions) -> int:
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
    run, baseline = (rows_frame(read_rows(file)) for file in files)
    tolerance = options.tolerance or _beside(files[1])
    tolerances = read_tolerances(tolerance, {*run["metric"], *baseline["metric"]}) if tolerance else None
    comparison = compare(
        run,
        baseline,
        metrics=options.metrics,
        methods=options.methods,
        tolerances=tolerances,
        run_assets=_single_assets(files[0], run),
        baseline_assets=_single_assets(files[1], baseline),
    )
    pairs = [word.partition("=") for word in options.methods]
    if pairs and all(theirs for _, _, theirs in pairs) and files[0] == files[1] and not tolerance:
        found = verdicts(latest(run), assets_frame(read_asset_values(files[0].parent)))
        comparison = within(comparison, found, {theirs: mine for mine, _, theirs in pairs})
    if tolerance:
        comparison = replace(comparison, notes=(*comparison.notes, f"Tolerances of {tolerance}."))
    sys.stdout.write(_text(comparison, options))
    _check_judged(comparison)
    changed = comparison.regression or (options.any_change and comparison.of("better"))
    return REGRESSION if changed else 0


def save_baseline(run: str, folder: Path) -> str:
    """Keep of a run what `compare` needs: the latest rows, of seconds the sum alone, fields at their defaults left out.

    Values of single assets are kept of lines with one seed, where differences are taken asset by asset, unless they
    are more than belongs in a repository.

    Raises:
        UsageError: the run failed somewhere, so it is no measure for others.
    """
    source = find_rows(run)
    rows = latest(rows_frame(read_rows(source)))
    rows = rows[~rows["metric"].isin(COST_METRICS[:-1])]
    failed = rows["value"].isna().sum()
    if failed:
        raise UsageError(
            f"{failed} measurements of {run} failed - a baseline may have none - run again, or choose another run."
        )
    kept = _keep_assets(_single_assets(source, rows), folder)
    write_text(folder / "rows.jsonl", "".join(f"{_shortened(row)}\n" for row in to_rows(rows)))
    return f"{len(rows)} rows at {folder / 'rows.jsonl'}\n{kept}"


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


def _single_assets(file: Path, rows: DataFrame) -> list[AssetValue]:
    """The values, in the file beside the rows, of assets of lines with one seed: all that `compare` asks for."""
    cells = single_seeded(to_rows(rows))
    return [value for value in read_asset_values(file.parent) if cell_of(value) in cells] if cells else []


def _keep_assets(values: Sequence[AssetValue], folder: Path) -> str:
    """Write them if they are few, and say what was done; those of an earlier run do not stay."""
    size = sum(len(value.model_dump_json()) + 1 for value in values)
    if values and size <= LARGEST_ASSETS:
        write_asset_values(folder, values)
        return f"{len(values)} values of assets at {folder / ASSET_VALUES_FILE}\n"
    (folder / ASSET_VALUES_FILE).unlink(missing_ok=True)
    if not values:
        return ""
    return (
        f"Values of assets left out: {size / 1e6:.0f} MB, more than {LARGEST_ASSETS / 1e6:.0f}. Lines with one seed "
        f"will not be paired by asset; compare with the run's own folder for that.\n"
    )


def _beside(rows: Path) -> Path | None:
    """The tolerances that a baseline brings along."""
    path = rows.with_name(TOLERANCES_FILE)
    return path if path.is_file() else None


def _shortened(row: Row) -> str:
    return canonical_json({"schema_version": SCHEMA_VERSION} | row.model_dump(mode="json", exclude_defaults=True))


def _text(comparison: Comparison, options: CompareOptions) -> str:
    if options.format == "json":
        return to_json(comparison)
    title, sides = f"{options.run} against {options.baseline}", SIDES
    if comparison.within:
        pairs = [_labels(word) for word in options.methods]
        title = f"{', '.join(' against '.join(pair) for pair in pairs)} in {options.run}"
        sides = pairs[0] if len(pairs) == 1 else sides
    table = comparison_table(comparison, title, sides=sides, everything=options.everything)
    if options.format == "text":
        width = min(200, shutil.get_terminal_size((140, 24)).columns)
        return to_rich([table], width=width, color=sys.stdout.isatty()) + comparison.summary + "\n"
    return f"{to_markdown([table])}\n{comparison.summary}\n"


def _labels(pair: str) -> tuple[str, str]:
    """Of `mine=theirs`, as the run's tables name them."""
    mine, theirs = (label_of(name, variant) for name, _, variant in (one.partition(":") for one in pair.split("=")))
    return mine, theirs


def _check_judged(comparison: Comparison) -> None:
    """A check that compared nothing must not pass."""
    if not comparison.judged:
        reasons = dict.fromkeys(one.reason for one in comparison.differences if one.reason)
        raise UsageError(
            f"Nothing can be compared ({next(iter(reasons), 'no rows')}) - both runs need measurements of the same "
            f"assets with the same networks - choose another baseline."
        )
