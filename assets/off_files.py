"""OFF files with their colours (trimesh reads their shape only)."""

from __future__ import annotations

import re
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..geometry.polygons import triangulate

_KIND = re.compile(r"\s*(ST)?(C)?(N)?OFF\b|\s*(ST)?(C)?(N)?OFF(?=\d)")  # some files lack the break before the counts


def read_off(text: str) -> dict[str, Any]:
    """Vertices, triangles and colours, under the names that trimesh uses.

    Colours are those at the end of the vertex lines of a COFF file, else three or four numbers at the end of every
    face line; integers are bytes, numbers with a point are in [0, 1].

    Raises:
        AssetError: a face names a vertex that is not there.
        ValueError, IndexError: the text is not OFF.
    """
    text = re.sub(r"#.*", "", text)
    kind = _KIND.match(text)
    if kind is None:
        raise ValueError("it does not begin with OFF")
    lines = [line.split() for line in text[kind.end() :].splitlines() if line.strip()]
    n_vertices, n_faces = int(lines[0][0]), int(lines[0][1])
    vertex_lines, face_lines = lines[1 : 1 + n_vertices], lines[1 + n_vertices : 1 + n_vertices + n_faces]
    if len(face_lines) != n_faces:
        raise ValueError(f"it ends after {len(lines) - 1} of {n_vertices + n_faces} vertices and faces")
    part: dict[str, Any] = {"vertices": np.array([line[:3] for line in vertex_lines], np.float64).reshape(-1, 3)}
    polygons = [[int(token) for token in line[1 : 1 + int(line[0])]] for line in face_lines]
    sizes = np.array([len(p) for p in polygons], np.int64)
    corners = np.fromiter(chain.from_iterable(polygons), np.int64)
    triangles, polygon = triangulate(part["vertices"], corners, sizes)
    part["faces"] = corners[triangles]
    tails = [line[1 + int(line[0]) :] for line in face_lines]
    if "C" in kind.groups():
        part["vertex_colors"] = _colours([line[-4:] if len(line) % 3 == 1 else line[-3:] for line in vertex_lines])
    elif tails and min(len(tail) for tail in tails) >= 3:
        part["face_colors"] = _colours([tail[:3] for tail in tails])[polygon]
    return part


def _colours(rows: list[list[str]]) -> NDArray:
    decimal = any("." in token for row in rows for token in row)
    return np.array(rows, np.float64) if decimal else np.array(rows, np.float64) / 255
