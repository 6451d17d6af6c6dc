"""The verb `pretrain`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import completion
from .options import Changes, PresetOption, TrackOption, Workers, words


def pretrain_command(
    preset: PresetOption = "tiny",
    out: Annotated[Path, typer.Option(help="Folder of the world; its name is the world's name.")] = Path("world"),
    stages: Annotated[
        str,
        typer.Option(
            help="Comma-separated stages to make now; all by default.",
            autocompletion=completion.some_of(completion.PRETRAINED),
        ),
    ] = "",
    changes: Changes = None,
    track: TrackOption = "",
    workers: Workers = 0,
) -> None:
    """Make the networks of a preset from nothing (one to two hours on two cores); run again to resume."""
    from ..engine.progress import reporter
    from ..engine.trackers import trackers_of
    from ..engine.workers import cores
    from ..pretrain import STAGES
    from ..pretrain import pretrain as make
    from ..settings.config import load_config

    trackers, config = trackers_of(words(track)), load_config(preset, changes)
    chosen = [stage.strip() for stage in stages.split(",") if stage.strip()] or list(STAGES)
    with reporter() as report:
        complete = make(config, out, chosen, workers or cores(), report, trackers)
    typer.echo(f"World at {out}" if complete else f"Stages {', '.join(chosen)} at {out}; others are still to be made.")
