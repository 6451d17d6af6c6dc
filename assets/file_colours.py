"""Colours of mesh files, brought to one form: sRGB corner colours and, where there is one, a texture.

What each format says and what is made of it:

* glTF: base colour = texture x baseColorFactor x COLOR_0, where factor and COLOR_0 are linear and the texture is
  sRGB (glTF 2.0 section 3.9.2). The factor is multiplied into the texture in linear light, which is exact. COLOR_0
  becomes the sRGB corner colour; its product with a texture is then taken in sRGB, which is exact for white and
  close otherwise. Alpha is ignored for OPAQUE materials and cut at alphaCutoff for MASK, as the format demands.
* OBJ: the image map_Kd alone where there is one (exporters leave a meaningless Kd beside it, often 0.64 or 0), else
  the vertex colours, unless they are all white (then they say nothing), else Kd. All are taken as sRGB.
* PLY, OFF, STL: image, else vertex colours, else face colours; sRGB.
* A surface without any of these, also in glTF, is UNCOLOURED grey.

Emission, metalness and the other material properties are not looked at: pictures show the base colour.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from ..base.errors import AssetError
from .gltf_header import GltfMaterial

# sRGB value of red, green and blue of a surface whose file gives it no colour.
UNCOLOURED = 0.6

# Palette, grey and true-colour images, with and without alpha; deeper ones would be clipped by Pillow.
_IMAGE_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "La", "RGBa", "RGBX")


@dataclass(frozen=True)
class Surface:
    """Colours of F triangles. Attributes: as the fields of `Mesh`, with at most one texture [H, W, 4] uint8."""

    rgba: NDArray[np.float32]
    uv: NDArray[np.float32] | None = None
    texture: NDArray[np.uint8] | None = None


def srgb_of_linear(linear: ArrayLike) -> NDArray[np.float64]:
    """The sRGB transfer function, IEC 61966-2-1; values are clipped to [0, 1]."""
    linear = np.clip(np.asarray(linear, np.float64), 0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def linear_of_srgb(srgb: ArrayLike) -> NDArray[np.float64]:
    """Inverse of `srgb_of_linear`."""
    srgb = np.clip(np.asarray(srgb, np.float64), 0, 1)
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def unit_rgba(colours: ArrayLike) -> NDArray[np.float64]:
    """Colours of a file as [N, 4] in [0, 1]: integers by their range, floats above 1 as bytes, alpha 1 if absent.

    Args:
        colours: [N, 3] or [N, 4].
    Raises:
        AssetError: a colour is not a finite number.
    """
    raw = np.asarray(colours)
    values = raw.astype(np.float64)
    if not np.isfinite(values).all():
        raise AssetError("a vertex or face colour is NaN or infinite: give every vertex a colour in [0, 1]")
    if raw.dtype.kind in "ui":
        values /= 65535 if raw.dtype.itemsize == 2 else 255
    elif values.size and values.max() > 1:
        values /= 255
    if values.shape[1] == 3:
        values = np.column_stack([values, np.ones(len(values))])
    return np.clip(values, 0, 1)


def pixels(image: Image.Image) -> NDArray[np.uint8]:
    """The image as [H, W, 4] uint8, first row on top.

    Raises:
        AssetError: its pixels have more than 8 bits.
    """
    if image.mode not in _IMAGE_MODES:
        raise AssetError(f"a texture has pixels of the kind '{image.mode}': convert it to 8-bit RGB or RGBA")
    return np.asarray(image.convert("RGBA"), np.uint8)


def gltf_surface(part: Mapping[str, Any], faces: NDArray, material: GltfMaterial | None) -> Surface:
    """Colours of one glTF primitive as trimesh gives it. faces: [F, 3].

    Raises:
        AssetError: its texture or its texture coordinates cannot be used.
    """
    colours = _gltf_vertex_colours(part)  # linear, [V, 4]
    if material is None:
        if colours is None:
            return _plain(faces, UNCOLOURED)
        return Surface(_corners(_encoded(colours), faces))
    visual = part["visual"]
    factor = np.asarray(material.factor or _converted_factor(visual.material))
    image = visual.material.baseColorTexture
    if material.texture is not None and image is None:
        raise AssetError(f"its base colour texture {material.texture} is missing or cannot be read: put it in place")
    colours = np.ones((len(part["vertices"]), 4)) if colours is None else colours
    if image is None or visual.uv is None:
        rgba = _encoded(colours * factor)
        rgba[:, 3] = material.alpha(rgba[:, 3])
        return Surface(_corners(rgba, faces))
    texture = _tinted(pixels(image), factor)
    texture[..., 3] = np.rint(material.alpha(texture[..., 3] / 255) * 255)
    rgba = _encoded(colours)
    rgba[:, 3] = material.alpha(rgba[:, 3])
    return Surface(_corners(rgba, faces), _finite(material.moved(visual.uv)[faces]), texture)


def textured(corner_uv: NDArray, image: Image.Image) -> Surface:
    """An image alone, at the coordinates [F, 3, 2]. Raises AssetError where one of the two cannot be used."""
    return Surface(np.ones((len(corner_uv), 3, 4), np.float32), _finite(corner_uv), pixels(image))


def other_surface(part: Mapping[str, Any], faces: NDArray) -> Surface:
    """Colours of one part of another format, under trimesh's names. faces: [F, 3].

    Raises:
        AssetError: its colours or its texture coordinates cannot be used.
    """
    visual = part.get("visual")
    material = visual.material if visual is not None else None
    image = getattr(material, "image", None)
    # trimesh puts an image of its own where there is none; one from a file has a format
    if visual is not None and image is not None and image.format is not None and visual.uv is not None:
        return textured(visual.uv[faces], image)
    if part.get("vertex_colors") is not None:
        rgba = unit_rgba(part["vertex_colors"])
        if material is None or not (rgba == 1).all():
            return Surface(_corners(rgba, faces))
    if part.get("face_colors") is not None:
        rgba = unit_rgba(part["face_colors"])
        return Surface(np.repeat(rgba[:, None], 3, axis=1).astype(np.float32))
    diffuse = getattr(material, "kwargs", {}).get("kd")  # Kd as written in the MTL file
    return _plain(faces, UNCOLOURED if diffuse is None else np.clip(diffuse, 0, 1))


def stl_face_colours(data: bytes, attributes: NDArray[np.uint16]) -> NDArray[np.float64] | None:
    """Colours in the 16 spare bits of a binary STL's triangles, [F, 3] in [0, 1]; None when there are none.

    Two conventions are in use: VisCAM sets bit 15 where the bits hold blue, green, red from the lowest; Materialise
    Magics has `COLOR=` and the object's colour in the 80-byte header, clears bit 15 where the bits hold red, green,
    blue from the lowest, and sets it where the object's colour holds.
    """
    fields = np.stack([attributes & 31, attributes >> 5 & 31, attributes >> 10 & 31], axis=1) / 31
    marked = attributes >> 15 == 1
    at = data[:74].find(b"COLOR=")
    if at >= 0:
        whole = np.frombuffer(data, np.uint8, 3, at + 6) / 255
        return np.where(marked[:, None], whole, fields)
    return np.where(marked[:, None], fields[:, ::-1], UNCOLOURED) if marked.any() else None


def _gltf_vertex_colours(part: Mapping[str, Any]) -> NDArray[np.float64] | None:
    visual = part.get("visual")
    raw = visual.vertex_attributes.get("color") if visual is not None else part.get("vertex_colors")
    return None if raw is None else unit_rgba(raw)


def _converted_factor(material: Any) -> NDArray[np.float64]:
    """Factor of a specular-glossiness material, which trimesh converts; bytes, still linear."""
    factor = material.baseColorFactor
    return np.ones(4) if factor is None else np.asarray(factor) / 255


def _encoded(linear_rgba: NDArray) -> NDArray[np.float64]:
    return np.column_stack([srgb_of_linear(linear_rgba[:, :3]), linear_rgba[:, 3]])


def _tinted(texture: NDArray[np.uint8], factor: NDArray) -> NDArray[np.uint8]:
    """The texture times a linear factor, by one table of 256 values per channel."""
    level = np.arange(256) / 255
    tables = [srgb_of_linear(linear_of_srgb(level) * f) for f in factor[:3]] + [np.clip(level * factor[3], 0, 1)]
    tables = [np.rint(table * 255).astype(np.uint8) for table in tables]
    return np.stack([table[texture[..., c]] for c, table in enumerate(tables)], axis=-1)


def _corners(vertex_rgba: NDArray, faces: NDArray) -> NDArray[np.float32]:
    return vertex_rgba[faces].astype(np.float32)


def _finite(corner_uv: NDArray) -> NDArray[np.float32]:
    if not np.isfinite(corner_uv).all():
        raise AssetError("a texture coordinate is NaN or infinite: unwrap the mesh again")
    return corner_uv.astype(np.float32)


def _plain(faces: NDArray, rgb: ArrayLike) -> Surface:
    rgba = np.ones((len(faces), 3, 4), np.float32)
    rgba[..., :3] = rgb
    return Surface(rgba)
