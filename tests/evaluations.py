"""Files to evaluate, small networks of the official kinds, and an evaluation of them in the process of a test."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from inprocess import in_process
from numpy.typing import NDArray
from small_towers import PICTURES, POINTS

from mdtbench.assets.gaussian_ply import write_gaussians
from mdtbench.assets.mesh_export import write_glb
from mdtbench.geometry.gaussians import Gaussians
from mdtbench.harness.driver.evaluate import evaluate
from mdtbench.harness.driver.evaluation import EvaluateOptions, Evaluation, resolve
from mdtbench.harness.driver.export import LABEL
from mdtbench.harness.driver.run import Outcome
from mdtbench.harness.engine import held
from mdtbench.harness.measure import extractors
from mdtbench.harness.protocol import model
from mdtbench.harness.settings.config import ProtocolSection
from mdtbench.metrics.official import picture_extractors, ulip
from mdtbench.results.frames import to_rows
from mdtbench.results.rows import Row

SIDE = 48  # pixels of a picture
FULL = "values.resolution = 512"


def small_networks(patch: pytest.MonkeyPatch) -> None:
    """Put small networks in the place of all official ones, by name; each has noise of its own."""
    for name, spec in picture_extractors.SPECS.items():
        patch.setitem(picture_extractors.SPECS, name, _small(name, spec))
    patch.setattr(extractors, "SLIP_SPEC", _small(ulip.SLIP_SPEC.name, ulip.SLIP_SPEC))
    for name, spec in ulip.POINT_SPECS.items():
        weights = replace(spec.weights, file=f"small/{name}")
        patch.setitem(ulip.POINT_SPECS, name, replace(POINTS, name=name, weights=weights))
    patch.setattr(held, "_held", {})


def _small(name: str, spec: Any) -> Any:
    return replace(PICTURES, name=name, weights=replace(spec.weights, file=f"small/{name}", sha256=None))


def small_protocols(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Protocols by their names, with small pictures."""
    shutil.copytree(str(model.PROTOCOLS), folder)
    path = folder / "trellis-v1.toml"
    text = path.read_text(encoding="utf-8")
    assert text.count(FULL) == 1
    path.write_text(text.replace(FULL, f"values.resolution = {SIDE}"), encoding="utf-8")
    patch.setattr(model, "PROTOCOLS", folder)


def see(name: str, seen: NDArray, seed: int = 0) -> NDArray[np.float32]:
    """What an extractor with random weights makes of pictures or points, apart from all that the harness does."""
    if name in ulip.POINT_SPECS:
        return ulip.random_extractor(ulip.POINT_SPECS[name], seed)(seen)
    specs = {**picture_extractors.SPECS, "ulip1_slip": extractors.SLIP_SPEC}
    return picture_extractors.random_extractor(specs[name], seed)(seen)


def box(path: Path, extent: Sequence[float], colour: float = 0.5, *, write: Any = write_glb) -> None:
    """A box of sides 2 `extent`, off the origin; the colour runs along x."""
    corners = np.indices((2, 2, 2)).reshape(3, 8).T
    faces = np.array([[0, 1, 3], [0, 3, 2], [4, 6, 7], [4, 7, 5], [0, 4, 5], [0, 5, 1]])
    faces = np.concatenate([faces, [[2, 3, 7], [2, 7, 6], [0, 2, 6], [0, 6, 4], [1, 5, 7], [1, 7, 3]]])
    colours = np.full((8, 3), colour, np.float32)
    colours[:, 0] = corners[:, 0]
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, corners * np.array(extent) + 3.0, faces, colours)


def splats(path: Path, seed: int) -> None:
    random = np.random.default_rng(seed)
    means = random.uniform(-0.4, 0.4, (50, 3)).astype(np.float32)
    rotations, scales = np.tile(np.array([1, 0, 0, 0], np.float32), (50, 1)), np.full((50, 3), 0.05, np.float32)
    opacity, colours = np.full(50, 0.9, np.float32), random.standard_normal((50, 3)).astype(np.float32)
    write_gaussians(path, Gaussians(means, scales, rotations, opacity, colours))


def write_files(root: Path, names: str = "abcd") -> None:
    """A reference of boxes, and what a system made of them: the first box is another, there are Gaussians of all."""
    for i, name in enumerate(names):
        box(root / "truth" / f"{name}.glb", (1, 1 + i, 2), 0.2 * i)
        box(root / "made" / f"{name}.glb", (1, 1 + i, 2 if i else 1), 0.2 * i)
        splats(root / "made" / f"{name}.ply", i)


@dataclass
class Files:
    """Files to evaluate in root/made and root/truth, with root/cache and root/out."""

    root: Path

    @property
    def made(self) -> Path:
        return self.root / "made"

    @property
    def truth(self) -> Path:
        return self.root / "truth"

    def options(self, protocol: str = "trellis-v1", **changes: Any) -> EvaluateOptions:
        """Random networks and a reference, unless said otherwise."""
        section = ProtocolSection(name=protocol, extractors=changes.pop("extractors", "random"), columns="all")
        folders = {"folder": self.made, "weights": self.root / "weights", "cache": self.root / "cache"}
        known = {**folders, "name": "Sys", "reference": str(self.truth), "latency": 1.3, "steps": 5, "nfe": 10}
        return EvaluateOptions(**{**known, "section": section, **changes})

    def resolved(self, **changes: Any) -> Evaluation:
        return resolve(self.options(**changes))

    def evaluated(self, out: str = "out", **changes: Any) -> Evaluated:
        engine, team = in_process()
        found = self.resolved(**changes)
        outcome = evaluate(found, self.root / out, engine)
        done = Counter({label: count for label, count in team.given.items() if label != LABEL})
        return Evaluated(found, outcome, self.root / out, done, team.reporter.notes)


@dataclass(frozen=True)
class Evaluated:
    """jobs: how many of each label were done, without files for pages."""

    found: Evaluation
    outcome: Outcome
    out: Path
    jobs: Counter[str]
    notes: list[str]

    @property
    def rows(self) -> dict[tuple[str, str], Row]:
        """By line and column, without the mark of random weights."""
        return {(row.method, row.metric.removesuffix("[random]")): row for row in to_rows(self.outcome.results.rows)}

    def values(self, line: str = "Sys") -> dict[str, float]:
        """Without the time."""
        found = {metric: row for (method, metric), row in self.rows.items() if method == line}
        return {metric: row.value for metric, row in found.items() if row.wall_s is None and row.value is not None}

    @property
    def failures(self) -> dict[tuple[str, str], str]:
        """Reason by what and id."""
        return {(what, name): reason for what, name, reason in self.outcome.asset_failures}


@contextmanager
def small_evaluations(folder: Path) -> Iterator[None]:
    """Small networks and protocols inside the block."""
    with pytest.MonkeyPatch.context() as patch:
        small_networks(patch)
        small_protocols(folder / "protocols", patch)
        yield
