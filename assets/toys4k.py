"""Toys4k as TRELLIS evaluates on it: the rows of TRELLIS-500K's Toys4k.csv, each with its .blend file.

Neither is shipped or downloaded here: the shapes come from their authors, on request. See docs/toys4k.md.
"""

from __future__ import annotations

import csv
import hashlib
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ..base.errors import AssetError, MissingError, UsageError, unknown_name
from ..base.files import digest_of, file_sha256
from ..geometry.mesh import Mesh
from .blend import BlendCache, ExportJob, Job, Made
from .mesh_files import read_mesh

CSV = "Toys4k.csv"
FOLDER = "toys4k_blend_files"
COLUMNS = ("sha256", "file_identifier", "aesthetic_score", "captions")
SUBSET_PREFIX = "trellis-v1/1250/"
MIN_AESTHETIC_SCORE = 4.5  # DATASET.md of microsoft/TRELLIS: 3,229 rows
N_SUBSET = 1250
N_SMOKE = 64
HOW_TO_GET = (
    f"Download {CSV} from the dataset JeffreyXiang/TRELLIS-500K, and ask for {FOLDER}.zip at "
    "github.com/rehg-lab/lowshot-shapebias (toys4k)"
)


@dataclass(frozen=True)
class Row:
    """One row of Toys4k.csv.

    Attributes:
        file_identifier: path of the .blend file below `toys4k_blend_files`.
        captions: as in the file, a JSON list; "" for none.
    """

    sha256: str
    file_identifier: str
    aesthetic_score: float
    captions: str = ""


def subset_key(asset_sha256: str) -> str:
    """By which the smaller subsets are ordered: as good as random, and the same for everyone."""
    return hashlib.sha256(f"{SUBSET_PREFIX}{asset_sha256}".encode()).hexdigest()


def _full(rows: Iterable[Row]) -> list[Row]:
    return [row for row in rows if row.aesthetic_score >= MIN_AESTHETIC_SCORE]


def _sub1250(rows: Iterable[Row]) -> list[Row]:
    return sorted(_full(rows), key=lambda row: subset_key(row.sha256))[:N_SUBSET]


def _smoke(rows: Iterable[Row]) -> list[Row]:
    return _sub1250(rows)[:N_SMOKE]


SUBSETS: Mapping[str, Callable[[Iterable[Row]], list[Row]]] = {"full": _full, "sub1250": _sub1250, "smoke": _smoke}


def pick(rows: Iterable[Row], subset: str) -> list[Row]:
    """The rows of a subset of trellis-v1, sorted by sha256.

    full: aesthetic score of at least 4.5. sub1250: the 1,250 of them with the smallest `subset_key` (not the 1,250
    of the TRELLIS paper, which are not published). smoke: the first 64 of sub1250.

    Raises:
        UsageError: there is no such subset.
    """
    if subset not in SUBSETS:
        raise unknown_name("subset of Toys4k", subset, SUBSETS)
    return sorted(SUBSETS[subset](rows), key=lambda row: row.sha256)


