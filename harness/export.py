"""`--export`: files of whole assets, made of the latents that a run has left, and of what they are judged beside."""

from __future__ import annotations

import csv
import hashlib
import io
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ..assets.gaussian_ply import write_gaussians
from ..assets.mesh import Mesh
from ..assets.mesh_export import write_glb
from ..assets.source import Asset
from ..base.errors import AssetError, unknown_name
from ..base.files import replacing, write_json, write_text
from .assemble import Decoded, decoded, ragged
from .asset_grid import first_of_each, gaussians_picture, mesh_picture
from .asset_jobs import AssembledCell, load_assembled
from .jobs import load_cached
from .plan import AssetCell
from .pool import tick
from .viewing import VIEWED_FACES, viewed
from .workshop import SHARD, Workshop
from .world import SecondStage

FOLDER = "export"  # in the run's
CONDITION, TRUTH, VIEW = "condition", "truth", "view"  # in it, beside the folders of the methods
INDEX, INDEX_FORMAT = "index.json", 1
FAILURES = "failures.csv"
SOURCE = "source.txt"  # beside the assets of a cell: which cell it was
LONGEST = 180  # bytes of a part of a path: file systems allow 255, endings and temporary names need some
UNSAFE = re.compile(r"[^\w .,()+=@-]")
PICTURE_SIDE = 256  # pixels


@dataclass(frozen=True)
class Target:
    """Where files of an asset go. root: the folder of exports; maker: a folder in it; name: path without the ending."""

    root: Path
    maker: str
    name: Path

    def file(self, ending: str) -> Path:
        return self._file(self.root / self.maker, ending)

    @property
    def view(self) -> Path:
        """Of the mesh with few faces, where the whole one has many."""
        return self._file(self.root / VIEW / self.maker, "glb")

    def _file(self, folder: Path, ending: str) -> Path:
        return folder / self.name.with_name(f"{self.name.name}.{ending}")  # not with_suffix: names may have dots


def _write_mesh(target: Target, asset: Decoded) -> None:
    if len(asset.mesh.faces) > VIEWED_FACES:
        _write_viewed(target.view, asset.mesh)
    write_glb(target.file("glb"), asset.mesh.vertices, asset.mesh.faces, vertex_colours(asset.mesh))


def _write_gaussians(target: Target, asset: Decoded) -> None:
    write_gaussians(target.file("ply"), asset.gaussians)


def _write_picture(target: Target, asset: Decoded) -> None:
    _write_png(target.file("png"), gaussians_picture(asset.gaussians, PICTURE_SIDE))


FORMATS: dict[str, Callable[[Target, Decoded], None]] = {
    "glb": _write_mesh,
    "ply": _write_gaussians,
    "png": _write_picture,
}


@dataclass(frozen=True)
class Subjects:
    """The test assets: what methods were shown and what they should have made.

    Attributes:
        ids: [N], in the order of the cells' assets.
        shown: [N, S, S, 3] uint8, conditioning pictures as the networks saw them.
        truth: [N].
        digest: of the source of `truth`.
    """

    ids: Sequence[str]
    shown: NDArray[np.uint8]
    truth: Sequence[Asset]
    digest: str


@dataclass(frozen=True)
class ExportJob:
    """Some assets of one cell. assembled: file of their latents."""

    world: Path
    assembled: Path
    asset_ids: tuple[str, ...]
    targets: tuple[Target, ...]
    formats: tuple[str, ...]
    device: str


@dataclass(frozen=True)
class TruthJob:
    """Some test assets themselves."""

    assets: tuple[Asset, ...]
    targets: tuple[Target, ...]


def formats_of(words: Sequence[str]) -> tuple[str, ...]:
    """The formats of `--export`, each once. Raises UsageError for an unknown one."""
    for word in words:
        if word not in FORMATS:
            raise unknown_name("export format", word, FORMATS)
    return tuple(dict.fromkeys(words))


