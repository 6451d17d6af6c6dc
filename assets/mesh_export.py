"""GLB files of meshes with vertex colours, the same bytes for the same mesh."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..base.errors import AssetError
from ..base.files import replacing
from ..geometry.transfer import linear_of_srgb

# Numbers of the glTF 2.0 specification, sections 3.6 and 4.4.
_UNSIGNED_SHORT, _UNSIGNED_INT, _FLOAT = 5123, 5125, 5126
_ARRAY_BUFFER, _ELEMENT_ARRAY_BUFFER = 34962, 34963
_JSON_CHUNK, _BINARY_CHUNK = b"JSON", b"BIN\0"


def write_glb(path: Path, vertices: NDArray, faces: NDArray, colours: NDArray) -> None:
    """A binary glTF file that viewers show as our pictures do: y up, without light, both sides.

    glTF has linear vertex colours; 16 bits keep the dark sRGB levels apart, which 8 would not.

    Args:
        vertices: [V, 3], z up; (x, y, z) is written as (x, z, -y).
        faces: [F, 3] vertex indices.
        colours: [V, 3] sRGB in [0, 1].
    Raises:
        AssetError: the mesh has no faces, or a number is out of its range.
        RunError: the file cannot be written.
    """
    vertices, faces, colours = _checked(vertices, faces, colours)
    y_up = vertices[:, [0, 2, 1]] * np.array([1, 1, -1], np.float32)
    rgba = np.full((len(vertices), 4), 65535, "<u2")
    rgba[:, :3] = np.rint(linear_of_srgb(colours) * 65535)
    blocks = [y_up.astype("<f4").tobytes(), rgba.tobytes(), faces.astype("<u4").tobytes()]
    with replacing(path) as part:
        part.write_bytes(_glb(_gltf(y_up, faces, [len(block) for block in blocks]), b"".join(blocks)))


def _checked(
    vertices: NDArray, faces: NDArray, colours: NDArray
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float64]]:
    """The arrays in the types that are written.

    Raises:
        AssetError: they are no mesh.
    """
    vertices, faces, colours = np.asarray(vertices, np.float32), np.asarray(faces, np.int64), np.asarray(colours)
    if len(faces) == 0:
        raise AssetError("A mesh without faces cannot be written - at least one is needed.")
    if not np.isfinite(vertices).all():
        raise AssetError("A vertex coordinate is NaN or infinite - all must be finite. Repair the mesh.")
    if faces.min() < 0 or faces.max() >= len(vertices):
        raise AssetError(f"Faces name vertices {faces.min()} to {faces.max()} - there are {len(vertices)}, from 0.")
    if colours.shape != vertices.shape or not ((colours >= 0) & (colours <= 1)).all():
        raise AssetError(
            f"Colours [{', '.join(map(str, colours.shape))}] do not fit {len(vertices)} vertices - "
            "give each an sRGB colour of 3 numbers in [0, 1]."
        )
    return vertices, faces, colours.astype(np.float64)


def _gltf(positions: NDArray[np.float32], faces: NDArray[np.int64], lengths: list[int]) -> dict[str, Any]:
    """The JSON of a scene of one mesh, whose positions, colours and faces lie one after the other in the buffer."""
    starts = np.cumsum([0, *lengths]).tolist()
    targets = (_ARRAY_BUFFER, _ARRAY_BUFFER, _ELEMENT_ARRAY_BUFFER)
    extent = {"min": positions.min(0).tolist(), "max": positions.max(0).tolist()}  # exact: float32 as JSON numbers
    n_vertices = len(positions)
    return {
        "asset": {"version": "2.0", "generator": "mdtbench"},
        "extensionsUsed": ["KHR_materials_unlit"],
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0, "COLOR_0": 1}, "indices": 2, "material": 0}]}],
        "materials": [
            {
                "doubleSided": True,
                "pbrMetallicRoughness": {"metallicFactor": 0, "roughnessFactor": 1},
                "extensions": {"KHR_materials_unlit": {}},
            }
        ],
        "accessors": [
            {"bufferView": 0, "componentType": _FLOAT, "count": n_vertices, "type": "VEC3", **extent},
            {
                "bufferView": 1,
                "componentType": _UNSIGNED_SHORT,
                "normalized": True,
                "count": n_vertices,
                "type": "VEC4",
            },
            {"bufferView": 2, "componentType": _UNSIGNED_INT, "count": faces.size, "type": "SCALAR"},
        ],
        "bufferViews": [
            {"buffer": 0, "byteOffset": start, "byteLength": length, "target": target}
            for start, length, target in zip(starts, lengths, targets, strict=False)
        ],
        "buffers": [{"byteLength": starts[-1]}],
    }


def _glb(header: dict[str, Any], binary: bytes) -> bytes:
    """Both chunks with their headers, padded to 4 bytes: the JSON with spaces, the buffer with zeros."""
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    binary += bytes(-len(binary) % 4)
    body = b"".join(
        struct.pack("<I4s", len(chunk), kind) + chunk for kind, chunk in ((_JSON_CHUNK, text), (_BINARY_CHUNK, binary))
    )
    return struct.pack("<4sII", b"glTF", 2, 12 + len(body)) + body
