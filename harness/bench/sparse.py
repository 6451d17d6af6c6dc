"""`mdtbench bench sparse`: what the layers of the second stage cost here."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ...base.text import spread
from ...trellis.kernels import OURS, SDPA, SPCONV, Kernels, kernels_as
from ...trellis.slat_flow import SLatFlowModel
from ...trellis.sparse import SparseTensor, Voxels
from ...trellis.sparse_attention import RAGGED, attend_within, attention_choice
from ...trellis.sparse_convolution import SparseConv3d, convolution_choice
from ..engine.progress import Reporter
from ..engine.provenance import processor
from .full_size import CONDITION_TOKENS, SLAT_FLOW, Shell

FORWARD, BOTH_WAYS = "forward", "forward + backward"
BACKWARD = 2  # in forward passes
LARGE, LARGE_REPETITIONS = 10_000, 3  # voxels from which at most so many repetitions are made
WINDOW = 8  # cells

TINY_FLOW = {
    "resolution": 16,
    "in_channels": 8,
    "out_channels": 8,
    "model_channels": 96,
    "cond_channels": 64,
    "num_blocks": 4,
    "num_heads": 3,
    "patch_size": 2,
    "num_io_res_blocks": 1,
    "io_block_channels": [16],
    "qk_rms_norm": True,
}


TINY, MIDDLE, WHOLE = Shell(600, 16), Shell(5000, 40), Shell(20_000, 64)  # an asset has about 20,000 in TRELLIS
CONVOLUTIONS = {TINY: 32, MIDDLE: 96, WHOLE: 64}  # channels


@dataclass(frozen=True)
class Work:
    """Something to time.

    Attributes:
        by: whose code: ours or a library's.
        gflop: of a forward pass, additions and multiplications; 0: not counted.
        forward: runs it once.
        inputs: what the backward pass differentiates by; none: there is no backward pass.
    """

    part: str
    by: str
    voxels: int
    gflop: float
    forward: Callable[[], Tensor]
    inputs: tuple[Tensor, ...]


@dataclass(frozen=True)
class Timing:
    """A line of the table. seconds: one value per repetition, of processor time on the CPU, else of wall time."""

    device: str
    part: str
    by: str
    passes: str
    voxels: int
    gflop: float
    seconds: tuple[float, ...]

    @property
    def voxels_per_s(self) -> float:
        return self.voxels / statistics.median(self.seconds)

    @property
    def gflop_per_s(self) -> float:
        return self.gflop / statistics.median(self.seconds)


Makers = Sequence[Callable[[str], Work]]


def measure_sparse(repetitions: int, report: Reporter) -> list[Timing]:
    """All figures; one thread, as in a run."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found = measured(cpu_makers(), "cpu", repetitions, report)
        if torch.cuda.is_available():
            found += measured(cuda_makers(), "cuda", repetitions, report)
    finally:
        torch.set_num_threads(before)
    return found


def measured(makers: Makers, device: str, repetitions: int, report: Reporter) -> list[Timing]:
    """Timings of what the makers make on a device, one after the other, so that memory holds one at a time."""
    name = torch.cuda.get_device_name() if device == "cuda" else f"{processor()}, one thread"
    task, timings = report.start(f"sparse layers on {device}", len(makers)), []
    for i, make in enumerate(makers):
        timings += [replace(timing, device=name) for timing in _timings(make(device), device, repetitions)]
        report.update(task, i + 1)
    return timings


def cpu_makers() -> Makers:
    return [
        *(partial(neighbour_search, shell) for shell in CONVOLUTIONS),
        *(partial(convolution, shell, channels) for shell, channels in CONVOLUTIONS.items()),
        partial(windowed_attention, TINY, 3, 32),
        partial(windowed_attention, WHOLE, 12, 64),
        partial(flow_step, "tiny flow network", TINY_FLOW, TINY, 64),
    ]


def cuda_makers() -> Makers:
    """Those of the CPU, the same by each library that can do it there, and TRELLIS' own network."""
    half = partial(windowed_attention, WHOLE, 12, 64, dtype=torch.float16)
    return [
        *cpu_makers(),
        *(partial(convolution, shell, n, by=SPCONV) for shell, n in CONVOLUTIONS.items() if _convolves(n)),
        *(partial(half, by=name) for name in (SDPA, *RAGGED) if _attends(name)),
        partial(flow_step, "TRELLIS' flow network, float16", SLAT_FLOW, WHOLE, CONDITION_TOKENS),
    ]


def _convolves(channels: int) -> bool:
    """Whether spconv does it on this GPU."""
    there, asked = torch.device("cuda"), Kernels(convolution=SPCONV)
    return convolution_choice(there, torch.float32, channels, channels, asked).name == SPCONV


def _attends(name: str) -> bool:
    there, asked = torch.device("cuda"), Kernels(name)
    return attention_choice(there, torch.float16, 64, gradient=True, kernels=asked).name == name


def neighbour_search(shell: Shell, device: str) -> Work:
    """The table that all convolutions on the same voxels share."""
    voxels = shell.voxels(device)

    def forward() -> Tensor:
        return Voxels(voxels.coords, 1).neighbours

    return Work("neighbour table", OURS, shell.count, 0, forward, ())


