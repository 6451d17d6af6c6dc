"""A known law: all things that fit a conditioning picture, as coloured cells."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Law:
    """K things that fit a picture, none more probable than another.

    Attributes:
        name: equal for pictures that leave the same choices.
        occupancy: [K, R, R, R] cells that their surface touches. colours: [K, R, R, R, 3] of these cells, in [0, 1].
        choices: [K, C] what each is, of the choices that the picture leaves open; `called`: the names of these C.
    """

    name: str
    occupancy: NDArray[np.bool_]
    colours: NDArray[np.float32]
    choices: NDArray[np.int64]
    called: tuple[str, ...]
