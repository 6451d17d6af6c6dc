"""The preset that a run is nearest to, what it changed of it, and the command that goes on with it. Without torch."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from ..base.errors import UsageError
from ..results.catalog import RunInfo
from ..results.merge import flat
from .config import load_config, preset_names, read_preset

ABSENT: Final = "not set"
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
    """The shipped preset with the fewest differences; `preset` is empty where the run has no configuration."""

    preset: str
    changes: tuple[Change, ...] = ()


def origin_of(run: RunInfo) -> Origin:
    """Manifests do not name their preset: of those of the same kind it is the nearest, of equal ones the folder's."""
    if not run.config:
        return Origin("")
    origins = [Origin(name, _changes(preset, run.config)) for name, preset in _presets(run.kind).items()]
    named = run.name.partition("-")[0]
    return min(origins, key=lambda origin: (len(origin.changes), origin.preset != named), default=Origin(""))


def command_of(run: RunInfo, origin: Origin) -> str:
    """The command that goes on with a run, or finds all its results again.

    Empty where no such command made it, or a value cannot be written on a command line.
    """
    unwritten = any(change.run in (None, ABSENT) for change in origin.changes)
    if run.kind not in ("run", "oracle") or not origin.preset or unwritten:
        return ""
    words = ["mdtbench", "run", "--preset", origin.preset]
    if run.methods:
        words += ["--methods", ",".join(run.methods)]
    if run.train_seeds:
        words += ["--seeds", ",".join(map(str, run.train_seeds))]
    if run.kind == "run":
        words += _options(run)
    for change in origin.changes:
        words += _option(change)
    return shlex.join([*words, "--out", str(run.folder)])


def _option(change: Change) -> list[str]:
    if change.key == _SLAT:
        return ["--stages", "structure"]
    return ["--set", f"{change.key}={json.dumps(change.run)}"]


def _options(run: RunInfo) -> list[str]:
    test = run.manifest.get("test") or {}
    source, limit, device = str(test.get("source", "")), test.get("limit"), run.manifest.get("device")
    assets = [] if source.startswith("toys") or not source else ["--assets", source]
    return [
        *assets,
        *(["--limit", str(limit)] if limit is not None else []),
        *(["--device", device] if device else []),
    ]


def _presets(kind: str) -> dict[str, Mapping[str, Any]]:
    """Presets of a kind of run, with defaults where that costs no torch."""
    presets: dict[str, Mapping[str, Any]] = {}
    for name in preset_names():
        values = read_preset(name)
        if ("oracle" in values) != (kind == "oracle"):
            continue
        try:
            presets[name] = values if kind == "oracle" else load_config(name).model_dump(mode="json")
        except UsageError:  # tables at full size: a preset of another kind
            continue
    return presets


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
