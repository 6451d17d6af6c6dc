"""The folder of files of whole assets, which the pages of a report show: names, what belongs there, its index.

What is there stays as it is; of assets that cannot be written the list of failures says why.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...assets.mesh_export import write_glb
from ...base.errors import AssetError
from ...base.files import replacing, write_json, write_text
from ...geometry.mesh import Mesh
from ..engine.workers import Workers, tick
from ..generate.viewing import viewed
from ..inputs.paths import safe_path

FOLDER = "export"  # in the run's
CONDITION, TRUTH, VIEW = "condition", "truth", "view"  # in it, beside the folders of the methods
INDEX, INDEX_FORMAT = "index.json", 1
FAILURES = "failures.csv"
SOURCE = "source.txt"  # beside the assets of a cell: which cell it was
FORMATS = ("glb", "ply", "png")  # in the order of the index
PICTURE_SIDE = 256  # pixels
FEW = 4  # assets of which there are meshes, where none are asked for


@dataclass(frozen=True)
class Target:
    """Where files of an asset go, and of which formats.

    Attributes:
        root: the folder of exports. maker: a folder in it. name: path without the ending.
        formats: those to write.
    """

    root: Path
    maker: str
    name: Path
    formats: tuple[str, ...] = ()

    def file(self, ending: str) -> Path:
        return self._file(self.root / self.maker, ending)

    @property
    def view(self) -> Path:
        """Of the mesh with few faces, where the whole one has many."""
        return self._file(self.root / VIEW / self.maker, "glb")

    def _file(self, folder: Path, ending: str) -> Path:
        return folder / self.name.with_name(f"{self.name.name}.{ending}")  # not with_suffix: names may have dots


Writer = Callable[[Target, str], None]  # writes an asset's file of an ending; raises AssetError where it has none


class Shard(Protocol):
    """Some assets."""

    def writers(self) -> Iterable[Writer]:
        """Of each asset, in order."""
        ...


@dataclass(frozen=True)
class ExportJob:
    """Some assets, and where the files of each go, by its id."""

    assets: Shard
    targets: Mapping[str, Target]

    @property
    def missing(self) -> bool:
        """Whether there is something to write."""
        return any(not target.file(ending).exists() for target in self.targets.values() for ending in target.formats)


def write_files(jobs: Sequence[ExportJob], team: Workers, label: str) -> list[tuple[str, str, str]]:
    """Write what is missing; returns (maker, asset id, reason) of those that failed."""
    todo = [job for job in jobs if job.missing]
    failed = team.map(run_export, todo, label, sum(len(job.targets) for job in todo))
    return [one for many in failed for one in many]


def run_export(job: ExportJob) -> list[tuple[str, str, str]]:
    """A job of `write_files`."""
    failures = []
    for (asset_id, target), write in zip(job.targets.items(), job.assets.writers(), strict=True):
        reasons = []
        for ending in target.formats:
            if not target.file(ending).exists():
                try:
                    write(target, ending)
                except AssetError as error:  # its picture may be there where it has no surface
                    reasons.append(str(error))
        failures += [(target.maker, asset_id, reason) for reason in reasons[:1]]
        tick()
    return failures


def claim(root: Path, maker: str, source: str) -> None:
    """Make a folder that of a cell: remove another cell's assets, if there are any, and say whose it is now."""
    mark = root / maker / SOURCE
    if mark.is_file() and mark.read_text(encoding="utf-8").strip() == source:
        return
    for folder in (root / maker, root / VIEW / maker):
        for path in sorted(folder.rglob("*")):
            if path.suffix.removeprefix(".") in FORMATS and path.is_file():
                path.unlink()
    write_text(mark, source + "\n")


def write_png(path: Path, picture: NDArray[np.uint8]) -> None:
    with replacing(path) as part:
        Image.fromarray(picture).save(part, format="PNG")


def write_viewed(path: Path, mesh: Mesh) -> None:
    few = viewed(mesh)
    write_glb(path, few.vertices, few.faces, few.colours)


def write_index(root: Path, asset_ids: Sequence[str], makers: Mapping[str, str]) -> None:
    """Which files there are of each asset, by paths below `root`: data for reports.

    Args:
        makers: folder of what each made, by its name in the index.
    """
    folders = {CONDITION: CONDITION, TRUTH: TRUTH, **makers}
    assets = [
        {"id": name, "files": {maker: _files(Target(root, at, safe_path(name))) for maker, at in folders.items()}}
        for name in asset_ids
    ]
    write_json(root / INDEX, {"format": INDEX_FORMAT, "assets": assets})


def _files(target: Target) -> list[str]:
    paths = [*(target.file(name) for name in FORMATS), target.view]
    return [path.relative_to(target.root).as_posix() for path in paths if path.is_file()]


def write_failures(path: Path, failures: Sequence[tuple[str, str, str]], first: str = "made_by") -> None:
    """failures.csv. first: name of its first column; then come asset and reason."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([(first, "id", "reason"), *failures])
    write_text(path, text.getvalue())