def convolution(shell: Shell, channels: int, device: str, by: str = OURS) -> Work:
    """A 3x3x3 submanifold convolution."""
    voxels, layer = shell.voxels(device), SparseConv3d(channels, channels, 3).to(device)
    feats = _randn(shell.count, channels, device=device).requires_grad_()
    inputs = (feats, *layer.parameters())
    part, gflop = f"convolution {channels} -> {channels}", _conv_gflop(voxels, channels)

    def forward() -> Tensor:
        with kernels_as(Kernels(convolution=by)):
            return layer(SparseTensor(feats, voxels)).feats

    return Work(part, by, shell.count, gflop, forward, inputs)


def windowed_attention(
    shell: Shell, heads: int, channels: int, device: str, dtype: torch.dtype = torch.float32, by: str = SDPA
) -> Work:
    """Attention of `heads` heads of `channels` channels within windows."""
    voxels = shell.voxels(device)
    q, k, v = (part.to(dtype).requires_grad_() for part in _randn(3, shell.count, heads, channels, device=device))
    sequences = voxels.windows(WINDOW)
    gflop = 4 * sum(length**2 for length in sequences.lengths) * heads * channels / 1e9
    half = ", float16" if dtype == torch.float16 else ""
    part = f"attention in windows of {WINDOW}, {heads} x {channels}{half}"

    def forward() -> Tensor:
        with kernels_as(Kernels(by)):
            return attend_within(q, k, v, sequences)

    return Work(part, by, shell.count, gflop, forward, (q, k, v))


def flow_step(part: str, args: Mapping[str, Any], shell: Shell, n_tokens: int, device: str) -> Work:
    """A whole network of the second stage on one asset."""
    voxels, network = shell.voxels(device), SLatFlowModel(**args).to(device)
    x = SparseTensor(_randn(shell.count, network.in_channels, device=device), voxels)
    t, cond = torch.tensor([500.0], device=device), _randn(1, n_tokens, network.cond_channels, device=device)
    return Work(part, OURS, shell.count, 0, lambda: network(x, t, cond).feats, tuple(network.parameters()))


def _conv_gflop(voxels: Voxels, channels: int) -> float:
    pairs = int((voxels.neighbours < len(voxels)).sum())
    return 2 * pairs * channels**2 / 1e9


def _randn(*shape: int, device: str) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device)


def _timings(work: Work, device: str, repetitions: int) -> Iterator[Timing]:
    """Forward alone and, where there is one, with the backward pass."""
    count = min(repetitions, LARGE_REPETITIONS) if work.voxels >= LARGE else repetitions

    def forward() -> None:
        with torch.no_grad():
            work.forward()

    def both_ways() -> None:
        out = work.forward()
        torch.autograd.grad(out, work.inputs, torch.ones_like(out))

    ways = [(FORWARD, forward, 1), (BOTH_WAYS, both_ways, 1 + BACKWARD)]
    for passes, run, cost in ways if work.inputs else ways[:1]:
        run()  # warms caches
        seconds = tuple(_seconds(run, device) for _ in range(count))
        yield Timing(device, work.part, work.by, passes, work.voxels, cost * work.gflop, seconds)


def _seconds(run: Callable[[], None], device: str) -> float:
    """Processor time on the CPU, which other programs on the machine disturb less."""
    if device == "cpu":
        start = time.process_time()
        run()
        return time.process_time() - start
    torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def sparse_text(found: Sequence[Timing]) -> str:
    lines = [
        f"Sparse layers on voxels of a sphere, float32 unless named otherwise; torch {torch.__version__}. Times: "
        "median (least to most) of n repetitions; processor time on the CPU, wall time elsewhere.",
        f"GFLOP/s: of the pairs of voxels that meet, no others; a backward pass counts as {BACKWARD} forward passes.",
    ]
    for device in dict.fromkeys(timing.device for timing in found):
        head = f"{'time in ms':>28} {'1000 voxels/s':>14} {'GFLOP/s':>8}  n"
        lines += ["", device, f"{'':36} {'voxels':>6}  {'':26} {head}"]
        lines += [_line(timing) for timing in found if timing.device == device]
    if not any(timing.by == SPCONV for timing in found):
        lines += ["", "spconv: not measured (no CUDA device, or it cannot be used there: see `mdtbench doctor`)."]
    return "\n".join(lines) + "\n"


def _line(timing: Timing) -> str:
    times = spread([1e3 * seconds for seconds in timing.seconds], 2)
    speed = f"{timing.gflop_per_s:.1f}" if timing.gflop else "-"
    who = timing.passes if timing.by in (OURS, SDPA) else f"{timing.passes}, {timing.by}"
    return (
        f"{timing.part:36} {timing.voxels:>6}  {who:26} {times:>28} {timing.voxels_per_s / 1e3:>14.1f} {speed:>8}  "
        f"{len(timing.seconds)}"
    )


def sparse_json(found: Sequence[Timing]) -> str:
    rows = [
        asdict(timing) | {"voxels_per_s": timing.voxels_per_s, "gflop_per_s": timing.gflop_per_s} for timing in found
    ]
    return json.dumps({"benchmark": "sparse", "torch": torch.__version__, "timings": rows}, indent=1) + "\n"
