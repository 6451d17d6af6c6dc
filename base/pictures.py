"""Picture files of anybody, opened within the limits."""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from .errors import AssetError
from .files import file_fault
from .limits import excess, too_many

# What Pillow raises on broken files, found by trying.
FAULTS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    Image.DecompressionBombError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)


@contextmanager
def opened_picture(path: Path, name: str = "") -> Iterator[Image.Image]:
    """A picture for the time of the block, which is to do nothing but read and convert it.

    Args:
        name: what to call it in messages; the file's name by default.
    Raises:
        AssetError: no such picture, or one that is damaged or beyond the limits.
    """
    name = name or path.name
    if not path.exists():
        raise AssetError(f"{name}: there is no such picture")
    fault = file_fault(path)
    if fault:
        raise AssetError(f"{name} {fault}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit is lower
            image = Image.open(path)
        with image:
            check_pixels(image, f"the picture {name}")
            yield image
    except FAULTS as error:
        raise AssetError(f"{name}: it is not a readable picture ({type(error).__name__}: {error})") from error


def check_pixels(image: Image.Image, what: str) -> None:
    """Raises AssetError where a picture, whose pixels are not read yet, has too many, or an asset's pictures have."""
    size = image.width * image.height
    reason = excess("pixels", size, what) or too_many("asset_pixels", size, "it")
    if reason:
        raise AssetError(reason)
