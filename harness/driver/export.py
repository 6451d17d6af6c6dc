"""Files of whole assets, made of the latents that a run has left, and of what they are judged beside.

A run writes pictures of all and meshes of the first few, which its pages show; `--export` asks for others, or none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...assets.gaussian_ply import write_gaussians
from ...assets.mesh_export import write_glb
from ...assets.source import Asset
from ...base.errors import AssetError, UsageError, unknown_name
from ...base.files import digest_of
from ...geometry.mesh import Mesh
from ..engine.engine import Engine
from ..engine.store import Arrays
from ..engine.workers import tick
from ..generate.made import SHARD, AssetsJob, Decoded
from ..generate.pictures import gaussians_picture, mesh_picture
from ..generate.viewing import VIEWED_FACES
from ..inputs.cells import ragged
from ..inputs.paths import safe_path
from ..inputs.subjects import TestSet, conditioning_images
from ..inputs.world import load_cached
from ..plan.plan import Cell
from .export_folder import (
    CONDITION,
    FAILURES,
    FEW,
    FOLDER,
    PICTURE_SIDE,
    TRUTH,
    Target,
    claim,
    write_failures,
    write_index,
    write_png,
    write_viewed,
)
from .grid import first_of_each
from .measuring import Measuring

PICTURE = "png"
NONE = "none"  # the word for no files


def _write_mesh(target: Target, asset: Decoded) -> None:
    if len(asset.mesh.faces) > VIEWED_FACES:
        write_viewed(target.view, asset.mesh)
    write_glb(target.file("glb"), asset.mesh.vertices, asset.mesh.faces, vertex_colours(asset.mesh))


def _write_gaussians(target: Target, asset: Decoded) -> None:
    write_gaussians(target.file("ply"), asset.gaussians)


def _write_picture(target: Target, asset: Decoded) -> None:
    write_png(target.file(PICTURE), gaussians_picture(asset.gaussians, PICTURE_SIDE))


def _write_truth(target: Target, mesh: Mesh) -> None:
    write_viewed(target.file("glb"), mesh)


def _write_truths_picture(target: Target, mesh: Mesh) -> None:
    write_png(target.file(PICTURE), mesh_picture(mesh, PICTURE_SIDE))


FORMATS: dict[str, Callable[[Target, Decoded], None]] = {
    "glb": _write_mesh,
    "ply": _write_gaussians,
    PICTURE: _write_picture,
}
TRUTH_FORMATS: dict[str, Callable[[Target, Mesh], None]] = {"glb": _write_truth, PICTURE: _write_truths_picture}


@dataclass(frozen=True)
class Exports:
    """Formats of the files to write: of all assets, and further ones of the first few."""

    of_all: tuple[str, ...] = ()
    of_few: tuple[str, ...] = ()

    def of(self, row: int) -> tuple[str, ...]:
        """Of the asset in this row of the test assets."""
        return (*self.of_all, *(self.of_few if row < FEW else ()))

    @property
    def told(self) -> str:
        """In words; empty where nothing is written."""
        few = f", {' and '.join(self.of_few)} of the first {FEW}" if self.of_few else ""
        return f"{' and '.join(self.of_all)} of all assets{few}" if self.of_all else ""


USUAL = Exports(("png",), ("glb",))


@dataclass(frozen=True)
class ExportJob:
    """Some assets of one cell, and where their files go."""

    made: AssetsJob
    targets: tuple[Target, ...]


@dataclass(frozen=True)
class TruthJob:
    """Some test assets themselves."""

    assets: tuple[Asset, ...]
    targets: tuple[Target, ...]


def exports_of(words: Sequence[str]) -> Exports:
    """What the words of `--export` ask for; the usual files where there are none. Raises UsageError for others."""
    for word in words:
        if word not in FORMATS and word != NONE:
            raise unknown_name("export format", word, (*FORMATS, NONE))
    if NONE in words and set(words) != {NONE}:
        raise UsageError(f"--export {','.join(words)} asks for files and for none. Leave out one of them.")
    if NONE in words:
        return Exports()
    return Exports(tuple(dict.fromkeys(words))) if words else USUAL


def export(measuring: Measuring, cells: Sequence[Cell], engine: Engine, out: Path, exports: Exports) -> int:
    """Write OUT/export/<method>-<steps>x2/<asset id>.<format> and what they are judged beside; returns how many failed.

    Of each line's whole assets those of the first training and generation seed are written. Beside them, whatever
    the formats: condition/<asset id>.png, the picture that the networks were shown, of all test assets; of those that
    are made whole truth/<asset id>.png and, where methods have meshes, .glb of few faces; for meshes of many faces
    view/<method>-<steps>x2/<asset id>.glb, of few; failures.csv; and last index.json, which lists the files of each
    asset. Files that are there stay as they are, unless they are another cell's or source's: of an earlier run to this
    folder with other settings.

    Args:
        cells: whose whole assets there are; without any the conditions are all that is written.

    Raises:
        RunError: a file cannot be written.
    """
    root, tests = out / FOLDER, measuring.of("assets")
    _write_conditions(root, measuring.tests)
    failures = _export_truth(root, tests, engine, exports) if cells else []
    jobs: list[tuple[str, ExportJob]] = []
    for cell in first_of_each(cells):
        maker, made = folder_name(cell), measuring.assets(cell)
        claim(root, maker, digest_of([job.place.digest for job in made]))
        targets = _targets(root, maker, tests, exports)
        jobs += [(maker, ExportJob(job, tuple(targets[one.id] for one in job.subjects))) for job in made]
    total = sum(len(job.targets) for _, job in jobs)
    failed = engine.networks.map(run_export, [job for _, job in jobs], "export", total) if jobs else []
    failures += [(name, *pair) for (name, _), pairs in zip(jobs, failed, strict=True) for pair in pairs]
    write_failures(root / FAILURES, failures)
    write_index(root, measuring.tests.ids, {name: name for name, _ in jobs})
    return len(failures)


def folder_name(cell: Cell) -> str:
    """Of a cell's assets: method and steps as tables spell them, `vm-1x2`."""
    sampler = f"-{cell.own.sampler.name}" if cell.extra else ""
    return f"{cell.line.label.replace(':', '_')}-{cell.line.steps}x2{sampler}"


