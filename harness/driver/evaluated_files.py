"""Pictures and meshes that the pages of an evaluation show: of the system's files, and of what they are held against.

The pictures are those that distances are measured on, from the first camera, made smaller: nothing is drawn again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...base.errors import AssetError
from ...base.files import digest_of
from ...geometry.mesh import Mesh
from ..engine.engine import Engine
from ..engine.workers import tick
from ..inputs.paths import safe_path
from ..measure.conditions import FileConditions, on_black, read_picture
from ..measure.looks import FileLooks, TruthAssets
from ..measure.sides import FilesSide, TruthSide
from .evaluation import Evaluation
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

LABEL = "pictures for pages"  # of this work in the progress
LOOKS = ("gaussians", "mesh")  # what pictures are of, the better first

Looked = FileLooks | TruthAssets


@dataclass(frozen=True)
class ShownJob:
    """Some assets of one side. look: whose pictures are there; "": none are."""

    looks: Looked
    look: str
    targets: tuple[Target, ...]


def write_shown(found: Evaluation, out: Path, engine: Engine) -> None:
    """Write OUT/export: pictures of all assets and meshes of the first few, by the system's name, `truth`, `condition`.

    Raises:
        RunError: a file cannot be written.
    """
    root, name = out / FOLDER, found.options.name
    folder = f"made/{safe_path(name).as_posix()}"  # apart from those of the other sides, whatever the name
    of_made = [need for metric in found.metrics for need in metric.made]
    of_truth = [need for metric in found.metrics for need in (*metric.truth, *metric.population)]
    _write_conditions(root, found.condition)
    failures = [(TRUTH, *one) for one in _write_side(root, TRUTH, found.truth, _look(of_truth), engine)]
    failures += [(name, *one) for one in _write_side(root, folder, found.made, _look(of_made), engine)]
    write_failures(root / FAILURES, failures)
    write_index(root, found.ids, {name: folder})


def run_shown(job: ShownJob) -> list[tuple[str, str]]:
    """Write what is missing of some assets; returns (asset id, reason) of those that failed."""
    failures = []
    pictures = job.looks.place(job.look).get() if job.look else None
    for i, (subject, target) in enumerate(zip(job.looks.subjects, job.targets, strict=True)):
        reason = str(pictures["errors"][i]) if pictures else ""
        try:
            if pictures and not reason and not target.file("png").exists():
                write_png(target.file("png"), small(pictures["data"][i][0].transpose(1, 2, 0)))
            if "glb" in target.formats and not target.file("glb").exists():
                mesh = _mesh(job.looks, i)
                if mesh is not None:
                    write_viewed(target.file("glb"), mesh)
        except AssetError as error:
            reason = reason or str(error)
        if reason:
            failures.append((subject.id, reason))
        tick()
    return failures


def small(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """[H, W, 3] at most `PICTURE_SIDE` high and wide."""
    image = Image.fromarray(picture)
    image.thumbnail((PICTURE_SIDE, PICTURE_SIDE), Image.Resampling.BOX)
    return np.asarray(image)


def _write_side(
    root: Path, folder: str, side: FilesSide | TruthSide, look: str, engine: Engine
) -> list[tuple[str, str]]:
    """Write what is missing of a side; returns (asset id, reason) of those that failed."""
    looks = [job for job in side.shards((look or LOOKS[0],)) if isinstance(job, Looked)]
    claim(root, folder, digest_of([job.source for job in looks]))
    if look:
        engine.do(looks)  # those that were cleared away
    few = {subject.id for subject in side.subjects[:FEW]}

    def target(asset_id: str) -> Target:
        return Target(root, folder, safe_path(asset_id), ("png", "glb") if asset_id in few else ("png",))

    jobs = [ShownJob(job, look, tuple(target(one.id) for one in job.subjects)) for job in looks]
    todo = [job for job in jobs if _missing(job)]
    if not todo:
        return []
    count = sum(len(job.targets) for job in todo)
    return [pair for pairs in engine.team.map(run_shown, todo, LABEL, count) for pair in pairs]


def _missing(job: ShownJob) -> bool:
    return any(not target.file(ending).exists() for target in job.targets for ending in target.formats)


def _mesh(looks: Looked, i: int) -> Mesh | None:
    """Where its pictures show it; None where there is none."""
    if isinstance(looks, FileLooks):
        asset = looks.files[i].mesh
        return None if asset is None else looks.studio.framed(asset.load())
    return looks.blender[i].load() if looks.blender else looks.studio.framed(looks.subjects[i].asset.load())


def _look(needs: Iterable[str]) -> str:
    """Whose pictures some metrics need; "" where they need none."""
    needed = {need.partition(":")[0] for need in needs}
    return next((look for look in LOOKS if look in needed), "")


def _write_conditions(root: Path, side: FileConditions) -> None:
    claim(root, CONDITION, digest_of(list(side.content)))
    for subject, path in zip(side.subjects, side.paths, strict=True):
        target = Target(root, CONDITION, safe_path(subject.id)).file("png")
        if path is not None and not target.exists():
            try:
                write_png(target, small(on_black(read_picture(path))))
            except AssetError:  # it is in the list of failures of the evaluation
                continue
