"""A glTF file taken apart: its JSON, its buffers, and the arrays that accessors describe.

glTF 2.0 sections 3.6 and 4, with sparse accessors, normalised integers, KHR_mesh_quantization and Draco.
"""

from __future__ import annotations

import base64
import binascii
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from urllib.parse import unquote_to_bytes

import DracoPy
import numpy as np
from numpy.typing import NDArray

from ..base.errors import AssetError
from ..base.parsing import parse_json
from .gltf_guard import check_counts

Header = Mapping[str, Any]

_COMPONENTS = {5120: "<i1", 5121: "<u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
_WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT4": 16}
_JSON, _BINARY = 0x4E4F534A, 0x004E4942  # kinds of chunks

# Extensions that this reader applies, or whose fallback it takes.
APPLIED = frozenset(
    {
        "EXT_mesh_gpu_instancing",
        "EXT_meshopt_compression",
        "EXT_texture_avif",
        "EXT_texture_webp",
        "KHR_draco_mesh_compression",
        "KHR_materials_emissive_strength",
        "KHR_materials_pbrSpecularGlossiness",
        "KHR_materials_unlit",
        "KHR_mesh_quantization",
        "KHR_node_visibility",
        "KHR_texture_basisu",
        "KHR_texture_transform",
        "MSFT_texture_dds",
    }
)
# Extensions that change neither the shape nor its colour without light: gloss, lights, descriptions.
WITHOUT_EFFECT = frozenset(
    {
        "EXT_lights_ies",
        "EXT_lights_image_based",
        "EXT_mesh_features",
        "EXT_structural_metadata",
        "KHR_animation_pointer",
        "KHR_lights_punctual",
        "KHR_materials_anisotropy",
        "KHR_materials_clearcoat",
        "KHR_materials_dispersion",
        "KHR_materials_ior",
        "KHR_materials_iridescence",
        "KHR_materials_sheen",
        "KHR_materials_specular",
        "KHR_materials_volume",
        "KHR_xmp",
        "KHR_xmp_json_ld",
        "MSFT_lod",
        "MSFT_packing_normalRoughnessMetallic",
        "MSFT_packing_occlusionRoughnessMetallic",
    }
)
# Extensions of which the plain asset is shown, with these words.
NOTED = {
    "KHR_materials_diffuse_transmission": "translucent light is not shown",
    "KHR_materials_transmission": "glass (KHR_materials_transmission) is shown as a surface in its base colour",
    "KHR_materials_variants": "of its variants of materials the default is shown",
}


@dataclass(frozen=True)
class Gltf:
    """An opened file. load: the bytes of a file that it names. notes: filled while it is read."""

    header: Header
    binary: bytes | None
    load: Callable[[str], bytes]
    notes: list[str] = field(default_factory=list)

    def item(self, kind: str, index: int) -> Header:
        """One of the header's nodes, meshes, accessors, ... Raises AssetError: there is none."""
        items = self.header.get(kind, [])
        if not 0 <= index < len(items):
            raise AssetError(f"it names number {index} of {len(items)} {kind}: export it again")
        return items[index]

    def note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def raw(self, index: int) -> NDArray:
        """[count, width] of an accessor, as stored; sparse values are put in.

        Raises:
            AssetError: it reaches beyond its buffer.
        """
        accessor = self.item("accessors", index)
        kind, width = np.dtype(_COMPONENTS[accessor["componentType"]]), _WIDTHS[accessor["type"]]
        count = int(accessor["count"])
        if "bufferView" in accessor:
            values = self._rows(accessor["bufferView"], accessor.get("byteOffset", 0), kind, width, count)
        else:
            values = np.zeros((count, width), kind)
        if "sparse" in accessor:
            values = values.copy()
            values[self._sparse_rows(accessor["sparse"])] = self._sparse_values(accessor["sparse"], kind, width)
        return values

    def values(self, index: int) -> NDArray[np.float64]:
        """`raw` as numbers: integers that are said to be normalised lie in [0, 1] or [-1, 1]."""
        values = self.raw(index)
        if self.item("accessors", index).get("normalized") and values.dtype.kind in "iu":
            return np.maximum(values / float(np.iinfo(values.dtype).max), -1.0)
        return values.astype(np.float64)

    def view(self, index: int) -> memoryview:
        """The bytes of a buffer view."""
        view = self.item("bufferViews", index)
        data, start, size = self._buffers(view["buffer"]), view.get("byteOffset", 0), view["byteLength"]
        if start < 0 or size < 0 or start + size > len(data):
            if "EXT_meshopt_compression" in view.get("extensions", {}):
                raise AssetError("its data are compressed (EXT_meshopt_compression), which is not read: export plain")
            raise AssetError("a buffer is shorter than the file says: it is cut off, or not the one of this file")
        return memoryview(data)[start : start + size]

    def image(self, index: int) -> bytes:
        """The bytes of an image file."""
        image = self.item("images", index)
        return bytes(self.view(image["bufferView"])) if "bufferView" in image else self._file(image["uri"])

    def _sparse_rows(self, sparse: Header) -> NDArray[np.int64]:
        at = sparse["indices"]
        kind = np.dtype(_COMPONENTS[at["componentType"]])
        return self._rows(at["bufferView"], at.get("byteOffset", 0), kind, 1, sparse["count"])[:, 0].astype(np.int64)

    def _sparse_values(self, sparse: Header, kind: np.dtype, width: int) -> NDArray:
        at = sparse["values"]
        return self._rows(at["bufferView"], at.get("byteOffset", 0), kind, width, sparse["count"])

    def _rows(self, view: int, offset: int, kind: np.dtype, width: int, count: int) -> NDArray:
        data, size = self.view(view), kind.itemsize * width
        stride = self.item("bufferViews", view).get("byteStride", size)
        if count < 0 or offset < 0 or stride < size or (count and offset + (count - 1) * stride + size > len(data)):
            raise AssetError("an accessor reaches beyond its data: it is cut off, or not the one of this file")
        return np.ndarray((count, width), kind, data, offset, (stride, kind.itemsize))

    def _buffers(self, index: int) -> bytes:
        if index not in self._loaded:
            buffer = self.item("buffers", index)
            data = self._file(buffer["uri"]) if "uri" in buffer else self.binary if index == 0 else None
            self._loaded[index] = data or b""  # without data: a place for what is compressed
        return self._loaded[index]

    @cached_property
    def _loaded(self) -> dict[int, bytes]:
        return {}

    def _file(self, uri: str) -> bytes:
        if not uri.startswith("data:"):
            return self.load(uri)
        head, _, text = uri.partition(",")
        try:
            return base64.b64decode(text) if head.endswith(";base64") else unquote_to_bytes(text)
        except binascii.Error as error:
            raise AssetError("data inside its JSON are not base64: export it again") from error


@dataclass(frozen=True)
class Primitive:
    """Triangles of one material. attributes: by name. faces: [F, 3] vertices."""

    attributes: Mapping[str, NDArray]
    faces: NDArray[np.int64]
    material: int | None
    targets: tuple[Header, ...] = ()


def open_gltf(data: bytes, load: Callable[[str], bytes]) -> Gltf:
    """A .gltf or .glb file, by its first bytes.

    Raises:
        AssetError: it is cut off, or needs something that is not read.
        ValueError: its JSON is none.
    """
    text, binary = _chunks(data) if data[:4] == b"glTF" else (data, None)
    header = parse_json(text.rstrip(b"\0 \t\r\n").decode("utf-8-sig"))
    if not isinstance(header, dict):
        raise ValueError("the JSON is not an object")
    version = str(header.get("asset", {}).get("version", ""))
    if not version.startswith("2."):
        raise AssetError(f"it is of glTF version '{version}', and 2.0 is read: export it as that")
    check_counts(header)
    gltf = Gltf(header, binary, load)
    _check_extensions(gltf)
    return gltf


def _chunks(data: bytes) -> tuple[bytes, bytes | None]:
    """JSON and binary chunk of a GLB; others are skipped, and what follows the length in its head."""
    if len(data) < 20:
        raise AssetError("it is cut off in its first 20 bytes: copy it again")
    version, length = struct.unpack_from("<2I", data, 4)
    if version != 2:
        raise AssetError(f"it is of glTF version {version}, and 2 is read: export it as that")
    if length > len(data):
        raise AssetError(f"it is cut off: {len(data)} of {length} bytes are there - copy it again")
    found: dict[int, bytes] = {}
    at = 12
    while at + 8 <= length:
        size, kind = struct.unpack_from("<2I", data, at)
        if at + 8 + size > length:
            raise AssetError("a part of it is longer than the file: copy it again")
        found.setdefault(kind, data[at + 8 : at + 8 + size])
        at += 8 + size
    return found.get(_JSON, b""), found.get(_BINARY)


def _check_extensions(gltf: Gltf) -> None:
    used = {*gltf.header.get("extensionsUsed", []), *gltf.header.get("extensionsRequired", [])}
    for name in sorted(used - APPLIED - WITHOUT_EFFECT):
        if name not in NOTED and name in gltf.header.get("extensionsRequired", []):
            raise AssetError(f"it needs the glTF extension {name}, which is not read: export it without")
        gltf.note(NOTED.get(name, f"it uses the glTF extension {name}, which is ignored"))


def primitives(gltf: Gltf, mesh: Header) -> list[Primitive]:
    """What of a mesh has a surface."""
    found = []
    for primitive in mesh["primitives"]:
        mode = primitive.get("mode", 4)
        if mode < 4:
            gltf.note("its points or lines are not drawn")
            continue
        attributes, indices = _attributes(gltf, primitive)
        if "POSITION" not in attributes:
            continue
        faces = _faces(mode, indices)
        if len(faces) and faces.max() >= len(attributes["POSITION"]):
            count = len(attributes["POSITION"])
            raise AssetError(f"a face names a vertex that is not one of its {count}: export it again")
        targets = tuple(primitive.get("targets", ()))
        found.append(Primitive(attributes, faces, primitive.get("material"), targets))
    return found


def _attributes(gltf: Gltf, primitive: Header) -> tuple[dict[str, NDArray], NDArray[np.int64]]:
    """Attributes by name, and the vertices that faces are made of."""
    names: Mapping[str, int] = primitive["attributes"]
    draco = primitive.get("extensions", {}).get("KHR_draco_mesh_compression")
    if draco is not None:
        return _decompressed(gltf, draco, names)
    # Colours are judged by their type, not by the flag that some exporters forget.
    attributes = {name: (gltf.raw if name.startswith("COLOR") else gltf.values)(i) for name, i in names.items()}
    if "indices" in primitive:
        return attributes, gltf.raw(primitive["indices"])[:, 0].astype(np.int64)
    return attributes, np.arange(len(attributes.get("POSITION", ())))


def _decompressed(gltf: Gltf, draco: Header, names: Mapping[str, int]) -> tuple[dict[str, NDArray], NDArray[np.int64]]:
    try:
        mesh = DracoPy.decode(bytes(gltf.view(draco["bufferView"])))
    except (DracoPy.FileTypeException, ValueError) as error:
        raise AssetError(f"its Draco data cannot be decoded ({error}): export it again, or without") from error
    stored = {attribute["unique_id"]: attribute["data"] for attribute in mesh.attributes}
    plain = names.keys() - draco["attributes"].keys()
    attributes = {name: (gltf.raw if name.startswith("COLOR") else gltf.values)(names[name]) for name in plain}
    for name, number in draco["attributes"].items():
        if number not in stored:
            raise AssetError(f"its Draco data lack {name}: export it again, or without")
        values, accessor = np.asarray(stored[number]), gltf.item("accessors", names[name])
        if accessor.get("normalized") and values.dtype.kind in "iu" and not name.startswith("COLOR"):
            values = np.maximum(values / float(np.iinfo(values.dtype).max), -1.0)
        attributes[name] = values.reshape(len(values), -1)
    return attributes, np.asarray(mesh.faces, np.int64).reshape(-1)


def _faces(mode: int, indices: NDArray[np.int64]) -> NDArray[np.int64]:
    """Triangles of a list (4), a strip (5) or a fan (6)."""
    if mode == 4:
        return indices[: len(indices) // 3 * 3].reshape(-1, 3)
    if len(indices) < 3:
        return np.zeros((0, 3), np.int64)
    if mode == 6:
        return np.stack([np.full(len(indices) - 2, indices[0]), indices[1:-1], indices[2:]], axis=1)
    strip = np.stack([indices[:-2], indices[1:-1], indices[2:]], axis=1)
    strip[1::2] = strip[1::2][:, [1, 0, 2]]
    return strip
