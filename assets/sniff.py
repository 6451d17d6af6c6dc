"""What a file is, by its first bytes: names lie, and a pointer or a web page can stand where a mesh should be."""

from __future__ import annotations

import re
from enum import Enum
from pathlib import Path

from ..base.errors import AssetError

HEAD = 1 << 16  # bytes in which the header of any PLY file ends

# Files of Gaussians that are not read. They are listed, so that they count as failures instead of going unnoticed.
SPLATS = (".splat", ".ksplat", ".spz", ".sog")

_FOREIGN = {
    b"version https://git-lfs": "it is a Git LFS pointer, not the file itself: run `git lfs pull`",
    b"PK\x03\x04": "it is a ZIP archive: unpack it",
    b"\x1f\x8b": "it is a gzip archive: unpack it",
    b"7z\xbc\xaf": "it is a 7z archive: unpack it",
    b"Rar!": "it is a RAR archive: unpack it",
    b"BZh": "it is a bzip2 archive: unpack it",
    b"\xfd7zXZ": "it is an xz archive: unpack it",
    b"\x28\xb5\x2f\xfd": "it is a zstd archive: unpack it",
    b"Kaydara FBX": "it is an FBX file, which is not read: convert it to GLB",
    b"BLENDER": "it is a Blender file, which is not read: export it as GLB",
    b"\x89PNG": "it is a picture, not a mesh: give the mesh",
    b"\xff\xd8\xff": "it is a picture, not a mesh: give the mesh",
    b"%PDF": "it is a PDF file: give the mesh",
}
_PAGE = re.compile(rb"\s*(<!doctype html|<html|<head|<body)", re.I)
_XML = re.compile(rb"\s*<\?xml|\s*<[a-z]", re.I)
# What the formats with a sure sign begin with, and the suffixes that may stand before it.
_SIGNS = {
    b"glTF": ("a GLB file", (".glb", ".gltf")),
    b"ply": ("a PLY file", (".ply",)),
}
_PLY = re.compile(rb"ply[ \t]*[\r\n]")


class Kind(Enum):
    """What a file holds. UNREAD: a mesh of a format that is not read, or no mesh. SPLAT: unread Gaussians."""

    MESH = "mesh"
    GAUSSIANS = "3D Gaussians"
    SPLAT = "compressed or other splats"
    UNREAD = "unread"


def head_of(path: Path) -> bytes:
    """The first bytes. Raises AssetError when there are none."""
    try:
        with path.open("rb") as stream:
            head = stream.read(HEAD)
    except OSError as error:
        raise AssetError(f"it cannot be read ({error.strerror})") from error
    if not head:
        raise AssetError("it is empty: copy it again")
    return head


def refuse_foreign(head: bytes, suffix: str) -> None:
    """Raises AssetError, which says what a file is, where it is not what its suffix says."""
    text = head.removeprefix(b"\xef\xbb\xbf")
    for sign, reason in _FOREIGN.items():
        if text.startswith(sign):
            raise AssetError(reason)
    if _PAGE.match(text):
        raise AssetError("it is an HTML page, not the file itself: download it again")
    if _XML.match(text):
        raise AssetError("it is an XML file, not a mesh: convert it to GLB")
    for sign, (name, suffixes) in _SIGNS.items():
        if text.startswith(sign) and suffix not in suffixes and (sign != b"ply" or _PLY.match(text)):
            raise AssetError(f"it is {name}, and its name says {suffix}: rename it")


def kind_of(path: Path, readable: tuple[str, ...]) -> Kind:
    """By suffix, and of PLY files by their header. readable: suffixes of meshes. A file that is not there is a mesh."""
    suffix = path.suffix.lower()
    if suffix in SPLATS:
        return Kind.SPLAT
    if suffix not in readable:
        return Kind.UNREAD
    if suffix != ".ply" or not path.is_file():
        return Kind.MESH
    with path.open("rb") as stream:
        return ply_kind(stream.read(HEAD))


def ply_kind(head: bytes) -> Kind:
    """Of the header of a PLY file."""
    lines = [line.split() for line in re.split(rb"[\r\n]+", head.partition(b"end_header")[0])]
    names = {line[-1] for line in lines if len(line) > 2 and line[0] == b"property"}
    counts = {line[1]: line[2] for line in lines if len(line) == 3 and line[0] == b"element"}
    if b"packed_position" in names:
        return Kind.SPLAT
    if b"opacity" in names and (b"f_dc_0" in names or {b"scale_0", b"rot_0"} <= names):
        return Kind.GAUSSIANS
    surface = any(counts.get(name, b"0") != b"0" for name in (b"face", b"tristrips"))
    return Kind.MESH if surface or not counts else Kind.UNREAD
