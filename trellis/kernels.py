"""Whose code computes attention among voxels and sparse convolution: ours, or that of a library for GPUs.

Two things decide: what is asked for, once per process, and whether the library does it when it is tried on a few rows.
That it is installed says nothing: it may be built for another torch, GPU or dtype, or have no backward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch._subclasses import FakeTensor

AUTO = "auto"
VARLEN, XFORMERS, SDPA = "varlen", "xformers", "sdpa"  # attention
OURS, SPCONV = "ours", "spconv"  # convolution

DEVICES = frozenset({"cuda"})  # where libraries come into question
# How libraries refuse what they cannot do. Whatever else they raise is a fault.
REFUSALS = (ImportError, OSError, RuntimeError, ValueError, TypeError, AttributeError, AssertionError)
LONGEST = 240  # letters of a reason; xformers lists every operator that it has


@dataclass(frozen=True)
class Kernels:
    """What is asked for. attention: auto, varlen, xformers or sdpa; convolution: auto, ours or spconv."""

    attention: str = AUTO
    convolution: str = AUTO


@dataclass(frozen=True)
class Choice:
    """What is in use, and why."""

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name} ({self.reason})"


_asked = Kernels()


def asked() -> Kernels:
    return _asked


def use_kernels(kernels: Kernels) -> None:
    """Ask for kernels in this process, from here on."""
    global _asked
    _asked = kernels


@contextmanager
def kernels_as(kernels: Kernels) -> Iterator[None]:
    """Ask for other kernels in a block of code."""
    before = asked()
    use_kernels(kernels)
    try:
        yield
    finally:
        use_kernels(before)


def ruled_out(device: torch.device) -> str:
    """Why no library comes into question, whatever is asked for; "" where one may."""
    if device.type not in DEVICES:
        return f"libraries are for CUDA, and this is {device.type}"
    if not torch.backends.cuda.flash_sdp_enabled():  # `sdpa_kernel(SDPBackend.MATH)`, see flow/derivative.py
        return "a derivative in forward mode is wanted, which no library has"
    return ""


def refusal(attempt: Callable[[], Tensor]) -> str:
    """Why a library refuses what is tried, on one line; "" if it does it.

    Raises:
        torch.OutOfMemoryError: as that says nothing about the library.
    """
    try:
        with torch.enable_grad():
            found = attempt().sum()
            if not isinstance(found, FakeTensor):  # which has no value: only shapes are computed
                found.item()  # waits for the device, as kernels fail late
    except torch.OutOfMemoryError:
        raise
    except REFUSALS as error:
        text = " ".join(f"{type(error).__name__}: {error}".split())
        return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."
    return ""
