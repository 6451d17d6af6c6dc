"""Where the checks of `mdtbench bench gpu` are made, and how they time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ...trellis import create
from ..engine.device import CUDA, clock
from ..plan.flops import SLAT_FLOW, STRUCTURE_FLOW, STRUCTURE_TOKENS
from ..protocol.values import Stage
from .full_size import Sizes

WEIGHT_STD = 0.02  # of random weights: layers that start at zero would hide what comes before them
TOKENS_OF_VOXELS = 0.235  # of the second stage: the mean of 25 meshes at 64^3

Line = dict[str, Any]


@dataclass
class Session:
    """Where and at what size checks are made.

    Attributes:
        peak_tflops: of matrix products in half precision, once `ceilings` has measured it.
        networks: by name, made when they are asked for.
    """

    device: torch.device
    sizes: Sizes
    until: float
    peak_tflops: float | None = None
    networks: dict[str, nn.Module] = field(default_factory=dict)

    @property
    def real(self) -> bool:
        """Whether this is a GPU, and no rehearsal."""
        return self.device.type == CUDA

    @property
    def left(self) -> float:
        return self.until - time.monotonic()

    def network(self, name: str) -> nn.Module:
        if name not in self.networks:
            kind, args = self.sizes.networks[name]
            self.networks[name] = randomised(create(kind, dict(args))).to(self.device)
        return self.networks[name]

    def forward_tflop(self, stage: Stage) -> float:
        """Of a forward pass of one sample at full size; 0 in a rehearsal."""
        if not self.real:
            return 0.0
        voxels = self.sizes.voxels
        if stage == "structure":
            return STRUCTURE_FLOW.forward(STRUCTURE_TOKENS) / 1e12
        return SLAT_FLOW.forward(round(TOKENS_OF_VOXELS * voxels), (voxels,)) / 1e12

    def seconds(self, run: Callable[[], object], repetitions: int = 5) -> float:
        """Of one call, the fastest of some; one before them is not counted."""
        run()
        found = []
        for _ in range(repetitions if self.real else 1):
            started = clock(self.device)
            run()
            found.append(clock(self.device) - started)
        return min(found)

    def speed(self, tflop: float, seconds: float) -> Line:
        """TFLOP/s, and the share of the measured peak."""
        if not tflop or not self.real:
            return {}
        rate = tflop / seconds
        share = {"share_of_peak": round(rate / self.peak_tflops, 3)} if self.peak_tflops else {}
        return {"tflops": round(rate, 2), **share}

    def memory(self) -> Line:
        """Most bytes since `forget`, in GB."""
        return {"peak_gb": round(torch.cuda.max_memory_allocated() / 1e9, 2)} if self.real else {}

    def forget(self) -> None:
        if self.real:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()


Check = Callable[[Session], Iterator[Line]]


def randomised(network: nn.Module) -> nn.Module:
    """Matrices get random numbers, in evaluation mode, without gradients."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in network.named_parameters():
        if parameter.ndim > 1 and "gamma" not in name:
            parameter.data.copy_(WEIGHT_STD * torch.randn(parameter.shape, generator=generator))
    return network.eval().requires_grad_(False)


def randn(*shape: int, like: Session, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(like.device, dtype)


def difference(a: Tensor, b: Tensor) -> float:
    """|a - b| / |b|."""
    a, b = a.detach().cpu().double(), b.detach().cpu().double()
    return float((a - b).norm() / b.norm())
