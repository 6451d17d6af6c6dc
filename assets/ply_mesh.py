"""Meshes in PLY files, with the names that programs give to their indices, colours and textures."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from plyfile import PlyData, PlyElement

from ..base.errors import AssetError
from ..geometry.polygons import triangulate
from .file_colours import Part, corners, of_faces, unit_rgba
from .ply_files import columns, scalars

_INDICES = ("vertex_indices", "vertex_index")
_COLOURS = (("red", "green", "blue", "alpha"), ("diffuse_red", "diffuse_green", "diffuse_blue"), ("r", "g", "b", "a"))
_LIKE_COLOURS = re.compile(r"(vertex_|face_|diffuse_)?(r|red|g|green|b|blue|rgba?|colou?r|f_dc|albedo)(_?\d|$)", re.I)
_COORDINATES = (("texture_u", "texture_v"), ("u", "v"), ("s", "t"))


def mesh_part(ply: PlyData, note: Callable[[str], None], *, textured: bool) -> Part | None:
    """Its triangles; None where it has none. Colours of vertices come before those of faces.

    Raises:
        AssetError: it is not a mesh that is read.
    """
    if "tristrips" in ply:
        raise AssetError("it has triangle strips, which are not read: export triangles")
    if "face" not in ply or ply["face"].count == 0:
        return None
    vertices = columns(ply, "vertex", "xyz").astype(np.float64)
    corner, sizes = _lists(ply["face"], _INDICES)
    corner = corner.astype(np.int64)
    triangles, polygon = triangulate(vertices, corner, sizes)
    faces = corner[triangles]
    uv = _corner_uv(ply, corner, sizes, triangles)
    of_vertices, face_colours = _colours(ply, "vertex", note), _colours(ply, "face", note)
    if uv is not None and not textured:
        note("it has texture coordinates, but names no texture")
    if textured and uv is not None:
        return Part(vertices, faces, None, uv)
    if of_vertices is not None:
        if face_colours is not None:
            note("it has colours of vertices and of faces: those of vertices are shown")
        return Part(vertices, faces, corners(of_vertices, faces))
    if face_colours is not None:
        return Part(vertices, faces, of_faces(face_colours[polygon]))
    _refuse_other_colours(ply)
    return Part(vertices, faces, None)


def _refuse_other_colours(ply: PlyData) -> None:
    """Raises AssetError: there are no colours, and properties that are named like some."""
    found = [name for kind in ("vertex", "face") for name in sorted(scalars(ply[kind])) if _LIKE_COLOURS.match(name)]
    if found:
        raise AssetError(f"its colours ({', '.join(found[:4])}) are not read: export them as red, green, blue")


def texture_name(ply: PlyData) -> str | None:
    """The image that a comment names, percent-encoded.

    Raises:
        AssetError: there are several.
    """
    comments = [*ply.comments, *(comment for element in ply for comment in element.comments)]
    found = [re.match(r"\s*TextureFile\s+(.*\S)", comment, re.I) for comment in comments]
    names = sorted({match[1] for match in found if match})
    if len(names) > 1:
        raise AssetError(f"it has several textures ({', '.join(names)}): export it with one")
    return names[0] if names else None


def _lists(element: PlyElement, names: tuple[str, ...]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """The first list property of these names: all its items in a row, and the number of items of each list.

    Raises:
        AssetError: there is none of them.
    """
    present = {p.name for p in element.properties} - scalars(element)
    for name in names:
        if name in present:
            lists = element[name]
            if lists.dtype == object:
                sizes = np.fromiter(map(len, lists), np.int64, len(lists))
                return np.concatenate(lists), sizes
            return lists.reshape(-1), np.full(len(lists), lists.shape[1])
    raise AssetError(f"its faces have no {' or '.join(names)}: export it again")


def _colours(ply: PlyData, name: str, note: Callable[[str], None]) -> NDArray[np.float64] | None:
    """[N, 4] in [0, 1]; None where there are none. Their alpha is not shown."""
    there = scalars(ply[name])
    for names in _COLOURS:
        if there.issuperset(names[:3]):
            rgba = unit_rgba(columns(ply, name, [item for item in names if item in there]), note)
            if (rgba[:, 3] < 1).any():
                note("its colours are partly transparent and are shown opaque")
            return rgba
    return None


def _corner_uv(
    ply: PlyData, corners: NDArray, sizes: NDArray[np.int64], triangles: NDArray[np.int64]
) -> NDArray | None:
    """Texture coordinates [F, 3, 2] of triangles: the faces' own, else their vertices'.

    Raises:
        AssetError: a face has not two for each corner.
    """
    if "texcoord" in ply["face"]:
        uv, lengths = _lists(ply["face"], ("texcoord",))
        if (lengths != 2 * sizes).any():
            raise AssetError("a face does not have two texture coordinates per corner: export it again")
        return uv.reshape(-1, 2)[triangles]
    there = scalars(ply["vertex"])
    for names in _COORDINATES:
        if there.issuperset(names):
            return columns(ply, "vertex", names)[corners[triangles]]
    return None
