"""Whose code computes what on a GPU: what settings ask for, and what is then in use."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch

from ...trellis.kernels import Choice, Kernels
from ...trellis.sparse_attention import attention_choice
from ...trellis.sparse_convolution import convolution_choice
from .config import Gpu

DTYPES = (torch.float16, torch.bfloat16, torch.float32)
CHANNELS = 64  # of a head of TRELLIS, and of a convolution


def kernels_of(section: Gpu) -> Kernels:
    return Kernels(section.attention, section.convolution)


def in_use(device: str, kernels: Kernels) -> Mapping[str, Choice]:
    """What attends and what convolves among voxels; by dtype and by whether a backward pass follows, where it differs.

    Libraries are tried on the device, as in runs: with deterministic algorithms alone.
    """
    there, attention, convolution = torch.device(device), {}, {}
    with _strict():
        for dtype in DTYPES:
            name = str(dtype).removeprefix("torch.")
            for way, gradient in ((name, False), (f"{name} with backward", True)):
                attention[way] = attention_choice(there, dtype, CHANNELS, gradient=gradient, kernels=kernels)
            convolution[name] = convolution_choice(there, dtype, CHANNELS, CHANNELS, kernels)
    return _where_they_differ("attention", attention) | _where_they_differ("convolution", convolution)


def _where_they_differ(what: str, choices: Mapping[str, Choice]) -> dict[str, Choice]:
    if len(set(choices.values())) == 1:
        return {what: next(iter(choices.values()))}
    return {f"{what}, {way}": choice for way, choice in choices.items()}


@contextmanager
def _strict() -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
