"""What a run will do: entrants, students, cells, where each result lies. Decided before anything is computed.

Two things are known only when a run has begun: the seconds of a training step (budget `seconds`) and the learning
rates that a sweep chooses. Until then a plan has the forward passes' counts and the methods' own rates in their place
(`--dry-run` prints it so); `with_step_seconds` and `with_rates` give the plan with what was found. The key of a run
is that of its inputs, so it stays the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ..assets.source import Source
from ..assets.toys import ToySource
from ..base.errors import UsageError
from ..base.files import digest_of
from ..flow.samplers import Sampler, sampler_of
from ..methods import METHODS
from ..metrics import METRICS
from ..results.rows import BOTH, STRUCTURE, STRUCTURE_THEN_TEACHER, TEACHER_THEN_SLAT
from ..trellis.pipeline import SamplerParams
from .config import Config, Train
from .device import CPU, is_cpu
from .parameters import Entrant, entrant

ALWAYS = ("none", "none:cfg", "teacher")  # the rows that every table has
REFERENCE = "teacher"
BUDGET_METHOD = "cm"  # equal budgets are what its training of `train.steps` steps takes
BUDGET_FORWARDS = 6  # its forward passes per sample and step
TRAIN_VERSION = 1  # part of a trained student's address: raise it when training computes something else
SAMPLE_VERSION = 1  # likewise for generated shapes and their features
ASSEMBLE_VERSION = 1  # likewise for whole assets and their features
SLAT = "slat"  # the second stage of the backbone; the first is `STRUCTURE`


@dataclass(frozen=True)
class Training:
    """One student to train. folder: relative to the run's; its name is a digest of all inputs."""

    entrant: Entrant
    seed: int
    steps: int
    folder: str
    stage: str = STRUCTURE


@dataclass(frozen=True)
class Cell:
    """Shapes of one entrant for one sampler and one generation seed.

    Attributes:
        training: the student; None for the teacher's own rows.
        own: whether the sampler is the one that the method is made for.
        folder: of the cell's shapes, relative to the run's.
    """

    entrant: Entrant
    training: Training | None
    sampler: Sampler
    own: bool
    seed: int
    folder: str

    @property
    def steps(self) -> int:
        """The sampler's, which for `teacher` is its own count."""
        return self.sampler.steps


@dataclass(frozen=True)
class AssetCell:
    """Whole assets: the structures of one cell, finished by a sampler of the second stage.

    Attributes:
        structure: where the structures come from.
        entrant, training, sampler: of the second stage; no training for the teacher's own rows.
        stage: of its rows: which stages are the method's, see `results.rows`.
        folder: of the assets, relative to the run's.
    """

    structure: Cell
    entrant: Entrant
    training: Training | None
    sampler: Sampler
    stage: str
    folder: str

    @property
    def seed(self) -> int:
        return self.structure.seed

    @property
    def who(self) -> Entrant:
        """Whose row it is."""
        return self.entrant if self.stage == TEACHER_THEN_SLAT else self.structure.entrant

    @property
    def steps(self) -> int:
        """Of the method, in each stage that is its own."""
        return self.sampler.steps if self.stage == TEACHER_THEN_SLAT else self.structure.steps

    @property
    def trainings(self) -> tuple[Training, ...]:
        """The students that it needs."""
        return tuple(training for training in (self.structure.training, self.training) if training)


@dataclass(frozen=True)
class SecondStagePlan:
    """What a run does in the second stage.

    Attributes:
        entrants: those of the run, with the second stage's guidance. step_seconds: as in `Plan`.
    """

    train: Train
    entrants: tuple[Entrant, ...]
    step_seconds: Mapping[str, float] = field(default_factory=dict)
    trainings: tuple[Training, ...] = ()
    cells: tuple[AssetCell, ...] = ()


@dataclass(frozen=True)
class Plan:
    """A run, resolved.

    Attributes:
        trainings, cells: the students and shapes that the tables are made of.
        grid: the sweep's: one cell per method and learning rate, on validation toys. Empty without a sweep.
        second: the second stage; None in a run of structures alone.
        limit: number of test assets, None for all.
        world: folder of the world; its digest is `world_sha`.
        device: where its networks compute.
        key: sha256 over everything that decides a result.
        step_seconds: measured seconds of a training step by label, for budget `seconds`.
    """

    config: Config
    entrants: tuple[Entrant, ...]
    train_seeds: tuple[int, ...]
    test: Source
    limit: int | None
    world: Path
    world_sha: str
    key: str
    step_seconds: Mapping[str, float] = field(default_factory=dict)
    trainings: tuple[Training, ...] = ()
    cells: tuple[Cell, ...] = ()
    grid: tuple[Cell, ...] = ()
    second: SecondStagePlan | None = None
    device: str = CPU

    @property
    def networks_sha(self) -> str:
        """What stands for the networks in addresses."""
        return networks_sha(self.world_sha, self.device)

    @property
    def all_trainings(self) -> tuple[Training, ...]:
        """Of both stages."""
        return (*self.trainings, *(self.second.trainings if self.second else ()))

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
    slat_sampler: SamplerParams | None = None,
    device: str = CPU,
) -> Plan:
    """The plan of a run.

    Args:
        sampler, slat_sampler: how the teacher is sampled in each stage; None: it has no second stage.
        device: where networks compute.

    Raises:
        UsageError: unknown method, variant, parameter, sampler or metric, or settings that contradict each other.
    """
    _check_names(config)
    labels = list(dict.fromkeys(label.removesuffix(":") for label in (*methods, *ALWAYS)))
    entrants = tuple(entrant(label, config.methods, sampler) for label in labels)
    seeds = tuple(dict.fromkeys(train_seeds))
    decides = config.model_dump(exclude={"pretrain": True, "methods": True, "evaluate": {"batch"}})
    made_with = [networks_sha(world_sha, device), *_batch(config, device)]
    who = [[e.label, e.version, repr(e.method)] for e in entrants]
    versions = [TRAIN_VERSION, SAMPLE_VERSION, ASSEMBLE_VERSION]
    key = digest_of([versions, who, seeds, decides, test.name, test.digest(), limit, *made_with])
    second = _second_stage(config, labels, slat_sampler)
    return _filled(Plan(config, entrants, seeds, test, limit, world, world_sha, key, second=second, device=device))


