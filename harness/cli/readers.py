"""The verbs that read runs: their options. What they do is in `report`, `figure`, `runs` and `verify`.

Those are imported when a verb is called, so that help and completion need no pandas.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import completion
from .options import numbers, words


def report_command(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="RUN",
            help="Folder of a run, the newest under runs/ by default; of several, one table of all.",
            autocompletion=completion.runs,
        ),
    ] = None,
    format: Annotated[
        str,
        typer.Option(
            "--format",
            "-f",
            help="rich, markdown, latex, csv, json; html: a folder of pages; parquet: files of all rows; "
            "power: the variances by which --dry-run tells what a run can show.",
            autocompletion=completion.formats,
        ),
    ] = "rich",
    out: Annotated[
        Path | None,
        typer.Option(help="For html the folder (RUN/report by default), for parquet the file (RUN/rows.parquet)."),
    ] = None,
    everything: Annotated[
        bool,
        typer.Option("--all", help="Print all tables, with the paper's numbers beside ours, instead of one screen."),
    ] = False,
) -> None:
    """Print what one run found, or several comparable ones: main columns and verdicts; with --all Tables 1 to 3.

    Examples:

      mdtbench report

      mdtbench report --all

      mdtbench report runs/today --format html --out pages

      mdtbench report runs/cm_vm runs/mdt --format latex

      mdtbench report runs/today --format parquet --out rows.parquet
    """
    from .report import reported

    reported(folders or (), format, out, everything=everything)


def figure_command(
    kind: Annotated[
        str,
        typer.Argument(
            metavar="grid|pareto|curves",
            help="grid: pictures of assets; pareto: quality against cost; curves: of training.",
            autocompletion=completion.one_of(("grid", "pareto", "curves")),
        ),
    ],
    folders: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="RUN",
            help="Folder of a run, the newest under runs/ by default; of several, one figure of all.",
            autocompletion=completion.runs,
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A .pdf or .png; RUN/figure-<kind>.pdf by default.")
    ] = None,
    methods: Annotated[
        str,
        typer.Option(help="Comma-separated methods in their order; all by default.", autocompletion=completion.methods),
    ] = "",
    assets: Annotated[str, typer.Option(help="For grid: comma-separated asset ids; the first few by default.")] = "",
    metric: Annotated[
        str,
        typer.Option(
            help="For pareto: by default the first in which students differ. For curves: loss or a diagnostic."
        ),
    ] = "",
    steps: Annotated[
        str, typer.Option(help="Sampler steps, e.g. 1,2. By default the fewest for grid, all for pareto.")
    ] = "",
    against: Annotated[
        str,
        typer.Option(
            help="For pareto: nfe or seconds; nfe by default.", autocompletion=completion.one_of(("nfe", "seconds"))
        ),
    ] = "",
) -> None:
    """Draw a figure for a paper, PDF or PNG.

    Examples:

      mdtbench figure grid runs/today --steps 1,2 --methods vm,mdt,teacher --out assets.pdf

      mdtbench figure pareto runs/today --metric FD_tiny_gs --against seconds

      mdtbench figure curves runs/today --out curves.png
    """
    from .figure import Choice, figure_file

    choice = Choice(words(methods), words(assets), metric, numbers("--steps", steps), against)
    typer.echo(figure_file(kind, folders or (), out, choice))


def show_command(
    what: Annotated[
        str,
        typer.Argument(
            metavar="RUN|protocol|schema",
            help="Folder of a run, or its name under runs/; protocol; schema.",
            autocompletion=completion.shown,
        ),
    ],
    name: Annotated[
        str,
        typer.Argument(
            help="Of the protocol, with variants as name+variant; trellis-v1 by default.",
            autocompletion=completion.protocols,
        ),
    ] = "",
    format: Annotated[
        str, typer.Option("--format", "-f", help="text or json.", autocompletion=completion.one_of(("text", "json")))
    ] = "text",
) -> None:
    """Print all about one run; or every choice of a protocol with its source; or the JSON Schema of rows.

    Examples:

      mdtbench show runs/today

      mdtbench show protocol trellis-v1

      mdtbench show protocol trellis-v1+as-is --format json

      mdtbench show schema
    """
    from .runs import shown

    typer.echo(shown(what, name, format), nl=False)


def verify_command(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.", autocompletion=completion.runs)],
) -> None:
    """Compare every file of a run with its sha256; exit code 4 when one is damaged. Changes nothing.

    Examples:

      mdtbench verify runs/today
    """
    from .verify import verified

    verified(folder)


def import_command(
    file: Annotated[Path, typer.Argument(help="CSV with the columns metric and value; see docs/rows.md for others.")],
    name: Annotated[str, typer.Option(help="Name of the system, where the CSV has no column method.")],
    like: Annotated[
        Path | None, typer.Option(metavar="RUN", help="A run that you declare the values comparable to.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder; runs/import-<name>-<key> by default.")] = None,
) -> None:
    """Turn another tool's numbers into a run's folder, marked as not measured here, for `report` and `compare`.

    Examples:

      mdtbench import lgm.csv --name LGM --like runs/flashvdm
    """
    from .runs import imported

    imported(file, name, like, out)
