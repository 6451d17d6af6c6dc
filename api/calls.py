"""The verbs `run` and `evaluate` as functions: each makes the command line that does the same, and runs it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .loaded import Run, load

SEVERAL = ("set", "plugin")  # options that are given once for each value; of others a list is joined by commas


def run(**options: Any) -> Run | None:
    """`mdtbench run`: distil, measure, and load what came out; None of a dry run. Call it again to resume.

    Args:
        options: those of `mdtbench run --help`, `-` written as `_`: preset="smoke", methods=["vm", "mdt"],
            seeds=[0, 1], set={"train.steps": 100}, plugin="my_method.py", out="runs/mine", dry_run=True, ...

    Worker processes import the script that calls this: it needs `if __name__ == "__main__":` around the call.

    Raises:
        MdtbenchError: as the command does; the message is the command's.
    """
    return _called("run", [], options)


def evaluate(folder: str | Path, **options: Any) -> Run | None:
    """`mdtbench evaluate`: measure the assets of a folder, and load what came out.

    Args:
        folder: of assets that any system made, named by asset id.
        options: those of `mdtbench evaluate --help`, `-` written as `_`.

    Raises:
        MdtbenchError: as the command does; the message is the command's.
    """
    return _called("evaluate", [str(folder)], options)


def _called(verb: str, words: list[str], options: Mapping[str, Any]) -> Run | None:
    from mdtbench.harness.cli.app import call  # pyright: ignore[reportMissingImports]

    folder = call([verb, *words, *arguments(options)])
    return None if folder is None else load(folder)


def arguments(options: Mapping[str, Any]) -> list[str]:
    """The words of a command line: None and False are left out, True is the option alone."""
    return [word for name, value in options.items() for word in _option(name, value)]


def _option(name: str, value: Any) -> Iterator[str]:
    option = f"--{name.replace('_', '-')}"
    if value is True:
        yield option
    elif value is not None and value is not False:
        for text in _texts(name, value):
            yield from (option, text)


def _texts(name: str, value: Any) -> list[str]:
    if isinstance(value, Mapping):
        return [f"{key}={_toml(one)}" for key, one in value.items()]
    if isinstance(value, (list, tuple)):
        texts = [str(one) for one in value]
        return texts if name in SEVERAL else [",".join(texts)]
    return [str(value)]


def _toml(value: Any) -> str:
    """As `--set` reads values. JSON's numbers, strings, lists, true and false are TOML's."""
    return value if isinstance(value, str) else json.dumps(value)
