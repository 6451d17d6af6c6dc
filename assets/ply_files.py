"""PLY files that trimesh does not take as they are."""

from __future__ import annotations

import struct
from collections.abc import Iterator

CODES = {
    **dict.fromkeys(("char", "int8"), "b"),
    **dict.fromkeys(("uchar", "uint8"), "B"),
    **dict.fromkeys(("short", "int16"), "h"),
    **dict.fromkeys(("ushort", "uint16"), "H"),
    **dict.fromkeys(("int", "int32"), "i"),
    **dict.fromkeys(("uint", "uint32"), "I"),
    **dict.fromkeys(("float", "float32"), "f"),
    **dict.fromkeys(("double", "float64"), "d"),
}


def with_line_feeds(data: bytes) -> bytes:
    """The file with line feeds in its header where that has lone carriage returns."""
    end = data.find(b"end_header") + len(b"end_header") + 1
    return data if b"\n" in data[: end - 1] else data[:end].replace(b"\r", b"\n") + data[end:]


def as_ascii(data: bytes) -> bytes:
    """A binary PLY file as an ASCII one: trimesh reads polygons of mixed sizes only from those.

    Raises:
        ValueError, KeyError, struct.error: the file is not binary PLY, or ends too early.
    """
    end = data.index(b"\n", data.index(b"end_header")) + 1
    header = data[:end].decode("ascii", errors="replace").splitlines()
    kind = header[1].split()[1]
    order = {"binary_little_endian": "<", "binary_big_endian": ">"}[kind]
    rows = _rows(data, end, order, [line.split() for line in header])
    text = [line.replace(kind, "ascii") if i == 1 else line for i, line in enumerate(header)]
    return "\n".join([*text, *rows, ""]).encode()


def _rows(data: bytes, at: int, order: str, header: list[list[str]]) -> Iterator[str]:
    """The text of every row of every element, from byte `at` on."""
    elements: list[tuple[int, list[list[str]]]] = []
    for words in header:
        if words[:1] == ["element"]:
            elements.append((int(words[2]), []))
        elif words[:1] == ["property"]:
            elements[-1][1].append(words[1:-1])  # [type] or [list, count type, item type]
    for count, properties in elements:
        for _ in range(count):
            row: list[float] = []
            for types in properties:
                n = 1
                if types[0] == "list":
                    (n,) = struct.unpack_from(order + CODES[types[1]], data, at)
                    at += struct.calcsize(order + CODES[types[1]])
                    row.append(n)
                items = f"{order}{n}{CODES[types[-1]]}"
                row.extend(struct.unpack_from(items, data, at))
                at += struct.calcsize(items)
            yield " ".join(map(repr, row))
