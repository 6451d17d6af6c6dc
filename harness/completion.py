"""What the shell completes after the options of the command line. Imports no torch: it answers at every key."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Final

# Of `mdtbench list methods`, whose own registry takes torch to load.
METHODS: Final = ("cm", "gd", "kd", "mdt", "none", "pcm", "scm", "teacher", "vm")
SAMPLERS: Final = ("euler", "renoise", "phase")
KINDS: Final = ("methods", "samplers", "metrics", "presets", "protocols", "runs", "worlds")
BUDGETS: Final = ("forwards", "seconds", "steps")
FILES: Final = ("glb", "ply")
STAGES: Final = ("both", "structure")
RUNS: Final = Path("runs")


def methods(incomplete: str) -> list[str]:
    """Of a list with commas; those of plug-in packages too."""
    plugins = [point.name for point in entry_points(group="mdtbench.methods")]
    return _last(incomplete, [*METHODS, *plugins])


def samplers(incomplete: str) -> list[str]:
    """Of a list with commas."""
    return _last(incomplete, SAMPLERS)


def files(incomplete: str) -> list[str]:
    """Of a list with commas: the kinds of --export."""
    return _last(incomplete, FILES)


def presets(incomplete: str) -> list[str]:
    """Those that are shipped."""
    from .config import preset_names

    return _starting(incomplete, preset_names())


def protocols(incomplete: str) -> list[str]:
    """Those that are shipped."""
    from .protocol.model import protocol_names

    return _starting(incomplete, protocol_names())


def formats(incomplete: str) -> list[str]:
    """Of `report`."""
    from ..results.report import FORMATS

    return _starting(incomplete, [*FORMATS, "html", "parquet"])


def runs(incomplete: str) -> list[str]:
    """Folders under runs/; any other folder is left to be typed."""
    return _starting(incomplete, [str(path.parent) for path in RUNS.glob("*/manifest.json")])


def shown(incomplete: str) -> list[str]:
    """What `show` takes."""
    return _starting(incomplete, ["protocol", "run", "schema"]) + runs(incomplete)


def one_of(words: Iterable[str]) -> Callable[[str], list[str]]:
    """A completion of fixed words."""
    words = tuple(words)
    return lambda incomplete: _starting(incomplete, words)


def _starting(incomplete: str, words: Iterable[str]) -> list[str]:
    return [word for word in sorted(words) if word.startswith(incomplete)]


def _last(incomplete: str, words: Iterable[str]) -> list[str]:
    """The last word of a list with commas; words that are there are not offered again."""
    before, comma, last = incomplete.rpartition(",")
    taken = before.split(",")
    return [before + comma + word for word in _starting(last, words) if word not in taken]
