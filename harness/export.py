"""`--export`: a file per whole asset, made of the latents that a run has left."""

from __future__ import annotations

import csv
import hashlib
import io
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ..assets.gaussian_ply import write_gaussians
from ..assets.mesh import Mesh
from ..assets.mesh_export import write_glb
from ..base.errors import AssetError, unknown_name
from ..base.files import write_text
from .assemble import Decoded, decoded, ragged
from .asset_grid import first_of_each
from .asset_jobs import AssembledCell, load_assembled
from .jobs import load_cached
from .plan import AssetCell
from .pool import tick
from .workshop import SHARD, Workshop
from .world import SecondStage

FOLDER = "export"  # in the run's
FAILURES = "failures.csv"
SOURCE = "source.txt"  # beside the assets of a cell: which cell it was
LONGEST = 180  # bytes of a part of a path: file systems allow 255, endings and temporary names need some
UNSAFE = re.compile(r"[^\w .,()+=@-]")


def _write_mesh(path: Path, asset: Decoded) -> None:
    write_glb(path, asset.mesh.vertices, asset.mesh.faces, vertex_colours(asset.mesh))


def _write_gaussians(path: Path, asset: Decoded) -> None:
    write_gaussians(path, asset.gaussians)


FORMATS: dict[str, Callable[[Path, Decoded], None]] = {"glb": _write_mesh, "ply": _write_gaussians}


@dataclass(frozen=True)
class ExportJob:
    """Some assets of one cell. assembled: file of their latents; paths: of each asset, without the ending."""

    world: Path
    assembled: Path
    asset_ids: tuple[str, ...]
    paths: tuple[Path, ...]
    formats: tuple[str, ...]
    device: str


def formats_of(words: Sequence[str]) -> tuple[str, ...]:
    """The formats of `--export`, each once. Raises UsageError for an unknown one."""
    for word in words:
        if word not in FORMATS:
            raise unknown_name("export format", word, FORMATS)
    return tuple(dict.fromkeys(words))


def export(cells: Sequence[AssetCell], shop: Workshop, asset_ids: Sequence[str], formats: Sequence[str]) -> int:
    """Write OUT/export/<method>-<steps>x2/<asset id>.<format>, and export/failures.csv; returns how many failed.

    Of each method's whole assets those of the first training and generation seed are written. Files that are there
    stay as they are, unless they are another cell's: of an earlier run to this folder with other settings.

    Args:
        cells: whose assets there are.
        asset_ids: of all test assets.

    Raises:
        RunError: a file cannot be written.
    """
    jobs: list[tuple[str, ExportJob]] = []
    for cell in first_of_each(cells):
        folder = shop.out / FOLDER / folder_name(cell)
        _claim(folder, cell.folder)
        jobs += [(folder.name, job) for job in _jobs(cell, shop, asset_ids, folder, tuple(formats))]
    total = sum(len(job.asset_ids) for _, job in jobs)
    failed = shop.networks.map(run_export, [job for _, job in jobs], "export", total)
    failures = [(name, *pair) for (name, _), pairs in zip(jobs, failed, strict=True) for pair in pairs]
    _write_failures(shop.out / FOLDER / FAILURES, failures)
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
    for i, (asset_id, path) in enumerate(zip(job.asset_ids, job.paths, strict=True)):
        todo = [name for name in job.formats if not _file(path, name).exists()]
        reason = made.errors[i] or (
            _written(load_cached(job.world, job.device).whole, made, i, path, todo) if todo else ""
        )
        if reason:
            failures.append((asset_id, reason))
        tick()
    return failures


def _written(stage: SecondStage, made: AssembledCell, i: int, path: Path, formats: Sequence[str]) -> str:
    """Decode an asset again and write it; returns why that was not possible, or ""."""
    rows = list(ragged(made.assets.counts))[i]
    try:
        asset = decoded(stage, made.assets.coords[rows], torch.from_numpy(made.assets.latents[rows]))
        for name in formats:
            FORMATS[name](_file(path, name), asset)
    except AssetError as error:
        return str(error)
    return ""


def _jobs(
    cell: AssetCell, shop: Workshop, asset_ids: Sequence[str], folder: Path, formats: tuple[str, ...]
) -> Iterator[ExportJob]:
    """One per file of the cell."""
    for i, assembled in enumerate(shop.asset_files(cell, len(asset_ids))):
        ids = tuple(asset_ids[i * SHARD : (i + 1) * SHARD])
        paths = tuple(folder / safe_path(name) for name in ids)
        yield ExportJob(shop.world, assembled, ids, paths, formats, shop.device)


def _claim(folder: Path, source: str) -> None:
    """Make the folder that of a cell: remove another cell's assets, if there are any, and say whose it is now."""
    mark = folder / SOURCE
    if mark.is_file() and mark.read_text(encoding="utf-8").strip() == source:
        return
    for path in sorted(folder.rglob("*")):
        if path.suffix.removeprefix(".") in FORMATS and path.is_file():
            path.unlink()
    write_text(mark, source + "\n")


def _file(path: Path, ending: str) -> Path:
    return path.with_name(f"{path.name}.{ending}")  # not with_suffix: names may have dots


def _safe_part(part: str) -> str:
    safe = UNSAFE.sub("_", part)
    if safe.startswith("."):
        safe = "_" + safe[1:]  # neither a hidden file nor the folder above
    return safe.encode("utf-8")[:LONGEST].decode("utf-8", "ignore")


def _write_failures(path: Path, failures: Sequence[tuple[str, str, str]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([("made_by", "id", "reason"), *failures])
    write_text(path, text.getvalue())
