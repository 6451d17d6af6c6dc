"""What generated assets are compared with: a folder of meshes that mdtbench draws itself, or Toys4k through Blender."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Protocol

from ...assets.folder import FolderAsset
from ...base.errors import MissingError
from ...base.files import digest_of, file_sha256
from ..protocol.rules import SHA256, select
from ..protocol.values import Values
from .looks import MeshLook, SurfaceLook
from .pairs import Contents, files_in


class Reference(Protocol):
    """True assets, by id."""

    @property
    def name(self) -> str:
        """Short, for tables."""
        ...

    @property
    def drawn_by(self) -> str:
        """Whose pictures of the assets are compared, for a note: "drawn by ..."."""
        ...

    @property
    def known(self) -> Sequence[str]:
        """All ids, sorted: those of the protocol's subset and the others."""
        ...

    @property
    def ids(self) -> Sequence[str]:
        """Of the protocol's subset, sorted."""
        ...

    def sha256(self, name: str) -> str:
        """By which the protocol draws the seeds of an asset."""
        ...

    def look(self, name: str) -> SurfaceLook:
        """What can be seen of an asset."""
        ...


@dataclass(frozen=True)
class FolderReference:
    """A folder of meshes.

    Attributes:
        meshes: by id.
        values: of the protocol.
    """

    name: str
    meshes: Mapping[str, FolderAsset]
    values: Values
    contents: Contents

    drawn_by = "mdtbench's own renderer, not by Blender"

    @staticmethod
    def of(folder: Path, values: Values, contents: Contents) -> FolderReference:
        """Raises MissingError: no such folder, or no mesh in it."""
        meshes = {key: files.mesh for key, files in files_in(folder).items() if files.mesh}
        if not meshes:
            raise MissingError(f"No mesh in {folder}, so nothing to compare with. Give --reference a folder of meshes.")
        return FolderReference(folder.resolve().name, meshes, values, contents)

    @property
    def known(self) -> Sequence[str]:
        return sorted(self.meshes)

    @property
    def ids(self) -> Sequence[str]:
        return self._chosen

    @cached_property
    def _chosen(self) -> Sequence[str]:
        if self.values.assets.subset == "full":
            return self.known
        by_sha: dict[str, list[str]] = {}
        for name in self.meshes:
            by_sha.setdefault(self.sha256(name), []).append(name)
        return sorted(name for sha in select(self.values, by_sha) for name in by_sha[sha])

    def sha256(self, name: str) -> str:
        """Of an asset as protocols know it: its id where that is one (TRELLIS-500K's assets), else that of its file."""
        end = PurePosixPath(name).name
        if SHA256.fullmatch(end):
            return end
        path = self.meshes[name].path
        return file_sha256(path) if path.is_file() else digest_of(name)

    def look(self, name: str) -> MeshLook:
        return MeshLook(self.meshes[name], self.contents.of_mesh(self.meshes[name]))
