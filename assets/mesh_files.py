"""Mesh files of the common formats, read to the one form `Mesh`, or refused with a reason.

What a file asks for and does not get is said in the mesh's notes: an asset with wrong colours must not be measured as
if it were right. docs/assets.md lists what is done with each part of each format.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..base.errors import BROKEN_FILE, AssetError
from ..base.files import file_fault
from ..base.limits import one_asset, too_many
from ..geometry.mesh import BLENDED, OPAQUE, Mesh, concatenate
from .companions import Companions
from .file_colours import Surface, finite, of_faces, plain
from .gltf_colours import Materials
from .gltf_file import open_gltf
from .gltf_scene import placed
from .obj_file import image_of, read_obj
from .off_files import read_off
from .ply_files import read_ply
from .ply_mesh import mesh_part, texture_name
from .sniff import head_of, refuse_foreign
from .stl_files import read_stl

Up = Literal["y", "z"]

# The axis that points up in a file of each format. For glTF it is part of the format. OBJ and PLY files of
# objects mostly come from tools with y up, STL and OFF from engineering with z up: a habit, so it can be overruled.
UP_AXIS: Mapping[str, Up] = {".glb": "y", ".gltf": "y", ".obj": "y", ".ply": "y", ".stl": "z", ".off": "z"}

# Part of digests of what is read: raise it when files are read otherwise.
READING = 3

# Triangles smaller than this, in units of the squared longest side of the box, cannot be seen and are dropped.
MIN_AREA = 1e-12

_PARSE_ERRORS = (*BROKEN_FILE, Image.DecompressionBombError, NameError)


def read_mesh(path: Path, up: Up | None = None) -> Mesh:
    """The mesh in a file, in its own units, turned so that z is up; triangles without area are left out.

    Everything is where the file has it at the beginning: nodes, joints of skins, morph weights, instances.
    For faces of more than three corners see `geometry.polygons`.

    Args:
        path: a file with a suffix of `UP_AXIS`.
        up: the axis that points up in the file, instead of the habit of the format.
    Raises:
        AssetError: the file cannot be used; the message begins with its name.
    """
    suffix = path.suffix.lower()
    if suffix not in UP_AXIS:
        raise AssetError(
            f"{path.name}: files of the kind '{suffix}' are not read - allowed: {', '.join(UP_AXIS)} - convert it"
        )
    if path.exists() and (fault := file_fault(path)):
        raise AssetError(f"{path.name} {fault}")
    try:
        companions = Companions(path)
        with warnings.catch_warnings(), one_asset():  # what matters of third-party parsers becomes an AssetError
            warnings.simplefilter("ignore")
            refuse_foreign(head_of(path), suffix)
            mesh = _checked(_READERS[suffix](path, companions))
    except AssetError as error:
        raise AssetError(f"{path.name}: {error}") from error
    except _PARSE_ERRORS as error:
        reason = f"it is not a readable {suffix} file ({_first_line(error)})"
        raise AssetError(f"{path.name}: {reason}") from error
    return mesh if (up or UP_AXIS[suffix]) == "z" else _y_up_to_z_up(mesh)


def _read_gltf(path: Path, companions: Companions) -> list[Mesh]:
    gltf = open_gltf(path.read_bytes(), companions.get)
    materials = Materials(gltf)
    surfaces: dict[int, Surface] = {}
    meshes = []
    for part in placed(gltf):
        primitive = part.primitive
        if len(primitive.faces):
            if id(primitive) not in surfaces:
                surfaces[id(primitive)] = materials.surface(primitive)
            meshes.append(_mesh(part.vertices, primitive.faces, surfaces[id(primitive)]))
    return _noted(meshes, gltf.notes)


def _read_obj(path: Path, companions: Companions) -> list[Mesh]:
    notes: list[str] = []
    parts = list(read_obj(_utf8(path.read_bytes()).decode(), companions, notes.append))
    return _noted([_mesh(*part) for part in parts], notes)


def _read_ply(path: Path, companions: Companions) -> list[Mesh]:
    notes: list[str] = []
    ply = read_ply(path)
    image = texture_name(ply)
    part = mesh_part(ply, notes.append, textured=image is not None)
    if part is None:
        return []
    if part.corner_uv is not None:
        white = np.ones((len(part.faces), 3, 4), np.float32)
        surface = Surface(white, finite(part.corner_uv), image_of(unquote(str(image)), companions))
    elif image and part.rgba is None:
        raise AssetError(f"it names the texture {image}, but has no texture coordinates: export it again")
    else:
        surface = plain(part.faces) if part.rgba is None else Surface(part.rgba)
    return _noted([_mesh(part.vertices, part.faces, surface)], notes)


def _read_stl(path: Path, _companions: Companions) -> list[Mesh]:
    notes: list[str] = []
    triangles, colours = read_stl(path.read_bytes(), notes.append)
    faces = np.arange(3 * len(triangles)).reshape(-1, 3)
    surface = plain(faces) if colours is None else Surface(of_faces(colours))
    return _noted([_mesh(triangles.reshape(-1, 3), faces, surface)] if len(faces) else [], notes)


def _read_off(path: Path, _companions: Companions) -> list[Mesh]:
    notes: list[str] = []
    part = read_off(_utf8(path.read_bytes()).decode(), notes.append)
    surface = plain(part.faces) if part.rgba is None else Surface(part.rgba)
    return _noted([_mesh(part.vertices, part.faces, surface)] if len(part.faces) else [], notes)


_READERS: Mapping[str, Callable[[Path, Companions], list[Mesh]]] = {
    ".glb": _read_gltf,
    ".gltf": _read_gltf,
    ".obj": _read_obj,
    ".ply": _read_ply,
    ".stl": _read_stl,
    ".off": _read_off,
}


def _utf8(text: bytes) -> bytes:
    """Text with any other encoding's letters replaced; they occur in comments and names only."""
    return text.decode("utf-8", errors="replace").encode()


