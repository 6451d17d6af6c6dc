"""Files of whole assets that runs left for reports: which there are, and why others are not."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..base.errors import MissingError, UsageError
from ..base.files import read_json

EXPORT: Final = "export"  # in the run's folder
EXPORTS: Final = "exports.json"  # in a folder of several runs: where theirs are
CONDITION: Final = "condition"
TRUTH: Final = "truth"
INDEX_FORMAT: Final = 1


@dataclass(frozen=True)
class Exported:
    """The files of assets, by asset id and by folder (`condition`, `truth`, or whose they are: `vm-1x2`).

    reasons: why a file is not there, by folder and asset id.
    """

    files: Mapping[str, Mapping[str, tuple[Path, ...]]]
    reasons: Mapping[tuple[str, str], str]


def read_exported(folder: Path) -> Exported:
    """The files of whole assets that a run left; of several runs all, of equal lines those of the first.

    Empty where there is no index.

    Raises:
        MissingError: the index or the list of failures is damaged. UsageError: the index is of another version.
    """
    several = folder / EXPORTS
    roots = map(Path, read_json(several)) if several.is_file() else [folder / EXPORT]
    files: dict[str, dict[str, tuple[Path, ...]]] = {}
    reasons: dict[tuple[str, str], str] = {}
    for found in map(_read, roots):
        for asset, makers in found.files.items():
            mine = files.setdefault(asset, {})
            mine |= {maker: paths for maker, paths in makers.items() if not mine.get(maker)}
        reasons = {**found.reasons, **reasons}
    return Exported(files, reasons)


def _read(root: Path) -> Exported:
    root = root.resolve()
    if not (root / "index.json").is_file():
        return Exported({}, {})
    index = read_json(root / "index.json")
    try:
        if index["format"] != INDEX_FORMAT:
            raise UsageError(
                f"{root / 'index.json'} has an unknown format (got {index['format']!r}) - this version reads "
                f"{INDEX_FORMAT} - run again with --export."
            )
        files = {
            _text(asset["id"]): {
                maker: tuple(_inside(root, name) for name in names) for maker, names in asset["files"].items()
            }
            for asset in index["assets"]
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise MissingError(
            f"{root / 'index.json'} is not an index of assets ({error!r}). Run again with --export."
        ) from error
    return Exported(files, _read_reasons(root / "failures.csv"))


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"an id is no text but {value!r}")
    return value


def _inside(root: Path, name: str) -> Path:
    """A path of the index. Raises MissingError where it leads elsewhere."""
    path = root / name
    if not path.resolve().is_relative_to(root):
        raise MissingError(f"{root / 'index.json'} names a file outside its folder ({name}). Run again with --export.")
    return path


def _read_reasons(path: Path) -> dict[tuple[str, str], str]:
    if not path.is_file():
        return {}
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            return {(row["made_by"], row["id"]): row["reason"] for row in csv.DictReader(stream)}
    except (OSError, KeyError, UnicodeDecodeError, csv.Error) as error:
        raise MissingError(f"{path} is not a list of failures ({error}). Run again with --export.") from error
