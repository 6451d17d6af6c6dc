"""What a run will do: lines, students, cells. Decided before anything is computed.

Two things are known only when a run has begun: the seconds of a training step (budget `seconds`) and the settings that
a sweep chooses. Until then a plan has the forward passes' counts and the methods' own settings in their place; `timed`
and `settled` give the plan with what was found. The key of a run is that of its inputs, so it stays the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import product
from typing import Any

from ...assets.source import Source
from ...base.errors import UsageError, unknown_name
from ...base.files import digest_of
from ...flow.samplers import Euler, Sampler, sampler_of
from ...methods import METHODS
from ...metrics import METRICS, Metric
from ...metrics.contract import Level
from ...results.paper import PaperRow, published
from ...results.rows import BOTH, STRUCTURE, STRUCTURE_THEN_TEACHER, TEACHER_THEN_SLAT
from ...trellis.kernels import Kernels
from ...trellis.pipeline import SamplerParams
from ..engine.device import is_cpu
from ..inputs.world import WorldInfo
from ..measure.columns import columns_of
from ..protocol.model import Protocol
from ..protocol.values import SamplerValues, Stage
from ..settings.config import Config, LineSection, Tolerance
from ..settings.kernels import in_use, kernels_of
from ..settings.methods import Entrant, at_rate, code_digest, entrant
from ..train.budget import training_steps
from ..train.data import LatentSet, TrainingSet

STAGES: tuple[Stage, ...] = ("structure", "slat")
ALWAYS = ("none", "none:cfg", "teacher")  # the rows that every table has; GUIDED where the teacher is guided
GUIDED = "none:cfg"
REFERENCE = "teacher"
LEVELS: dict[Stage, Level] = {"structure": "structure", "slat": "assets"}  # of the columns that judge a stage
RELEASED = "released"  # the variant whose students were published
TRAIN_VERSION = 2  # part of a trained student's address: raise it when training computes something else
RUN_VERSION = 2  # part of a run's key: raise it when a run does something else


@dataclass(frozen=True, eq=False)
class Line:
    """A line of the tables: a method at a number of steps.

    Attributes:
        who: the method in each stage, with the stage's guidance.
        released: folder of published students below the weights; "" where students are trained, or none are needed.
        tolerance: how far from the published numbers it may lie.
    """

    label: str
    steps: int
    who: Mapping[Stage, Entrant]
    released: str = ""
    tolerance: Tolerance | None = None

    @property
    def name(self) -> str:
        return self.label.partition(":")[0]

    @property
    def variant(self) -> str:
        return self.label.partition(":")[2]

    @property
    def trains(self) -> bool:
        """Whether students have to be trained for it."""
        return self.who["structure"].trains and not self.released

    @property
    def identity(self) -> list[Any]:
        """What decides its rows and how they are judged, as JSON."""
        tolerance = self.tolerance.model_dump() if self.tolerance else None
        return [self.label, self.steps, self.released, tolerance, [who.identity for who in self.who.values()]]

    @property
    def paper(self) -> PaperRow | None:
        """The published numbers; `none` of the paper is guided."""
        if self.name == "none" and not self.variant:
            return None
        return published(self.name, self.steps)


@dataclass(frozen=True, eq=False)
class Student:
    """A network in the teacher's place. folder: relative to the run's; its name is a digest of all inputs.

    Attributes:
        given: folder of the published student below the weights; "" for one that is trained.
        before: the student that it begins as, trained first; None: the teacher.
    """

    who: Entrant
    stage: Stage
    seed: int
    steps: int
    folder: str
    given: str = ""
    before: Student | None = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Student) and self.folder == other.folder

    def __hash__(self) -> int:
        return hash(self.folder)

    @property
    def cost(self) -> float:
        """Forward passes per sample of its own training."""
        return self.who.distillation.cost() * self.steps

    @property
    def chain(self) -> tuple[Student, ...]:
        """The trainings that lead to it, itself the last."""
        return (*(self.before.chain if self.before else ()), self)


@dataclass(frozen=True, eq=False)
class Half:
    """One stage of a cell: who makes it, with what network (None: the teacher's) and sampler."""

    stage: Stage
    who: Entrant
    student: Student | None
    sampler: Sampler

    @property
    def own(self) -> bool:
        """Whether the sampler does what the one that the method is made for does."""
        return self.sampler.computation() == self.who.sampler(self.sampler.steps).computation()


@dataclass(frozen=True, eq=False)
class Cell:
    """What one line makes with one training and one generation seed.

    Attributes:
        slat: None for structures alone.
        stage: of its rows: which stages are the line's, see `results.rows`.
        seed: generation seed.
        extra: whether it has a sampler beside the protocol's.
    """

    line: Line
    structure: Half
    slat: Half | None
    stage: str
    seed: int
    extra: bool = False

    @property
    def halves(self) -> tuple[Half, ...]:
        return (self.structure, self.slat) if self.slat else (self.structure,)

    @property
    def own(self) -> Half:
        """The half that is the line's: of both the structure."""
        return self.slat if self.slat and self.stage == TEACHER_THEN_SLAT else self.structure

    @property
    def students(self) -> tuple[Student, ...]:
        """Those that it needs."""
        return tuple(half.student for half in self.halves if half.student)

    @property
    def train_seed(self) -> int | None:
        trained = [student.seed for student in self.students if not student.given]
        return trained[0] if trained else None

    @property
    def is_reference(self) -> bool:
        return self.line.label == REFERENCE

    @property
    def name(self) -> str:
        """For people and folders: `vm_official-1x2-train0-gen2`."""
        steps = f"{self.own.sampler.steps}x2" if self.stage == BOTH else str(self.own.sampler.steps)
        parts = [self.line.label.replace(":", "_"), steps]
        parts += [self.own.sampler.name] if self.extra else []
        parts += [f"train{self.train_seed}"] if self.train_seed is not None else []
        return "-".join([*parts, f"gen{self.seed}"])


@dataclass(frozen=True)
class Trial:
    """One setting of a sweep: a student and the cell that it is judged by."""

    student: Student
    cell: Cell


@dataclass(frozen=True)
class Plan:
    """A run, resolved.

    Attributes:
        preset: name or path of it. command: the words that began it.
        lines: of the tables, in their order; `left_out`: labels of optional ones that were not named.
        sets: what students of each stage learn on. limit: number of test assets, None for all.
        step_seconds: measured seconds of a training step by stage and label, for budget `seconds`.
        asked: the plan as it was before anything was found; None: this one.
    """

    config: Config
    protocol: Protocol
    world: WorldInfo
    device: str
    lines: tuple[Line, ...]
    train_seeds: tuple[int, ...]
    test: Source
    limit: int | None
    sets: Mapping[Stage, TrainingSet]
    preset: str = ""
    command: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    step_seconds: Mapping[Stage, Mapping[str, float]] = field(default_factory=dict)
    asked: Plan | None = None

    @property
    def stages(self) -> tuple[Stage, ...]:
        return STAGES if self.config.slat else ("structure",)

    @property
    def run_seeds(self) -> tuple[int, ...]:
        """Generation seeds."""
        return tuple(dict.fromkeys(self.config.evaluate.seeds or self.protocol.values.seeds.run_seeds))

    @property
    def networks_sha(self) -> str:
        """What stands for the teacher's networks in addresses."""
        return networks_sha(self.world.digest, self.device, kernels_of(self.config.gpu))

    @cached_property
    def metrics(self) -> tuple[Metric, ...]:
        """The columns of structures and, where they are made, of whole assets."""
        columns = columns_of(self.protocol.values, everything=self.config.protocol.columns == "all")
        return tuple(one for one in columns if one.level == "structure" or self.config.slat)

    @property
    def needs_occupancy(self) -> bool:
        """Whether some column compares with the structures of the test assets."""
        return any(one.level == "structure" and (one.truth or one.population or one.controls) for one in self.metrics)

    @cached_property
    def key(self) -> str:
        """sha256 over everything that decides a result."""
        if self.asked:
            return self.asked.key
        left_out = ("pretrain", "methods", "places", "gpu", "limits", "estimate", "line", "released")
        apart: dict[str, Any] = dict.fromkeys(left_out, True)
        apart |= {"evaluate": {"batch", "methods"}, "train": {"lockstep"}, "slat": {"lockstep"}}
        decides = self.config.model_dump(mode="json", exclude=apart)
        lines = [line.identity for line in self.lines]
        measured = [[one.name, one.version, code_digest(one)] for one in self.metrics]
        data = {stage: self.sets[stage].digest for stage in self.stages} if self.students else {}
        tested = [self.test.name, self.test.digest(), self.limit, self.config.places.conditions]
        batch = [] if is_cpu(self.device) else [self.config.evaluate.batch]
        parts = [lines, self.train_seeds, decides, self.protocol.sha256, measured, data, tested, batch]
        return digest_of([RUN_VERSION, TRAIN_VERSION, *parts, self.networks_sha])

    @property
    def run_id(self) -> str:
        return self.key[:12]

    def params(self, stage: Stage) -> SamplerParams:
        """How the teacher is sampled."""
        return teacher_params(self.protocol, self.world, stage)

    @cached_property
    def students(self) -> tuple[Student, ...]:
        """Those of the tables, published ones among them."""
        return tuple({student: None for cell in self.cells for student in cell.students})

    @cached_property
    def trained(self) -> tuple[Student, ...]:
        return tuple(student for student in self.students if not student.given)

    @cached_property
    def structure_cells(self) -> tuple[Cell, ...]:
        return tuple(self._structure_cells())

    @cached_property
    def asset_cells(self) -> tuple[Cell, ...]:
        return tuple(self._asset_cells()) if self.config.slat else ()

    @property
    def cells(self) -> tuple[Cell, ...]:
        return (*self.structure_cells, *self.asset_cells)

    def reference(self, seed: int, *, whole: bool) -> Cell:
        """The teacher's own structures, or whole assets, of a generation seed."""
        line = next(line for line in self.lines if line.label == REFERENCE)
        halves = {s: Half(s, line.who[s], None, line.who[s].sampler(1)) for s in self.stages}
        return Cell(line, halves["structure"], halves["slat"] if whole else None, BOTH if whole else STRUCTURE, seed)

    def student(self, line: Line, stage: Stage, seed: int) -> Student:
        """The student of a line and training seed; published ones have no seed of their own."""
        who = line.who[stage]
        if line.released:
            folder = f"released/{line.label.replace(':', '_')}-{stage}"
            return Student(who, stage, seed, 0, folder, line.released)
        return self.student_of(who, stage, seed)

    def student_of(self, who: Entrant, stage: Stage, seed: int, share: float = 1.0) -> Student:
        """share: of the budget."""
        train, begins = self.config.stage(stage), who.distillation.begins_as()
        before, own = None, share
        if begins:
            first = entrant(begins.label, self.config.methods, self.params(stage))
            guided = {key: getattr(who.method, key) for key in ("cfg_strength", "cfg_interval")}
            first = at_rate(first.at(**guided), train.lr, self.config.methods)
            before, own = self.student_of(first, stage, seed, share * begins.share), share * (1 - begins.share)
        steps = max(1, round(own * training_steps(who, train, self.step_seconds.get(stage, {}))))
        settings = train.model_dump(mode="json", exclude={"steps", "budget", "lockstep", "lr"})
        inputs = [stage, who.identity, seed, steps, settings, self.sets[stage].digest, self.networks_sha]
        inputs += [before.folder] if before else []
        sha = digest_of([TRAIN_VERSION, *inputs])[:12]
        return Student(who, stage, seed, steps, f"students/{stage}-{who.file_name}-seed{seed}-{sha}", before=before)

    def is_swept(self, stage: Stage) -> bool:
        return stage in self.stages and bool(self.config.sweep.rates(stage) or self.config.sweep.cfg_strength)

    def trials(self, stage: Stage) -> tuple[Trial, ...]:
        """The sweep of a stage: a student per method and setting. Empty where the stage is not swept."""
        return tuple(self._trials(stage)) if self.is_swept(stage) else ()

    def timed(self, seconds: Mapping[Stage, Mapping[str, float]]) -> Plan:
        """The plan for training steps that take so many seconds, by label; one of them is that of the budget."""
        return replace(self, step_seconds=seconds, asked=self.asked or self)

    def settled(self, chosen: Mapping[tuple[Stage, str], Mapping[str, float]]) -> Plan:
        """The plan with settings that were chosen, by stage and label."""
        return replace(self, lines=tuple(_with_settings(line, chosen) for line in self.lines), asked=self.asked or self)

    def _structure_cells(self) -> Iterator[Cell]:
        for line, sampler, extra in self._sampled():
            for source in self._sources(line):
                half = Half("structure", line.who["structure"], self._student(line, "structure", source), sampler)
                for seed in self.run_seeds:
                    yield Cell(line, half, None, STRUCTURE, seed, extra)

    def _asset_cells(self) -> Iterator[Cell]:
        """Both stages with the line; and one with it, the other the teacher's, for the seeds that ask for it."""
        section = self.config.evaluate
        for cell in self.structure_cells:
            line, seed = cell.line, cell.seed
            sampler = self._other(line, cell.structure.sampler) if cell.extra else self.sampler(line, "slat")
            student = cell.structure.student
            mine = Half("slat", line.who["slat"], self._student(line, "slat", student.seed if student else 0), sampler)
            yield Cell(line, cell.structure, mine, BOTH, seed, cell.extra)
            apart = seed in section.apart and (not section.apart_steps or line.steps in section.apart_steps)
            if cell.students and apart and not cell.extra:
                teacher = self.reference(seed, whole=True)
                yield Cell(line, cell.structure, teacher.slat, STRUCTURE_THEN_TEACHER, seed)
                yield Cell(line, teacher.structure, mine, TEACHER_THEN_SLAT, seed)

    def _sampled(self) -> Iterator[tuple[Line, Sampler, bool]]:
        """Every line with the protocol's sampler, then students with others, those apart that compute the same."""
        seen: dict[str, set[Any]] = {}
        for line in self.lines:
            known, first = seen.setdefault(line.label, set()), self.sampler(line, "structure")
            others = self.config.evaluate.samplers if line.who["structure"].trains else ()
            options = [(first, False), *((self._named(line, name), True) for name in others)]
            for sampler, extra in options:
                if sampler.computation() not in known:
                    known.add(sampler.computation())
                    yield line, sampler, extra

    def sampler(self, line: Line, stage: Stage) -> Sampler:
        """The protocol's for a line: one for all students, or each method's own; the teacher's lines keep their own."""
        who, values = line.who[stage], self.protocol.values.sampler.student
        if who.trains and isinstance(values, SamplerValues):
            return Euler(line.steps, values.rescale_t, values.cfg_strength(stage), values.cfg_interval)
        return who.sampler(line.steps)

    def _named(self, line: Line, name: str) -> Sampler:
        return sampler_of(name, line.steps, line.who["structure"].method.rescale_t)

    def _other(self, line: Line, structure: Sampler) -> Sampler:
        return sampler_of(structure.name, line.steps, line.who["slat"].method.rescale_t)

    def _sources(self, line: Line) -> Sequence[int]:
        return self.train_seeds if line.trains else (0,)

    def _student(self, line: Line, stage: Stage, seed: int) -> Student | None:
        return self.student(line, stage, seed) if line.who[stage].trains else None

    def _trials(self, stage: Stage) -> Iterator[Trial]:
        sweep, steps = self.config.sweep, min(self.config.evaluate.steps)
        lines = {line.label: line for line in self.lines if line.trains}
        teacher = self.reference(sweep.seed, whole=False).structure
        for line in lines.values():
            if sweep.methods and line.name not in sweep.methods and line.label not in sweep.methods:
                continue
            method = line.who[stage].distillation
            rates = dict.fromkeys(sweep.rates(stage) or (method.lr,))
            settings = list(product(rates, dict.fromkeys(sweep.cfg_strength or (method.cfg_strength,))))
            for lr, strength in settings:
                who = line.who[stage].at(lr=lr, cfg_strength=strength)
                tried = replace(line, steps=steps, who={**line.who, stage: who})
                student = self.student_of(who, stage, sweep.seed, 1 / sweep.halving if len(settings) > 1 else 1.0)
                half = Half(stage, who, student, self.sampler(tried, stage))
                structure, slat = (half, None) if stage == "structure" else (teacher, half)
                row = STRUCTURE if slat is None else TEACHER_THEN_SLAT
                yield Trial(student, Cell(tried, structure, slat, row, sweep.seed))


def resolve(
    config: Config,
    protocol: Protocol,
    world: WorldInfo,
    device: str,
    methods: Sequence[str],
    train_seeds: Sequence[int],
    test: Source,
    limit: int | None,
    sets: Mapping[Stage, TrainingSet],
) -> Plan:
    """The plan of a run.

    Args:
        methods: labels of lines, those that every table has apart; the preset's where there are none.

    Raises:
        UsageError: unknown method, variant, parameter, sampler or metric, or settings that contradict each other.
    """
    if config.slat and "slat" not in world.samplers:
        raise UsageError(f"World '{config.world}' has no second stage, which [slat] is to train. Remove [slat].")
    _check_names(config)
    stages = STAGES if config.slat else STAGES[:1]
    guided = any(teacher_params(protocol, world, stage).cfg_strength for stage in stages)
    always = tuple(label for label in ALWAYS if guided or label != GUIDED)
    sections, left_out = chosen_lines(config, methods, always)
    lines = tuple(_line(section, config, protocol, world, stages) for section in sections)
    seeds = tuple(dict.fromkeys(train_seeds)) or (0,)
    plan = Plan(config, protocol, world, device, lines, seeds, test, limit, sets, left_out=left_out)
    if not plan.metrics:
        raise UsageError(
            f"Protocol '{protocol.name}' has columns of whole assets alone, and this run makes structures. Leave out "
            "`--stages structure`, choose another --set protocol=, or add a column with --plugin."
        )
    _check_sweeps(plan)
    return plan


def chosen_lines(
    config: Config, methods: Sequence[str], always: Sequence[str] = ALWAYS
) -> tuple[list[LineSection], tuple[str, ...]]:
    """The lines to make, and the labels of optional ones that are left out.

    A label that the preset has no line for gets one per number of steps: so a method of one's own stands beside them.
    """
    labels = [label.removesuffix(":") for label in methods]
    wanted = labels or [section.method for section in config.line if not section.optional]
    wanted = wanted or list(config.evaluate.methods)

    def is_chosen(section: LineSection) -> bool:
        by_name = not section.optional and section.name in wanted
        return section.method in (*wanted, *always) or by_name

    chosen = [section for section in config.line if is_chosen(section)]
    there = {section.method for section in chosen}
    there |= {section.name for section in chosen if not section.optional} - set(always)
    added = [label for label in dict.fromkeys((*wanted, *always)) if label not in there]
    few = tuple(dict.fromkeys(config.evaluate.steps))
    steps = {label: few if label != REFERENCE else few[:1] for label in added}
    lines = [LineSection(method=label, steps=count) for label in added for count in steps[label]]
    left_out = dict.fromkeys(s.method for s in config.line if s.optional and s not in chosen)
    return [*chosen, *lines], tuple(left_out)


def networks_sha(world_sha: str, device: str, kernels: Kernels) -> str:
    """Identity of a world's networks and of how they round: a GPU rounds otherwise than the CPU.

    The kind of device counts, not its model: what one GPU has made another goes on with, where it uses the same code.
    """
    if is_cpu(device):
        return world_sha
    used = {what: choice.name for what, choice in in_use(device, kernels).items()}
    return digest_of([world_sha, device.partition(":")[0], used])


def teacher_params(protocol: Protocol, world: WorldInfo, stage: Stage) -> SamplerParams:
    """How the teacher is sampled: as the protocol says, or as the world does where the protocol leaves it that."""
    values = protocol.values.sampler.teacher
    if isinstance(values, SamplerValues):
        return SamplerParams(values.steps[0], values.cfg_strength(stage), values.cfg_interval, values.rescale_t)
    return world.samplers[stage]


def _line(section: LineSection, config: Config, protocol: Protocol, world: WorldInfo, stages: Sequence[Stage]) -> Line:
    label, _, variant = section.method.partition(":")
    released = config.released.get(section.method, "")
    if variant == RELEASED and not released:
        raise unknown_name("line of published students", section.method, config.released, "Set [released].")
    entrants: dict[Stage, Entrant] = {
        stage: entrant(
            label if variant == RELEASED else section.method, config.methods, teacher_params(protocol, world, stage)
        )
        for stage in stages
    }
    entrants = {stage: at_rate(who, config.stage(stage).lr, config.methods) for stage, who in entrants.items()}
    steps = section.steps
    if label == REFERENCE:  # it has its own number of steps
        steps = entrants["structure"].sampler(1).steps
    line = Line(section.method, steps, entrants, released, section.tolerance)
    if section.tolerance and line.paper is None:
        raise UsageError(
            f"Line '{section.method}' at {steps} steps has a tolerance, and the paper has no such row. "
            "Correct the preset."
        )
    return line


def _with_settings(line: Line, chosen: Mapping[tuple[Stage, str], Mapping[str, float]]) -> Line:
    found = {stage: chosen.get((stage, line.label), {}) for stage in line.who}
    return replace(line, who={s: who.at(**found[s]) if found[s] else who for s, who in line.who.items()})


def _check_names(config: Config) -> None:
    for name in config.methods:
        METHODS.get(name)
    for name in config.evaluate.samplers:
        sampler_of(name, 1, 1.0)
    for label in config.sweep.methods:
        METHODS.get(label.partition(":")[0])
    for stage in STAGES:
        train, key = (config.train, "train") if stage == "structure" else (config.slat, "slat")
        if config.sweep.rates(stage) and not config.sweep.methods and train and train.lr is not None:
            raise UsageError(f"{key}.lr fixes the learning rate that the sweep is to choose. Set one of the two.")


def _check_sweeps(plan: Plan) -> None:
    for stage in plan.stages:
        if plan.is_swept(stage):
            swept_metric(plan, stage)


def swept_metric(plan: Plan, stage: Stage) -> Metric:
    """The column that the sweep of a stage goes by.

    Raises:
        UsageError: an unknown one, one of the other stage, or one that needs what there is not of validation assets.
    """
    sweep, level = plan.config.sweep, LEVELS[stage]
    key, name = ("metric", sweep.metric) if stage == "structure" else ("slat_metric", sweep.slat_metric)
    by_name = {one.name: one for one in plan.metrics}
    metric = by_name[name] if name in by_name else METRICS.get(name).value
    if metric.level != level:
        raise UsageError(f"sweep.{key} takes a column of level '{level}' ({name} is of '{metric.level}'). Change it.")
    if (metric.truth or metric.population) and isinstance(plan.sets[stage], LatentSet):
        raise UsageError(
            f"The sweep's column '{name}' needs shapes, and of held-out training instances there are none. "
            f"Set sweep.{key} to one that compares with the teacher: MSE_teacher (structures) or MSE_slat."
        )
    return metric
