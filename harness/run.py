"""`mdtbench run`: choose, train, generate, measure. Every result is a file that a second call finds again."""

from __future__ import annotations

import csv
import io
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ..assets.source import Source
from ..assets.toys import ToySource
from ..base.errors import MissingError
from ..base.files import write_json, write_text
from ..results.asset_values import write_asset_values
from ..results.report import RunResults
from ..results.rows import write_rows
from ..results.students import write_students
from ..results.sweep import SWEEP_FILE, SweepRecord
from .asset_grid import mesh_picture, write_asset_grid
from .budget import step_seconds, students
from .export import Subjects, export
from .measure import References, measure
from .measure_assets import AssetReferences, measure_assets
from .measurement import Measurement
from .picture_grid import COLUMNS, write_grid
from .plan import SLAT, Plan, SecondStagePlan, with_rates, with_step_seconds
from .pool import Workers
from .prepare import Prepared, first_of
from .provenance import provenance
from .references import shown_images
from .sweep import hopeless, rates, sweep_rates
from .workshop import Workshop
from .world import read_world_file


@dataclass(frozen=True)
class Outcome:
    """What a run produced.

    Attributes:
        failures: (asset, reason) of test assets that could not be used.
        failed_students: reason of each student that could not be trained, by its folder.
        n_ok, n_total: assets measured, in the cell that lost most.
    """

    results: RunResults
    failures: tuple[tuple[str, str], ...]
    failed_students: dict[str, str]
    n_ok: int
    n_total: int


