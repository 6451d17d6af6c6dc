"""The command line. Nothing heavy is imported before a verb needs it: `--help` answers at once."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ..base.errors import MdtbenchError

app = typer.Typer(
    name="mdtbench",
    help="Distil a 3D flow model with every method, measure all students under one protocol, print the tables.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Preset = Annotated[str, typer.Option("--preset", help="Shipped preset (smoke, tiny) or a .toml file.")]
Changes = Annotated[list[str] | None, typer.Option("--set", help="Change a key of the preset, e.g. train.steps=100.")]


@app.callback()
def root() -> None:
    """mdtbench"""


@app.command()
def pretrain(
    preset: Preset = "tiny",
    out: Annotated[Path, typer.Option(help="Folder of the world; its name is the world's name.")] = Path("world"),
    stages: Annotated[str, typer.Option(help="Comma-separated stages to make now; all by default.")] = "",
    changes: Changes = None,
    workers: Annotated[int, typer.Option(help="Processes or threads; 0 = all cores.")] = 0,
) -> None:
    """Make the networks of a preset from nothing (about an hour on two cores); run again to resume."""
    from .config import load_config
    from .pool import cores
    from .pretrain import STAGES
    from .pretrain import pretrain as make
    from .progress import reporter

    config = load_config(preset, changes)
    chosen = [stage.strip() for stage in stages.split(",") if stage.strip()] or list(STAGES)
    with reporter() as report:
        complete = make(config, out, chosen, workers or cores(), report)
    typer.echo(f"World at {out}" if complete else f"Stages {', '.join(chosen)} at {out}; others are still to be made.")


def main() -> None:
    """Entry point: errors become one line on standard error and the exit code of their kind."""
    try:
        app(standalone_mode=False)
    except MdtbenchError as error:
        typer.echo(f"mdtbench: {error}", err=True)
        sys.exit(error.exit_code)
    except typer.Abort:
        sys.exit(130)
    except KeyboardInterrupt:
        typer.echo("mdtbench: interrupted; run the same command again to resume.", err=True)
        sys.exit(130)