def _mesh(vertices: NDArray, faces: NDArray, surface: Surface) -> Mesh:
    if reason := too_many("faces", len(faces), "it"):
        raise AssetError(reason)
    bare = surface.texture is None
    return Mesh(
        np.asarray(vertices, np.float64),
        np.asarray(faces, np.int64),
        surface.rgba,
        np.zeros((len(faces), 3, 2), np.float32) if surface.uv is None else surface.uv,
        np.full(len(faces), -1 if bare else 0, np.int64),
        () if surface.texture is None else (surface.texture,),
        () if bare else (surface.sampler,),
        surface.cutoff,
    )


def _noted(meshes: list[Mesh], notes: Sequence[str]) -> list[Mesh]:
    return [replace(mesh, notes=tuple(dict.fromkeys(notes))) for mesh in meshes]


def _checked(meshes: Sequence[Mesh]) -> Mesh:
    """All parts as one mesh that can be shown.

    Raises:
        AssetError: there is nothing to show, or it is nowhere.
    """
    if not meshes:
        raise AssetError("it has no triangles: only meshes can be used, not points, lines or empty scenes")
    mesh = replace(concatenate(meshes), linear=True)
    corners = mesh.triangles
    if not np.isfinite(corners).all():
        raise AssetError("a vertex position is NaN or infinite: repair the mesh")
    side = np.ptp(corners.reshape(-1, 3), axis=0).max()
    if side == 0:
        raise AssetError("all its vertices are at one point: it has no extent")
    unit = (corners - corners[0, 0]) / side
    area = np.linalg.norm(np.cross(unit[:, 1] - unit[:, 0], unit[:, 2] - unit[:, 0]), axis=1) / 2
    if not (area > MIN_AREA).any():
        raise AssetError("all its triangles have zero area: there is nothing to see")
    return _compact(_solid(_faces_of(mesh, area > MIN_AREA)))


def _faces_of(mesh: Mesh, keep: NDArray[np.bool_]) -> Mesh:
    return replace(
        mesh,
        faces=mesh.faces[keep],
        corner_rgba=mesh.corner_rgba[keep],
        corner_uv=mesh.corner_uv[keep],
        texture=mesh.texture[keep],
        cutoff=None if mesh.cutoff is None else mesh.cutoff[keep],
    )


def _solid(mesh: Mesh) -> Mesh:
    """The mesh, with faces of which nothing lets light through as opaque ones.

    Raises:
        AssetError: nothing of it can be seen.
    """
    if mesh.cutoff is None or not mesh.see_through.any():
        return replace(mesh, cutoff=None)
    alpha = mesh.corner_rgba[..., 3]
    least, most = (
        np.array([*(reduce(t[..., 3], initial=initial) / 255 for t in mesh.textures), 1.0])[mesh.texture]
        for reduce, initial in ((np.min, 255), (np.max, 0))
    )
    least, most = least * alpha.min(1), most * alpha.max(1)
    limit = np.where(mesh.cutoff == BLENDED, 1, mesh.cutoff)
    if ((most < mesh.cutoff) | ((mesh.cutoff == BLENDED) & (most <= 0))).all():
        raise AssetError("all its surfaces are transparent: there is nothing to see")
    cutoff = np.where(least >= limit, OPAQUE, mesh.cutoff).astype(np.float32)
    return replace(mesh, cutoff=cutoff if (cutoff != OPAQUE).any() else None)


def _compact(mesh: Mesh) -> Mesh:
    """Without unused vertices and with every texture once: parts and instances of a scene share them."""
    used, faces = np.unique(mesh.faces, return_inverse=True)
    content = {id(texture): (texture.shape, texture.tobytes()) for texture in mesh.textures}
    keys = [(content[id(texture)], mesh.sampler(i)) for i, texture in enumerate(mesh.textures)]
    first = {key: i for i, key in reversed(list(enumerate(keys)))}
    order = {key: place for place, key in enumerate(sorted(first, key=lambda key: first[key]))}
    return replace(
        mesh,
        vertices=mesh.vertices[used],
        faces=faces.reshape(-1, 3),
        texture=np.array([*(order[key] for key in keys), -1])[mesh.texture],  # -1, no texture, picks the last entry
        textures=tuple(mesh.textures[first[key]] for key in order),
        samplers=tuple(sampler for _, sampler in order),
    )


def _y_up_to_z_up(mesh: Mesh) -> Mesh:
    """(x, y, z) -> (x, -z, y)."""
    return replace(mesh, vertices=mesh.vertices[:, [0, 2, 1]] * np.array([1.0, -1.0, 1.0]))


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0][:200]}" if str(error) else type(error).__name__
