"""Tensors and arrays on disk: complete or absent, never pickled."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ...base.arrays import read_arrays
from ...base.errors import MissingError
from ...base.files import replacing

if TYPE_CHECKING:
    from torch import Tensor


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    from safetensors.torch import save  # with torch, which the verbs that only look at files do without

    data = save({key: value.detach().contiguous() for key, value in tensors.items()})
    with replacing(path) as part:
        part.write_bytes(data)


def save_arrays(path: Path, arrays: Mapping[str, NDArray]) -> None:
    with replacing(path) as part, part.open("wb") as stream:
        np.savez_compressed(stream, allow_pickle=False, **arrays)


def load_arrays(path: Path) -> dict[str, NDArray]:
    """Raises MissingError when the file is absent or damaged."""
    try:
        return read_arrays(path)
    except FileNotFoundError as error:
        raise MissingError(f"Missing file {path}.") from error
    except ValueError as error:
        raise MissingError(f"{path} is damaged ({error}). Delete it and run the command again.") from error
