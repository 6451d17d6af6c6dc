"""What tables at full size are made of: rows, students to train, cells to generate, and what they cost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from ...assets.trellis_latents import SLAT_CHANNELS, STRUCTURE_SHAPE
from ...base.errors import UsageError, unknown_name
from ...results.paper import TABLE_1, TABLES, PaperRow, published
from ...trellis.pipeline import SamplerParams
from ..config import Train
from ..parameters import Entrant, entrant
from ..protocol.model import Protocol, load_protocol
from ..protocol.rules import passes
from ..protocol.values import SamplerValues, Stage
from .config import Gpu, Row, TablesConfig
from .flops import SLAT_FLOW, STRUCTURE_FLOW, STRUCTURE_TOKENS, Flow, encoder_forward

STAGES: tuple[Stage, ...] = ("ss", "slat")
REFERENCE = "teacher"
ALWAYS = (REFERENCE, "none")
RELEASED = "released"
FLOAT = 4  # bytes
KEPT_COPIES = 2  # of a finished student: its weights and their average
TRAINING_COPIES = 6  # weights, a copy kept beside their average, gradient, two moments, average
STATE_COPIES = 5  # of them in a checkpoint: no gradient


@dataclass(frozen=True)
class Line:
    """A row of the tables.

    Attributes:
        name: of the method, without variant. who: what trains its students, None where nothing is trained.
        paper: the published numbers; None where there are none.
    """

    row: Row
    name: str
    who: Entrant | None
    paper: PaperRow | None

    @property
    def trained(self) -> bool:
        return self.who is not None

    @property
    def released(self) -> bool:
        """Whether its students are published ones."""
        return self.row.method.endswith(f":{RELEASED}")

    @property
    def tables(self) -> tuple[int, ...]:
        """The tables of the paper that it stands in."""
        if self.paper is None:
            return ()
        key = (self.paper.method, self.paper.steps, self.paper.measured_by)
        return tuple(t.number for t in TABLES if any((r.method, r.steps, r.measured_by) == key for r in t.rows))


@dataclass(frozen=True)
class Student:
    """One network to train. on_grid: it is one of several settings, of which the best is kept."""

    who: Entrant
    stage: Stage
    seed: int
    lr: float
    cfg_strength: float
    on_grid: bool


@dataclass(frozen=True)
class Cell:
    """Assets of one line: one training seed (None: nothing is trained), one run seed."""

    line: Line
    train_seed: int | None
    run_seed: int


@dataclass(frozen=True)
class TablesPlan:
    """A run of tables, resolved. left_out: optional rows that were not named. n: test assets."""

    config: TablesConfig
    protocol: Protocol
    lines: tuple[Line, ...]
    left_out: tuple[str, ...]
    students: tuple[Student, ...]
    cells: tuple[Cell, ...]
    n: int

    def train(self, stage: Stage) -> Train:
        return {"ss": self.config.train, "slat": self.config.slat}[stage]

    def sampler(self, line: Line) -> SamplerValues:
        """All few-step rows have the students' sampler, whatever their method: only the networks differ."""
        values = self.protocol.values.sampler
        return values.teacher if line.name == REFERENCE else values.student

    def passes(self, line: Line) -> dict[Stage, int]:
        """Forward passes per asset."""
        return {stage: passes(self.sampler(line), stage, line.row.steps) for stage in STAGES}

    def forward_flops(self, stage: Stage) -> int:
        """Operations of one forward pass for one sample."""
        estimate = self.config.estimate
        if stage == "ss":
            return STRUCTURE_FLOW.forward(STRUCTURE_TOKENS)
        return SLAT_FLOW.forward(estimate.tokens, (estimate.voxels,))

    def student_flops(self, student: Student) -> float:
        """Operations of a training: the method's passes, and the condition's encoder once per sample and step."""
        train = self.train(student.stage)
        per_sample = student.who.distillation.cost() * self.forward_flops(student.stage) + encoder_forward()
        return per_sample * train.batch * train.steps

    def training_hours(self, gpu: Gpu, students: Sequence[Student]) -> float:
        """Hours of one GPU."""
        return sum(map(self.student_flops, students)) / (gpu.peak_tflops * gpu.share * 1e12) / 3600

    def generation_hours(self) -> float:
        """Hours of one GPU, from the times that the paper states per asset."""
        return sum(self.n * seconds(cell.line) for cell in self.cells) / 3600

    def measuring_hours(self) -> float:
        return len(self.cells) * self.n * self.config.estimate.measure_s / 3600

    def blender_hours(self) -> float:
        return self.n * self.config.estimate.blender_s / 3600


def flow(stage: Stage) -> Flow:
    return {"ss": STRUCTURE_FLOW, "slat": SLAT_FLOW}[stage]


def seconds(line: Line) -> float:
    """Published inference time of an asset at a row's steps, on an A800: every method samples as often as mdt."""
    row = published(REFERENCE if line.name == REFERENCE else "mdt", line.row.steps, (TABLE_1,))
    if row is None or row.seconds is None:
        raise UsageError(
            f"Row '{line.row.method}' at {line.row.steps} steps: no time is published for so many. Use 1 or 2 steps "
            "(the teacher: 25)."
        )
    return row.seconds


