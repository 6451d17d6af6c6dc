"""Meshes in PLY files, with the names that programs give to their indices, colours and textures."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray
from plyfile import PlyData, PlyElement

from ..base.errors import AssetError
from ..geometry.polygons import triangulate
from .ply_files import columns, scalars

_INDICES = ("vertex_indices", "vertex_index")
_COLOURS = (("red", "green", "blue", "alpha"), ("diffuse_red", "diffuse_green", "diffuse_blue"), ("r", "g", "b", "a"))
_COORDINATES = (("texture_u", "texture_v"), ("u", "v"), ("s", "t"))


def mesh_part(ply: PlyData, *, textured: bool) -> dict[str, Any]:
    """Vertices, triangles and colours under the names that trimesh uses; coordinates of a texture as `corner_uv`.

    Raises:
        AssetError: it is no mesh, or not one that is read.
    """
    if "tristrips" in ply:
        raise AssetError("it has triangle strips, which are not read: export triangles")
    if "face" not in ply or ply["face"].count == 0:
        return {}
    vertices = columns(ply, "vertex", "xyz")
    corners, sizes = _lists(ply["face"], _INDICES)
    corners = corners.astype(np.int64)
    triangles, polygon = triangulate(vertices, corners, sizes)
    face_colours = _colours(ply, "face")
    return {
        "vertices": vertices,
        "faces": corners[triangles],
        "vertex_colors": _colours(ply, "vertex"),
        "face_colors": None if face_colours is None else face_colours[polygon],
        "corner_uv": _corner_uv(ply, corners, sizes, triangles) if textured else None,
    }


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


def _colours(ply: PlyData, name: str) -> NDArray | None:
    """[N, 3 or 4] as in the file."""
    there = scalars(ply[name])
    for names in _COLOURS:
        if there.issuperset(names[:3]):
            return columns(ply, name, [item for item in names if item in there])
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
            raise AssetError("a face has not two texture coordinates for each corner: export it again")
        return uv.reshape(-1, 2)[triangles]
    there = scalars(ply["vertex"])
    for names in _COORDINATES:
        if there.issuperset(names):
            return columns(ply, "vertex", names)[corners[triangles]]
    return None
