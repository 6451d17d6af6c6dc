"""What a run says of its origin: its preset, what it changed of that, the words that began it. Without torch."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ...base.errors import UsageError
from ...results.catalog import RunInfo
from ...results.merge import flat
from ..settings.config import load_config, read_preset

ABSENT: Final = "not set"
_OUT: Final = "--out"
_SLAT: Final = "slat"


@dataclass(frozen=True)
class Change:
    """One key of a configuration: the preset's value and the run's."""

    key: str
    preset: Any
    run: Any

    @property
    def text(self) -> str:
        """As `mdtbench show` prints it."""
        return f"{self.key} = {_spelled(self.run)}  (preset: {_spelled(self.preset)})"


@dataclass(frozen=True)
class Origin:
    """The preset as the run's manifest names it; "" where it names none. unread: why it cannot be read today, or ""."""

    preset: str
    changes: tuple[Change, ...] = ()
    unread: str = ""


def origin_of(run: RunInfo) -> Origin:
    """Compared with the preset as it is now, which need not be as it was then."""
    name = run.manifest.get("preset", "")
    if not name:
        return Origin("")
    try:
        # The defaults of exact problems cannot be read without torch: keys that only the run has are left out.
        preset = read_preset(name) if run.kind == "oracle" else load_config(name).model_dump(mode="json")
    except UsageError as error:
        return Origin(name, unread=str(error))
    return Origin(name, _changes(preset, run.config))


def command_of(run: RunInfo) -> str:
    """The command that goes on with a run, or finds all its results again; "" where none is recorded.

    The words are those that were given. Where they lead to another folder (by default it is named by the key, and a run
    can be moved) the folder's name is put in.
    """
    words = run.manifest.get("command", ())
    return shlex.join(_into(run.folder, words)) if words else ""


def _into(folder: Path, words: Sequence[str]) -> list[str]:
    kept: list[str] = []
    given, rest = "", iter(words)
    for word in rest:
        if word == _OUT:
            given = next(rest, "")
        elif word.startswith(f"{_OUT}="):
            given = word.partition("=")[2]
        else:
            kept.append(word)
    there = given and Path(given).resolve() == folder.resolve()
    return list(words) if there else [*kept, _OUT, str(folder)]


def _changes(preset: Mapping[str, Any], config: Mapping[str, Any]) -> tuple[Change, ...]:
    """Keys with another value; those that only one version of the code knows are left out, but for methods' own."""
    if _SLAT in config and config[_SLAT] is None and preset.get(_SLAT):
        return (Change(_SLAT, "both stages", "structure alone"), *_changes({**preset, _SLAT: None}, config))
    theirs, ours = flat(preset), flat(config)
    keys = [key for key in dict.fromkeys([*ours, *theirs]) if not key.startswith("pretrain")]
    changes = [Change(key, theirs.get(key, ABSENT), ours.get(key, ABSENT)) for key in keys]
    return tuple(one for one in changes if one.preset != one.run and _counts(one, preset, config))


def _counts(change: Change, preset: Mapping[str, Any], config: Mapping[str, Any]) -> bool:
    section = change.key.partition(".")[0]
    shared = isinstance(preset.get(section), Mapping) and isinstance(config.get(section), Mapping)
    return section == "methods" or not shared or ABSENT not in (change.preset, change.run)


def _spelled(value: Any) -> str:
    if value is None:
        return "none"
    return value if isinstance(value, str) else json.dumps(value)
