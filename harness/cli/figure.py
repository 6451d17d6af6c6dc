"""The verb `figure`. Imports no torch, and matplotlib only when it draws."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from ...base.errors import UsageError
from ...results.figures.choice import Choice
from ...results.figures.report import check, figure_of
from ...results.figures.style import check_suffix, save
from ...results.merged_folder import merged_folder
from . import completion
from .options import numbers, words
from .report import newest_run


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
    choice = Choice(words(methods), words(assets), metric, numbers("--steps", steps), against)
    typer.echo(figure_file(kind, folders or (), out, choice))


def figure_file(kind: str, folders: Sequence[Path], out: Path | None, choice: Choice) -> Path:
    """The file of one figure of a run, or of several that are comparable; options as those of the verb."""
    check(kind, choice)
    if out is not None:
        check_suffix(out)
    folders = folders or (newest_run(Path("runs")),)
    path = out or folders[0] / f"figure-{kind}.pdf"
    if len(folders) == 1:
        save(figure_of(kind, folders[0], choice), path)
        return path
    if out is None:
        raise UsageError("A figure of several runs needs --out FILE.pdf, as no run's folder is that of all.")
    with merged_folder(folders) as folder:
        save(figure_of(kind, folder, choice), path)
    return path
