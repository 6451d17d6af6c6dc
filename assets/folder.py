"""A folder of mesh files as a source of shapes, with or without a manifest."""

from __future__ import annotations

import csv
import os
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import cast

from ..base.errors import AssetError, MissingError, UsageError, printable
from ..base.files import digest_of, file_sha256
from ..geometry.mesh import Mesh
from .companions import mesh_key
from .mesh_files import READING, UP_AXIS, Up, read_mesh
from .sniff import SPLATS, Kind, kind_of

MANIFEST = "manifest.csv"
COLUMNS = ("id", "file", "category")  # further ones that are read: up, sha256

# Shapes that cannot be read. They are listed, so that they count as failures instead of going unnoticed.
UNREADABLE = (".fbx", ".dae", ".blend", ".3ds", ".usd", ".usda", ".usdc", ".usdz", ".3mf", ".x3d", ".wrl")
IMAGES = (".png", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True)
class FolderAsset:
    """One mesh file.

    Attributes:
        up: the axis that points up in the file, None for the habit of its format.
        sha256: digest that the file must have, "" for any.
    """

    id: str
    category: str
    path: Path
    up: Up | None = None
    sha256: str = ""

    @property
    def kind(self) -> Kind:
        """What the file holds."""
        return kind_of(self.path, tuple(UP_AXIS))

    @property
    def is_gaussians(self) -> bool:
        return self.kind in (Kind.GAUSSIANS, Kind.SPLAT)

    def load(self) -> Mesh:
        """The shape, normalised.

        Raises:
            AssetError: the file is missing, is not the one of the manifest, or cannot be used.
        """
        if not self.path.is_file():
            raise AssetError(f"{self.path.name}: there is no such file in {self.path.parent}")
        if self.sha256:
            found = file_sha256(self.path)
            if found != self.sha256.lower():
                raise AssetError(
                    f"{self.path.name}: its sha256 is {found[:12]}... - the manifest says {self.sha256[:12]}... - "
                    f"restore the file or correct the manifest"
                )
        return read_mesh(self.path, self.up).normalised()


@dataclass(frozen=True)
class FolderSource:
    """All meshes of a folder.

    With a `manifest.csv` (columns id, file, category; optional: up, which is y or z, and sha256) its rows are the
    assets, except those whose file is an image. Without one, every file below the folder that is a mesh is an
    asset: its id is the relative path without suffix, its category the first folder on that path.
    """

    path: Path

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self.path.resolve().name

    def assets(self) -> Sequence[FolderAsset]:
        """All assets, sorted by id. Gaussians beside a mesh of the same name are not listed.

        Raises:
            MissingError: there is no such folder, or no mesh in it.
            UsageError: the manifest is malformed.
        """
        found = self.files()
        names = Counter(asset.id for asset in found if not asset.is_gaussians)
        found = [asset for asset in found if not asset.is_gaussians or not names[asset.id]]
        return sorted(found if self.named else _distinct(found, self.path), key=lambda asset: asset.id)

    def files(self) -> list[FolderAsset]:
        """All files of assets, sorted; without a manifest an id is that of every file with that path without suffix.

        Raises: as `assets`.
        """
        if not self.path.is_dir():
            raise MissingError(f"There is no folder {self.path}. Give the folder that holds the meshes.")
        found = _from_manifest(self.path / MANIFEST) if self.named else _from_files(self.path)
        if not found:
            raise MissingError(
                f"No mesh in {self.path}. Looked for {', '.join(UP_AXIS)}"
                f"{' in ' + MANIFEST if self.named else ''}. Give a folder with such files."
            )
        return sorted(found, key=lambda asset: (asset.id, asset.path))

    @property
    def named(self) -> bool:
        """Whether there is a manifest."""
        return (self.path / MANIFEST).is_file()

    def digest(self) -> str:
        """sha256 of the list of assets and of the content of their files and of all files that these name.

        A missing file counts as "missing".
        """
        known: dict[Path, str] = {}
        assets = [[a.id, a.category, a.up, a.sha256, *_content(a.path, known)] for a in self.assets()]
        return digest_of({"assets": assets, "reading": READING})


def _from_files(folder: Path) -> list[FolderAsset]:
    paths = [path for path in walk(folder) if _has(path, (*UP_AXIS, *UNREADABLE, *SPLATS))]
    return [
        FolderAsset(id_of(path.with_suffix("")), id_of(path.parts[0]) if len(path.parts) > 1 else "", folder / path)
        for path in paths
    ]


def id_of(path: PurePath | str) -> str:
    """The name of an asset: printable, and spelled in one way (NFC) whatever the file system does."""
    return unicodedata.normalize("NFC", printable(path if isinstance(path, str) else path.as_posix()))


