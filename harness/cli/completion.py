"""What the shell completes after the options of the command line. Imports no torch: it answers at every key."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Final

from ...results import __file__ as results_file

# Names of registries that take torch to load; a test compares them.
METHODS: Final = (
    "ayf", "cm", "dmd2", "ect", "gd", "kd", "ladd", "lmd", "mdt", "meanflow", "none", "pcm", "rcm", "scm", "shortcut",
    "sid", "tcm", "teacher", "vm",
)  # fmt: skip
SAMPLERS: Final = ("euler", "renoise", "phase", "flow_map")
EXPORTS: Final = ("glb", "ply", "png", "none")
STAGES: Final = ("both", "structure")
PRETRAINED: Final = (
    "appearance", "asset_dual_encoder", "conditioner", "dual_encoder", "picture_classifier", "points_classifier",
    "slat_mesh", "slat_teacher", "slat_vae", "teacher", "vae",
)  # fmt: skip
BENCHMARKS: Final = ("fd", "gpu", "lockstep", "memory", "render", "sparse")
TRACKERS: Final = ("mlflow", "tensorboard", "wandb")
BUDGETS: Final = ("forwards", "seconds", "steps")
DEVICES: Final = ("auto", "cpu", "cuda")
EXECUTORS: Final = ("local", "ray", "slurm")
DOWNLOADS: Final = ("paper", "variants")
KINDS: Final = ("methods", "samplers", "metrics", "presets", "protocols", "runs", "worlds")
RUNS: Final = Path("runs")
BASELINES: Final = Path(results_file).parent / "baselines"


def methods(incomplete: str) -> list[str]:
    """Of a list with commas; those of plug-in packages too."""
    plugins = [point.name for point in entry_points(group="mdtbench.methods")]
    return _last(incomplete, [*METHODS, *plugins])


def presets(incomplete: str) -> list[str]:
    """Those that are shipped."""
    from ..settings.config import preset_names

    return _starting(incomplete, preset_names())


def protocols(incomplete: str) -> list[str]:
    """Those that are shipped; after a +, the variants of one."""
    from ..protocol.model import load_protocol, protocol_names

    name, plus, _ = incomplete.partition("+")
    if not plus or name not in protocol_names():
        return _starting(incomplete, protocol_names())
    before = incomplete.rpartition("+")[0]
    taken = before.split("+")
    names = [variant.name for variant in load_protocol(name).file.variant]
    return _starting(incomplete, [f"{before}+{variant}" for variant in names if variant not in taken])


def formats(incomplete: str) -> list[str]:
    """Of `report`."""
    from ...results.report import FORMATS

    return _starting(incomplete, [*FORMATS, "html", "parquet", "power"])


def runs(incomplete: str) -> list[str]:
    """Folders under runs/; any other folder is left to be typed."""
    return _starting(incomplete, [str(path.parent) for path in RUNS.glob("*/manifest.json")])


def baselines(incomplete: str) -> list[str]:
    """Runs, and the baselines that are shipped."""
    return runs(incomplete) + _starting(incomplete, [path.parent.name for path in BASELINES.glob("*/rows.jsonl")])


def shown(incomplete: str) -> list[str]:
    """What `show` takes."""
    return _starting(incomplete, ["protocol", "run", "schema"]) + runs(incomplete)


def one_of(words: Iterable[str]) -> Callable[[str], list[str]]:
    """A completion of fixed words."""
    words = tuple(words)
    return lambda incomplete: _starting(incomplete, words)


def some_of(words: Iterable[str]) -> Callable[[str], list[str]]:
    """A completion of a list of fixed words with commas."""
    words = tuple(words)
    return lambda incomplete: _last(incomplete, words)


def _starting(incomplete: str, words: Iterable[str]) -> list[str]:
    return [word for word in sorted(words) if word.startswith(incomplete)]


def _last(incomplete: str, words: Iterable[str]) -> list[str]:
    """The last word of a list with commas; words that are there are not offered again."""
    before, comma, last = incomplete.rpartition(",")
    taken = before.split(",")
    return [before + comma + word for word in _starting(last, words) if word not in taken]
