"""OBJ text, changed where trimesh would misread it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from ..geometry.polygons import fans, triangulate

# A face of another number of corners than three, or one that goes on in the next line.
_NO_TRIANGLE = re.compile(r"^f(?!(?:[ \t]+[^\s\\]+){3}[ \t]*\r?$)", re.M)


def absolute_indices(text: str) -> str:
    """OBJ text whose negative face indices, which count back from their own line, are counted from the start.

    trimesh counts them back from the end of the file, which is right only when all vertices come first.
    """
    if not re.search(r"^\s*f\s.*-\d", text, re.M):
        return text
    seen = {"v": 0, "vt": 0, "vn": 0}
    lines = text.splitlines()
    for i, line in enumerate(lines):
        key, *refs = line.split() or [""]
        if key in seen:
            seen[key] += 1
        elif key == "f":
            lines[i] = " ".join(["f", *(_absolute_reference(ref, list(seen.values())) for ref in refs)])
    return "\n".join(lines)


def _absolute_reference(reference: str, counts: Sequence[int]) -> str:
    """One corner `v`, `v/vt`, `v//vn` or `v/vt/vn` after `counts` positions, texture coordinates and normals."""
    fields = [
        str(int(field) + count + 1) if field.startswith("-") else field
        for field, count in zip(reference.split("/"), counts, strict=False)
    ]
    return "/".join(fields)


def fans_only(text: str) -> str:
    """OBJ text with absolute indices; of one where fans, as trimesh makes them, are wrong, the faces as triangles.

    Raises:
        AssetError: a face names a vertex that is not there.
        ValueError: a vertex or a face is not made of numbers.
    """
    if not _NO_TRIANGLE.search(text):
        return text
    lines = text.replace("\r\n", "\n").replace("\\\n", "").split("\n")
    vertices = np.loadtxt([line for line in lines if line.startswith("v ")], usecols=(1, 2, 3), ndmin=2)
    places = [i for i, line in enumerate(lines) if line.startswith(("f ", "f\t"))]
    faces = [lines[i].partition("#")[0][1:] for i in places]
    sizes = np.array([len(face.split()) for face in faces], np.int64)
    corners = np.fromstring(re.sub(r"/\S*", "", " ".join(faces)), np.int64, sep=" ") - 1
    triangles, polygon = triangulate(vertices, corners, sizes)
    if np.array_equal(triangles, fans(sizes)[0]):
        return text
    references = " ".join(faces).split()
    pieces = [f"f {references[a]} {references[b]} {references[c]}" for a, b, c in triangles.tolist()]
    ends = np.cumsum(np.bincount(polygon, minlength=len(places))).tolist()
    for i, (start, end) in zip(places, pairwise([0, *ends]), strict=True):
        lines[i] = "\n".join(pieces[start:end])
    return "\n".join(lines)
