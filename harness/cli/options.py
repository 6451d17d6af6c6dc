"""Options that several verbs have, and how their words are read. Imports nothing heavy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ...base.errors import UsageError
from . import completion

CACHE = Path("~/.cache/mdtbench")

PresetOption = Annotated[
    str,
    typer.Option(
        "--preset",
        help="Shipped preset (smoke, tiny, modes, oracle, paper) or a .toml file.",
        autocompletion=completion.presets,
    ),
]
Changes = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change a key of the preset: train.steps=100, protocol=trellis-v1. May be given several times.",
    ),
]
Workers = Annotated[int, typer.Option(help="Processes; 0 = one per core. Changes no result.", min=0)]
TrackOption = Annotated[
    str,
    typer.Option(
        "--track",
        help="Also write settings, training curves, values and pictures to tensorboard, wandb, mlflow, or several of "
        "them with commas. Changes no result.",
        autocompletion=completion.some_of(completion.TRACKERS),
    ),
]
DeviceOption = Annotated[
    str,
    typer.Option(
        "--device",
        help="Where networks compute: cpu, cuda, cuda:1, or auto (a GPU if there is one). One process uses a GPU, "
        "unless --workers says how many share it.",
        autocompletion=completion.one_of(completion.DEVICES),
    ),
]


def words(text: str) -> tuple[str, ...]:
    """Those between commas."""
    return tuple(word.strip() for word in text.split(",") if word.strip())


def numbers(option: str, text: str) -> tuple[int, ...]:
    """Those between commas. Raises UsageError for others than whole numbers from 0 on."""
    try:
        found = tuple(int(word) for word in words(text))
    except ValueError:
        raise UsageError(f"{option} takes whole numbers separated by commas, e.g. 0,1,2 (got '{text}').") from None
    if any(number < 0 for number in found):
        raise UsageError(f"{option} takes whole numbers from 0 on, separated by commas, e.g. 0,1,2 (got '{text}').")
    if text and not found:
        raise UsageError(f"{option} needs at least one whole number, e.g. 0 (got '{text}').")
    return found
