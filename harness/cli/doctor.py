"""The verb `doctor`: its options. What it does is in `examining`, which imports torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import completion
from .options import CACHE


def doctor_command(
    preset: Annotated[
        str,
        typer.Option(help="Also check what a preset needs, e.g. paper.", autocompletion=completion.presets),
    ] = "",
    cache: Annotated[Path, typer.Option(help="Folder for prepared assets, shared by runs.")] = CACHE,
) -> None:
    """Print what this machine has and what of it mdtbench uses; exit code 4 when something needed is missing."""
    from .examining import check, examined, findings_text

    findings = examined(cache.expanduser(), preset)
    typer.echo(findings_text(findings), nl=False)
    check(findings)
