"""The files that a mesh file names: which they are, what they hold, and how they are read.

A reader gets nothing but what `companions_of` finds, so a digest of those is one of all that is read, wherever it lies.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import unquote

from ..base.errors import AssetError
from ..base.files import file_fault, file_sha256
from ..base.limits import limits
from ..base.parsing import parse_json
from .sniff import HEAD

_LIBRARY = re.compile(rb"^(?:\xef\xbb\xbf)?[ \t]*mtllib[ \t]+(.+)$", re.M | re.I)
_MAP = re.compile(rb"^[ \t]*(?:map_\w+|bump|disp|decal|norm|refl)[ \t]+(.+)$", re.M | re.I)
_TEXTURE = re.compile(rb"TextureFile[ \t]+(.+)", re.I)


def companions_of(path: Path) -> dict[str, Path]:
    """The files that a mesh file may be read from besides itself, by every name that could mean them.

    Names with spaces and options before names are told apart by no format, so all readings count that lead to a file.
    """
    suffix = path.suffix.lower()
    if file_fault(path):
        return {}
    if suffix == ".obj":
        libraries = libraries_of(path)
        maps = (line for library in libraries.values() for line in _MAP.findall(_content(library)))
        return libraries | dict(_found(path.parent, _readings(maps)))
    if suffix in (".gltf", ".glb"):
        return dict(_found(path.parent, _uris(_gltf_json(path, suffix))))
    if suffix == ".ply":
        with path.open("rb") as stream:
            head = stream.read(HEAD).partition(b"end_header")[0]
        return dict(_found(path.parent, _readings(_TEXTURE.findall(head))))
    return {}


def libraries_of(path: Path) -> dict[str, Path]:
    """The material libraries that an OBJ file may name, as `companions_of`."""
    return dict(_found(path.parent, _readings(_LIBRARY.findall(path.read_bytes()))))


def mesh_key(path: Path, known: dict[Path, str]) -> list[object]:
    """What decides a mesh file as it is read, as JSON: its sha256, those of its companions, limits that were changed.

    Args:
        known: digests by file, to which new ones are added: many meshes may share a texture.
    """
    found = {os.path.relpath(file, path.parent): file for file in companions_of(path).values()}
    beside = [[name, _digest(file, known)] for name, file in sorted(found.items())]
    changed = limits().changed
    return [_digest(path, known), *([beside] if beside else []), *([changed] if changed else [])]


class Companions:
    """Reads the files that one mesh file names. libraries: those among them that hold materials of an OBJ file."""

    def __init__(self, path: Path):
        self.folder = path.parent
        self.libraries = set(libraries_of(path).values()) if path.suffix.lower() == ".obj" else set()
        self._known = set(companions_of(path).values())

    def find(self, name: str) -> Path | None:
        """The file that a name means."""
        return find(self.folder, name)

    def get(self, name: str) -> bytes:
        """Raises AssetError where there is no such file, or where it is not to be read."""
        found = find(self.folder, name)
        if found is None:
            raise AssetError(f"the file {name} that it names is missing: put it beside the mesh")
        if found not in self._known:
            raise AssetError(f"it names the file {name} in a way that is not understood: give the file a plain name")
        fault = file_fault(found)
        if fault:
            raise AssetError(f"the file {name} that it names {fault}")
        try:
            return found.read_bytes()
        except OSError as error:
            raise AssetError(f"the file {name} that it names cannot be read ({error.strerror})") from error


def find(folder: Path, name: str) -> Path | None:
    """The file that a name means, as written or percent-encoded: the path from `folder`, else its last part there, else
    the only one there that differs in case. None: there is nothing."""
    for spelled in dict.fromkeys((name.strip(), unquote(name).strip())):
        plain = PurePath(spelled.replace("\\", "/"))
        try:
            for path in (folder / plain, folder / str(plain).lstrip("/"), folder / plain.name):
                if path.exists() and not path.is_dir():
                    return path.resolve()
            alike = [path for path in folder.glob("*") if path.name.lower() == plain.name.lower()]
        except (OSError, ValueError):  # too long for a path, or with a NUL
            continue
        if plain.name and len(alike) == 1 and not alike[0].is_dir():
            return alike[0].resolve()
    return None


def _found(folder: Path, names: Iterable[str]) -> Iterator[tuple[str, Path]]:
    for name in dict.fromkeys(names):
        path = find(folder, name)
        if path is not None:
            yield name, path


def _readings(lines: Iterable[bytes]) -> Iterator[str]:
    """Every end of each line, and every word: names follow options, and may have spaces or be several."""
    for line in lines:
        text = line.decode("utf-8", "surrogateescape").split("#")[0].strip().strip('"')
        words = text.split()
        yield line.decode("utf-8", "surrogateescape").strip()
        yield text
        yield from words[1:]
        yield from (text.split(None, start)[-1] for start in range(1, min(len(words), 16)))
        yield from words[:1]


def _uris(value: Any) -> Iterator[str]:
    """All that a glTF file names, wherever it does."""
    todo = [value]
    while todo:
        one = todo.pop()
        if isinstance(one, Mapping):
            uri = one.get("uri")
            if isinstance(uri, str) and not uri.startswith("data:"):
                yield uri
            todo += one.values()
        elif isinstance(one, list):
            todo += one


def _gltf_json(path: Path, suffix: str) -> Any:
    """None where it cannot be read: the reader says why."""
    data = path.read_bytes() if suffix == ".gltf" else b""
    if suffix == ".glb" or data[:4] == b"glTF":
        with path.open("rb") as stream:
            head = stream.read(20)
            data = stream.read(int.from_bytes(head[12:16], "little"))
    try:
        return parse_json(data.decode("utf-8-sig").rstrip("\0"))
    except ValueError:
        return None


def _content(path: Path) -> bytes:
    try:
        return b"" if file_fault(path) else path.read_bytes()
    except OSError:
        return b""


def _digest(path: Path, known: dict[Path, str]) -> str:
    if path not in known:
        try:
            known[path] = file_fault(path) or file_sha256(path)
        except OSError as error:
            known[path] = f"unreadable: {error.strerror}"
    return known[path]
