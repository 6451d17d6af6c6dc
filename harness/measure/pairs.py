"""The files of a system's assets: what there is of each, and what decides how it looks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ...assets.folder import COMPANIONS, FolderAsset, FolderSource
from ...assets.sniff import HEAD, Kind
from ...base.errors import UsageError
from ...base.files import digest_of, file_sha256


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
    by_id: dict[str, list[FolderAsset]] = {}
    for asset in FolderSource(folder).files():
        by_id.setdefault(asset.id, []).append(asset)
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
    """Digests of all that a file is read from; each companion is read once."""

    _beside: dict[Path, str] = field(default_factory=dict)

    def of(self, files: Files) -> tuple[str, str]:
        """Of mesh and Gaussians, "" where there is none."""
        mesh = self.of_mesh(files.mesh) if files.mesh else ""
        return mesh, file_sha256(files.gaussians) if files.gaussians else ""

    def of_mesh(self, asset: FolderAsset) -> str:
        """Of the mesh and, where it names other files (textures, buffers), of all below its folder that could be it."""
        if not asset.path.is_file():
            return f"missing: {asset.path}"
        beside = self._companions(asset.path.parent) if names_others(asset.path) else ""
        return digest_of([file_sha256(asset.path), asset.path.suffix.lower(), asset.up, asset.sha256, beside])

    def _companions(self, folder: Path) -> str:
        if folder not in self._beside:
            paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in COMPANIONS and path.is_file())
            content = [[path.relative_to(folder).as_posix(), file_sha256(path)] for path in paths]
            self._beside[folder] = digest_of(content)
        return self._beside[folder]


def names_others(path: Path) -> bool:
    """Whether a mesh file may be incomplete by itself."""
    suffix = path.suffix.lower()
    if suffix not in (".glb", ".ply"):
        return suffix in (".obj", ".gltf")
    with path.open("rb") as stream:
        head = stream.read(HEAD)
        if suffix == ".ply":
            return b"TextureFile" in head
        json_end = 20 + int.from_bytes(head[12:16], "little")  # a GLB's first chunk is its JSON
        return b'"uri"' in head + stream.read(max(0, json_end - len(head)))