def export(cells: Sequence[AssetCell], shop: Workshop, subjects: Subjects, formats: Sequence[str]) -> int:
    """Write OUT/export/<method>-<steps>x2/<asset id>.<format> and what they are judged beside; returns how many failed.

    Of each method's whole assets those of the first training and generation seed are written. Beside them, whatever
    the formats: condition/<asset id>.png, the picture that the networks were shown; truth/<asset id>.png and .glb, of
    few faces; for meshes of many faces view/<method>-<steps>x2/<asset id>.glb, of few; failures.csv; and last
    index.json, which lists the files of each asset. Files that are there stay as they are, unless they are another
    cell's or source's: of an earlier run to this folder with other settings.

    Args:
        cells: whose assets there are.

    Raises:
        RunError: a file cannot be written.
    """
    root = shop.out / FOLDER
    _write_conditions(root, subjects)
    failures = _export_truth(root, shop, subjects)
    jobs: list[tuple[str, ExportJob]] = []
    for cell in first_of_each(cells):
        maker = folder_name(cell)
        _claim(root, maker, cell.folder)
        jobs += [(maker, job) for job in _jobs(cell, shop, subjects.ids, root, tuple(formats))]
    total = sum(len(job.asset_ids) for _, job in jobs)
    failed = shop.networks.map(run_export, [job for _, job in jobs], "export", total)
    failures += [(name, *pair) for (name, _), pairs in zip(jobs, failed, strict=True) for pair in pairs]
    _write_failures(root / FAILURES, failures)
    _write_index(root, subjects.ids, dict.fromkeys(name for name, _ in jobs))
    return len(failures)


def folder_name(cell: AssetCell) -> str:
    """Of a cell's assets: method and steps as tables spell them, `vm-1x2`."""
    return f"{cell.who.file_name}-{cell.steps}x2"


