"""The keep-window: a picture of which only a part is shown, so that several shapes fit what is seen.

With the whole picture a toy's shape is so nearly decided that one step of the undistilled teacher looks as good
as twenty-five, and there is nothing to distil.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

HIDDEN = 128  # mid grey: neither the black background nor, in general, the object


def keep_window(
    image: NDArray[np.uint8], share: tuple[float, float], generator: np.random.Generator
) -> NDArray[np.uint8]:
    """The picture outside a random window set to grey. image: [S, S, 3].

    Args:
        share: range of the window's sides, as a share of the picture's; (1, 1) shows everything.
    """
    size = image.shape[0]
    height, width = (round(generator.uniform(*share) * size) for _ in range(2))
    top, left = (int(generator.integers(0, size - extent + 1)) for extent in (height, width))
    shown = np.full_like(image, HIDDEN)
    shown[top : top + height, left : left + width] = image[top : top + height, left : left + width]
    return shown
