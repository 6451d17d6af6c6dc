"""Mesh files of the common formats, read to the one form `Mesh`, or refused with a reason.

trimesh parses, this module judges: trimesh replaces what it cannot find or read (textures, material files, NaN
colours) by defaults, and an asset with wrong colours must not be measured as if it were right.
"""

from __future__ import annotations

import io
import logging
import re
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from trimesh.exchange.load import mesh_loaders
from trimesh.resolvers import FilePathResolver
from trimesh.scene.transforms import SceneGraph

from ..base.errors import AssetError
from ..geometry.mesh import Mesh, concatenate
from ..geometry.polygons import fans
from .file_colours import Surface, gltf_surface, other_surface, stl_face_colours, textured
from .gltf_header import primitive_materials, read_header
from .obj_text import absolute_indices, fans_only
from .off_files import read_off
from .ply_files import read_ply
from .ply_mesh import mesh_part, texture_name

Up = Literal["y", "z"]

# The axis that points up in a file of each format. For glTF it is part of the format. OBJ and PLY files of
# objects mostly come from tools with y up, STL and OFF from engineering with z up: a habit, so it can be overruled.
UP_AXIS: Mapping[str, Up] = {".glb": "y", ".gltf": "y", ".obj": "y", ".ply": "y", ".stl": "z", ".off": "z"}

# Triangles smaller than this, in units of the squared longest side of the box, cannot be seen and are dropped.
MIN_AREA = 1e-12

_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tga", ".gif", ".tif", ".tiff")

# What third-party parsers raise on broken files, found by trying: a single bad file must not end a long run.
_PARSE_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    Image.DecompressionBombError,
    LookupError,
    MemoryError,
    NameError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)


def read_mesh(path: Path, up: Up | None = None) -> Mesh:
    """The mesh in a file, in its own units, turned so that z is up; triangles without area are left out.

    All instances of a scene are placed by its node transforms; skins and morph targets are left at rest.
    For colours see `file_colours`, for faces of more than three corners `geometry.polygons`.

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
    companions = _Companions(path)
    try:
        with _silence():
            mesh = _checked(_READERS[suffix](path, companions))
    except AssetError as error:
        raise AssetError(f"{path.name}: {error}") from error
    except _PARSE_ERRORS as error:
        reason = companions.fault or f"it is not a readable {suffix} file ({_first_line(error)})"
        raise AssetError(f"{path.name}: {reason}") from error
    return mesh if (up or UP_AXIS[suffix]) == "z" else _y_up_to_z_up(mesh)


class _Companions(FilePathResolver):
    """Finds the files that a mesh file names; remembers what was wrong, because trimesh goes on without them."""

    def __init__(self, path: Path):
        super().__init__(str(path), allow_anywhere=True)
        self.fault = ""
        self.given: dict[str, bytes] = {}

    def get(self, name: str) -> bytes:
        try:
            data = super().get(unquote(name).replace("\\", "/"))
        except OSError:
            self.fault = self.fault or f"the file {name} that it names is missing: put it beside the mesh"
            raise
        if name.lower().endswith(_IMAGE_SUFFIXES):
            try:
                Image.open(io.BytesIO(data)).close()
            except (OSError, SyntaxError):
                self.fault = self.fault or f"the image {name} cannot be read: replace it"
        if name.lower().endswith(".mtl"):
            data = _utf8(data)
        self.given[name] = data
        return data


def _read_gltf(kind: str) -> Callable[[Path, _Companions], list[Mesh]]:
    def read(path: Path, companions: _Companions) -> list[Mesh]:
        data = path.read_bytes()
        header = read_header(data)
        materials = primitive_materials(header)
        parsed = _parse(kind, data, companions)
        surfaces: dict[str, tuple[Mapping[str, Any], NDArray, Surface]] = {}
        for (name, part), material in zip(parsed["geometry"].items(), materials, strict=True):
            faces = _triangles(part)
            if len(faces):
                _refuse_undecoded(part, header)
                surfaces[name] = part, faces, gltf_surface(part, faces, material)
        return [_placed(*surfaces[name], matrix) for name, matrix in _instances(parsed) if name in surfaces]

    return read


def _refuse_undecoded(part: Mapping[str, Any], header: Mapping[str, Any]) -> None:
    """trimesh leaves zeros where the Draco decoder fails."""
    if "KHR_draco_mesh_compression" in header.get("extensionsUsed", []) and not np.any(part["vertices"]):
        raise AssetError("its Draco data cannot be decoded: export it again, or without compression")


def _read_obj(path: Path, companions: _Companions) -> list[Mesh]:
    text = fans_only(absolute_indices(_utf8(path.read_bytes()).decode()))
    meshes = _plain_parts(_parse("obj", text.encode(), companions))
    _refuse_fault(companions)
    _refuse_undefined_materials(text, companions)
    return meshes


def _refuse_undefined_materials(text: str, companions: _Companions) -> None:
    """trimesh leaves faces grey whose material is not in the .mtl file."""
    libraries = [given for name, given in companions.given.items() if name.lower().endswith(".mtl")]
    defined = {name for given in libraries for name in re.findall(rb"^\s*newmtl\s+(.*?)\s*$", given, re.M)}
    for used in re.findall(rb"^\s*usemtl\s+(.*?)\s*$", text.encode(), re.M):
        if libraries and used not in defined:
            raise AssetError(f"its material {used.decode()} is not in its .mtl file: export both again")


def _read_ply(path: Path, companions: _Companions) -> list[Mesh]:
    ply = read_ply(path)
    image = texture_name(ply)
    part = mesh_part(ply, textured=image is not None)
    if part.get("corner_uv") is not None:
        surface = textured(part["corner_uv"], Image.open(io.BytesIO(companions.get(str(image)))))
        return [_placed(part, part["faces"], surface, np.eye(4))]
    if part and image and part["vertex_colors"] is None and part["face_colors"] is None:
        raise AssetError(f"it names the texture {image}, but has no texture coordinates: export it again")
    return _plain_parts(part)


def _read_stl(path: Path, companions: _Companions) -> list[Mesh]:
    data = path.read_bytes()
    binary = len(data) >= 84 and len(data) == 84 + 50 * struct.unpack_from("<I", data, 80)[0]
    parsed = _parse("stl", data if binary else _utf8(data), companions)
    attributes = parsed.get("face_attributes", {}).get("stl")
    if attributes is not None:
        parsed = {**parsed, "face_colors": stl_face_colours(data, attributes.reshape(-1))}
    return _plain_parts(parsed)


def _read_off(path: Path, _companions: _Companions) -> list[Mesh]:
    return _plain_parts(read_off(_utf8(path.read_bytes()).decode()))


_READERS: Mapping[str, Callable[[Path, _Companions], list[Mesh]]] = {
    ".glb": _read_gltf("glb"),
    ".gltf": _read_gltf("gltf"),
    ".obj": _read_obj,
    ".ply": _read_ply,
    ".stl": _read_stl,
    ".off": _read_off,
}


def _utf8(text: bytes) -> bytes:
    """Text with any other encoding's letters replaced; they occur in comments and names only."""
    return text.decode("utf-8", errors="replace").encode()


