"""Between stored colours and light: the sRGB transfer function, IEC 61966-2-1."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def srgb_of_linear(linear: ArrayLike) -> NDArray[np.float64]:
    """The sRGB transfer function, IEC 61966-2-1; values are clipped to [0, 1]."""
    linear = np.clip(np.asarray(linear, np.float64), 0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def linear_of_srgb(srgb: ArrayLike) -> NDArray[np.float64]:
    """Inverse of `srgb_of_linear`."""
    srgb = np.clip(np.asarray(srgb, np.float64), 0, 1)
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


# Light of the 256 values of a byte.
LIGHT_OF_BYTE = linear_of_srgb(np.arange(256) / 255)
