"""STL files, of text and of bytes, with the colours that some programs put into spare bits."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ..base.errors import AssetError
from .file_colours import UNCOLOURED

_HEAD = 84  # bytes before the triangles
_TRIANGLE = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
_VERTEX = re.compile(r"^\s*vertex\s+(\S+)\s+(\S+)\s+(\S+)\s*$", re.M | re.I)


def read_stl(data: bytes, note: Callable[[str], None]) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    """Triangles [F, 3, 3] and their colours [F, 4], None where there are none.

    Raises:
        AssetError: it is cut off, or no STL.
    """
    count = struct.unpack_from("<I", data, 80)[0] if len(data) >= _HEAD else 0
    whole = _HEAD + count * _TRIANGLE.itemsize
    text = b"facet" in data[:1024].lower() or data.lstrip(b"\xef\xbb\xbf \t\r\n")[:5].lower() == b"solid"
    if text and len(data) != whole:
        return _of_text(data.decode("utf-8", errors="replace").removeprefix("\ufeff"), note), None
    if len(data) < _HEAD or len(data) < whole or (count == 0 and len(data) > whole):
        there = max(0, len(data) - _HEAD) // _TRIANGLE.itemsize
        raise AssetError(f"it announces {count} triangles and has bytes for {there}: it is cut off or not an STL file")
    if len(data) > whole:
        note(f"{len(data) - whole} bytes behind its triangles are not read")
    rows = np.frombuffer(data, _TRIANGLE, count, _HEAD)
    return rows["corners"].astype(np.float64), _colours(data, rows["attribute"])


def _of_text(text: str, note: Callable[[str], None]) -> NDArray[np.float64]:
    body = re.sub(r"\A\s*solid[^\n\r]*", "", text, flags=re.I)
    found = _VERTEX.findall(body)
    lines = len(re.findall(r"^\s*vertex\b", body, re.M | re.I))
    if len(found) != lines or lines % 3:
        raise AssetError(f"{lines} lines of vertices are not triangles of three numbers each: it is cut off or broken")
    if lines and not re.search(r"^\s*endsolid\b", body, re.M | re.I):
        raise AssetError("it has no endsolid: it is cut off")
    try:
        return np.array(found, np.float64).reshape(-1, 3, 3)
    except ValueError as error:
        raise AssetError(f"a vertex is not three decimal numbers ({error}): export it again") from error


def _colours(data: bytes, attributes: NDArray[np.uint16]) -> NDArray[np.float64] | None:
    """[F, 4] in [0, 1], of the 16 spare bits of triangles.

    Two conventions are in use: VisCAM sets bit 15 where the bits hold blue, green, red from the lowest; Materialise
    Magics has `COLOR=` and the object's colour in the 80-byte header, clears bit 15 where the bits hold red, green,
    blue from the lowest, and sets it where the object's colour holds.
    """
    fields = np.stack([attributes & 31, attributes >> 5 & 31, attributes >> 10 & 31], axis=1) / 31
    marked = attributes >> 15 == 1
    at = data[:74].find(b"COLOR=")
    if at >= 0:
        rgb = np.where(marked[:, None], np.frombuffer(data, np.uint8, 3, at + 6) / 255, fields)
    elif marked.any():
        rgb = np.where(marked[:, None], fields[:, ::-1], UNCOLOURED)
    else:
        return None
    return np.column_stack([rgb, np.ones(len(rgb))])
