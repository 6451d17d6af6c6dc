"""What must be known from a glTF header beyond what trimesh hands on: exact factors, alpha, what it cannot read."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..base.errors import AssetError

Header = Mapping[str, Any]

# Extensions that a file may require: geometry and colour come out right with trimesh and this module.
_UNDERSTOOD = (
    "KHR_draco_mesh_compression",
    "KHR_mesh_quantization",
    "KHR_texture_transform",
    "KHR_lights_punctual",
    "KHR_materials_",  # a prefix: they change how the surface shines, or replace the base colour (trimesh converts)
    "EXT_texture_webp",
)
_READ_MODES = (0, 1, 4, 5)  # points, lines, triangles, strips: the primitives that trimesh gives as geometry
_FLOAT = 5126


@dataclass(frozen=True)
class GltfMaterial:
    """Base colour of a material.

    Attributes:
        factor: linear RGBA, or None when trimesh has to convert it (specular-glossiness).
        texture: name of the base colour texture for messages, None without one.
        alpha_mode: OPAQUE, MASK or BLEND.
        offset, rotation, scale: KHR_texture_transform, for v down.
    """

    factor: tuple[float, ...] | None
    texture: str | None
    alpha_mode: str = "OPAQUE"
    alpha_cutoff: float = 0.5
    offset: tuple[float, float] = (0.0, 0.0)
    rotation: float = 0.0
    scale: tuple[float, float] = (1.0, 1.0)

    def alpha(self, values: NDArray) -> NDArray:
        """Opacity that alpha values in [0, 1] mean under the alpha mode."""
        if self.alpha_mode == "BLEND":
            return values
        if self.alpha_mode == "MASK":
            return (values >= self.alpha_cutoff).astype(values.dtype)
        return np.ones_like(values)

    def moved(self, uv: NDArray) -> NDArray[np.float64]:
        """[V, 2] coordinates, v up, under the texture transform: scale, then rotate, then shift, with v down.

        The rotation is counter-clockwise as seen with v down (the extension's text; its sample viewer and three.js
        agree, its GLSL example turns the other way).
        """
        uv = np.asarray(uv, np.float64)
        u, v = uv[:, 0] * self.scale[0], (1 - uv[:, 1]) * self.scale[1]
        cos, sin = np.cos(self.rotation), np.sin(self.rotation)
        return np.stack([cos * u + sin * v + self.offset[0], 1 - (cos * v - sin * u + self.offset[1])], axis=1)


def read_header(data: bytes) -> Header:
    """The JSON of a .gltf or .glb file.

    Raises:
        AssetError: it needs something that would be read wrongly.
        ValueError, KeyError, struct.error: it is no glTF.
    """
    if data[:4] == b"glTF":
        (length,) = struct.unpack_from("<I", data, 12)
        data = data[20 : 20 + length]
    header = json.loads(data.decode("utf-8-sig"))
    if not isinstance(header, dict):
        raise ValueError("the JSON is not an object")
    _refuse_unreadable(header)
    return header


def primitive_materials(header: Header) -> list[GltfMaterial | None]:
    """Material of every primitive that trimesh gives as geometry, in its order; None without a material."""
    materials = [_material(header, entry) for entry in header.get("materials", [])]
    return [
        materials[primitive["material"]] if "material" in primitive else None
        for primitive in _primitives(header)
        if primitive.get("mode", 4) in _READ_MODES
    ]


def _primitives(header: Header) -> list[Header]:
    return [primitive for mesh in header.get("meshes", []) for primitive in mesh["primitives"]]


def _refuse_unreadable(header: Header) -> None:
    for name in header.get("extensionsRequired", []):
        if not name.startswith(_UNDERSTOOD):
            raise AssetError(f"it needs the glTF extension {name}, which is not read: export it without")
    accessors = header.get("accessors", [])
    for primitive in _primitives(header):
        if primitive.get("mode", 4) == 6:
            raise AssetError("it has triangle fans, which are not read: export triangles")
        attributes = primitive["attributes"]
        for key in ("POSITION", "TEXCOORD_0"):
            kind = accessors[attributes[key]] if key in attributes else {}
            integer_uv = key == "TEXCOORD_0" and kind.get("componentType", _FLOAT) != _FLOAT
            if kind.get("normalized") or integer_uv:
                raise AssetError(f"it has quantised {key} values, which are not read: export floats")


def _material(header: Header, entry: Header) -> GltfMaterial:
    glossy = entry.get("extensions", {}).get("KHR_materials_pbrSpecularGlossiness")
    rough = entry.get("pbrMetallicRoughness", {})
    info = rough.get("baseColorTexture") if glossy is None else glossy.get("diffuseTexture")
    transform = (info or {}).get("extensions", {}).get("KHR_texture_transform", {})
    if info is not None and transform.get("texCoord", info.get("texCoord", 0)) != 0:
        raise AssetError("its texture uses a second set of coordinates, which is not read: export it with one set")
    return GltfMaterial(
        factor=tuple(rough.get("baseColorFactor", (1.0, 1.0, 1.0, 1.0))) if glossy is None else None,
        texture=None if info is None else _texture_name(header, info["index"]),
        alpha_mode=entry.get("alphaMode", "OPAQUE"),
        alpha_cutoff=entry.get("alphaCutoff", 0.5),
        offset=tuple(transform.get("offset", (0.0, 0.0))),
        rotation=transform.get("rotation", 0.0),
        scale=tuple(transform.get("scale", (1.0, 1.0))),
    )


def _texture_name(header: Header, index: int) -> str:
    """What to call a texture in a message: its file, else its name, else its number."""
    texture = header["textures"][index]
    source = texture.get("extensions", {}).get("EXT_texture_webp", {}).get("source", texture.get("source"))
    image = {} if source is None else header["images"][source]
    uri = image.get("uri", "")
    return uri if uri and not uri.startswith("data:") else image.get("name") or f"number {index}"
