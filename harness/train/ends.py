"""The stored pairs of a stage (`train.pairs`): where the teacher takes the noises of its batches, as jobs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...flow.samplers import Sampler
from ...methods import StoredPairs
from ..engine.jobs import Job, OneResult
from ..engine.store import Arrays
from ..inputs.world import load_cached
from ..protocol.values import Stage
from ..settings.methods import code_digest
from .data import TrainingSet
from .pairs import batches_of, ends_of
from .task import StageTask

VERSION = 1  # part of every address
AT_ONCE = 4  # batches of a job: what an interruption can lose, per worker


@dataclass(frozen=True)
class EndsJob(OneResult):
    """The ends of the noises of some batches, by the index of the batch.

    Attributes:
        networks_sha: identity of the teacher's networks and of how they round.
        out: folder of the run, for notes of what cannot be read.
    """

    root: Path
    world: Path
    device: str
    networks_sha: str
    stage: Stage
    data: TrainingSet
    batch: int
    solver: Sampler
    batches: tuple[int, ...]
    out: Path

    kind = entry = "pairs"
    label, networks = "pairs of the teacher", True

    @property
    def units(self) -> int:
        return len(self.batches)

    @property
    def needs(self) -> Sequence[Job]:
        return self.data.jobs

    @property
    def inputs(self) -> dict[str, Any]:
        solved = self.solver.computation()
        return {
            "version": VERSION,
            "networks": self.networks_sha,
            "stage": self.stage,
            "data": self.data.digest,
            "batch": self.batch,
            "solver": [{field.name: getattr(solved, field.name) for field in fields(solved)}, code_digest(self.solver)],
            "batches": list(self.batches),
        }

    def result(self) -> Arrays:
        world = load_cached(self.world, self.device)
        task = StageTask(self.stage, world.stage(self.stage), self.data.open(world, self.out), self.batch)
        return {str(index): ends_of(task, self.solver, index).cpu().numpy() for index in self.batches}


def parts_of_set(pairs: StoredPairs, batch: int) -> list[tuple[int, ...]]:
    """The batches of a set, as jobs share them out."""
    every = range(batches_of(pairs, batch))
    return [tuple(every[i : i + AT_ONCE]) for i in range(0, len(every), AT_ONCE)]


def stored_ends(jobs: Sequence[EndsJob]) -> list[Tensor]:
    """Of all batches of a set, in their order, when its jobs are done."""
    arrays = [job.place.get() for job in jobs]
    return [torch.from_numpy(part[str(i)]) for job, part in zip(jobs, arrays, strict=True) for i in job.batches]
