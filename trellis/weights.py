"""Checkpoints on disk, as TRELLIS stores them: `<stem>.json` {"name", "args"} and `<stem>.safetensors`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TypedDict

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from ..base.errors import MissingError
from ..base.files import file_sha256, read_json, replacing, write_json
from ..base.networks import NetworkTable, check_fit
from .create import NETWORKS


class NetworkConfig(TypedDict):
    """Name and constructor arguments of a network: the content of `<stem>.json`."""

    name: str
    args: Mapping[str, object]


def load_checkpoint(
    stem: Path,
    sha256: str | None = None,
    device: str | torch.device = "cpu",
    networks: NetworkTable = NETWORKS,
) -> nn.Module:
    """The network of a checkpoint, in eval mode, with every tensor of it read from the file.

    Args:
        stem: Path without the endings .json and .safetensors.
        sha256: Digest that `<stem>.safetensors` must have; checked before the file is parsed.
        device: Where the network goes. Its dtypes follow from its arguments, not from the file's.
        networks: What the names in configurations mean.

    Raises:
        MissingError: a file is absent, has another digest, is malformed, or has other keys or shapes.
        UsageError: the configuration names an unknown network or unknown arguments.
    """
    config = read_config(stem)
    path = _weights_path(stem)
    if sha256 is not None:
        verify(path, sha256)
    tensors = read_tensors(path)
    module = networks.create(config["name"], config["args"])
    check_fit(path, module, tensors)
    module.load_state_dict(tensors)  # copies, and so casts to the dtypes of the module
    return module.eval().to(device)


def save_checkpoint(stem: Path, module: nn.Module, config: NetworkConfig, dtype: torch.dtype | None = None) -> str:
    """Write both files, the configuration last; each is complete or absent.

    Args:
        stem: Path without the endings.
        config: What `create` takes.
        dtype: Store parameters in this dtype (buffers, such as position features, keep theirs); None: as is.

    Returns:
        sha256 of the weights file, which is a function of the tensors alone.

    Raises:
        RunError: the files cannot be written.
    """
    path = _weights_path(stem)
    parameters = {name for name, _ in module.named_parameters()}
    tensors = {
        name: value.detach().to("cpu", dtype if name in parameters else None).contiguous()
        for name, value in module.state_dict().items()
    }
    with replacing(path) as part:
        part.write_bytes(to_bytes(tensors))
    write_json(_config_path(stem), {"name": config["name"], "args": dict(config["args"])})
    return file_sha256(path)


def read_config(stem: Path) -> NetworkConfig:
    """Name and arguments of a checkpoint. Raises MissingError when absent or malformed."""
    path = _config_path(stem)
    match read_json(path):
        case {"name": str(name), "args": dict(args)}:
            return {"name": name, "args": args}
    raise MissingError(f"{path} has no name and args. Restore the file.")


def verify(path: Path, sha256: str) -> None:
    """Raises MissingError when the file is absent or its digest is not `sha256`."""
    found = file_sha256(path)
    if found != sha256.lower():
        raise MissingError(f"{path} has sha256 {found}, expected {sha256}. Restore the file.")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file. Raises MissingError when absent or malformed."""
    try:
        return load_file(path)
    except FileNotFoundError as error:
        raise MissingError(f"Missing file {path}.") from error
    except SafetensorError as error:
        raise MissingError(f"{path} is not a complete safetensors file ({error}). Restore the file.") from error


def _config_path(stem: Path) -> Path:
    return stem.with_name(f"{stem.name}.json")


def _weights_path(stem: Path) -> Path:
    return stem.with_name(f"{stem.name}.safetensors")
