"""What `mdtbench evaluate` will take, from what is in the cache: said before it starts, and by `--dry-run`.

Times are floating-point operations over what a matrix product does on this machine now, times the part of that which
networks reach; drawing is counted in the same unit. Under load they were out by a factor of three.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch

from ...base.text import aligned, counted
from ..engine.device import CPU, clock, is_cpu
from ..engine.executor import most_at_once
from ..engine.graph import missing_jobs
from ..engine.jobs import Job
from ..measure.extractors import Extractor
from ..measure.features import FeaturesJob
from ..measure.looks import LooksJob
from .evaluation import Evaluation

GFLOP: Final[Mapping[str, float]] = {  # of a picture or cloud; 2 per multiplication, from the published architectures
    "fd_incep": 11.5, "fd_incep_clean": 11.5, "fd_dinov2": 162, "fd_dinov2_reg518": 1016, "clip_bigg": 967,
    "clip_l14": 162, "ulip1_slip": 35, "ulip2": 110, "ulip1": 35,
}  # fmt: skip
DRAWING: Final = 8.0  # GFLOP: what a picture of 512 x 512 of ours takes on a CPU, measured beside a matrix product
REACHED: Final = 0.5  # of a matrix product's speed, by networks; measured: 0.24 (DINOv2) to 0.73 (Inception)
BASE_GB: Final = 0.5  # of a process without networks
SIDE: Final = 512
BLENDER: Final = "; Blender's pictures take longer, and are not included"


@dataclass(frozen=True)
class Part:
    """Jobs of one kind: what is still to do, GFLOP of that, how many processes work at once, GB of each."""

    label: str
    todo: int
    gflop: float
    processes: int
    memory_gb: float


@dataclass(frozen=True)
class Estimate:
    """What an evaluation will take.

    Attributes:
        seconds: of all parts, one after the other. memory_gb: of all processes together, in the largest part.
        blender: whether Blender draws, whose time is not known.
    """

    parts: tuple[Part, ...]
    seconds: tuple[float, ...]
    memory_gb: float
    processes: int
    device: str
    blender: bool

    @property
    def line(self) -> str:
        """For the start of an evaluation."""
        if not self.parts:
            return "everything is in the cache: nothing to draw or to look at"
        largest = max(self.parts, key=lambda part: part.memory_gb * part.processes)
        processes = counted(self.processes, "process", "processes")
        return (
            f"about {duration(sum(self.seconds))} on {self.device} with {processes}, {self.memory_gb:.1f} GB of "
            f"memory ({largest.label}){BLENDER if self.blender else ''}"
        )


def estimated(found: Evaluation, processes: int, networks: int) -> Estimate:
    """Of what is not in the cache.

    Args:
        processes: that draw. networks: that compute features.
    """
    device = found.options.device
    controls = [line.scores(found.options.cache, found.metrics, found.extractors) for line in found.controls()]
    missing = [job for job in missing_jobs([found.system(), *controls]) if isinstance(job, LooksJob | FeaturesJob)]
    labels = dict.fromkeys(job.label for job in missing)
    parts = tuple(_part([job for job in missing if job.label == label], processes, networks) for label in labels)
    rates = {one: speed(one) for one in {CPU, device}} if parts else {}
    seconds = tuple(
        part.gflop / rates[CPU if part.label == LooksJob.label else device] / part.processes for part in parts
    )
    idle = max(processes, 0 if is_cpu(device) else networks)
    memory = BASE_GB * (1 + idle) + max((part.memory_gb * part.processes for part in parts), default=0.0)
    return Estimate(parts, seconds, memory, processes, device, bool(found.truth.blender))


def dry_run_text(found: Evaluation, estimate: Estimate, out: str) -> str:
    """The whole plan."""
    options, protocol = found.options, found.protocol
    lines = [
        f"{options.name}: {counted(len(found.ids), 'asset')} of '{found.reference}', protocol {protocol.name} "
        f"({protocol.sha256[:12]}){', random weights' if found.random else ''}",
        f"columns: {', '.join(metric.name for metric in found.metrics)}",
    ]
    if estimate.parts:
        cells = [("to do", "number", "processes", "memory", "time")]
        for part, seconds in zip(estimate.parts, estimate.seconds, strict=True):
            memory = f"{part.processes * (BASE_GB + part.memory_gb):.1f} GB"
            cells.append((part.label, str(part.todo), str(part.processes), memory, duration(seconds)))
        lines += ["", *aligned(cells), ""]
    return "\n".join([*lines, f"In all: {estimate.line}.", f"Rows, failures and manifest would be in {out}", ""])


def duration(seconds: float) -> str:
    """'40 s', '19 min', '2.5 h'."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def speed(device: str) -> float:
    """GFLOP/s of networks in one process, from the best of three matrix products."""
    size = 1024 if is_cpu(device) else 4096
    one = torch.ones(size, size, device=device)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the workers
    try:
        best = min(_seconds(lambda: one @ one, device) for _ in range(3))
    finally:
        torch.set_num_threads(threads)
    return REACHED * 2 * size**3 / best / 1e9


def _seconds(work: Callable[[], object], device: str) -> float:
    started = clock(torch.device(device))
    work()
    return clock(torch.device(device)) - started


def _part(jobs: Sequence[Job], processes: int, networks: int) -> Part:
    todo = sum(_views(job) for job in jobs)
    memory = max(job.memory_gb for job in jobs)
    count = most_at_once(memory, networks if jobs[0].networks else processes)
    return Part(jobs[0].label, todo, sum(map(_gflop, jobs)), min(count, len(jobs)), memory)


def _views(job: Job) -> int:
    """Pictures and clouds."""
    if isinstance(job, FeaturesJob):
        return job.units * len(job.looks.studio.blank(job.look))
    assert isinstance(job, LooksJob)
    return job.units * sum(len(job.studio.blank(name)) for name in job.names)


def _gflop(job: Job) -> float:
    if isinstance(job, FeaturesJob):
        return _views(job) * of_extractor(job.extractor)
    assert isinstance(job, LooksJob)
    return _views(job) * DRAWING * (job.studio.resolution / SIDE) ** 2


def of_extractor(extractor: Extractor) -> float:
    """GFLOP of one picture or cloud."""
    return GFLOP.get(extractor.name, 1.0)  # a tiny one's hardly count
