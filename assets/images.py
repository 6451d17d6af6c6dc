"""Image files of anybody: textures, condition pictures and renders, read in one way and within the limits."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from ..base.errors import BROKEN_FILE, AssetError
from ..base.files import file_fault
from ..base.limits import excess, limits, too_many

# Palette, grey and true-colour images, with and without alpha; of 16 bits only grey ones, which become 8 bits here.
_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "La", "RGBa", "RGBX")
STRIP = 256  # rows
_DEEP_GREY = ("I;16", "I;16B", "I;16L", "I;16N")


def open_image(data: bytes | Path) -> Image.Image:
    """Raises AssetError when it is not an image, is cut off, or is beyond the limits."""
    if isinstance(data, Path):
        if not data.exists():
            raise AssetError("there is no such picture")
        if fault := file_fault(data):
            raise AssetError(f"it {fault}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit is lower
            image = Image.open(data if isinstance(data, Path) else io.BytesIO(data))
        _check_pixels(image)
        image.load()
    except UnidentifiedImageError as error:
        raise AssetError("it is not a readable picture (of a kind such as PNG, JPEG, WebP)") from error
    except Image.DecompressionBombError as error:
        most = f"{limits().pixels:,} are allowed - raise it with --set limits.pixels=N"
        raise AssetError(f"it has more than {4 * limits().pixels:,} pixels - {most}") from error
    except BROKEN_FILE as error:
        raise AssetError(f"it is not a readable picture ({type(error).__name__}: {error})") from error
    return image


def _check_pixels(image: Image.Image) -> None:
    """Raises AssetError where an image, whose pixels are not read yet, has too many, or an asset's images have."""
    size = image.width * image.height
    if reason := excess("pixels", size, "it") or too_many("asset_pixels", size, "it"):
        raise AssetError(reason)


def read_rgba(path: Path, name: str = "") -> NDArray[np.uint8]:
    """[H, W, 4], colours not premultiplied.

    Args:
        name: what to call it in messages; the file's name by default.
    Raises:
        AssetError: the file is not an RGBA picture.
    """
    name = name or path.name
    try:
        image = open_image(path)
    except AssetError as error:
        raise AssetError(f"{name}: {error}") from error
    if image.mode != "RGBA":
        raise AssetError(f"{name}: it is a picture of the kind {image.mode} - RGBA is needed")
    return np.asarray(image)


def pixels(image: Image.Image) -> NDArray[np.uint8]:
    """The image as [H, W, 4] uint8, first row on top.

    Raises:
        AssetError: its pixels are of another kind, such as floats.
    """
    if image.mode in _DEEP_GREY:
        return _shallow(np.asarray(image))
    if image.mode not in _MODES:
        raise AssetError(f"its pixels are of the kind '{image.mode}': convert it to 8-bit RGB or RGBA")
    return np.asarray(image.convert("RGBA"), np.uint8)


def _shallow(grey: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """[H, W, 4] of 16-bit grey [H, W], rounded to the nearest level; in strips, as pictures are large."""
    rgba = np.full((*grey.shape, 4), 255, np.uint8)
    for start in range(0, len(grey), STRIP):
        rows = slice(start, start + STRIP)
        rgba[rows, :, :3] = ((grey[rows].astype(np.uint32) + 128) // 257)[..., None]  # 65535 / 255 = 257
    return rgba


def upright(image: Image.Image) -> Image.Image:
    """A photo as viewers show it, turned as its EXIF data say. Textures are never turned."""
    ImageOps.exif_transpose(image, in_place=True)
    return image
