"""How good a world's teachers are: their full samplers against one step, on toys that they were not trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...assets.toys import SOME_COLOURS
from ...metrics import METRICS
from ...metrics.contract import Level
from ..engine.device import CPU
from ..engine.jobs import Job, OneResult
from ..engine.store import Arrays
from ..generate.made import SHARD, AssetsJob, Maker, StructuresJob
from ..generate.reconstruct import ReconstructedAssets
from ..inputs.subjects import Subject, TestSet, occupancies
from ..inputs.world import WorldInfo, world_info
from ..measure.extractors import extractors_of
from ..measure.scores import ScoresJob
from ..measure.sides import AssetsSide, ConditionSide, Side, StructuresSide
from ..protocol.values import Stage
from ..settings.config import ProtocolSection
from ..settings.methods import entrant
from .data import JUDGED_WHOLE, Toys, judging

Table = Mapping[str, Mapping[str, float]]  # by title and metric

# label and steps; the teacher has its own number of steps
ROWS = {"teacher, full sampler": ("teacher", 1), "1 step": ("none", 1)}
OTHERS = "other true toys"  # as many: what a distance says of good ones
SEED = 0  # of generation
VERSION = 1  # part of the address of true structures


@dataclass(frozen=True)
class TrueStructures(OneResult):
    """The structures of toys themselves, in the place of those that a `StructuresJob` makes."""

    root: Path
    subjects: tuple[Subject, ...]

    kind = entry = "structures"
    label = "true structures"

    @property
    def units(self) -> int:
        return len(self.subjects)

    @property
    def inputs(self) -> dict[str, Any]:
        return {"version": VERSION, "true": [subject.key for subject in self.subjects]}

    def result(self) -> Arrays:
        return {"occupancy": occupancies(self.subjects), "ok": np.ones(len(self.subjects), bool)}


def teacher_quality(folder: Path, toys: Toys) -> Table:
    """Metrics of the structures of each of ROWS."""
    world, tests = world_info(folder), toys.usable("test")
    jobs = {
        title: [StructuresJob(toys.root, maker, part, judging(), SEED, batch=1) for part in _parts(tests.subjects)]
        for title, maker in _makers(world, "structure").items()
    }
    look = toys.truth(tests, "structure").studio
    made = {title: StructuresSide(toys.root, tests.subjects, look, tuple(each), SEED) for title, each in jobs.items()}
    return _measured(world, toys, tests, "structure", made)


def second_stage_quality(folder: Path, toys: Toys) -> Table:
    """Metrics of whole assets on true structures, so that they speak of the second stage alone."""
    world, tests = world_info(folder), toys.usable("test", JUDGED_WHOLE)
    parts, makers = _parts(tests.subjects), _makers(world, "slat")
    any_maker = next(iter(makers.values()))
    jobs: dict[str, Sequence[Job]] = {
        "encoder and decoders": [ReconstructedAssets(toys.root, any_maker, part) for part in parts]
    }
    for title, maker in makers.items():
        jobs[title] = [
            AssetsJob(toys.root, maker, TrueStructures(toys.root, part), part, judging(), SEED)  # type: ignore[arg-type]
            for part in parts
        ]
    look = toys.truth(tests, "assets").studio
    made = {title: AssetsSide(toys.root, tests.subjects, look, tuple(each), SEED) for title, each in jobs.items()}  # type: ignore[arg-type]
    return _measured(world, toys, tests, "assets", made)


def _makers(world: WorldInfo, stage: Stage) -> dict[str, Maker]:
    """The teacher with the sampler of each of ROWS."""
    makers = {}
    for title, (label, steps) in ROWS.items():
        sampler = entrant(label, {}, world.samplers[stage]).sampler(steps)
        makers[title] = Maker(world.folder, CPU, world.digest, stage, None, "", sampler)
    return makers


def _measured(world: WorldInfo, toys: Toys, tests: TestSet, level: Level, made: Mapping[str, Side]) -> Table:
    """The protocol's columns of a level, but for those that need a teacher; what has no value is left out."""
    columns = judging().columns
    named = columns.structure if level == "structure" else columns.assets
    metrics = tuple(metric for name in named if not (metric := METRICS.get(name).value).teacher)
    wanted = {need.partition(":")[2] for metric in metrics for need in metric.needs()} - {""}
    extractors = extractors_of(sorted(wanted), ProtocolSection(), world, Path(), CPU)
    truth = toys.truth(tests, level)
    against = {
        "truth": truth,
        "population": toys.truth(toys.all(1 if level == "structure" else SOME_COLOURS), level),
        "condition": ConditionSide(toys.root, tests.subjects, truth.studio, SHARD),
    }
    jobs = {
        title: ScoresJob(toys.root, title, metrics, {"made": side, **against}, extractors)
        for title, side in made.items()
    }
    if floors := tuple(one for one in metrics if "floor" in one.controls):
        others = toys.truth(toys.others(len(tests.subjects)), level)
        jobs[OTHERS] = ScoresJob(toys.root, OTHERS, floors, {"made": others, **against}, extractors)
    toys.engine.do(jobs.values())
    return {
        title: {name: scored.score.value for name, scored in job.read().items() if scored.score}
        for title, job in jobs.items()
    }


def _parts(subjects: Sequence[Subject]) -> list[tuple[Subject, ...]]:
    return [tuple(subjects[i : i + SHARD]) for i in range(0, len(subjects), SHARD)]