def read_rows(path: Path) -> list[Row]:
    """All rows of a Toys4k.csv in its order; of rows with one sha256 (one file under two names) the first.

    Raises:
        MissingError: there is no such file.
        UsageError: it is another or a damaged file.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream, strict=True)
            _check_columns(path, reader.fieldnames or [])
            rows = [_row(f"{path}, line {reader.line_num}", row) for row in reader]
    except FileNotFoundError as error:
        raise MissingError(f"Missing file {path}. {HOW_TO_GET}.") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path} is not a CSV file in UTF-8 ({error}). Download it again.") from error
    if not rows:
        raise UsageError(f"{path} has no rows. Download it again.")
    first: dict[str, Row] = {}
    for row in rows:
        first.setdefault(row.sha256, row)
    return list(first.values())


def _check_columns(path: Path, columns: Sequence[str]) -> None:
    if any(name not in columns for name in COLUMNS):
        raise UsageError(
            f"{path}, line 1: found the columns {', '.join(columns) or 'none'} - expected {', '.join(COLUMNS)}. "
            f"Give TRELLIS-500K's {CSV}."
        )


def _row(where: str, row: Mapping[str, str | None]) -> Row:
    sha256 = (row["sha256"] or "").strip().lower()
    if not re.fullmatch("[0-9a-f]{64}", sha256):
        raise UsageError(f"{where}, column sha256: '{sha256}' is not a sha256 - 64 hexadecimal digits are needed.")
    file = PurePosixPath((row["file_identifier"] or "").strip())
    if file.suffix != ".blend" or file.is_absolute() or ".." in file.parts:
        raise UsageError(f"{where}, column file_identifier: '{file}' is not the path of a .blend file below {FOLDER}.")
    try:
        score = float(row["aesthetic_score"] or "")
    except ValueError:
        score = math.nan
    if not math.isfinite(score):
        raise UsageError(f"{where}, column aesthetic_score: '{row['aesthetic_score']}' is not a number.")
    return Row(sha256, file.as_posix(), score, row["captions"] or "")


@dataclass(frozen=True)
class Toys4kAsset:
    """One .blend file. Its id is its sha256, by which the protocol draws its seeds and its view."""

    row: Row
    path: Path
    blender: BlendCache

    @property
    def id(self) -> str:
        return self.row.sha256

    @property
    def category(self) -> str:
        """The first folder of its path, such as `airplane`."""
        parts = PurePosixPath(self.row.file_identifier).parts
        return parts[0] if len(parts) > 1 else ""

    def verify(self) -> None:
        """Raises AssetError when the file is missing or is not the one of the list."""
        if not self.path.is_file():
            raise AssetError(f"{self.row.file_identifier}: it is missing in {FOLDER}")
        found = file_sha256(self.path)
        if found != self.row.sha256:
            raise AssetError(
                f"{self.row.file_identifier}: its sha256 is {found[:12]}... - {CSV} says {self.row.sha256[:12]}... - "
                "extract it again"
            )

    def made(self, job: Job) -> Made:
        """What Blender makes of the file, from the cache where it is there.

        Raises:
            AssetError: the file is missing or another, or Blender fails.
        """
        self.verify()
        return self.blender.made(self.path, job, sha256=self.row.sha256)

    def load(self) -> Mesh:
        """The shape, normalised.

        Raises:
            AssetError: the file is missing or another, Blender fails, or there is nothing to show.
        """
        return read_mesh(self.made(ExportJob()).folder / "shape.glb").normalised()


@dataclass(frozen=True)
class Toys4kSource:
    """A subset of Toys4k.

    Attributes:
        csv: TRELLIS-500K's Toys4k.csv. folder: the extracted `toys4k_blend_files`. subset: a key of `SUBSETS`.
    """

    csv: Path
    folder: Path
    blender: BlendCache
    subset: str = "full"

    @property
    def name(self) -> str:
        return f"toys4k-{self.subset}"

    def assets(self) -> Sequence[Toys4kAsset]:
        """All assets of the subset, sorted by id; files that are missing or changed fail when they are loaded.

        Raises:
            MissingError: there is no such list or folder.
            UsageError: the list is malformed, or there is no such subset.
        """
        rows = pick(read_rows(self.csv), self.subset)
        if not self.folder.is_dir():
            raise MissingError(f"There is no folder {self.folder}. {HOW_TO_GET}, then extract it.")
        if not rows:
            raise UsageError(f"{self.csv}: no row has an aesthetic score of {MIN_AESTHETIC_SCORE} or more.")
        return [Toys4kAsset(row, self.folder / row.file_identifier, self.blender) for row in rows]

    def digest(self) -> str:
        """sha256 of the list of assets, of which files are there, and of what converts them.

        The files' content is not read (32 GB): an asset whose content is not the listed one fails when it is loaded.
        """
        assets = [[a.id, a.category, _size(a.path)] for a in self.assets()]
        return digest_of({"assets": assets, "made by": self.blender.inputs("", ExportJob())})


def _size(path: Path) -> int:
    """Bytes, -1 for a missing file: with it a repaired file gives another digest."""
    return os.stat(path).st_size if path.is_file() else -1


def faults(assets: Iterable[Toys4kAsset]) -> dict[str, str]:
    """Reason by id, for each file that is missing or differs. Reads all files."""
    found = {}
    for asset in assets:
        try:
            asset.verify()
        except AssetError as error:
            found[asset.id] = str(error)
    return found