def plan_tables(
    config: TablesConfig, methods: Sequence[str] = (), train_seeds: Sequence[int] = (), limit: int | None = None
) -> TablesPlan:
    """The plan of tables.

    Args:
        methods: rows to make, by name or label, beside those of the teacher; all that are not optional by default.
        limit: number of test assets.

    Raises:
        UsageError: unknown protocol, method, variant or row, or a row whose tolerance has nothing to compare with.
    """
    protocol = load_protocol(config.protocol.name)
    rows, left_out = _chosen(config, methods)
    sampler = protocol.values.sampler.teacher
    params = SamplerParams(sampler.steps[0], sampler.cfg_strength_ss, sampler.cfg_interval, sampler.rescale_t)
    lines = tuple(_line(row, config, params) for row in rows)
    seeds = tuple(dict.fromkeys(train_seeds)) or (0,)
    students = tuple(_students(lines, config, seeds))
    cells = tuple(_cells(lines, seeds, protocol.values.seeds.run_seeds))
    expected = protocol.values.assets.expected_n
    n = expected if limit is None else min(limit, expected)
    plan = TablesPlan(config, protocol, lines, left_out, students, cells, n)
    for line in lines:
        seconds(line)
    return plan


def disk_bytes(plan: TablesPlan) -> dict[str, float]:
    """What a run writes, by what it is; downloads apart."""
    estimate = plan.config.estimate
    picture = estimate.picture_mb * 1e6
    structure = FLOAT * STRUCTURE_SHAPE[0] * STRUCTURE_SHAPE[1] ** 3
    slat = estimate.voxels * (FLOAT * SLAT_CHANNELS + 3)  # a byte for each coordinate
    values = plan.protocol.values
    views = len(values.views.yaw_deg)
    size = values.views.resolution / values.cond_image.render_resolution
    features = FLOAT * views * (values.fd.incep.dim + values.fd.dinov2.dim)
    asset, keep = estimate.asset_mb * 1e6, plan.config.places.keep_assets
    keep = plan.n if keep is None else keep
    kept = sum(KEPT_COPIES * FLOAT * flow(student.stage).parameters for student in plan.students)
    return {
        "training latents and their pictures": estimate.latents * (structure + slat + estimate.latent_views * picture),
        "pictures of test assets": plan.n * (views * size**2 + 1) * picture,
        "students, weights and average": kept,
        "checkpoint of a training": STATE_COPIES * FLOAT * max(flow(stage).parameters for stage in STAGES),
        "assets of a cell, until it is measured": plan.n * asset,
        "assets of measured cells that stay": len(plan.cells) * min(plan.n, keep) * asset,
        "pictures of generated assets": len(plan.cells) * plan.n * 2 * views * size**2 * picture,  # meshes, Gaussians
        "features": (len(plan.cells) + 1) * plan.n * features,
    }


def _chosen(config: TablesConfig, methods: Sequence[str]) -> tuple[list[Row], tuple[str, ...]]:
    """The rows to make, and the labels of optional ones that are left out."""
    known = {row.method for row in config.row}
    names = {label.partition(":")[0] for label in known if label not in ALWAYS}
    for label in methods:
        if label not in known | names:
            raise unknown_name("row", label, known | names, "Or add it to a copy of the preset as [[row]].")
    wanted = set(methods) or names

    def is_chosen(row: Row) -> bool:
        by_name = not row.optional and row.method.partition(":")[0] in wanted
        return row.method in ALWAYS or row.method in wanted or by_name

    left_out = (row.method for row in config.row if row.optional and not is_chosen(row))
    return [row for row in config.row if is_chosen(row)], tuple(dict.fromkeys(left_out))


def _line(row: Row, config: TablesConfig, sampler: SamplerParams) -> Line:
    name, _, variant = row.method.partition(":")
    who = entrant(row.method if variant != RELEASED else name, config.methods, sampler)
    paper = published(name, row.steps)
    if (row.tolerance is None) != (paper is None):
        wrong = "has a tolerance, and the paper has no such row" if paper is None else "has no tolerance"
        raise UsageError(f"Row '{row.method}' at {row.steps} steps {wrong}. Correct the preset.")
    return Line(row, name, who if who.trains and variant != RELEASED else None, paper)


def _students(lines: Sequence[Line], config: TablesConfig, seeds: Sequence[int]) -> Iterator[Student]:
    """One per method, stage and seed; for baselines all of the grid, of whose seed the best is the row's own."""
    entrants = {line.row.method: line for line in lines if line.who}
    for line in entrants.values():
        for stage in STAGES:
            yield from _stage_students(line, stage, config, seeds)


def _stage_students(line: Line, stage: Stage, config: TablesConfig, seeds: Sequence[int]) -> Iterator[Student]:
    who, grid = line.who, config.grid
    if who is None:
        return
    train, rates = {"ss": (config.train, grid.lr), "slat": (config.slat, grid.slat_lr)}[stage]
    method = who.distillation
    own = train.lr or method.lr
    swept = line.name in grid.methods
    if swept:
        for lr in rates:
            for strength in grid.cfg_strength:
                tried = replace(method, lr=lr, cfg_strength=strength)
                yield Student(replace(who, method=tried), stage, grid.seed, lr, strength, on_grid=True)
    for seed in seeds:
        if not (swept and seed == grid.seed):  # of a baseline at what the grid will have chosen; shown as its own
            yield Student(who, stage, seed, own, method.cfg_strength, on_grid=False)


def _cells(lines: Sequence[Line], train_seeds: Sequence[int], run_seeds: Sequence[int]) -> Iterator[Cell]:
    for line in lines:
        sources: Sequence[int | None] = train_seeds if line.trained else (None,)
        for source in sources:
            for seed in run_seeds:
                yield Cell(line, source, seed)