def networks_sha(world_sha: str, device: str) -> str:
    """Identity of a world's networks and of how they round: a GPU rounds otherwise than the CPU.

    The kind of device counts, not its model: what one GPU has made another goes on with.
    """
    return world_sha if is_cpu(device) else digest_of([world_sha, device.partition(":")[0]])


def _batch(config: Config, device: str) -> list[int]:
    """Assets handed to the networks at a time, where that decides how they round; see `generate.microbatches`."""
    return [] if is_cpu(device) else [config.evaluate.batch]


def _second_stage(config: Config, labels: Sequence[str], sampler: SamplerParams | None) -> SecondStagePlan | None:
    if config.slat is None:
        return None
    if sampler is None:
        raise UsageError(f"World '{config.world}' has no second stage, which [slat] is to train. Remove [slat].")
    train = config.slat.model_copy(update={"budget": config.train.budget})  # what is equal is equal in both stages
    return SecondStagePlan(train, tuple(entrant(label, config.methods, sampler) for label in labels))


def with_step_seconds(plan: Plan, seconds: Mapping[str, float], slat: Mapping[str, float] | None = None) -> Plan:
    """The plan for training steps that take so many seconds, by label; one of them is `BUDGET_METHOD`.

    Args:
        slat: the same of the second stage.
    """
    second = replace(plan.second, step_seconds=dict(slat or {})) if plan.second else None
    return _filled(replace(plan, step_seconds=dict(seconds), second=second))


def with_rates(plan: Plan, rates: Mapping[str, float]) -> Plan:
    """The plan with the learning rates that were chosen, by label."""
    chosen = [who.at_rate(rates[who.label]) if who.label in rates else who for who in plan.entrants]
    return _filled(replace(plan, entrants=tuple(chosen)))


def train_source(config: Config) -> ToySource:
    """The toys that students are distilled on."""
    return ToySource("train", config.data.train, config.data.seed)


def validation_source(config: Config) -> ToySource:
    """The toys that learning rates are chosen on. No test toy is among them; those of the floor row are."""
    return ToySource("validation", config.sweep.assets, config.data.seed)


def training_steps(who: Entrant, train: Train, step_seconds: Mapping[str, float]) -> int:
    """Optimiser steps that a method gets under a stage's budget."""
    if train.budget == "steps":
        return train.steps
    if train.budget == "seconds" and {who.label, BUDGET_METHOD} <= step_seconds.keys():
        share = step_seconds[BUDGET_METHOD] / step_seconds[who.label]
    else:
        share = BUDGET_FORWARDS / who.distillation.cost()
    return max(1, round(train.steps * share))


def _check_names(config: Config) -> None:
    for name in config.methods:
        METHODS.get(name)
    for name in config.evaluate.samplers:
        sampler_of(name, 1, 1.0)
    if config.sweep.lr:
        METRICS.get(config.sweep.metric)
        if config.train.lr is not None:
            raise UsageError("train.lr fixes the learning rate that sweep.lr is to choose. Set one of the two.")


def _filled(plan: Plan) -> Plan:
    """With the students and cells that follow from the rest."""
    config = plan.config
    train = config.train.model_dump(exclude={"steps", "budget"})  # a student's own count is in its address
    stem = [train, train_source(config).digest(), plan.networks_sha]
    shapes = [plan.networks_sha, *_batch(config, plan.device)]

    def training(who: Entrant, seed: int) -> Training:
        steps = training_steps(who, config.train, plan.step_seconds)
        sha = digest_of([TRAIN_VERSION, who.label, who.version, repr(who.method), seed, steps, *stem])
        return Training(who, seed, steps, f"students/{who.file_name}-seed{seed}-{sha[:12]}")

    trained = [who for who in plan.entrants if who.trains]
    trainings = tuple(training(who, seed) for who in trained for seed in plan.train_seeds)
    on_grid = [training(who.at_rate(lr), config.sweep.seed) for who in trained for lr in dict.fromkeys(config.sweep.lr)]
    test = digest_of([plan.test.name, plan.test.digest(), plan.limit])
    validation = digest_of([validation_source(config).name, validation_source(config).digest(), None])
    cells = tuple(_cells(plan.entrants, trainings, config, [*shapes, test]))
    grid = tuple(_grid_cell(student, config, [*shapes, validation]) for student in on_grid)
    plan = replace(plan, trainings=trainings, cells=cells, grid=grid)
    return replace(plan, second=_filled_second(plan, plan.second, [plan.networks_sha, test])) if plan.second else plan


