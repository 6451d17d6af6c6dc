"""`mdtbench run`: prepare, train, generate, measure. Every result is a file that a second call finds again."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ..assets.source import Source
from ..assets.toys import ToySource
from ..base.errors import MissingError
from ..base.files import digest_of, write_json, write_text
from ..results.rows import Row, write_rows
from .generate import shown_image
from .jobs import EncodeJob, GenerateJob, TrainJob, is_trained, run_encode, run_generate, run_train
from .measure import measure
from .picture_grid import write_grid
from .plan import Cell, Plan, Training, train_source
from .pool import Workers
from .prepare import Prepared, prepare
from .provenance import provenance
from .train import student_file
from .world import World, load_world

SHARD = 16  # assets per file of generated shapes: what an interruption can lose, per worker


@dataclass(frozen=True)
class Outcome:
    """What a run produced.

    Attributes:
        failures: (asset, reason) of test assets that could not be used.
        failed_students: reason of each student that could not be trained, by its folder.
        n_ok, n_total: assets measured, in the cell that lost most.
    """

    rows: tuple[Row, ...]
    failures: tuple[tuple[str, str], ...]
    failed_students: dict[str, str]
    n_ok: int
    n_total: int


@dataclass(frozen=True)
class Runner:
    """Executes a plan in a folder.

    Attributes:
        out: folder of the run. cache: folder of prepared assets, shared by runs.
        team: worker processes; their number changes no result.
    """

    plan: Plan
    out: Path
    cache: Path
    team: Workers

    def run(self) -> Outcome:
        """All phases. Raises MissingError when no test asset is usable."""
        started = time.time()
        self._write_manifest({"started_s": started})
        torch.set_num_threads(1)  # as the workers: what is measured here must round the same way everywhere
        world = load_world(self.plan.world)
        test = self._limited(prepare(self.plan.test, world.preparation, self.cache, self.team))
        self._write_failures(test)
        if len(test.ids) < 2:
            raise MissingError(
                f"{len(test.ids)} of {test.total} test assets can be used; at least 2 are needed. "
                f"Reasons: {self.out / 'failures.csv'}."
            )
        failed = self._train(world)
        cells = [cell for cell in self.plan.cells if not (cell.training and cell.training.folder in failed)]
        shown = shown_images(test, world)
        self._generate(cells, test, shown)
        held_out = self._held_out(world, len(test.ids))
        rows = measure(self.plan, world, test, held_out, failed, self.shape_files)
        write_rows(self.out / "rows.jsonl", rows)
        write_grid(self.out / "grid.png", cells, test, shown, self.shape_files)
        self._write_manifest({"started_s": started, "finished_s": time.time()})
        n_ok = min((row.n_ok for row in rows if row.seed is not None and row.status == "ok"), default=0)
        return Outcome(rows, test.failures, failed, n_ok, test.total)

    def shape_files(self, cell: Cell, n_assets: int) -> list[Path]:
        """The files of a cell's shapes, in the order of the assets."""
        folder = self.out / cell.folder
        return [folder / f"{i // SHARD:05d}.npz" for i in range(0, n_assets, SHARD)]

    def _limited(self, test: Prepared) -> Prepared:
        n = self.plan.limit
        if n is None:
            return test
        return replace(
            test, ids=test.ids[:n], categories=test.categories[:n], occupancy=test.occupancy[:n], images=test.images[:n]
        )

    def _held_out(self, world: World, count: int) -> Prepared | None:
        """As many other assets of the same kind, for the floor row; None when the source has no more."""
        if not isinstance(self.plan.test, ToySource):
            return None
        source = ToySource("validation", count, self.plan.config.data.seed)
        return prepare(source, world.preparation, self.cache, self.team)

    def _train(self, world: World) -> dict[str, str]:
        """Train what is not trained yet; reasons of failures by student folder."""
        todo = [training for training in self.plan.trainings if not is_trained(self.out, training)]
        if not todo:
            return {}
        source = train_source(self.plan.config)
        toys = prepare(source, world.preparation, self.cache, self.team)
        latents = self._encode(toys, source)
        train = self.plan.config.train
        jobs = [
            TrainJob(self.plan.world, group, train, tuple(latents), toys.images, self.out)
            for seed in dict.fromkeys(training.seed for training in todo)
            for group in balanced([t for t in todo if t.seed == seed], self.team.count)
        ]
        failures = self.team.map(run_train, jobs, "distil", train.steps * len(todo))
        return {folder: reason for failed in failures for folder, reason in failed.items()}

    def _encode(self, toys: Prepared, source: Source) -> list[Path]:
        folder = self.cache / f"latents-{digest_of([self.plan.world_sha, source.name, source.digest()])[:16]}"
        starts = range(0, len(toys.ids), 64)
        jobs = [EncodeJob(self.plan.world, toys.occupancy[i : i + 64], folder / f"{i // 64:05d}.npz") for i in starts]
        todo = [job for job in jobs if not job.path.exists()]
        self.team.map(run_encode, todo, "encode toys", sum(len(j.occupancy) for j in todo))
        return [job.path for job in jobs]

    def _generate(self, cells: Sequence[Cell], test: Prepared, shown: NDArray[np.uint8]) -> None:
        jobs = [job for cell in cells for job in self._shards(cell, test, shown) if not job.path.exists()]
        total = sum(len(job.asset_ids) for job in jobs)
        self.team.map(run_generate, jobs, "generate", total)

    def _shards(self, cell: Cell, test: Prepared, shown: NDArray[np.uint8]) -> list[GenerateJob]:
        weights = student_file(self.out / cell.training.folder) if cell.training else None
        jobs = []
        for start, path in zip(range(0, len(test.ids), SHARD), self.shape_files(cell, len(test.ids)), strict=True):
            rows = slice(start, start + SHARD)
            ids, batch = test.ids[rows], self.plan.config.evaluate.batch
            jobs.append(GenerateJob(self.plan.world, weights, cell.sampler, shown[rows], ids, cell.seed, batch, path))
        return jobs

    def _write_failures(self, test: Prepared) -> None:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([("id", "reason"), *test.failures])
        write_text(self.out / "failures.csv", text.getvalue())

    def _write_manifest(self, times: dict[str, float]) -> None:
        plan = self.plan
        write_json(
            self.out / "manifest.json",
            {
                "run_id": plan.run_id,
                "key": plan.key,
                "config": plan.config.model_dump(mode="json"),
                "methods": {e.label: {"version": e.version, "parameters": repr(e.method)} for e in plan.entrants},
                "train_seeds": sorted({training.seed for training in plan.trainings}),
                "test": {"source": plan.test.name, "sha256": plan.test.digest(), "limit": plan.limit},
                "world_sha256": plan.world_sha,
                **provenance(),
                **times,
            },
        )


def shown_images(test: Prepared, world: World) -> NDArray[np.uint8]:
    """The test pictures through their keep-windows: [N, S, S, 3]."""
    share = world.file.window.share
    return np.stack([shown_image(views[0], name, share) for views, name in zip(test.images, test.ids, strict=True)])


def balanced(trainings: Sequence[Training], groups: int) -> list[tuple[Training, ...]]:
    """At most `groups` parts of similar cost (longest first onto the lightest)."""
    parts: list[list[Training]] = [[] for _ in range(min(groups, len(trainings)))]
    for training in sorted(trainings, key=_cost, reverse=True):
        min(parts, key=lambda part: sum(map(_cost, part))).append(training)
    return [tuple(part) for part in parts]


def _cost(training: Training) -> float:
    return training.entrant.method.cost()  # type: ignore[attr-defined]  # only methods that train are trained
