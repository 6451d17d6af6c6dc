"""Files of whole assets, and of what they are judged beside, which the pages of a run or an evaluation show.

A run makes them of the latents that it has left: pictures of all and meshes of the first few; `--export` asks for
others, or none. The pictures of an evaluation are those that distances are measured on, from the first camera, made
smaller: nothing is drawn again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...assets.gaussian_ply import write_gaussians
from ...assets.mesh_export import write_glb
from ...assets.source import Asset
from ...base.errors import AssetError, UsageError, unknown_name
from ...base.files import digest_of
from ...geometry.mesh import Mesh
from ..engine.engine import Engine
from ..engine.store import Arrays
from ..generate.made import SHARD, AssetsJob, Decoded
from ..generate.pictures import gaussians_picture, mesh_picture
from ..generate.viewing import VIEWED_FACES
from ..inputs.cells import ragged
from ..inputs.paths import safe_path
from ..inputs.subjects import TestSet, conditioning_images
from ..inputs.world import load_cached
from ..measure.conditions import FileConditions, on_black, read_picture
from ..measure.looks import FileLooks, TruthAssets
from ..measure.sides import FilesSide, TruthSide
from ..plan.plan import Cell
from .evaluation import Evaluation
from .export_folder import (
    CONDITION,
    FAILURES,
    FEW,
    FOLDER,
    PICTURE_SIDE,
    TRUTH,
    ExportJob,
    Target,
    Writer,
    claim,
    write_failures,
    write_files,
    write_index,
    write_png,
    write_viewed,
)
from .grid import first_of_each
from .measuring import Measuring

PICTURE = "png"
NONE = "none"  # the word for no files
LABEL = "pictures for pages"  # of this work in the progress
LOOKS = ("gaussians", "mesh")  # what pictures are of, the better first

Looked = FileLooks | TruthAssets


def _write_mesh(target: Target, asset: Decoded) -> None:
    if len(asset.mesh.faces) > VIEWED_FACES:
        write_viewed(target.view, asset.mesh)
    write_glb(target.file("glb"), asset.mesh.vertices, asset.mesh.faces, vertex_colours(asset.mesh))


def _write_gaussians(target: Target, asset: Decoded) -> None:
    write_gaussians(target.file("ply"), asset.gaussians)


def _write_picture(target: Target, asset: Decoded) -> None:
    write_png(target.file(PICTURE), gaussians_picture(asset.gaussians, PICTURE_SIDE))


def _write_truths_mesh(target: Target, mesh: Mesh) -> None:
    write_viewed(target.file("glb"), mesh)


def _write_truths_picture(target: Target, mesh: Mesh) -> None:
    write_png(target.file(PICTURE), mesh_picture(mesh, PICTURE_SIDE))


FORMATS: dict[str, Callable[[Target, Decoded], None]] = {
    "glb": _write_mesh,
    "ply": _write_gaussians,
    PICTURE: _write_picture,
}
TRUTH_FORMATS: dict[str, Callable[[Target, Mesh], None]] = {"glb": _write_truths_mesh, PICTURE: _write_truths_picture}


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
class MadeFiles:
    """Whole assets that a cell made."""

    made: AssetsJob

    def writers(self) -> Iterator[Writer]:
        found = self.made.place.get()
        pipeline = load_cached(self.made.maker.world, self.made.maker.device).whole
        for rows, error in zip(ragged(found["counts"]), found["errors"], strict=True):
            # decoded again, once for all of its files
            yield partial(_write_made, Decoded(pipeline, found["coords"][rows], found["latents"][rows]), str(error))


@dataclass(frozen=True)
class TruthFiles:
    """Test assets themselves."""

    assets: tuple[Asset, ...]

    def writers(self) -> Iterator[Writer]:
        for asset in self.assets:
            yield partial(_write_truth, cache(asset.load))


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
    jobs: list[ExportJob] = []
    makers: dict[str, str] = {}
    for cell in first_of_each(cells):
        maker, made = folder_name(cell), measuring.assets(cell)
        claim(root, maker, digest_of([job.place.digest for job in made]))
        targets, makers[maker] = _targets(root, maker, tests, exports), maker
        jobs += [ExportJob(MadeFiles(job), {one.id: targets[one.id] for one in job.subjects}) for job in made]
    failures += write_files(jobs, engine.networks, "export")
    write_failures(root / FAILURES, failures)
    write_index(root, measuring.tests.ids, makers)
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


def _write_made(asset: Decoded, error: str, target: Target, ending: str) -> None:
    if error:
        raise AssetError(error)
    FORMATS[ending](target, asset)


def _write_truth(load: Callable[[], Mesh], target: Target, ending: str) -> None:
    TRUTH_FORMATS[ending](target, load())


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
    targets = [
        (one.id, Target(root, TRUTH, safe_path(one.id), mine)) for one, mine in zip(tests.subjects, shown, strict=True)
    ]
    assets = [subject.asset for subject in tests.subjects]
    starts = range(0, len(targets), SHARD)
    jobs = [ExportJob(TruthFiles(tuple(assets[i : i + SHARD])), dict(targets[i : i + SHARD])) for i in starts]
    return write_files(jobs, engine.team, "export truth")


def _write_conditions(root: Path, tests: TestSet) -> None:
    claim(root, CONDITION, digest_of([subject.key for subject in tests.subjects]))
    for subject in tests.subjects:
        path = Target(root, CONDITION, safe_path(subject.id)).file("png")
        if not path.exists():
            write_png(path, conditioning_images([subject])[0])


@dataclass(frozen=True)
class SeenFiles:
    """Some assets of one side. look: whose pictures are there; "": none are."""

    looks: Looked
    look: str

    def writers(self) -> Iterator[Writer]:
        pictures = self.looks.place(self.look).get() if self.look else None
        for i in range(len(self.looks.subjects)):
            yield partial(_write_seen, self.looks, pictures, i)


def export_evaluation(found: Evaluation, out: Path, engine: Engine) -> None:
    """Write OUT/export: pictures of all assets and meshes of the first few, by the system's name, `truth`, `condition`.

    Raises:
        RunError: a file cannot be written.
    """
    root, name = out / FOLDER, found.options.name
    folder = f"made/{safe_path(name).as_posix()}"  # apart from those of the other sides, whatever the name
    of_made = [need for metric in found.metrics for need in metric.made]
    of_truth = [need for metric in found.metrics for need in (*metric.truth, *metric.population)]
    _write_shown_conditions(root, found.condition)
    jobs = _jobs(root, TRUTH, found.truth, _look(of_truth), engine)
    jobs += _jobs(root, folder, found.made, _look(of_made), engine)
    whose = {TRUTH: TRUTH, folder: name}
    failed = [(whose[maker], asset, why) for maker, asset, why in write_files(jobs, engine.team, LABEL)]
    write_failures(root / FAILURES, failed)
    write_index(root, found.ids, {name: folder})


def small(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """[H, W, 3] at most `PICTURE_SIDE` high and wide."""
    image = Image.fromarray(picture)
    image.thumbnail((PICTURE_SIDE, PICTURE_SIDE), Image.Resampling.BOX)
    return np.asarray(image)


def _jobs(root: Path, folder: str, side: FilesSide | TruthSide, look: str, engine: Engine) -> list[ExportJob]:
    """Of one side's assets."""
    looks = [job for job in side.shards((look or LOOKS[0],)) if isinstance(job, Looked)]
    claim(root, folder, digest_of([job.source for job in looks]))
    if look:
        engine.do(looks)  # those that were cleared away
    few = {subject.id for subject in side.subjects[:FEW]}

    def target(asset_id: str) -> Target:
        formats = (*(("png",) if look else ()), *(("glb",) if asset_id in few else ()))
        return Target(root, folder, safe_path(asset_id), formats)

    return [ExportJob(SeenFiles(job, look), {one.id: target(one.id) for one in job.subjects}) for job in looks]


def _write_seen(looks: Looked, pictures: Arrays | None, i: int, target: Target, ending: str) -> None:
    if ending == "glb":
        mesh = _mesh(looks, i)
        if mesh is not None:
            write_viewed(target.file("glb"), mesh)
    elif pictures is not None:
        if pictures["errors"][i]:
            raise AssetError(str(pictures["errors"][i]))
        write_png(target.file("png"), small(pictures["data"][i][0].transpose(1, 2, 0)))


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


def _write_shown_conditions(root: Path, side: FileConditions) -> None:
    claim(root, CONDITION, digest_of(list(side.content)))
    for subject, path in zip(side.subjects, side.paths, strict=True):
        target = Target(root, CONDITION, safe_path(subject.id)).file("png")
        if path is not None and not target.exists():
            try:
                write_png(target, small(on_black(read_picture(path))))
            except AssetError:  # it is in the list of failures of the evaluation
                continue