def _filled_second(plan: Plan, second: SecondStagePlan, stem: list[Any]) -> SecondStagePlan:
    """With the students of the second stage, and the assets that follow from these and the structures."""
    train = second.train.model_dump(exclude={"steps", "budget"})
    inputs = [SLAT, train, train_source(plan.config).digest(), plan.networks_sha]

    def training(who: Entrant, seed: int) -> Training:
        steps = training_steps(who, second.train, second.step_seconds)
        sha = digest_of([TRAIN_VERSION, who.label, who.version, repr(who.method), seed, steps, *inputs])
        return Training(who, seed, steps, f"students/slat-{who.file_name}-seed{seed}-{sha[:12]}", SLAT)

    trained = [who for who in second.entrants if who.trains]
    trainings = tuple(training(who, seed) for who in trained for seed in plan.train_seeds)
    second = replace(second, trainings=trainings)
    return replace(second, cells=tuple(_asset_cells(plan, second, [*stem, plan.config.evaluate.whole])))


def _asset_cells(plan: Plan, second: SecondStagePlan, stem: list[Any]) -> Iterator[AssetCell]:
    """Both stages with the method; and one with the method, the other the teacher's, for the seeds that ask for it."""
    by_label = {who.label: who for who in second.entrants}
    students = {(t.entrant.label, t.seed): t for t in second.trainings}
    teacher = by_label[REFERENCE]
    references = {cell.seed: cell for cell in plan.cells if cell.entrant.label == REFERENCE}
    for cell in plan.cells:
        if not cell.own:
            continue
        who = by_label[cell.entrant.label]
        student = students[who.label, cell.training.seed] if cell.training else None
        sampler = who.method.sampler(cell.steps)
        yield _asset_cell(cell, who, student, sampler, BOTH, stem)
        section = plan.config.evaluate
        if student and cell.seed in section.apart and cell.steps in (section.apart_steps or section.steps):
            yield _asset_cell(cell, teacher, None, teacher.method.sampler(1), STRUCTURE_THEN_TEACHER, stem)
            yield _asset_cell(references[cell.seed], who, student, sampler, TEACHER_THEN_SLAT, stem)


def _asset_cell(
    structure: Cell, who: Entrant, source: Training | None, sampler: Sampler, stage: str, stem: list[Any]
) -> AssetCell:
    origin = source.folder if source else who.label
    sha = digest_of([ASSEMBLE_VERSION, structure.folder, origin, asdict(sampler.computation()), *stem])
    name = f"{structure.entrant.file_name}+{who.file_name}-{sampler.steps}steps-gen{structure.seed}-{sha[:12]}"
    return AssetCell(structure, who, source, sampler, stage, f"assets/{name}")


def _cells(
    entrants: Sequence[Entrant], trainings: Sequence[Training], config: Config, stem: list[Any]
) -> Iterator[Cell]:
    for who in entrants:
        sources: list[Training | None] = [t for t in trainings if t.entrant is who] if who.trains else [None]
        for source in sources:
            for sampler, own in _samplers(who, config):
                for seed in dict.fromkeys(config.evaluate.seeds):
                    yield _cell(who, source, sampler, own, seed, stem)


def _samplers(who: Entrant, config: Config) -> Iterable[tuple[Sampler, bool]]:
    """The method's own sampler at each number of steps, then the others for students, those apart that compute the
    same (at one step: all)."""
    found: dict[Any, tuple[Sampler, bool]] = {}
    for steps in config.evaluate.steps:
        own = who.method.sampler(steps)
        found.setdefault(own.computation(), (own, True))
        for name in config.evaluate.samplers if who.trains else ():
            other = sampler_of(name, steps, who.method.rescale_t)
            found.setdefault(other.computation(), (other, False))
    return found.values()


def _grid_cell(student: Training, config: Config, stem: list[Any]) -> Cell:
    sampler = student.entrant.method.sampler(min(config.evaluate.steps))
    return _cell(student.entrant, student, sampler, True, config.sweep.seed, stem)


def _cell(who: Entrant, source: Training | None, sampler: Sampler, own: bool, seed: int, stem: list[Any]) -> Cell:
    origin = source.folder if source else who.label
    sha = digest_of([SAMPLE_VERSION, origin, asdict(sampler.computation()), seed, *stem])
    trained = f"-seed{source.seed}" if source else ""
    name = f"{who.file_name}{trained}-{sampler.steps}steps-gen{seed}-{sha[:12]}"
    return Cell(who, source, sampler, own, seed, f"shapes/{name}")