def vertex_colours(mesh: Mesh) -> NDArray[np.float32]:
    """[V, 3] sRGB of a mesh whose corners at a vertex have one colour, as decoders make them; 0 where no face is."""
    colours = np.zeros((len(mesh.vertices), 3), np.float32)
    colours[mesh.faces] = mesh.corner_rgba[..., :3]
    return colours


def run_export(job: ExportJob) -> list[tuple[str, str]]:
    """Write what is missing of some assets; returns (asset id, reason) of those that failed."""
    made, failures = job.made.place.get(), []
    for i, (subject, target) in enumerate(zip(job.made.subjects, job.targets, strict=True)):
        todo = [name for name in target.formats if not target.file(name).exists()]
        reason = str(made["errors"][i]) or (_written(job.made, made, i, target, todo) if todo else "")
        if reason:
            failures.append((subject.id, reason))
        tick()
    return failures


def run_truth(job: TruthJob) -> list[tuple[str, str]]:
    """Write what is missing of some test assets; returns (asset id, reason) of those that failed."""
    failures = []
    for asset, target in zip(job.assets, job.targets, strict=True):
        todo = [name for name in target.formats if not target.file(name).exists()]
        try:
            mesh = asset.load() if todo else None
            for name in todo:
                assert mesh is not None
                TRUTH_FORMATS[name](target, mesh)
        except AssetError as error:
            failures.append((asset.id, str(error)))
        tick()
    return failures


def _written(job: AssetsJob, made: Arrays, i: int, target: Target, formats: Sequence[str]) -> str:
    """Decode an asset again and write it; returns why that was not possible, or "" where it was."""
    rows, reasons = ragged(made["counts"])[i], []
    pipeline = load_cached(job.maker.world, job.maker.device).whole
    asset = Decoded(pipeline, made["coords"][rows], made["latents"][rows])
    for name in formats:
        try:
            FORMATS[name](target, asset)
        except AssetError as error:  # its picture may be there where it has no surface
            reasons.append(str(error))
    return reasons[0] if reasons else ""


def _targets(root: Path, maker: str, tests: TestSet, exports: Exports) -> Mapping[str, Target]:
    """By asset id."""
    return {name: Target(root, maker, safe_path(name), exports.of(row)) for row, name in enumerate(tests.ids)}


def _export_truth(root: Path, tests: TestSet, engine: Engine, exports: Exports) -> list[tuple[str, str, str]]:
    """Write the test assets themselves; returns (folder, asset id, reason) of failures."""
    claim(root, TRUTH, tests.digest)
    shown = [
        (PICTURE, *(name for name in exports.of(row) if name in TRUTH_FORMATS and name != PICTURE))
        for row in range(len(tests.ids))
    ]
    targets = [Target(root, TRUTH, safe_path(name), mine) for name, mine in zip(tests.ids, shown, strict=True)]
    assets = [subject.asset for subject in tests.subjects]
    starts = range(0, len(targets), SHARD)
    jobs = [TruthJob(tuple(assets[i : i + SHARD]), tuple(targets[i : i + SHARD])) for i in starts]
    failed = engine.team.map(run_truth, jobs, "export truth", len(targets))
    return [(TRUTH, *pair) for pairs in failed for pair in pairs]


def _write_conditions(root: Path, tests: TestSet) -> None:
    claim(root, CONDITION, digest_of([subject.key for subject in tests.subjects]))
    for subject in tests.subjects:
        path = Target(root, CONDITION, safe_path(subject.id)).file("png")
        if not path.exists():
            write_png(path, conditioning_images([subject])[0])
