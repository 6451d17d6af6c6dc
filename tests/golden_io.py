"""Reads the golden fixtures and fills networks by their weight rule W1 (weights from key names alone)."""

from __future__ import annotations

import hashlib
import json
import math
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import nn

GOLDEN = Path(__file__).parent / "golden"


def load(group: str, name: str) -> tuple[dict, dict[str, np.ndarray]]:
    """Sidecar and arrays of a fixture; a fixture without arrays gives an empty dict."""
    stem = GOLDEN / group / name
    sidecar = json.loads(stem.with_name(f"{name}.json").read_text(encoding="utf-8"))
    path = stem.with_name(f"{name}.npz")
    if not path.exists():
        return sidecar, {}
    with np.load(path, allow_pickle=False) as archive:
        return sidecar, dict(archive)


def names(group: str) -> list[str]:
    """Ids of all fixtures of a group."""
    return sorted(path.stem for path in (GOLDEN / group).glob("*.json"))


def w1(name: str, shape: tuple[int, ...], salt: str = "") -> np.ndarray:
    """Values of the tensor `name`, float32."""
    key = f"{salt}/{name}" if salt else name
    random = np.random.Generator(np.random.PCG64(zlib.crc32(key.encode())))
    z = random.standard_normal(math.prod(shape)).reshape(shape)
    return _scaled(name.rsplit(".", 1)[-1], z).astype(np.float32)


def _scaled(kind: str, z: np.ndarray) -> np.ndarray:
    if kind == "running_var":
        return np.exp(0.2 * z)
    if kind in ("gamma", "alpha") or (kind == "weight" and z.ndim == 1):
        return 1 + 0.1 * z
    if kind in ("running_mean", "beta") or kind.endswith("bias"):
        return 0.1 * z
    if kind.endswith("weight") and z.ndim >= 2:
        return z / np.sqrt(z.size / z.shape[0])
    return 0.2 * z


def fill_w1(module: nn.Module, salt: str) -> None:
    """Fill all parameters and batch-norm statistics in place; other buffers stay as constructed."""
    parameters = {name for name, _ in module.named_parameters()}
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if name in parameters or name.endswith(("running_mean", "running_var")):
                tensor.copy_(torch.from_numpy(w1(name, tuple(tensor.shape), salt)))


def state_sha256(module: nn.Module) -> str:
    """sha256 over the raw bytes of all state-dict tensors, in order."""
    digest = hashlib.sha256()
    for tensor in module.state_dict().values():
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def layout(module: nn.Module) -> list[list]:
    """State dict as the sidecars list it: [key, shape, dtype, "param" or "buffer"]."""
    parameters = {name for name, _ in module.named_parameters()}
    return [
        [
            name,
            list(t.shape),
            str(t.dtype).removeprefix("torch."),
            "param" if name in parameters else "buffer",
        ]
        for name, t in module.state_dict().items()
    ]
