"""Tensors and arrays on disk: complete or absent, never pickled."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ...base.arrays import read_arrays
from ...base.errors import MissingError
from ...base.files import replacing

if TYPE_CHECKING:
    from torch import Tensor


DIGEST = "sha256"  # key of a file's metadata


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """With a digest of what they are in the file itself: file and digest cannot get apart."""
    from safetensors.torch import save  # with torch, which the verbs that only look at files do without

    plain = {key: value.detach().contiguous() for key, value in tensors.items()}
    data = save(plain, {DIGEST: _tensors_digest(plain)})
    with replacing(path) as part:
        part.write_bytes(data)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """What `save_tensors` wrote, checked. Raises MissingError when the file is absent or damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping
            digest = (file.metadata() or {}).get(DIGEST)
    except FileNotFoundError as error:
        raise MissingError(f"Missing file {path}.") from error
    except (SafetensorError, OSError, ValueError) as error:
        raise MissingError(f"{path} is damaged ({error}).") from error
    if digest is None:
        raise MissingError(f"{path} has no sha256 of its tensors: it is damaged, or of an earlier version.")
    if digest != _tensors_digest(tensors):
        raise MissingError(f"{path} is damaged: its tensors have another sha256 than when they were written.")
    return tensors


def intact(path: Path, check: Callable[[Path], object], tell: Callable[[str], None]) -> bool:
    """Whether a file is there and passes `check`, which raises MissingError; a damaged one is told, and removed."""
    if not path.exists():
        return False
    try:
        check(path)
    except MissingError as error:
        tell(f"{error} It is made again.")
        path.unlink()
        return False
    return True


def _tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """sha256 of names, kinds, shapes and bits, in the order of the names."""
    import torch

    digest = hashlib.sha256()
    for key, value in sorted(tensors.items()):
        digest.update(f"{key}\0{value.dtype}\0{list(value.shape)}\0".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


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
