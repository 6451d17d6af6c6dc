"""The work of a run's phases: prepare, observe, train, generate. Every result is a file that a second call finds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..assets.source import Source
from ..base.files import digest_of
from ..metrics import Shapes
from .config import Config
from .generate import Generated, joined
from .jobs import (
    CALIBRATION_STEPS,
    CalibrateJob,
    EncodeJob,
    GenerateJob,
    ObserveJob,
    TrainingSet,
    TrainJob,
    is_trained,
    load_generated,
    load_shapes,
    load_truth,
    run_calibrate,
    run_encode,
    run_generate,
    run_reconstruction,
    run_train,
    run_truth,
)
from .parameters import Entrant
from .plan import Cell, Training, train_source
from .pool import Workers
from .prepare import CODE_VERSION, Preparation, Prepared, prepare
from .references import Truth, shown_images
from .train import student_file
from .world import read_world_file

SHARD = 16  # assets per file of shapes: what an interruption can lose, per worker
OBSERVE_VERSION = 1  # part of the address of observed assets: raise it when their features are computed otherwise


@dataclass(frozen=True)
class Workshop:
    """Workers and folders.

    Attributes:
        world: folder of the world; its digest is `world_sha`.
        out: folder of the run. cache: folder of what is made of assets, shared by runs.
        team: worker processes; their number changes no result.
    """

    config: Config
    world: Path
    world_sha: str
    out: Path
    cache: Path
    team: Workers

    def prepare(self, source: Source, limit: int | None = None) -> Prepared:
        """The assets of a source (the first `limit`) as arrays."""
        spec = Preparation(**read_world_file(self.world).preparation.model_dump())
        return prepare(source, spec, self.cache, self.team, limit)

    def truth(self, source: Source, prepared: Prepared) -> Truth:
        """What the extractors see of a source's assets."""
        return load_truth(self._observed("truth", run_truth, source, prepared))

    def reconstruction(self, source: Source, prepared: Prepared) -> Shapes:
        """What the extractors see of a source's assets after the VAE."""
        return load_shapes(self._observed("reconstruction", run_reconstruction, source, prepared))

    def train(self, trainings: Sequence[Training], label: str) -> dict[str, str]:
        """Train the students that are not trained yet; reasons of failures by student folder. label: for progress."""
        unique = {training.folder: training for training in trainings}.values()
        todo = [training for training in unique if not is_trained(self.out, training)]
        if not todo:
            return {}
        data = self.training_set()
        jobs = [
            TrainJob(data, group, self.out)
            for seed in dict.fromkeys(training.seed for training in todo)
            for group in balanced([t for t in todo if t.seed == seed], self.team.count)
        ]
        failures = self.team.map(run_train, jobs, label, sum(training.steps for training in todo))
        return {folder: reason for failed in failures for folder, reason in failed.items()}

    def step_seconds(self, entrants: Sequence[Entrant]) -> dict[str, float]:
        """Seconds of a training step of each method alone, by label; one process, so that nothing shares the clock."""
        job, total = CalibrateJob(self.training_set(), tuple(entrants)), (1 + CALIBRATION_STEPS) * len(entrants)
        [seconds] = self.team.map(run_calibrate, [job], "time training steps", total)
        return seconds

    def generate(self, cells: Sequence[Cell], prepared: Prepared) -> None:
        """Shapes of all cells for prepared assets; cells that compute the same share their files."""
        shown = shown_images(prepared, read_world_file(self.world).window.share)
        batch, jobs = self.config.evaluate.batch, {}
        for cell in cells:
            weights = student_file(self.out / cell.training.folder) if cell.training else None
            for i, path in enumerate(self.shape_files(cell, len(prepared.ids))):
                rows = slice(i * SHARD, (i + 1) * SHARD)
                ids = prepared.ids[rows]
                if not path.exists():
                    jobs[path] = GenerateJob(
                        self.world, weights, cell.sampler, shown[rows], ids, cell.seed, batch, path
                    )
        self.team.map(run_generate, list(jobs.values()), "generate", sum(len(job.asset_ids) for job in jobs.values()))

    def shape_files(self, cell: Cell, n_assets: int) -> list[Path]:
        """The files of a cell's shapes, in the order of the assets."""
        folder = self.out / cell.folder
        return [folder / f"{i // SHARD:05d}.npz" for i in range(0, n_assets, SHARD)]

    def generated(self, cell: Cell, n_assets: int) -> Generated:
        """What `generate` made."""
        return joined([load_generated(path) for path in self.shape_files(cell, n_assets)])

    def _observed(
        self, kind: str, function: Callable[[ObserveJob], None], source: Source, prepared: Prepared
    ) -> list[Path]:
        """Files of observed assets. Their names are digests of the assets' names, as --limit changes what is in one."""
        address = digest_of([OBSERVE_VERSION, CODE_VERSION, self.world_sha, source.name, source.digest()])[:16]
        jobs = []
        for start in range(0, len(prepared.ids), SHARD):
            rows = slice(start, start + SHARD)
            ids = prepared.ids[rows]
            path = self.cache / f"observed-{source.name}-{address}" / f"{kind}-{digest_of(list(ids))[:16]}.npz"
            jobs.append(ObserveJob(self.world, prepared.occupancy[rows], prepared.images[rows, 0], ids, path))
        todo = [job for job in jobs if not job.path.exists()]
        self.team.map(function, todo, f"{kind} of {source.name}", sum(len(job.asset_ids) for job in todo))
        return [job.path for job in jobs]

    def training_set(self) -> TrainingSet:
        """The toys that students are distilled on, prepared and encoded."""
        source = train_source(self.config)
        toys = self.prepare(source)
        return TrainingSet(self.world, self.config.train, tuple(self._encode(toys, source)), toys.images)

    def _encode(self, toys: Prepared, source: Source) -> list[Path]:
        folder = self.cache / f"latents-{digest_of([self.world_sha, source.name, source.digest()])[:16]}"
        starts = range(0, len(toys.ids), 64)
        jobs = [EncodeJob(self.world, toys.occupancy[i : i + 64], folder / f"{i // 64:05d}.npz") for i in starts]
        todo = [job for job in jobs if not job.path.exists()]
        self.team.map(run_encode, todo, "encode toys", sum(len(j.occupancy) for j in todo))
        return [job.path for job in jobs]


def balanced(trainings: Sequence[Training], groups: int) -> list[tuple[Training, ...]]:
    """At most `groups` parts of similar cost (longest first onto the lightest)."""
    parts: list[list[Training]] = [[] for _ in range(min(groups, len(trainings)))]
    for training in sorted(trainings, key=_cost, reverse=True):
        min(parts, key=lambda part: sum(map(_cost, part))).append(training)
    return [tuple(part) for part in parts]


def _cost(training: Training) -> float:
    return training.entrant.distillation.cost() * training.steps
