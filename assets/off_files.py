"""OFF files with their colours."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from ..base.errors import AssetError
from ..geometry.polygons import triangulate
from .file_colours import UNCOLOURED, Part, corners, of_faces, unit_rgba

# Some files lack the break before the counts.
_KIND = re.compile(r"\s*(ST)?(C?N|NC|C)?(4)?(n)?OFF(?=\b|\d)(\s+BINARY)?", re.I)


def read_off(text: str, note: Callable[[str], None]) -> Part:
    """Vertices, triangles and colours.

    Colours are those at the end of the vertex lines of a COFF file, else three or four numbers at the end of face
    lines; whole numbers are bytes unless none is above 1, numbers with a point are in [0, 1].

    Raises:
        AssetError: it is of a kind that is not read, or a line has not the numbers that it should have.
        ValueError, IndexError: the text is not OFF.
    """
    text = re.sub(r"#.*", "", text.removeprefix("\ufeff"))
    kind = _KIND.match(text)
    if kind is None:
        raise ValueError("it does not begin with OFF")
    uv, extra, four, dimension, binary = kind.groups()
    if four or dimension or binary:
        raise AssetError(f"OFF files of the kind {kind[0].strip()} are not read: export plain OFF or COFF")
    lines = [line.split() for line in text[kind.end() :].splitlines() if line.strip()]
    n_vertices, n_faces = int(lines[0][0]), int(lines[0][1])
    vertex_lines, face_lines = lines[1 : 1 + n_vertices], lines[1 + n_vertices : 1 + n_vertices + n_faces]
    if len(face_lines) != n_faces:
        raise ValueError(f"it ends after {len(lines) - 1} of {n_vertices + n_faces} vertices and faces")
    vertices = np.array([line[:3] for line in vertex_lines], np.float64).reshape(-1, 3)
    polygons = [[int(token) for token in line[1 : 1 + int(line[0])]] for line in face_lines]
    sizes = np.array([len(p) for p in polygons], np.int64)
    corner = np.fromiter(chain.from_iterable(polygons), np.int64)
    triangles, polygon = triangulate(vertices, corner, sizes)
    faces = corner[triangles]
    rgba = _vertex_colours(vertex_lines, (extra or "").upper(), bool(uv), note)
    if rgba is not None:
        return Part(vertices, faces, corners(rgba, faces))
    rgba = _face_colours([line[1 + int(line[0]) :] for line in face_lines], note)
    return Part(vertices, faces, None if rgba is None else of_faces(rgba[polygon]))


def _vertex_colours(
    lines: list[list[str]], extra: str, uv: bool, note: Callable[[str], None]
) -> NDArray[np.float64] | None:
    """[V, 4]; None where the head of the file says that there are none."""
    start, end = 3 + 3 * ("N" in extra), 2 * uv
    widths = {len(line) - start - end for line in lines}
    if "C" not in extra:
        if widths - {0}:
            raise AssetError(
                "its vertex lines have more or fewer numbers than its first word says: COFF has colours, NOFF normals"
            )
        return None
    if not widths <= {3, 4}:
        raise AssetError("a vertex does not have three or four numbers for its colour: export it again")
    # Colours stand behind normals.
    return _colours([line[start : len(line) - end][:3] for line in lines], note)


def _face_colours(tails: list[list[str]], note: Callable[[str], None]) -> NDArray[np.float64] | None:
    """[polygons, 4]; None where there are none."""
    there = np.array([len(tail) in (3, 4) for tail in tails], bool)
    if any(len(tail) not in (0, 3, 4) for tail in tails):
        raise AssetError("its faces are coloured by numbers of a colour map, which is not read: export RGB")
    if not there.any():
        return None
    rgba = np.full((len(tails), 4), UNCOLOURED)
    rgba[:, 3] = 1
    rgba[there] = _colours([tail[:3] for tail in tails if tail], note)
    if not there.all():
        note(f"{(~there).sum()} of {len(there)} faces have no colour and are shown grey")
    return rgba


def _colours(rows: list[list[str]], note: Callable[[str], None]) -> NDArray[np.float64]:
    values = np.array(rows, np.float64).reshape(-1, 3)
    decimal = any(not token.lstrip("+-").isdigit() for row in rows for token in row)
    if decimal or values.max(initial=0) <= 1:
        return unit_rgba(values, note)
    return unit_rgba(values.clip(0, None).astype(np.int64), note)
