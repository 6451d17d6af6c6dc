"""PLY files of any kind: plyfile reads them after a look at what their headers claim."""

from __future__ import annotations

import io
import re
import string
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray
from plyfile import PlyData, PlyElement, PlyElementParseError, PlyListProperty, PlyParseError, PlyProperty

from ..base.errors import AssetError

_HEADER_BYTES = 1 << 16  # in which a header ends
_ROWS = re.compile(r"^(element[ \t]+\S+[ \t]+)(\S+)$", re.M)


def read_ply(path: Path) -> PlyData:
    """All elements of a PLY file, and its comments (percent-encoded where they are not ASCII).

    Memory and time are bounded by the size of the file, whatever its header announces.

    Raises:
        AssetError: the file cannot be read, is not PLY or is damaged.
    """
    try:
        with path.open("rb") as stream:
            header, start = _header(stream.read(_HEADER_BYTES))
        kinds = _kinds(header, path.stat().st_size - start)
        # Lists of one length are read at once; others row by row.
        for corners in () if kinds.text else (3, 4):
            lengths = {kind.name: _list_lengths(kind, corners) for kind in kinds}
            with suppress(PlyElementParseError), _Stream(path, header, start) as stream:
                return PlyData.read(stream, known_list_len=lengths)
        with _Stream(path, header, start) as stream:
            return PlyData.read(stream)
    except OSError as error:
        raise AssetError(f"it cannot be read ({error.strerror})") from error
    except (PlyParseError, ValueError, OverflowError) as error:
        raise AssetError(f"it is not a readable PLY file ({error})") from error


def scalars(element: PlyElement) -> set[str]:
    """Names of the properties that are no lists."""
    return {p.name for p in element.properties if not isinstance(p, PlyListProperty)}


def columns(ply: PlyData, name: str, properties: Sequence[str]) -> NDArray:
    """Scalar properties of an element as [rows, len(properties)].

    Raises:
        AssetError: it is not there, or has not all of them.
    """
    missing = sorted(set(properties) - scalars(ply[name])) if name in ply else [name]
    if missing:
        raise AssetError(f"it lacks {', '.join(missing)}")
    return np.stack([ply[name][item] for item in properties], axis=1)


class _Stream(io.BufferedReader):
    """A PLY file with another header; still a file, which can be mapped into memory."""

    def __init__(self, path: Path, header: bytes, start: int):
        super().__init__(io.FileIO(path))
        self._header = io.BytesIO(header)
        self.seek(start)

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:  # would be the rest of the file
            raise ValueError("a list has a negative length")
        return self._header.read(size) or super().read(size)


def _header(head: bytes) -> tuple[bytes, int]:
    """The header as plyfile wants it, and where the data begin.

    Raises:
        ValueError: there is no header.
    """
    first = re.match(rb"ply[ \t]*(\r\n|\n|\r)", head)
    # With lone carriage returns, a line feed behind the header is data.
    end = first and re.compile(rb"[\r\n][ \t]*end_header[ \t\r]*?" + first[1]).search(head)
    if not end:
        raise ValueError("its header is missing or has no end")
    lines = [line.strip() for line in re.split(rb"[\r\n]+", head[: end.end()])]
    text = b"\n".join(line for line in lines if not line.startswith(b"obj_info"))
    return quote(text, safe=string.printable).encode(), end.end()


def _kinds(header: bytes, size: int) -> PlyData:
    """The elements of a header, without rows.

    Raises:
        PlyParseError, ValueError: the header is malformed, or its data would not fit into `size` bytes.
    """
    words = [count for _, count in _ROWS.findall(header.decode())]
    for word in words:
        if not re.fullmatch(r"\d{1,18}", word):
            raise ValueError(f"its header announces '{word[:30]}' rows")
    counts = [int(word) for word in words]
    kinds = PlyData.read(io.BytesIO(_ROWS.sub(r"\g<1>0", header.decode()).encode()))
    needed = [count * max(1, _least(kind, kinds.text)) for count, kind in zip(counts, kinds, strict=True)]
    # The last number of an ASCII file needs no space behind it.
    if sum(needed) > size + 1:
        announced = ", ".join(f"{kind.name} {count}" for count, kind in zip(counts, kinds, strict=True))
        raise ValueError(f"it ends too early: its header announces {announced}")
    return kinds


def _least(kind: PlyElement, text: bool) -> int:
    """Fewest bytes of a row."""
    return sum(2 if text else np.dtype(_first_type(p)).itemsize for p in kind.properties)


def _first_type(item: PlyProperty) -> str:
    return item.list_dtype()[0] if isinstance(item, PlyListProperty) else item.dtype()


def _list_lengths(kind: PlyElement, corners: int) -> dict[str, int]:
    """Of polygons of so many corners; texture coordinates are two numbers each."""
    lists = (p.name for p in kind.properties if isinstance(p, PlyListProperty))
    return {name: 2 * corners if name == "texcoord" else corners for name in lists}