def _parse(kind: str, data: bytes, companions: _Companions) -> dict[str, Any]:
    """What trimesh's loader makes of a file, before it builds (and rounds, and repairs) a mesh from it."""
    return mesh_loaders[kind](file_obj=io.BytesIO(data), file_type=kind, resolver=companions)


def _plain_parts(parsed: Mapping[str, Any]) -> list[Mesh]:
    meshes = []
    for part in parsed["geometry"].values() if "geometry" in parsed else [parsed]:
        faces = _triangles(part)
        if len(faces):
            meshes.append(_placed(part, faces, other_surface(part, faces), np.eye(4)))
    return meshes


def _instances(parsed: Mapping[str, Any]) -> Iterator[tuple[str, NDArray]]:
    """Name and 4x4 transform of every use of a geometry in the scene."""
    graph = SceneGraph(base_frame=parsed["base_frame"])
    for edge in parsed["graph"]:
        graph.update(**edge)
    for node in graph.nodes_geometry:
        matrix, name = graph[node]
        if name is not None:
            yield str(name), matrix


def _triangles(part: Mapping[str, Any]) -> NDArray[np.int64]:
    """[F, 3]: the polygons of OBJ that are not cut before become fans."""
    if part.get("faces") is None or len(part["faces"]) == 0:
        return np.zeros((0, 3), np.int64)
    polygons = np.asarray(part["faces"]).astype(np.int64)
    if polygons.min() < 0 or polygons.max() >= len(part["vertices"]):
        raise AssetError(f"a face names a vertex that is not one of its {len(part['vertices'])}: export it again")
    return polygons.reshape(-1)[fans(np.full(len(polygons), polygons.shape[1]))[0]]


def _placed(part: Mapping[str, Any], faces: NDArray, surface: Surface, matrix: NDArray) -> Mesh:
    n_faces = len(faces)
    uv = np.zeros((n_faces, 3, 2), np.float32) if surface.uv is None else surface.uv
    texture = np.full(n_faces, -1 if surface.texture is None else 0, np.int64)
    textures = () if surface.texture is None else (surface.texture,)
    vertices = np.asarray(part["vertices"], np.float64)
    return Mesh(vertices, faces, surface.rgba, uv, texture, textures).moved(matrix)


def _checked(meshes: Sequence[Mesh]) -> Mesh:
    """All parts as one mesh that can be shown.

    Raises:
        AssetError: there is nothing to show, or it is nowhere.
    """
    if not meshes:
        raise AssetError("it has no triangles: only meshes can be used, not points, lines or empty scenes")
    mesh = concatenate(meshes)
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
    return _compact(_faces_of(mesh, area > MIN_AREA))


def _faces_of(mesh: Mesh, keep: NDArray[np.bool_]) -> Mesh:
    return replace(
        mesh,
        faces=mesh.faces[keep],
        corner_rgba=mesh.corner_rgba[keep],
        corner_uv=mesh.corner_uv[keep],
        texture=mesh.texture[keep],
    )


def _compact(mesh: Mesh) -> Mesh:
    """Without unused vertices and with every texture once: parts and instances of a scene share them."""
    used, faces = np.unique(mesh.faces, return_inverse=True)
    first: dict[tuple[tuple[int, ...], bytes], int] = {}
    places = [first.setdefault((t.shape, t.tobytes()), len(first)) for t in mesh.textures]
    textures = tuple(np.frombuffer(content, np.uint8).reshape(shape) for shape, content in first)
    return replace(
        mesh,
        vertices=mesh.vertices[used],
        faces=faces.reshape(-1, 3),
        texture=np.array([*places, -1])[mesh.texture],  # -1, no texture, picks the last entry
        textures=textures,
    )


def _y_up_to_z_up(mesh: Mesh) -> Mesh:
    """(x, y, z) -> (x, -z, y)."""
    return replace(mesh, vertices=mesh.vertices[:, [0, 2, 1]] * np.array([1.0, -1.0, 1.0]))


def _refuse_fault(companions: _Companions) -> None:
    if companions.fault:
        raise AssetError(companions.fault)


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0][:200]}" if str(error) else type(error).__name__


@contextmanager
def _silence() -> Iterator[None]:
    """Without trimesh's log lines and the warnings of parsers: what matters becomes an AssetError."""
    logger = logging.getLogger("trimesh")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