def safe_path(asset_id: str) -> Path:
    """A relative path that stays below its folder; different for different ids. Slashes separate sub-folders.

    An id that is no safe path itself gets, after the change, a digest of what it was.
    """
    parts = [_safe_part(part) for part in asset_id.split("/") if part not in ("", ".")]
    path = "/".join(parts)
    if parts and path == asset_id:
        return Path(path)
    digest = hashlib.sha256(asset_id.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return Path(f"{path}-{digest}" if parts else digest)


def vertex_colours(mesh: Mesh) -> NDArray[np.float32]:
    """[V, 3] sRGB of a mesh whose corners at a vertex have one colour, as decoders make them; 0 where no face is."""
    colours = np.zeros((len(mesh.vertices), 3), np.float32)
    colours[mesh.faces] = mesh.corner_rgba[..., :3]
    return colours


def run_export(job: ExportJob) -> list[tuple[str, str]]:
    """Write what is missing of some assets; returns (asset id, reason) of those that failed."""
    made, failures = load_assembled([job.assembled]), []
    for i, (asset_id, target) in enumerate(zip(job.asset_ids, job.targets, strict=True)):
        todo = [name for name in job.formats if not target.file(name).exists()]
        reason = made.errors[i] or (
            _written(load_cached(job.world, job.device).whole, made, i, target, todo) if todo else ""
        )
        if reason:
            failures.append((asset_id, reason))
        tick()
    return failures


def run_truth(job: TruthJob) -> list[tuple[str, str]]:
    """Write what is missing of some test assets; returns (asset id, reason) of those that failed."""
    failures = []
    for asset, target in zip(job.assets, job.targets, strict=True):
        try:
            if not (target.file("png").exists() and target.file("glb").exists()):
                mesh = asset.load()
                _write_png(target.file("png"), mesh_picture(mesh, PICTURE_SIDE))
                _write_viewed(target.file("glb"), mesh)
        except AssetError as error:
            failures.append((asset.id, str(error)))
        tick()
    return failures


def _written(stage: SecondStage, made: AssembledCell, i: int, target: Target, formats: Sequence[str]) -> str:
    """Decode an asset again and write it; returns why that was not possible, or ""."""
    rows = list(ragged(made.assets.counts))[i]
    try:
        asset = decoded(stage, made.assets.coords[rows], torch.from_numpy(made.assets.latents[rows]))
        for name in formats:
            FORMATS[name](target, asset)
    except AssetError as error:
        return str(error)
    return ""


def _jobs(
    cell: AssetCell, shop: Workshop, asset_ids: Sequence[str], root: Path, formats: tuple[str, ...]
) -> Iterator[ExportJob]:
    """One per file of the cell."""
    for i, assembled in enumerate(shop.asset_files(cell, len(asset_ids))):
        ids = tuple(asset_ids[i * SHARD : (i + 1) * SHARD])
        targets = tuple(Target(root, folder_name(cell), safe_path(name)) for name in ids)
        yield ExportJob(shop.world, assembled, ids, targets, formats, shop.device)


def _export_truth(root: Path, shop: Workshop, subjects: Subjects) -> list[tuple[str, str, str]]:
    """Write the test assets themselves; returns (folder, asset id, reason) of failures."""
    _claim(root, TRUTH, subjects.digest)
    targets = [Target(root, TRUTH, safe_path(name)) for name in subjects.ids]
    starts = range(0, len(targets), SHARD)
    jobs = [TruthJob(tuple(subjects.truth[i : i + SHARD]), tuple(targets[i : i + SHARD])) for i in starts]
    failed = shop.team.map(run_truth, jobs, "export truth", len(targets))
    return [(TRUTH, *pair) for pairs in failed for pair in pairs]


def _write_conditions(root: Path, subjects: Subjects) -> None:
    _claim(root, CONDITION, hashlib.sha256(np.ascontiguousarray(subjects.shown).data).hexdigest())
    for name, picture in zip(subjects.ids, subjects.shown, strict=True):
        path = Target(root, CONDITION, safe_path(name)).file("png")
        if not path.exists():
            _write_png(path, picture)


def _claim(root: Path, maker: str, source: str) -> None:
    """Make a folder that of a cell: remove another cell's assets, if there are any, and say whose it is now."""
    mark = root / maker / SOURCE
    if mark.is_file() and mark.read_text(encoding="utf-8").strip() == source:
        return
    for folder in (root / maker, root / VIEW / maker):
        for path in sorted(folder.rglob("*")):
            if path.suffix.removeprefix(".") in FORMATS and path.is_file():
                path.unlink()
    write_text(mark, source + "\n")


def _write_png(path: Path, picture: NDArray[np.uint8]) -> None:
    with replacing(path) as part:
        Image.fromarray(picture).save(part, format="PNG")


def _write_viewed(path: Path, mesh: Mesh) -> None:
    few = viewed(mesh)
    write_glb(path, few.vertices, few.faces, few.colours)


def _write_index(root: Path, asset_ids: Sequence[str], makers: Iterable[str]) -> None:
    """Which files there are of each asset, by paths below `root`: data for reports."""
    folders = (CONDITION, TRUTH, *makers)
    assets = [
        {"id": name, "files": {maker: _files(Target(root, maker, safe_path(name))) for maker in folders}}
        for name in asset_ids
    ]
    write_json(root / INDEX, {"format": INDEX_FORMAT, "assets": assets})


def _files(target: Target) -> list[str]:
    paths = [*(target.file(name) for name in FORMATS), target.view]
    return [path.relative_to(target.root).as_posix() for path in paths if path.is_file()]


def _safe_part(part: str) -> str:
    safe = UNSAFE.sub("_", part)
    if safe.startswith("."):
        safe = "_" + safe[1:]  # neither a hidden file nor the folder above
    return safe.encode("utf-8")[:LONGEST].decode("utf-8", "ignore")


def _write_failures(path: Path, failures: Sequence[tuple[str, str, str]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([("made_by", "id", "reason"), *failures])
    write_text(path, text.getvalue())
