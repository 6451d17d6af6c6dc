"""What a run will do: entrants, cells, where each result lies. Everything is decided before anything is computed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ..assets.source import Source
from ..assets.toys import ToySource
from ..base.errors import UsageError, unknown_name
from ..base.files import digest_of
from ..flow.samplers import Sampler
from ..methods import METHODS, Distillation, Method
from ..trellis.pipeline import SamplerParams
from .config import Config

ALWAYS = ("none", "none:cfg", "teacher")  # the rows that every table has
REFERENCE = "teacher"
TRAIN_VERSION = 1  # part of a trained student's address: raise it when training computes something else
SAMPLE_VERSION = 1  # likewise for generated shapes and their features


@dataclass(frozen=True)
class Entrant:
    """A method in the variant and with the parameters that this run uses. label: `name` or `name:variant`."""

    label: str
    name: str
    variant: str
    version: int
    method: Method

    @property
    def trains(self) -> bool:
        return isinstance(self.method, Distillation)


@dataclass(frozen=True)
class Training:
    """One student to train. folder: relative to the run's; its name is a digest of all inputs."""

    entrant: Entrant
    seed: int
    folder: str


@dataclass(frozen=True)
class Cell:
    """Shapes of one entrant for one number of steps and one generation seed.

    Attributes:
        training: the student; None for the teacher's own rows.
        steps: the sampler's, which for `teacher` is its own count.
        folder: of the cell's shapes, relative to the run's.
    """

    entrant: Entrant
    training: Training | None
    sampler: Sampler
    seed: int
    folder: str

    @property
    def steps(self) -> int:
        return self.sampler.steps


@dataclass(frozen=True)
class Plan:
    """A run, resolved.

    Attributes:
        world: folder of the world; its digest is `world_sha`.
        limit: number of test assets, None for all.
        key: sha256 over everything that decides a result.
    """

    config: Config
    entrants: tuple[Entrant, ...]
    trainings: tuple[Training, ...]
    cells: tuple[Cell, ...]
    test: Source
    limit: int | None
    world: Path
    world_sha: str
    key: str

    @property
    def run_id(self) -> str:
        return self.key[:12]


def resolve(
    config: Config,
    methods: Sequence[str],
    train_seeds: Sequence[int],
    test: Source,
    limit: int | None,
    world: Path,
    world_sha: str,
    sampler: SamplerParams,
) -> Plan:
    """The plan of a run.

    Raises:
        UsageError: unknown method, variant or parameter.
    """
    _check_method_tables(config)
    labels = list(dict.fromkeys(label.removesuffix(":") for label in (*methods, *ALWAYS)))
    entrants = tuple(entrant(label, config.methods, sampler) for label in labels)
    stem = [config.train.model_dump(), train_source(config).digest(), world_sha]
    seeds = dict.fromkeys(train_seeds)
    trainings = tuple(_training(e, seed, stem) for e in entrants if e.trains for seed in seeds)
    test_sha = digest_of([test.name, test.digest(), limit])
    cells = tuple(_cells(entrants, trainings, config, [world_sha, test_sha]))
    key = digest_of([[cell.folder for cell in cells], config.evaluate.seeds, world_sha, test_sha])
    return Plan(config, entrants, trainings, cells, test, limit, world, world_sha, key)


def train_source(config: Config) -> ToySource:
    """The toys that students are distilled on."""
    return ToySource("train", config.data.train, config.data.seed)


def entrant(label: str, changes: Mapping[str, Mapping[str, Any]], sampler: SamplerParams) -> Entrant:
    """Build `name` or `name:variant`: the sampler's settings of the backbone, then the variant, then `changes`."""
    name, _, variant = label.partition(":")
    entry = METHODS.get(name)
    if variant and variant not in entry.variants:
        raise unknown_name(f"variant of method '{name}'", variant, [v for v in entry.variants if v])
    known = {field.name: field.default for field in fields(entry.value)}
    settings = {key: value for key, value in asdict(sampler).items() if key in known}
    for key, value in changes.get(name, {}).items():
        if key not in known:
            raise unknown_name(f"parameter of method '{name}'", key, known)
        _check_parameter(f"methods.{name}.{key}", value, settings.get(key, known[key]))
    changed = {**entry.variants.get(variant, {}), **changes.get(name, {})}
    lists_as_tuples = {key: tuple(value) if isinstance(value, list) else value for key, value in changed.items()}
    try:
        method = entry.value(**{**settings, **lists_as_tuples})
    except (TypeError, ValueError) as error:
        raise UsageError(f"Method '{label}' cannot be built ({error}). Check [methods.{name}].") from error
    return Entrant(label, name, variant, entry.version, method)


def _check_parameter(key: str, value: Any, default: Any) -> None:
    """A changed parameter is of its default's kind: a finite number for a number, a list for a tuple."""
    if default is MISSING:
        return
    if isinstance(default, float):
        fits = type(value) in (int, float) and math.isfinite(value)
    else:
        fits = type(value) is (list if isinstance(default, tuple) else type(default))
    if not fits:
        raise UsageError(f"{key} takes a value like {default!r} (got {value!r}). Correct it in the preset or --set.")


def _check_method_tables(config: Config) -> None:
    for name in config.methods:
        METHODS.get(name)


def _training(who: Entrant, seed: int, stem: list[Any]) -> Training:
    sha = digest_of([TRAIN_VERSION, who.label, who.version, repr(who.method), seed, *stem])
    return Training(who, seed, f"students/{_file_name(who.label)}-seed{seed}-{sha[:12]}")


def _cells(
    entrants: Sequence[Entrant], trainings: Sequence[Training], config: Config, stem: list[Any]
) -> Iterator[Cell]:
    for who in entrants:
        sources: list[Training | None] = [t for t in trainings if t.entrant is who] if who.trains else [None]
        samplers = dict.fromkeys(who.method.sampler(steps) for steps in config.evaluate.steps)
        for source in sources:
            for sampler in samplers:
                for seed in dict.fromkeys(config.evaluate.seeds):
                    yield Cell(who, source, sampler, seed, _cell_folder(who, source, sampler, seed, stem))


def _cell_folder(who: Entrant, source: Training | None, sampler: Sampler, seed: int, stem: list[Any]) -> str:
    origin = source.folder if source else who.label
    sha = digest_of([SAMPLE_VERSION, origin, repr(sampler), seed, *stem])
    trained = f"-seed{source.seed}" if source else ""
    return f"shapes/{_file_name(who.label)}{trained}-{sampler.steps}steps-gen{seed}-{sha[:12]}"


def _file_name(label: str) -> str:
    return label.replace(":", "_")
