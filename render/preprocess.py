"""From a photograph or picture with an alpha mask to what the image conditioner takes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..base.errors import AssetError

# Constants of TrellisImageTo3DPipeline.preprocess_image in microsoft/TRELLIS.
OPAQUE = 0.8 * 255
MARGIN = 1.2
# The mask of the smallest shape: a square of one pixel has no size to scale.
SMALLEST_CROP = 2


def preprocess_image(rgba: NDArray[np.uint8], size: int = 518) -> NDArray[np.uint8]:
    """Crops a square around the object, scales it and puts it on black.

    The square is centred on the bounding box of the pixels with alpha above 0.8 and has 1.2 times its longest
    side; where it leaves the image it is transparent. Follows the branch of TRELLIS for images with a mask.

    Args:
        rgba: [H, W, 4] uint8, sRGB, colours not premultiplied.
        size: side of the result in pixels.
    Returns:
        [size, size, 3] uint8, colour times alpha, truncated.
    Raises:
        AssetError: not such an image, or its alpha tells no object from the background.
    """
    _check(rgba)
    rows, columns = np.nonzero(rgba[..., 3] > OPAQUE)
    if not len(rows):
        raise AssetError(_no_mask("no pixel has alpha above 0.8"))
    box = _square(int(columns.min()), int(rows.min()), int(columns.max()), int(rows.max()))
    cropped = Image.fromarray(np.ascontiguousarray(rgba)).crop(box)  # type: ignore[arg-type]
    scaled = np.asarray(cropped.resize((size, size), Image.Resampling.LANCZOS), np.float32) / 255
    return (scaled[..., :3] * scaled[..., 3:] * 255).astype(np.uint8)


def _check(rgba: NDArray) -> None:
    if rgba.ndim != 3 or rgba.shape[2] != 4 or rgba.dtype != np.uint8:
        raise AssetError(_no_mask(f"got shape {list(rgba.shape)} of {rgba.dtype}"))
    if (rgba[..., 3] == 255).all():
        raise AssetError(_no_mask("alpha is 255 everywhere"))


def _no_mask(found: str) -> str:
    return (
        f"The image needs an alpha mask, and {found} - give an RGBA image of 8 bits whose background is "
        "transparent; no background remover is bundled."
    )


def _square(left: int, top: int, right: int, bottom: int) -> tuple[float, float, float, float]:
    """The crop for a bounding box given by its outermost pixels.

    As in TRELLIS its side is one pixel short of the mask's. Pillow rounds the corners of the crop.
    """
    side = int(max(right - left, bottom - top) * MARGIN)
    if side < SMALLEST_CROP:
        raise AssetError(_no_mask(f"the object is {right - left + 1} x {bottom - top + 1} pixels"))
    x, y, half = (left + right) / 2, (top + bottom) / 2, side // 2
    return x - half, y - half, x + half, y + half
