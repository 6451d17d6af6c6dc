"""The files of a system's assets: what there is of each, and what decides how it looks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ...assets.companions import mesh_key
from ...assets.folder import FolderAsset, FolderSource
from ...assets.sniff import Kind
from ...base.errors import UsageError
from ...base.files import digest_of
from ...base.groups import grouped


@dataclass(frozen=True)
class Files:
    """What there is of one asset. notes: files of it that are left out, one sentence each."""

    mesh: FolderAsset | None = None
    gaussians: Path | None = None
    notes: tuple[str, ...] = ()


def files_in(folder: Path) -> dict[str, Files]:
    """Meshes and 3D Gaussians of a folder by asset id: the manifest's, else the path in the folder without suffix.

    A file of a kind that is not read stands for an asset that has no other, so that it fails with a reason.

    Raises:
        MissingError: there is no such folder, or nothing in it.
        UsageError: two meshes or two files of Gaussians of one asset, or a malformed manifest.
    """
    by_id = grouped(FolderSource(folder).files(), lambda asset: asset.id)
    return {name: _files(name, found) for name, found in by_id.items()}


def _files(name: str, found: Sequence[FolderAsset]) -> Files:
    kinds = [(asset, asset.kind) for asset in found]
    mesh, beside = _one(name, "meshes", kinds, Kind.MESH, Kind.UNREAD)
    gaussians, others = _one(name, "files of Gaussians", kinds, Kind.GAUSSIANS, Kind.SPLAT)
    notes = tuple(f"{asset.path.name} is not read, and left out" for asset in (*beside, *others))
    return Files(mesh, None if gaussians is None else gaussians.path, notes)


def _one(
    name: str, what: str, kinds: Sequence[tuple[FolderAsset, Kind]], wanted: Kind, unread: Kind
) -> tuple[FolderAsset | None, Sequence[FolderAsset]]:
    """The file of one kind, and those that are left out beside it."""
    good, bad = ([asset for asset, kind in kinds if kind is one] for one in (wanted, unread))
    if len(good) > 1:
        raise UsageError(
            f"Two {what} of asset '{name}' (got {good[0].path.name} and {good[1].path.name}) - one of each is "
            "allowed - remove one."
        )
    if good:
        return good[0], bad
    return (bad[0], bad[1:]) if bad else (None, ())


@dataclass(frozen=True)
class MeshFolder:
    """True meshes by the ids that generated files are matched with: a source."""

    path: Path
    meshes: Mapping[str, FolderAsset]

    @property
    def name(self) -> str:
        return self.path.resolve().name

    def assets(self) -> Sequence[FolderAsset]:
        return [replace(self.meshes[name], id=name) for name in sorted(self.meshes)]

    def digest(self) -> str:
        files = Contents()
        return digest_of([[name, files.of_mesh(asset)] for name, asset in sorted(self.meshes.items())])


@dataclass(frozen=True)
class Contents:
    """Digests of all that a file is read from; each file is read once."""

    _known: dict[Path, str] = field(default_factory=dict)

    def of(self, files: Files) -> tuple[str, str]:
        """Of mesh and Gaussians, "" where there is none."""
        mesh = self.of_mesh(files.mesh) if files.mesh else ""
        return mesh, digest_of(mesh_key(files.gaussians, self._known)) if files.gaussians else ""

    def of_mesh(self, asset: FolderAsset) -> str:
        """Of the mesh and of the files that it names (textures, buffers), wherever they lie."""
        if not asset.path.is_file():
            return f"missing: {asset.path}"
        return digest_of([*mesh_key(asset.path, self._known), asset.path.suffix.lower(), asset.up, asset.sha256])
