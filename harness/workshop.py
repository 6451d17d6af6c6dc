"""The work of a run's phases: prepare, observe, train, generate. Every result is a file that a second call finds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..assets.source import Source
from ..base.errors import UsageError
from ..base.files import digest_of
from ..metrics import Shapes
from ..metrics.contract import WholeAssets
from ..results.rows import STRUCTURE
from .appearance import APPEARANCE_VERSION, Appearances, Looks, appearances
from .asset_jobs import (
    AssembledCell,
    AssembleJob,
    CellsJob,
    SlatSet,
    load_assembled,
    load_assets,
    load_picture_embedding,
    run_assemble,
    run_asset_reconstruction,
    run_asset_truth,
    run_encode_cells,
)
from .config import Config
from .device import CPU
from .generate import Generated, joined
from .jobs import (
    CALIBRATION_STEPS,
    CalibrateJob,
    EncodeJob,
    GenerateJob,
    ObserveJob,
    StructureSet,
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
from .plan import AssetCell, Cell, Training, train_source
from .pool import Workers
from .prepare import CODE_VERSION, Preparation, Prepared, prepare
from .references import Truth, shown_images
from .train import student_file
from .world import read_world_file

SHARD = 16  # assets per file of shapes: what an interruption can lose, per worker
CELLS_SHARD = 32  # the same of what is made of cells
OBSERVE_VERSION = 1  # part of the address of observed assets: raise it when their features are computed otherwise
ASSETS_VERSION = 1  # likewise for whole assets


@dataclass(frozen=True)
class AssetTruth:
    """Whole assets as the extractors see them. embedding: [N, E] of their conditioning pictures."""

    assets: WholeAssets
    embedding: NDArray[np.float32]


@dataclass(frozen=True)
class Workshop:
    """Workers and folders.

    Attributes:
        world: folder of the world; `world_sha` is what stands for its networks in addresses (`Plan.networks_sha`).
        out: folder of the run. cache: folder of what is made of assets, shared by runs.
        team: worker processes; their number changes no result.
        device: where networks compute. network_team: worker processes for that; None: `team`.
    """

    config: Config
    world: Path
    world_sha: str
    out: Path
    cache: Path
    team: Workers
    device: str = CPU
    network_team: Workers | None = None

    @property
    def networks(self) -> Workers:
        """The processes for work with networks."""
        return self.network_team or self.team

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
        data = {stage: self.training_set(stage) for stage in dict.fromkeys(t.stage for t in todo)}
        jobs = [
            TrainJob(data[stage], group, self.out)
            for stage, seed in dict.fromkeys((t.stage, t.seed) for t in todo)
            for group in balanced([t for t in todo if (t.stage, t.seed) == (stage, seed)], self.networks.count)
        ]
        failures = self.networks.map(run_train, jobs, label, sum(training.steps for training in todo))
        return {folder: reason for failed in failures for folder, reason in failed.items()}

    def step_seconds(self, entrants: Sequence[Entrant], stage: str) -> dict[str, float]:
        """Seconds of a training step of each method alone, by label; one process, so that nothing shares the clock."""
        job, total = CalibrateJob(self.training_set(stage), tuple(entrants)), (1 + CALIBRATION_STEPS) * len(entrants)
        [seconds] = self.networks.map(run_calibrate, [job], "time training steps", total)
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
                        self.world, weights, cell.sampler, shown[rows], ids, cell.seed, batch, path, self.device
                    )
        total = sum(len(job.asset_ids) for job in jobs.values())
        self.networks.map(run_generate, list(jobs.values()), "generate", total)

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
            jobs.append(
                ObserveJob(self.world, prepared.occupancy[rows], prepared.images[rows, 0], ids, path, self.device)
            )
        todo = [job for job in jobs if not job.path.exists()]
        self.networks.map(function, todo, f"{kind} of {source.name}", sum(len(job.asset_ids) for job in todo))
        return [job.path for job in jobs]

    def training_set(self, stage: str = STRUCTURE) -> TrainingSet:
        """The toys that students of a stage are distilled on, prepared and encoded."""
        source = train_source(self.config)
        toys = self.prepare(source)
        if stage == STRUCTURE:
            latents = tuple(self._encode(toys, source))
            return StructureSet(self.world, self.config.train, latents, toys.images, self.device)
        if self.config.slat is None:
            raise UsageError("There is no [slat] table that says how to train the second stage. Add one.")
        files = self._cells_files("slat latents", run_encode_cells, source, toys)
        seen = self.appearances(source, toys)
        return SlatSet(self.world, self.config.slat, toys.images, seen.counts, seen.coords, tuple(files), self.device)

    def appearances(self, source: Source, prepared: Prepared) -> Appearances:
        """The prepared assets of a source as they look."""
        return appearances(source, prepared, self._looks(), self.cache, self.team)

    def asset_truth(self, source: Source, prepared: Prepared) -> AssetTruth:
        """What the extractors of whole assets see of a source's assets."""
        files = self._cells_files("asset truth", run_asset_truth, source, prepared)
        return AssetTruth(load_assets(files), load_picture_embedding(files))

    def asset_reconstruction(self, source: Source, prepared: Prepared) -> WholeAssets:
        """What they see of them after encoder and decoders."""
        return load_assets(self._cells_files("asset reconstruction", run_asset_reconstruction, source, prepared))

    def assemble(self, cells: Sequence[AssetCell], prepared: Prepared) -> None:
        """Whole assets of all cells, whose structures there are; cells that compute the same share their files."""
        shown = shown_images(prepared, read_world_file(self.world).window.share)
        jobs = {}
        for cell in cells:
            weights = student_file(self.out / cell.training.folder) if cell.training else None
            structures = self.shape_files(cell.structure, len(prepared.ids))
            for i, path in enumerate(self.asset_files(cell, len(prepared.ids))):
                rows = slice(i * SHARD, (i + 1) * SHARD)
                ids = prepared.ids[rows]
                if not path.exists():
                    jobs[path] = AssembleJob(
                        self.world, structures[i], weights, cell.sampler, shown[rows], ids, cell.seed, path, self.device
                    )
        total = sum(len(job.asset_ids) for job in jobs.values())
        self.networks.map(run_assemble, list(jobs.values()), "assemble", total)

    def asset_files(self, cell: AssetCell, n_assets: int) -> list[Path]:
        """The files of a cell's assets, in the order of the assets."""
        folder = self.out / cell.folder
        return [folder / f"{i // SHARD:05d}.npz" for i in range(0, n_assets, SHARD)]

    def assembled(self, cell: AssetCell, n_assets: int) -> AssembledCell:
        """What `assemble` made."""
        return load_assembled(self.asset_files(cell, n_assets))

    def _looks(self) -> Looks:
        section = read_world_file(self.world).looks
        if section is None:
            raise UsageError(f"World {self.world} has no second stage. Choose one that has, or remove [slat].")
        return Looks(**section.model_dump())

    def _cells_files(
        self, kind: str, function: Callable[[CellsJob], None], source: Source, prepared: Prepared
    ) -> list[Path]:
        """Files of what `function` makes of assets' cells; their names are digests of the assets' names."""
        seen = self.appearances(source, prepared)
        version = [ASSETS_VERSION, APPEARANCE_VERSION, CODE_VERSION, asdict(self._looks())]
        address = digest_of([version, self.world_sha, source.name, source.digest()])[:16]
        folder, jobs = self.cache / f"{kind.replace(' ', '-')}-{source.name}-{address}", []
        for start in range(0, len(prepared.ids), CELLS_SHARD):
            stop = min(start + CELLS_SHARD, len(prepared.ids))
            ids, path = prepared.ids[start:stop], folder / f"{digest_of(list(prepared.ids[start:stop]))[:16]}.npz"
            pictures = prepared.images[start:stop, 0]
            jobs.append(CellsJob(self.world, seen.part(start, stop), pictures, ids, path, self.device))
        todo = [job for job in jobs if not job.path.exists()]
        self.networks.map(function, todo, f"{kind} of {source.name}", sum(len(job.asset_ids) for job in todo))
        return [job.path for job in jobs]

    def _encode(self, toys: Prepared, source: Source) -> list[Path]:
        folder = self.cache / f"latents-{digest_of([self.world_sha, source.name, source.digest()])[:16]}"
        starts = range(0, len(toys.ids), 64)
        jobs = [
            EncodeJob(self.world, toys.occupancy[i : i + 64], folder / f"{i // 64:05d}.npz", self.device)
            for i in starts
        ]
        todo = [job for job in jobs if not job.path.exists()]
        self.networks.map(run_encode, todo, "encode toys", sum(len(j.occupancy) for j in todo))
        return [job.path for job in jobs]


def balanced(trainings: Sequence[Training], groups: int) -> list[tuple[Training, ...]]:
    """At most `groups` parts of similar cost (longest first onto the lightest)."""
    parts: list[list[Training]] = [[] for _ in range(min(groups, len(trainings)))]
    for training in sorted(trainings, key=_cost, reverse=True):
        min(parts, key=lambda part: sum(map(_cost, part))).append(training)
    return [tuple(part) for part in parts]


def _cost(training: Training) -> float:
    return training.entrant.distillation.cost() * training.steps
