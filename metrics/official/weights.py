"""Filling official networks: from published files of which every tensor is accounted for, or with seeded noise.

Networks are built without memory and filled once, because the largest of them has 7 GB of weights.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ...base.errors import MissingError
from ...base.files import file_sha256
from ...base.networks import check_fit
from ...base.seeds import seed_of

Network = TypeVar("Network", bound=nn.Module)

COUNTER = ".num_batches_tracked"  # batch norm's; no feature depends on it and older files leave it out
RANDOM = "random"


@dataclass(frozen=True)
class WeightsFile:
    """A published weights file.

    Attributes:
        file: path below the folder of weights.
        source: address, or repository of the hub and path in it.
        licence: of the weights, as their publisher states it.
        keys: tensors that are read from it.
        sha256: None where no digest is published; then the one found on first use has to be recorded.
        bytes: None where unknown.
        prefix: of the names of those tensors in the file; other tensors belong to other networks.
    """

    file: str
    source: str
    licence: str
    keys: int
    sha256: str | None = None
    bytes: int | None = None
    prefix: str = ""


def without_memory(create: Callable[[], Network]) -> Network:
    """The network in eval mode, its tensors on the meta device."""
    with torch.device("meta"):
        return create().eval().requires_grad_(False)


def checked_digest(path: Path, expected: str | None) -> str:
    """sha256 of the file. Raises MissingError when it is absent or, where one is expected, not that."""
    found = file_sha256(path)
    if expected is not None and found != expected.lower():
        raise MissingError(f"{path} has sha256 {found}, expected {expected}. Fetch the file again.")
    return found


def read_tensors(path: Path, prefix: str = "") -> dict[str, Tensor]:
    """The tensors of a .safetensors file or of a state dict saved by torch whose names start with `prefix`, without it.

    Files are mapped where their format allows, so that tensors of other networks cost no memory.

    Raises:
        MissingError: absent, damaged, or not a plain state dict.
    """
    read = _read_safetensors if path.suffix == ".safetensors" else _read_torch
    return {name.removeprefix(prefix): tensor for name, tensor in read(path, prefix).items()}


def load_weights(network: nn.Module, path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Make `tensors`, read from `path`, the weights of a network without memory, in float32.

    Raises:
        MissingError: names or shapes differ from the network's.
    """
    counters = {name: torch.zeros((), dtype=torch.long) for name in network.state_dict() if name.endswith(COUNTER)}
    given = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    complete = {**counters, **given}
    check_fit(path, network, complete, "Use the file that belongs to this extractor.")
    network.load_state_dict(complete, assign=True)


def fill_randomly(network: nn.Module, name: str, seed: int) -> None:
    """Give a network without memory weights on the CPU that follow from `name`, `seed` and their own names alone.

    Layers keep the size of what goes through them: matrices have variance 1 / inputs, convolutions twice that (most
    are followed by a ReLU), norms are near the identity and tokens and positions have a spread of 0.2.
    """
    network.to_empty(device="cpu")
    for key, tensor in network.state_dict().items():
        last = key.rsplit(".", 1)[-1]
        if tensor.is_floating_point() and last not in ("running_mean", "running_var"):
            generator = np.random.Generator(np.random.SFC64(seed_of(RANDOM, name, seed, key)))
            _fill(tensor.numpy(), last, generator)
        else:
            tensor.fill_(last == "running_var")


def _fill(values: NDArray[np.float32], last: str, generator: np.random.Generator) -> None:
    """In place and uniform: no second copy of a large matrix, and no more arithmetic than it takes."""
    centre, spread = _scale(values.shape, last)
    generator.random(out=values.reshape(-1), dtype=np.float32)
    half_width = np.float32(spread * 3**0.5)
    values *= 2 * half_width
    values += np.float32(centre) - half_width


def _scale(shape: tuple[int, ...], last: str) -> tuple[float, float]:
    """Mean and standard deviation of the values of a tensor."""
    if last.endswith("weight") and len(shape) > 1:
        gain = 2 if len(shape) == 4 else 1
        return 0.0, (gain / int(np.prod(shape[1:]))) ** 0.5
    if last in ("weight", "gamma"):
        return 1.0, 0.1
    return 0.0, 0.1 if last.endswith("bias") else 0.2


def _read_safetensors(path: Path, prefix: str) -> dict[str, Tensor]:
    try:
        with safe_open(path, "pt") as archive:
            return {name: archive.get_tensor(name) for name in archive.keys() if name.startswith(prefix)}  # noqa: SIM118
    except FileNotFoundError as error:
        raise MissingError(f"Missing file {path}.") from error
    except SafetensorError as error:
        raise MissingError(f"{path} is not a complete safetensors file ({error}). Fetch the file again.") from error


def _read_torch(path: Path, prefix: str) -> dict[str, Tensor]:
    try:
        # Files of torch before 1.6, such as FID's Inception, are no zip archives and cannot be mapped.
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except FileNotFoundError as error:
        raise MissingError(f"Missing file {path}.") from error
    except (pickle.UnpicklingError, EOFError, RuntimeError) as error:
        raise MissingError(f"{path} is not a complete file of tensors ({_line(error)}). Fetch it again.") from error
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise MissingError(f"{path} does not hold a plain state dict. Use the file that belongs to this extractor.")
    return {name: tensor for name, tensor in content.items() if name.startswith(prefix)}


def _line(error: Exception) -> str:
    return str(error).partition("\n")[0]
