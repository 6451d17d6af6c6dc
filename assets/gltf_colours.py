"""What a glTF material looks like without light.

base colour = texture x baseColorFactor x COLOR_0, where factor and COLOR_0 are linear and the texture is sRGB (glTF 2.0
section 3.9.2); of a material of KHR_materials_pbrSpecularGlossiness the diffuse colour takes its place. Emission is
added in linear light. Factor and emission are worked into the texture.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..base.errors import AssetError
from ..geometry.mesh import BLENDED, CLAMP, MIRROR, OPAQUE, REPEAT, Sampler
from ..geometry.transfer import LIGHT_OF_BYTE, srgb_of_linear
from .file_colours import Surface, corners, finite, plain, unit_rgba
from .gltf_file import Gltf, Header, Primitive
from .images import open_image, pixels

_WRAPS = {10497: REPEAT, 33648: MIRROR, 33071: CLAMP}
_NEAREST = 9728
_SOURCES = ("EXT_texture_webp", "EXT_texture_avif")


@dataclass(frozen=True)
class _Texture:
    """An image on a surface. name: for messages. place: all that decides where its texels are."""

    name: str
    image: NDArray[np.uint8]
    coordinates: int
    offset: tuple[float, float]
    rotation: float
    scale: tuple[float, float]
    sampler: Sampler

    @property
    def place(self) -> tuple[Any, ...]:
        return self.coordinates, self.offset, self.rotation, self.scale, self.sampler

    def moved(self, uv: NDArray) -> NDArray[np.float64]:
        """[V, 2] coordinates, v up, of the file's with v down: scaled, then turned, then shifted.

        The rotation is counter-clockwise as seen with v down (the text of KHR_texture_transform; its sample viewer and
        three.js agree, its GLSL example turns the other way).
        """
        u, v = uv[:, 0] * self.scale[0], uv[:, 1] * self.scale[1]
        cos, sin = np.cos(self.rotation), np.sin(self.rotation)
        return np.stack([cos * u + sin * v + self.offset[0], 1 - (cos * v - sin * u + self.offset[1])], axis=1)


@dataclass(frozen=True)
class Materials:
    """Those of a file; images are read once, and worked into one another once."""

    gltf: Gltf
    _images: dict[int, NDArray[np.uint8]] = field(default_factory=dict)
    _shone: dict[tuple[Any, ...], NDArray[np.uint8]] = field(default_factory=dict)

    def surface(self, primitive: Primitive) -> Surface:
        """Colours of a primitive; grey where the file gives it none.

        Raises:
            AssetError: its texture cannot be used.
        """
        gltf, faces = self.gltf, primitive.faces
        stored = primitive.attributes.get("COLOR_0")
        if primitive.material is None and stored is None:
            return plain(faces)
        colours = np.ones((len(primitive.attributes["POSITION"]), 4))  # linear
        if stored is not None:
            colours = unit_rgba(stored, gltf.note)
        if primitive.material is None:
            return Surface(corners(_encoded(colours), faces))
        material = gltf.item("materials", primitive.material)
        base, factor = self._base(material)
        light, glow = self._emission(material)
        if light.any() and not factor[:3].any():
            colours[:, :3], base = 1, None if base is None or glow is not None else base  # black, whatever it is times
        tinted = not (colours[:, :3] == 1).all()
        if glow is not None and base is not None and base.place != glow.place:
            gltf.note("a material's emission is not shown: its texture lies elsewhere than that of the colour")
            light, glow = np.zeros(3), None
        if light.any() and tinted and (base is not None or glow is not None):
            gltf.note("a material's emission is not shown: its vertices have colours")
            light, glow = np.zeros(3), None
        cutoff, shown = _cutoff(material, len(faces)), base or glow
        if shown is None:
            return Surface(corners(_encoded(colours * factor + [*light, 0]), faces), cutoff=cutoff)
        uv = finite(shown.moved(_coordinates(gltf, primitive, shown))[faces])
        texture = self._texture_of(base, factor, light, glow)
        return Surface(corners(_encoded(colours), faces), uv, texture, shown.sampler, cutoff)

    def _base(self, material: Header) -> tuple[_Texture | None, NDArray[np.float64]]:
        """Texture and linear factor [4] of the base colour, or of the diffuse colour that takes its place."""
        if "KHR_materials_transmission" in material.get("extensions", {}):
            self.gltf.note("glass (KHR_materials_transmission) is shown as a surface in its base colour")
        glossy = material.get("extensions", {}).get("KHR_materials_pbrSpecularGlossiness")
        rough = material.get("pbrMetallicRoughness", {})
        info, factor = (
            (rough.get("baseColorTexture"), rough.get("baseColorFactor", (1, 1, 1, 1)))
            if glossy is None
            else (glossy.get("diffuseTexture"), glossy.get("diffuseFactor", (1, 1, 1, 1)))
        )
        factor = np.array(factor, np.float64)
        return None if info is None else self._texture(info, "base colour"), factor

    def _emission(self, material: Header) -> tuple[NDArray[np.float64], _Texture | None]:
        """Linear factor [3] and texture of what the surface gives off; zeros and None where that is nothing."""
        extensions = material.get("extensions", {})
        strength = extensions.get("KHR_materials_emissive_strength", {}).get("emissiveStrength", 1.0)
        light = np.array(material.get("emissiveFactor", (0, 0, 0)), np.float64) * strength
        if not light.any() or "KHR_materials_unlit" in extensions:
            return np.zeros(3), None
        info = material.get("emissiveTexture")
        glow = None if info is None else self._texture(info, "emission")
        return (np.zeros(3), None) if glow is not None and not glow.image[..., :3].any() else (light, glow)

    def _texture(self, info: Header, what: str) -> _Texture:
        texture = self.gltf.item("textures", info["index"])
        extensions: Mapping[str, Any] = texture.get("extensions", {})
        source = next((extensions[name]["source"] for name in _SOURCES if name in extensions), texture.get("source"))
        if source is None and "KHR_texture_basisu" in extensions:
            raise AssetError(f"its {what} texture is a KTX2 file (KHR_texture_basisu), which is not read: export PNG")
        image = {} if source is None else self.gltf.item("images", source)
        uri = image.get("uri", "")
        name = uri if uri and not uri.startswith("data:") else image.get("name") or f"number {info['index']}"
        if source is None:
            raise AssetError(f"its {what} texture {name} is missing or cannot be read: it names no image")
        try:
            if source not in self._images:
                self._images[source] = pixels(open_image(self.gltf.image(source)))
        except AssetError as error:
            raise AssetError(f"its {what} texture {name} is missing or cannot be read: {error}") from error
        transform = info.get("extensions", {}).get("KHR_texture_transform", {})
        return _Texture(
            name,
            self._images[source],
            transform.get("texCoord", info.get("texCoord", 0)),
            tuple(transform.get("offset", (0.0, 0.0))),
            transform.get("rotation", 0.0),
            tuple(transform.get("scale", (1.0, 1.0))),
            _sampler(self.gltf, texture),
        )

    def _texture_of(
        self, base: _Texture | None, factor: NDArray, light: NDArray, glow: _Texture | None
    ) -> NDArray[np.uint8]:
        parts = tuple(None if one is None else id(one.image) for one in (base, glow))
        key = (*parts, *factor.tolist(), *light.tolist())
        if key not in self._shone:
            self._shone[key] = _shone(base, factor, light, glow)
        return self._shone[key]


def _cutoff(material: Header, count: int) -> NDArray[np.float32]:
    mode = material.get("alphaMode", "OPAQUE")
    value = {"MASK": material.get("alphaCutoff", 0.5), "BLEND": BLENDED}.get(mode, OPAQUE)
    return np.full(count, value, np.float32)


def _sampler(gltf: Gltf, texture: Header) -> Sampler:
    found = gltf.item("samplers", texture["sampler"]) if "sampler" in texture else {}
    across, down = (_WRAPS.get(found.get(name, 0), REPEAT) for name in ("wrapS", "wrapT"))
    return Sampler((across, down), found.get("magFilter") == _NEAREST)


def _coordinates(gltf: Gltf, primitive: Primitive, texture: _Texture) -> NDArray[np.float64]:
    """[V, 2], v down. Where there are none, viewers take zeros."""
    name = f"TEXCOORD_{texture.coordinates}"
    if name not in primitive.attributes:
        gltf.note(f"a part with the texture {texture.name} has no coordinates {name}: it shows one texel")
        return np.zeros((len(primitive.attributes["POSITION"]), 2))
    return np.asarray(primitive.attributes[name], np.float64)


def _shone(base: _Texture | None, factor: NDArray, light: NDArray, glow: _Texture | None) -> NDArray[np.uint8]:
    """[H, W, 4] of base x factor + light x glow, where a texture that is None is white."""
    level = LIGHT_OF_BYTE
    if base is not None and glow is None:  # by one table per channel
        tables = [_bytes(srgb_of_linear(level * f + e)) for f, e in zip(factor[:3], light, strict=True)]
        tables.append(_bytes(np.clip(np.arange(256) / 255 * factor[3], 0, 1)))
        return np.stack([table[base.image[..., c]] for c, table in enumerate(tables)], axis=-1)
    assert glow is not None, "without any texture nothing is worked into one"
    size = max((t.image.shape[:2] for t in (base, glow) if t is not None), key=lambda shape: shape[0] * shape[1])
    result = np.empty((*size, 4), np.uint8)
    white = np.full((*size, 4), 255, np.uint8)
    below, above = white if base is None else _resized(base.image, size), _resized(glow.image, size)
    for c in range(3):
        result[..., c] = _bytes(srgb_of_linear(level[below[..., c]] * factor[c] + level[above[..., c]] * light[c]))
    result[..., 3] = _bytes(np.clip(below[..., 3] / 255 * factor[3], 0, 1))
    return result


def _resized(image: NDArray[np.uint8], size: tuple[int, ...]) -> NDArray[np.uint8]:
    if image.shape[:2] == size:
        return image
    return np.asarray(Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BILINEAR))


def _bytes(values: NDArray) -> NDArray[np.uint8]:
    return np.rint(values * 255).astype(np.uint8)


def _encoded(linear_rgba: NDArray) -> NDArray[np.float64]:
    return np.column_stack([srgb_of_linear(linear_rgba[:, :3]), np.clip(linear_rgba[:, 3], 0, 1)])
