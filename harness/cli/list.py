"""The verb `list`: its options. What it prints is in `listing`, which imports torch, and in `runs`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ...base.errors import UsageError
from . import completion


def list_command(
    kind: Annotated[
        str,
        typer.Argument(
            help="methods, samplers, metrics, presets, protocols, worlds or runs.",
            autocompletion=completion.one_of(completion.KINDS),
        ),
    ] = "methods",
    folder: Annotated[
        Path | None, typer.Option("--in", metavar="DIR", help="For runs: the folder they are in; runs by default.")
    ] = None,
) -> None:
    """List what this installation offers, or the runs in a folder."""
    if kind == "runs":
        from .runs import RUNS, runs_table

        typer.echo(runs_table(folder or RUNS), nl=False)
        return
    if folder is not None:
        raise UsageError(f"--in has no meaning for {kind}. Leave it out.")
    from .listing import listing  # with torch

    typer.echo(listing(kind))
