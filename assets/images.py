"""Image files: textures and condition pictures, read in one way."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from ..base.errors import AssetError
from ..base.files import file_fault
from ..base.pictures import check_pixels

# Palette, grey and true-colour images, with and without alpha; of 16 bits only grey ones, which become 8 bits here.
_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "La", "RGBa", "RGBX")
_DEEP_GREY = ("I;16", "I;16B", "I;16L", "I;16N")


def open_image(data: bytes | Path) -> Image.Image:
    """Raises AssetError when it is not an image, is cut off, or has more pixels than are read."""
    if isinstance(data, Path) and (fault := file_fault(data)):
        raise AssetError(f"it {fault}")
    try:
        image = Image.open(data if isinstance(data, Path) else io.BytesIO(data))
        check_pixels(image, "it")
        image.load()
    except Image.DecompressionBombError as error:
        raise AssetError(f"it has more than {2 * (Image.MAX_IMAGE_PIXELS or 0)} pixels: make it smaller") from error
    except UnidentifiedImageError as error:
        raise AssetError("it is not an image of a kind that is read (PNG, JPEG, WebP, ...)") from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise AssetError(f"it is not a readable image ({error})") from error
    return image


def pixels(image: Image.Image) -> NDArray[np.uint8]:
    """The image as [H, W, 4] uint8, first row on top.

    Raises:
        AssetError: its pixels are of another kind, such as floats.
    """
    if image.mode in _DEEP_GREY:
        image = Image.fromarray(np.rint(np.asarray(image, np.float64) / 257).astype(np.uint8))
    if image.mode not in _MODES:
        raise AssetError(f"its pixels are of the kind '{image.mode}': convert it to 8-bit RGB or RGBA")
    return np.asarray(image.convert("RGBA"), np.uint8)


def upright(image: Image.Image) -> Image.Image:
    """A photo as viewers show it, turned as its EXIF data say. Textures are never turned."""
    return ImageOps.exif_transpose(image)
