"""The jobs behind every row of a run: how its cells are made, and what each is held against."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ...assets.folder import FolderAsset
from ...assets.toys import SOME_COLOURS, AllToys, ToySource
from ...base.files import digest_of
from ...base.text import counted_notes, joined_notes
from ...metrics import Metric
from ...metrics.contract import Level
from ...results.rows import DECODE_SECONDS, LATENCY_METRIC, SLAT_SECONDS, STRUCTURE_SECONDS
from ..engine.engine import Engine
from ..engine.provenance import device_name
from ..generate.made import SHARD, AssetsJob, Maker, StructuresJob
from ..generate.reconstruct import ReconstructedAssets, ReconstructedStructures, can_encode_assets
from ..inputs.prepare import OwnRenderer, Preparation
from ..inputs.subjects import HeldOut, TestSet, Toys4kTests, open_tests
from ..inputs.toys4k import BlenderLook
from ..inputs.world import slat_resolution
from ..measure.extractors import Extractor, points_of
from ..measure.latency import DECODE, LatencyJob, Ways, way
from ..measure.looks import CELL_COLOURS, COVERAGE, Studio, TruthAssets
from ..measure.pairs import Contents
from ..measure.rows import Measurement, failed, measurement, seconds_rows
from ..measure.scores import PruneJob, ScoresJob
from ..measure.sides import AssetsSide, ConditionSide, Side, StructuresSide, TruthSide
from ..plan.plan import Cell, Half, Plan
from ..train.loop import Failure
from .controls import TRUTH, Control, controls
from .students import Weights

LOOK_BYTES = 20e9  # of pictures and points that lie on disk at one time
LEVELS: tuple[Level, ...] = ("structure", "assets")


@dataclass(frozen=True)
class Measuring:
    """How the cells of a plan are made and measured.

    Attributes:
        out: store of what cells make. cache: store of what is made of the test assets, shared by runs.
        tests: the test assets; `others`: as many other assets for the floor, None where there are no more.
        everything: by level, all assets of their law, where they have one.
        weights: of each student.
    """

    plan: Plan
    out: Path
    cache: Path
    tests: TestSet
    others: TestSet | None
    everything: Mapping[Level, TestSet]
    extractors: Mapping[str, Extractor]
    weights: Weights

    @cached_property
    def studio(self) -> Studio:
        plan, values = self.plan, self.plan.protocol.values
        cells = any(CELL_COLOURS in metric.made for metric in plan.metrics)
        return Studio.of(values, points_of(self.extractors, values), slat_resolution(plan.world.folder) if cells else 0)

    def metrics(self, level: Level) -> tuple[Metric, ...]:
        return tuple(metric for metric in self.plan.metrics if metric.level == level)

    def of(self, level: Level) -> TestSet:
        """The test assets of a level: of whole assets the first ones."""
        return self.tests if level == "structure" else self.tests.first(self.plan.config.evaluate.whole)

    # ------------------------------------------------------------------------------------------------------------ cells

    def maker(self, half: Half) -> Maker:
        plan = self.plan
        file, identity = self.weights.of(half.student) if half.student else (None, "")
        return Maker(plan.world.folder, plan.device, plan.networks_sha, half.stage, file, identity, half.sampler)

    def structures(self, cell: Cell) -> tuple[StructuresJob, ...]:
        """The structures of a cell, of all test assets."""
        maker, values, batch = self.maker(cell.structure), self.plan.protocol.values, self.plan.config.evaluate.batch
        return tuple(
            StructuresJob(self.out, maker, part, values, cell.seed, batch) for part in _parts(self.tests.subjects)
        )

    def assets(self, cell: Cell) -> tuple[AssetsJob, ...]:
        """The whole assets of a cell, on its structures."""
        assert cell.slat is not None
        maker, values = self.maker(cell.slat), self.plan.protocol.values
        pairs = zip(_parts(self.of("assets").subjects), self.structures(cell), strict=False)
        return tuple(AssetsJob(self.out, maker, structure, part, values, cell.seed) for part, structure in pairs)

    def side(self, cell: Cell) -> StructuresSide | AssetsSide:
        if cell.slat is None:
            return StructuresSide(self.out, self.tests.subjects, self.studio, self.structures(cell), cell.seed)
        return AssetsSide(self.out, self.of("assets").subjects, self.studio, self.assets(cell), cell.seed)

    def scores(self, cell: Cell) -> ScoresJob:
        level = _level(cell)
        sides: dict[str, Side] = {"made": self.side(cell), **self.against(level)}
        if not cell.is_reference:
            sides["teacher"] = self.side(self.reference(cell))
        return ScoresJob(self.out, cell.name, self.metrics(level), sides, self.extractors)

    def reference(self, cell: Cell) -> Cell:
        """What the teacher makes of the same noise."""
        return self.plan.reference(cell.seed, whole=cell.slat is not None)

    def against(self, level: Level) -> dict[str, Side]:
        tests = self.of(level)
        truth = self.truth(level, tests)
        everything = self.everything.get(level)
        population = self.truth(level, everything) if everything else truth
        return {"truth": truth, "population": population, "condition": self.condition(tests)}

    # ------------------------------------------------------------------------------------------------------------ truth

    def truth(self, level: Level, tests: TestSet) -> TruthSide:
        seed, blender = self.plan.protocol.values.seeds.run_seeds[0], ()
        source = self.plan.test
        if isinstance(source, Toys4kTests) and self.plan.protocol.values.gt_render and level == "assets":
            blender = tuple(source.reference.look(subject.id) for subject in tests.subjects)
        content = contents(tests, blender) if level == "assets" else ()
        shard = 1 if tests.files else SHARD
        return TruthSide(self.cache, tests.subjects, self.studio, level, content, seed, shard, blender)

    def condition(self, tests: TestSet) -> ConditionSide:
        return ConditionSide(self.cache, tests.subjects, self.studio, 1 if tests.files else SHARD)

    def controls(self) -> Iterator[Control]:
        """Of all levels that are measured."""
        for level in LEVELS if self.plan.config.slat else LEVELS[:1]:
            if self.metrics(level):
                tests = self.of(level)
                others = self.truth(level, self.others.first(len(tests.subjects))) if self.others else None
                yield from controls(level, self.against(level), self._reconstruction(level, tests), others)

    def _reconstruction(self, level: Level, tests: TestSet) -> Side | None:
        """None where the encoder reads what is not made here: features of a large network, structures of no asset."""
        if not self.plan.needs_occupancy:
            return None
        maker, parts = self.maker(self.plan.reference(0, whole=False).structure), _parts(tests.subjects)
        if level == "structure":
            made = tuple(ReconstructedStructures(self.cache, maker, part) for part in parts)
            return StructuresSide(self.cache, tests.subjects, self.studio, made, 0)  # type: ignore[arg-type]
        if not can_encode_assets(self.plan.world.folder):
            return None
        whole = tuple(ReconstructedAssets(self.cache, maker, part) for part in parts)
        return AssetsSide(self.cache, tests.subjects, self.studio, whole, 0)  # type: ignore[arg-type]

    # ------------------------------------------------------------------------------------------------------------- rows

    def measure(
        self, engine: Engine, cells: Sequence[Cell], failures: Mapping[str, Failure], common: Mapping[str, Any]
    ) -> Iterator[Measurement]:
        """Make and measure all cells and controls: rows of cells, seconds among them, then of controls.

        Args:
            failures: of students, by folder; cells that need one become failed rows.
            common: fields of all rows.
        """
        good = [cell for cell in cells if not _failure(cell, failures) and self._columns(cell)]
        jobs = {cell: self.scores(cell) for cell in good}
        lines = list(self.controls())
        line_jobs = [line.scores(self.out, self.metrics(line.level), self.extractors) for line in lines]
        lost: dict[str, str] = {}
        for group in self._groups(jobs.values()):
            lost |= engine.attempt([*group, PruneJob(tuple(group))])
        there = [job for job in jobs.values() if job.key not in lost]
        pairs = zip(lines, line_jobs, strict=True)
        truths: dict[Level, ScoresJob] = {line.level: job for line, job in pairs if line.name == TRUTH}
        engine.do([*line_jobs, *(made for job in (*there, *truths.values()) for made in job.made)])
        notes = {level: self._notes(level, job) for level, job in truths.items()}
        seconds = self.seconds(engine, good)
        for cell in cells:
            fields = {**common, **self.fields(cell)}
            failure = _failure(cell, failures)
            if failure:
                status = "lost" if failure.lost else "failed"
                yield failed(self._columns(cell), self.extractors, failure.reason, fields, status)
            elif cell in jobs and jobs[cell].key in lost:
                yield failed(self._columns(cell), self.extractors, lost[jobs[cell].key], fields, "lost")
            elif cell in jobs:
                yield measurement(jobs[cell], fields, jobs[cell].reasons(), notes=notes[_level(cell)])
                yield seconds_rows(self._seconds(cell, seconds), {**fields, "n_ok": 1, "n_total": 1, "note": ""})
        for line, job in zip(lines, line_jobs, strict=True):
            stage = {"structure": "structure", "assets": "both"}[line.level]
            told = counted_notes(notes[line.level], "test assets") if line.name == TRUTH else []
            fields = {
                "method": line.name,
                "method_version": 1,
                "stage": stage,
                "note": joined_notes([line.note, *told]),
            }
            fields |= {"n_total": self.of(line.level).total, **self._sha(line.level)}
            yield measurement(job, {**common, **fields})

    def _groups(self, jobs: Iterable[ScoresJob]) -> Iterator[list[ScoresJob]]:
        """Jobs that are done at one time: as many as there is room for."""
        group, size = list[ScoresJob](), 0
        for job in jobs:
            if group and size + job.look_bytes > LOOK_BYTES:
                yield group
                group, size = [], 0
            group.append(job)
            size += job.look_bytes
        if group:
            yield group

    def _notes(self, level: Level, truth: ScoresJob) -> list[str]:
        """On each test asset: what was not taken from its file as the file says. truth: of the assets themselves."""
        pairs = zip(self.of(level).subjects, truth.notes(), strict=True)
        return [joined_notes([subject.notes, seen]) for subject, seen in pairs]

    def _columns(self, cell: Cell) -> tuple[Metric, ...]:
        return self.metrics(_level(cell))

    def fields(self, cell: Cell) -> dict[str, Any]:
        """What all rows of a cell have in common, the run's fields apart."""
        half, level = cell.own, _level(cell)
        who = half.who
        guided = max(half.sampler.computation().strengths, default=0.0)
        return {
            "stage": cell.stage,
            "method": cell.line.name,
            "variant": cell.line.variant,
            "method_version": who.version,
            "train_seed": cell.train_seed,
            "sampler": half.sampler.name,
            "own_sampler": half.own,
            "extra_sampler": cell.extra,
            "steps": half.sampler.steps,
            "nfe": sum(_passes(one) for one in cell.halves),
            "cfg_strength": who.method.cfg_strength if who.trains else guided,
            "seed": cell.seed,
            "note": "; ".join(self.weights.notes(cell)),
            "n_total": self.of(level).total,
            **self._sha(level),
        }

    def _sha(self, level: Level) -> dict[str, Any]:
        """Which networks and which assets: what rows must share to be compared."""
        tests = self.of(level)
        official = sorted(one.version for one in self.extractors.values() if one.official)
        world = self.plan.world.digest
        return {
            "weights_sha": digest_of([world, official]) if official else world,
            "reference_sha": digest_of([tests.digest, list(tests.ids)]),
        }

    # ---------------------------------------------------------------------------------------------------------- seconds

    def seconds(self, engine: Engine, cells: Sequence[Cell]) -> dict[str, tuple[float, float]]:
        """Median seconds and their sd of each way of sampling, measured alone."""
        if not cells:
            return {}
        plan = self.plan
        halves = [half for cell in cells for half in cell.halves]
        ways: Ways = {way(one.stage, one.sampler): (one.stage, one.sampler) for one in halves}
        reference = plan.reference(0, whole=False).structure.sampler
        job = LatencyJob(
            self.out,
            plan.world.folder,
            plan.device,
            device_name(plan.device),
            plan.networks_sha,
            ways,
            reference,
            self.tests.subjects[0],
            plan.protocol.values,
            any(cell.slat for cell in cells),
        )
        engine.do([job])
        return job.read()

    def _seconds(self, cell: Cell, seconds: Mapping[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
        if cell.slat is None:
            names = {LATENCY_METRIC: way("structure", cell.structure.sampler)}
        else:
            names = {
                STRUCTURE_SECONDS: way("structure", cell.structure.sampler),
                SLAT_SECONDS: way("slat", cell.slat.sampler),
                DECODE_SECONDS: DECODE,
            }
        return {metric: seconds[name] for metric, name in names.items() if name in seconds}


def contents(tests: TestSet, blender: Sequence[BlenderLook]) -> tuple[str, ...]:
    """Digest of each test asset: of its files where it is one, else of its source and id."""
    if blender:
        return tuple(look.content for look in blender)
    files = Contents()
    return tuple(
        files.of_mesh(subject.asset)
        if isinstance(subject.asset, FolderAsset)
        else digest_of([tests.name, tests.digest, subject.id])
        for subject in tests.subjects
    )


def usable(measuring: Measuring, engine: Engine) -> TestSet:
    """The test assets without those that a protocol does not count: they can be read, and cover enough of a picture."""
    least = measuring.plan.protocol.values.assets.min_alpha_share
    tests = measuring.tests
    if not least or not measuring.metrics("assets"):
        return tests
    return tests.without(unseen(measuring.truth("assets", tests), engine, least, measuring.metrics("assets")))


def unseen(truth: TruthSide, engine: Engine, least: float, metrics: Iterable[Metric]) -> dict[str, str]:
    """Reason by id of each asset that cannot be read or covers too little of a picture.

    Args:
        metrics: the pictures that these need are drawn on the way.
    """
    looks = {need.partition(":")[0] for metric in metrics for need in (*metric.truth, *metric.population)} & {
        "gaussians",
        "mesh",
    }
    jobs = [job for job in truth.shards((*sorted(looks), COVERAGE)) if isinstance(job, TruthAssets)]
    engine.do(jobs)
    reasons: dict[str, str] = {}
    for job in jobs:
        arrays = job.place(COVERAGE).get()
        for subject, share, error in zip(job.subjects, arrays["data"][:, 0], arrays["errors"], strict=True):
            if error or share < least:
                reasons[subject.id] = str(error) or f"it covers {share:.2%} of a picture - {least:.1%} are needed"
    return reasons


def other_assets(plan: Plan, count: int, cache: Path, engine: Engine) -> TestSet | None:
    """As many other assets of the same kind, for the floor; None when the source has no more."""
    if not isinstance(plan.test, ToySource):
        return None
    return validation_toys(plan, count, cache, engine)


def everything(plan: Plan, cache: Path, engine: Engine) -> dict[Level, TestSet]:
    """By level, all assets of the test assets' law; of whole assets in some of their colours."""
    if not isinstance(plan.test, ToySource):
        return {}
    colours: dict[Level, int] = {"structure": 1, "assets": SOME_COLOURS}
    wanted = {metric.level for metric in plan.metrics if metric.population}
    return {level: toys(plan, AllToys(n), cache, engine) for level, n in colours.items() if level in wanted}


def validation_toys(plan: Plan, count: int, cache: Path, engine: Engine) -> TestSet:
    """Procedural toys that are never test assets."""
    return toys(plan, ToySource("validation", count, plan.config.data.seed), cache, engine)


def toys(plan: Plan, source: ToySource | AllToys, cache: Path, engine: Engine) -> TestSet:
    """Procedural toys, prepared."""
    file = plan.world.file
    shows = OwnRenderer(Preparation(**file.preparation.model_dump()))
    return open_tests(source, shows, file, plan.protocol, cache, engine, limit=None, occupancy=plan.needs_occupancy)


def held_out(plan: Plan, source: HeldOut, cache: Path, engine: Engine) -> TestSet:
    """Training instances that no student has seen, as assets to judge settings on."""
    return open_tests(source, source, plan.world.file, plan.protocol, cache, engine, limit=None, occupancy=False)


def _level(cell: Cell) -> Level:
    return "assets" if cell.slat else "structure"


def _passes(half: Half) -> int:
    return sum(2 if strength else 1 for strength in half.sampler.computation().strengths)


def _parts(subjects: Sequence[Any]) -> list[Any]:
    return [subjects[i : i + SHARD] for i in range(0, len(subjects), SHARD)]


def _failure(cell: Cell, failures: Mapping[str, Failure]) -> Failure | None:
    return next((failures[student.folder] for student in cell.students if student.folder in failures), None)


def extractor_names(metrics: Iterable[Metric]) -> list[str]:
    """Of all that some metrics need."""
    names = (need.partition(":")[2] for metric in metrics for need in sorted(metric.needs()))
    return list(dict.fromkeys(name for name in names if name))
