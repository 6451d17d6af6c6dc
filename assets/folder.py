"""A folder of mesh files as a source of shapes, with or without a manifest."""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import cast

from ..base.errors import AssetError, MissingError, UsageError
from ..base.files import digest_of, file_sha256
from ..geometry.mesh import Mesh
from .mesh_files import UP_AXIS, Up, read_mesh

MANIFEST = "manifest.csv"
COLUMNS = ("id", "file", "category")  # further ones that are read: up, sha256

# Shapes that cannot be read. They are listed, so that they count as failures instead of going unnoticed.
UNREADABLE = (".fbx", ".dae", ".blend", ".3ds", ".usd", ".usda", ".usdc", ".usdz", ".3mf", ".x3d", ".wrl")
IMAGES = (".png", ".jpg", ".jpeg", ".webp")
# Files that a mesh file can be made of besides itself; part of the digest.
COMPANIONS = (*IMAGES, ".bin", ".mtl", ".bmp", ".tga", ".gif", ".tif", ".tiff")


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
        """All assets, sorted by id.

        Raises:
            MissingError: there is no such folder, or no mesh in it.
            UsageError: the manifest is malformed.
        """
        if not self.path.is_dir():
            raise MissingError(f"There is no folder {self.path}. Give the folder that holds the meshes.")
        manifest = self.path / MANIFEST
        found = _from_manifest(manifest) if manifest.is_file() else _from_files(self.path)
        if not found:
            raise MissingError(
                f"No mesh in {self.path}. Looked for {', '.join(UP_AXIS)}"
                f"{' in ' + MANIFEST if manifest.is_file() else ''}. Give a folder with such files."
            )
        return sorted(found, key=lambda asset: asset.id)

    def digest(self) -> str:
        """sha256 of the list of assets and of the content of their files and of all files that these can refer to.

        Textures outside the folder are not seen. A missing file counts as "missing".
        """
        assets = [[a.id, a.category, a.up, a.sha256, _content(a.path)] for a in self.assets()]
        companions = [[p.as_posix(), _content(self.path / p)] for p in _files(self.path) if _has(p, COMPANIONS)]
        return digest_of({"assets": assets, "companions": companions})


def _from_files(folder: Path) -> list[FolderAsset]:
    paths = [path for path in _files(folder) if _has(path, (*UP_AXIS, *UNREADABLE))]
    return [
        FolderAsset(name, path.parts[0] if len(path.parts) > 1 else "", folder / path)
        for name, path in zip(_names(paths), paths, strict=True)
    ]


def _names(paths: Sequence[PurePath]) -> list[str]:
    """Paths without suffix where that is unique, else with it."""
    short = [path.with_suffix("").as_posix() for path in paths]
    count = Counter(short)
    names = [path.as_posix() if count[name] > 1 else name for name, path in zip(short, paths, strict=True)]
    return names if len(set(names)) == len(names) else [path.as_posix() for path in paths]


def _files(folder: Path) -> list[PurePath]:
    """Relative paths of all files below a folder, sorted; hidden files and folders are skipped."""
    found: list[PurePath] = []
    for root, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [PurePath(root, name).relative_to(folder) for name in names if not name.startswith(".")]
    return sorted(found)


def _has(path: PurePath, suffixes: Sequence[str]) -> bool:
    return path.suffix.lower() in suffixes


def _content(path: Path) -> str:
    return file_sha256(path) if path.is_file() else "missing"


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
    _check_unique(manifest, [(line, row["id"]) for line, row in rows])
    return [asset for asset in assets if not _has(asset.path, IMAGES)]


def _check_columns(manifest: Path, columns: Sequence[str]) -> None:
    missing = [name for name in COLUMNS if name not in columns]
    if missing:
        raise UsageError(
            f"{manifest}, line 1: no column '{missing[0]}' (found: {', '.join(columns) or 'none'}). "
            f"Needed: {', '.join(COLUMNS)}; optional: up, sha256."
        )


def _check_unique(manifest: Path, ids: Sequence[tuple[int, str]]) -> None:
    first: dict[str, int] = {}
    for line, name in ids:
        if name in first:
            raise UsageError(
                f"{manifest}, line {line}, column id: '{name}' is also on line {first[name]}. Give each row its own."
            )
        first[name] = line


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
        raise UsageError(f"{where}, column up: '{up}' is no upward axis. Allowed: y, z, or nothing for the format's.")
    return FolderAsset(row["id"], row["category"], folder / file, cast("Up | None", up or None), row.get("sha256", ""))
