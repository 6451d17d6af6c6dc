"""Which files there are of each asset, and which asset of the reference each belongs to."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from ...assets.folder import COMPANIONS, MANIFEST, FolderAsset, FolderSource
from ...base.errors import UsageError
from ...base.files import digest_of, file_sha256

HEAD = 1 << 16  # bytes in which the header of any PLY file ends


@dataclass(frozen=True)
class Files:
    """What there is of one asset."""

    mesh: FolderAsset | None = None
    gaussians: Path | None = None


def files_in(folder: Path) -> dict[str, Files]:
    """Meshes and 3D Gaussians of a folder by asset id: the manifest's, else the path in the folder without suffix.

    Raises:
        MissingError: there is no such folder, or nothing in it.
        UsageError: two meshes or two files of Gaussians of one asset, or a malformed manifest.
    """
    named = (folder / MANIFEST).is_file()
    meshes: dict[str, FolderAsset] = {}
    gaussians: dict[str, FolderAsset] = {}
    for asset in FolderSource(folder).assets():
        name = asset.id if named else asset.path.relative_to(folder).with_suffix("").as_posix()
        found, what = (gaussians, "files of Gaussians") if is_gaussians(asset.path) else (meshes, "meshes")
        if name in found:
            raise UsageError(
                f"Two {what} of asset '{name}' (got {found[name].path.name} and {asset.path.name}) - one of each is "
                "allowed - remove one."
            )
        found[name] = asset
    return {
        name: Files(meshes.get(name), gaussians[name].path if name in gaussians else None)
        for name in sorted({*meshes, *gaussians})
    }


def is_gaussians(path: Path) -> bool:
    """Whether a file is a PLY of the 3D Gaussian splatting convention, complete or not."""
    if path.suffix.lower() != ".ply" or not path.is_file():
        return False
    with path.open("rb") as stream:
        header = stream.read(HEAD).partition(b"end_header")[0]
    return b"f_dc_0" in header and b"opacity" in header


def matched(ids: Sequence[str], made: Mapping[str, object]) -> dict[str, str]:
    """Id of the reference -> key in `made`; ids without files are left out.

    A file is named by the asset's id, by what `run --export` makes of the id, or by the last part of the id where no
    other asset has the same.
    """
    from ..export import safe_path  # with all that makes assets, which nothing else here needs

    stems: dict[str, list[str]] = defaultdict(list)
    for key in made:
        stems[PurePosixPath(key).name].append(key)
    ends = Counter(PurePosixPath(name).name for name in ids)
    found: dict[str, str] = {}
    for name in ids:
        end = PurePosixPath(name).name
        last = stems.get(end, []) if ends[end] == 1 else []
        keys = [key for key in (name, safe_path(name).as_posix()) if key in made] or (last if len(last) == 1 else [])
        if keys:
            found[name] = keys[0]
    return found


@dataclass(frozen=True)
class Contents:
    """Digests of all that a file is read from; each companion is read once."""

    _beside: dict[Path, str] = field(default_factory=dict)

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