@dataclass(frozen=True)
class Runner:
    """Executes a plan in a folder.

    Attributes:
        out: folder of the run. cache: folder of prepared assets, shared by runs.
        team: worker processes; their number changes no result. network_team: those for networks; None: the same.
        formats: of the files to write of whole assets; none: no files.
    """

    plan: Plan
    out: Path
    cache: Path
    team: Workers
    formats: tuple[str, ...] = ()
    network_team: Workers | None = None

    def run(self) -> Outcome:
        """All phases. Raises MissingError when no test asset is usable."""
        started = time.time()
        self._write_manifest(self.plan, {"started_s": started})
        torch.set_num_threads(1)  # as the workers: what is measured here must round the same way everywhere
        shop = self._workshop()
        test = shop.prepare(self.plan.test, self.plan.limit)
        self._write_failures(test)
        if len(test.ids) < 2:
            raise MissingError(
                f"{len(test.ids)} of {test.total} test assets can be used; at least 2 are needed. "
                f"Reasons: {self.out / 'failures.csv'}."
            )
        plan, sweep, failed = self._decided(shop)
        failed |= shop.train([t for t in plan.all_trainings if t.folder not in failed], "distil")
        trained = students(plan, self.out, failed)
        write_students(self.out, trained)
        cells = [cell for cell in plan.cells if not (cell.training and cell.training.folder in failed)]
        shop.generate(cells, test)
        n = len(test.ids)
        found = measure(plan, test, self._references(shop, test), failed, lambda cell: shop.generated(cell, n))
        shown = shown_images(test, read_world_file(plan.world).window.share)
        if plan.second:
            found += self._whole_assets(plan.second, shop, test, shown, failed)
        else:
            write_grid(self.out / "grid.png", cells, test, shown, lambda cell: shop.shape_files(cell, n)[0])
        rows = found.rows
        write_asset_values(self.out, found.assets)  # first: no rows stand beside the values of an earlier call
        write_rows(self.out / "rows.jsonl", rows)
        self._write_manifest(plan, {"started_s": started, "finished_s": time.time()})
        measured = [row for row in rows if row.seed is not None and row.status == "ok"]
        n_ok, n_total = min(((row.n_ok, row.n_total) for row in measured), key=_share, default=(0, test.total))
        return Outcome(RunResults(rows, trained, sweep), test.failures, failed, n_ok, n_total)

    def _workshop(self) -> Workshop:
        plan = self.plan
        return Workshop(
            plan.config, plan.world, plan.networks_sha, self.out, self.cache, self.team, plan.device, self.network_team
        )

    def _decided(self, shop: Workshop) -> tuple[Plan, SweepRecord | None, dict[str, str]]:
        """The plan with all that is measured before the trainings; reasons of students that need not be tried."""
        plan = self.plan
        if plan.config.train.budget == "seconds":
            slat = step_seconds(plan, shop, SLAT) if plan.second else None
            plan = with_step_seconds(plan, step_seconds(plan, shop), slat)
        if not plan.grid:
            (self.out / SWEEP_FILE).unlink(missing_ok=True)  # of an earlier call with other settings
            return plan, None, {}
        sweep = sweep_rates(plan, shop)
        plan = with_rates(plan, rates(plan, sweep))
        return plan, sweep, hopeless(plan, sweep)

    def _whole_assets(
        self,
        second: SecondStagePlan,
        shop: Workshop,
        test: Prepared,
        shown: NDArray[np.uint8],
        failed: dict[str, str],
    ) -> Measurement:
        """The second stage on the structures that there are: assets, their rows and their pictures."""
        test = first_of(test, self.plan.config.evaluate.whole)
        good = [cell for cell in second.cells if not any(t.folder in failed for t in cell.trainings)]
        shop.assemble(good, test)
        n, source, held_out = len(test.ids), self.plan.test, self._other_assets(shop, len(test.ids))
        by_id = {asset.id: asset for asset in source.assets()}
        if self.formats:
            themselves = [by_id[name] for name in test.ids]
            export(good, shop, Subjects(test.ids, shown[:n], themselves, source.digest()), self.formats)
        references = AssetReferences(
            shop.asset_truth(source, test),
            shop.asset_reconstruction(source, test),
            shop.asset_truth(*held_out).assets if held_out else None,
        )
        truth = [mesh_picture(by_id[name].load()) for name in test.ids[:COLUMNS]]
        first = lambda cell: shop.asset_files(cell, n)[0]  # noqa: E731
        write_asset_grid(self.out / "grid.png", good, test, shown, truth, self.plan.world, first, self.plan.device)
        return measure_assets(self.plan, second.cells, test, references, failed, lambda cell: shop.assembled(cell, n))

    def _references(self, shop: Workshop, test: Prepared) -> References:
        source, held_out = self.plan.test, self._other_assets(shop, len(test.ids))
        others = shop.truth(*held_out).shapes if held_out else None
        return References(shop.truth(source, test), shop.reconstruction(source, test), others)

    def _other_assets(self, shop: Workshop, count: int) -> tuple[Source, Prepared] | None:
        """As many other assets of the same kind, for the floor row; None when the source has no more."""
        if not isinstance(self.plan.test, ToySource):
            return None
        source = ToySource("validation", count, self.plan.config.data.seed)
        return source, shop.prepare(source)

    def _write_failures(self, test: Prepared) -> None:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([("id", "reason"), *test.failures])
        write_text(self.out / "failures.csv", text.getvalue())

    def _write_manifest(self, plan: Plan, times: dict[str, float]) -> None:
        write_json(
            self.out / "manifest.json",
            {
                "run_id": plan.run_id,
                "key": plan.key,
                "config": plan.config.model_dump(mode="json"),
                "methods": {e.label: {"version": e.version, "parameters": repr(e.method)} for e in plan.entrants},
                "train_seeds": list(plan.train_seeds),
                "test": {"source": plan.test.name, "sha256": plan.test.digest(), "limit": plan.limit},
                "world_sha256": plan.world_sha,
                "device": plan.device,
                **provenance(),
                **times,
            },
        )


def _share(counts: tuple[int, int]) -> float:
    """The part of the assets that was measured."""
    n_ok, n_total = counts
    return n_ok / n_total