def _distinct(assets: Sequence[FolderAsset], folder: Path) -> list[FolderAsset]:
    """With ids that are unique: paths without suffix where those are, else with it.

    Raises:
        UsageError: two names differ in the way that their letters are spelled only.
    """
    whole = [id_of(asset.path.relative_to(folder)) for asset in assets]
    count = Counter(asset.id for asset in assets)
    ids = [name if count[asset.id] > 1 else asset.id for name, asset in zip(whole, assets, strict=True)]
    ids = ids if len(set(ids)) == len(ids) else whole
    twice = [name for name, number in Counter(ids).items() if number > 1]
    if twice:
        raise UsageError(f"{folder} has two files with the name '{twice[0]}', spelled differently. Rename one.")
    return [replace(asset, id=name) for asset, name in zip(assets, ids, strict=True)]


def walk(folder: Path) -> list[PurePath]:
    """Relative paths of all files below a folder, sorted; hidden files and folders are skipped, links followed.

    Raises:
        MissingError: a folder cannot be read.
    """
    found: list[PurePath] = []

    def fail(error: OSError) -> None:
        raise MissingError(f"The folder {error.filename} cannot be read ({error.strerror}). Make it readable.")

    above: dict[str, set[tuple[int, int]]] = {}  # by folder: those that it lies in, and itself
    for root, folders, names in os.walk(folder, onerror=fail, followlinks=True):
        place = os.stat(root)
        here = above.pop(root, set()) | {(place.st_dev, place.st_ino)}
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in list(folders):
            target = os.stat(os.path.join(root, name))
            if (target.st_dev, target.st_ino) in here:
                folders.remove(name)  # a link into itself
            else:
                above[os.path.join(root, name)] = here
        found += [PurePath(root, name).relative_to(folder) for name in names if not name.startswith(".")]
    return sorted(found)


def _has(path: PurePath, suffixes: Sequence[str]) -> bool:
    return path.suffix.lower() in suffixes


def _content(path: Path, known: dict[Path, str]) -> list[object]:
    return mesh_key(path, known) if path.is_file() else ["missing"]


def _from_manifest(manifest: Path) -> list[FolderAsset]:
    try:
        with manifest.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream, strict=True)
            _check_columns(manifest, reader.fieldnames or [])
            # with the number of the line that the row ends on: quoted values can span lines
            rows = [(reader.line_num, {key: value or "" for key, value in row.items() if key}) for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{manifest} is not a CSV file in UTF-8 ({error}). Save it as one.") from error
    assets = [_asset_of_row(f"{manifest}, line {line}", manifest.parent, row) for line, row in rows]
    assets = [replace(asset, id=id_of(asset.id), category=id_of(asset.category)) for asset in assets]
    _check_unique(manifest, [(line, asset) for (line, _), asset in zip(rows, assets, strict=True)])
    return [asset for asset in assets if not _has(asset.path, IMAGES)]


def _check_columns(manifest: Path, columns: Sequence[str]) -> None:
    missing = [name for name in COLUMNS if name not in columns]
    if missing:
        raise UsageError(
            f"{manifest}, line 1: no column '{missing[0]}' (found: {', '.join(columns) or 'none'}). "
            f"Needed: {', '.join(COLUMNS)}; optional: up, sha256."
        )


def _check_unique(manifest: Path, assets: Sequence[tuple[int, FolderAsset]]) -> None:
    """A mesh and Gaussians may be of one asset."""
    first: dict[tuple[str, bool], int] = {}
    for line, asset in assets:
        key = asset.id, asset.is_gaussians
        if key in first:
            raise UsageError(
                f"{manifest}, line {line}, column id: '{asset.id}' is also on line {first[key]}. Give each row its own."
            )
        first[key] = line


def _asset_of_row(where: str, folder: Path, row: dict[str, str]) -> FolderAsset:
    row = {key: value.strip() for key, value in row.items()}
    for column in ("id", "file"):
        if not row[column]:
            raise UsageError(f"{where}, column {column}: it is empty. Fill it in or remove the row.")
    file = PurePath(os.path.normpath(row["file"]))
    if file.is_absolute() or ".." in file.parts:
        raise UsageError(
            f"{where}, column file: '{row['file']}' is outside the folder. Give a path below {folder}, relative to it."
        )
    up = row.get("up", "")
    if up not in ("", "y", "z"):
        raise UsageError(f"{where}, column up: '{up}' is not an up axis. Allowed: y, z, or nothing for the format's.")
    return FolderAsset(row["id"], row["category"], folder / file, cast("Up | None", up or None), row.get("sha256", ""))
