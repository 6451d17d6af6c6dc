"""OFF files with their colours (trimesh reads their shape only)."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

_KIND = re.compile(r"\s*(ST)?(C)?(N)?OFF\b|\s*(ST)?(C)?(N)?OFF(?=\d)")  # some files lack the break before the counts


def read_off(text: str) -> dict[str, Any]:
    """Vertices, triangles (polygons as fans) and colours, under the names that trimesh uses.

    Colours are those at the end of the vertex lines of a COFF file, else three or four numbers at the end of every
    face line; integers are bytes, numbers with a point are in [0, 1].

    Raises:
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
    triangles = [(p[0], p[i], p[i + 1]) for p in polygons for i in range(1, len(p) - 1)]
    part["faces"] = np.array(triangles, np.int64).reshape(-1, 3)
    tails = [line[1 + int(line[0]) :] for line in face_lines]
    if "C" in kind.groups():
        part["vertex_colors"] = _colours([line[-4:] if len(line) % 3 == 1 else line[-3:] for line in vertex_lines])
    elif tails and min(len(tail) for tail in tails) >= 3:
        per_face = _colours([tail[:3] for tail in tails])
        part["face_colors"] = np.repeat(per_face, [max(0, len(p) - 2) for p in polygons], axis=0)
    return part


def _colours(rows: list[list[str]]) -> NDArray:
    decimal = any("." in token for row in rows for token in row)
    return np.array(rows, np.float64) if decimal else np.array(rows, np.float64) / 255
