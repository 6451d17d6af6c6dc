"""`mdtbench bench`: what the tool costs, measured where it is installed."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from ...base.errors import RunError, UsageError, unknown_name
from ...base.text import counted, spread
from ..engine.progress import Reporter
from ..inputs.world import load_world, world_folder
from ..settings.config import Train
from ..settings.methods import Entrant, entrant
from ..train.data import DenseData
from ..train.loop import Student, peak_memory, train_together
from ..train.task import StageTask

ROWS = 64  # random latents and pictures that batches are drawn from
BACKWARD, JVP = 2, 3  # in forward passes; a JVP includes the primal pass
SOLO, LOCKSTEP = "solo", "lockstep"


@dataclass(frozen=True)
class BenchOptions:
    """Size of a measurement. steps: training steps of every student in each repetition. preset: of `memory`."""

    world: str
    methods: tuple[str, ...]
    batch: int
    steps: int
    repetitions: int
    preset: str = "paper"


@dataclass(frozen=True)
class LockstepFigures:
    """Training methods in lockstep against one after the other ("lockstep", "solo").

    Attributes:
        forwards: network passes per sample and training step of all methods, counted.
        forwards_alone: the same of each method alone.
        wall_s: seconds of a training step of all methods; one value per repetition.
        cpu_s: the same in processor time, which other programs on the machine disturb less.
        ratio, cpu_ratio: lockstep / solo of each repetition.
        peak_memory_mb: of a process that does nothing else; solo: of the method that needs most. "loaded": before.
    """

    options: BenchOptions
    forwards: dict[str, float]
    forwards_alone: dict[str, float]
    wall_s: dict[str, list[float]]
    cpu_s: dict[str, list[float]]
    ratio: list[float]
    cpu_ratio: list[float]
    peak_memory_mb: dict[str, float]


class Spent(NamedTuple):
    wall_s: float
    cpu_s: float


class PassCounter:
    """Counts network passes in samples: a forward pass 1, with a JVP 3; where a gradient comes back, 2 more."""

    def __init__(self) -> None:
        self.samples = 0

    @contextmanager
    def watching(self, networks: Sequence[nn.Module]) -> Iterator[None]:
        hooks = [network.register_forward_hook(self._passed) for network in networks]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _passed(self, _: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        rows = len(args[0])
        self.samples += rows * (1 if forward_ad.unpack_dual(args[0]).tangent is None else JVP)
        if output.requires_grad:
            output.register_hook(lambda _: self._came_back(rows))

    def _came_back(self, rows: int) -> None:
        self.samples += BACKWARD * rows


@dataclass(frozen=True)
class Trial:
    """Short trainings on random latents and pictures: what they hold changes no cost."""

    task: StageTask
    entrants: tuple[Entrant, ...]
    train: Train
    repetitions: int

    @classmethod
    def of(cls, options: BenchOptions) -> Trial:
        """Raises UsageError for an unknown world or method, or a method that does not train."""
        world = load_world(world_folder(options.world))
        shape, size = world.structure.latent_shape, world.file.preparation.image_size
        latents = torch.randn(ROWS, *shape, generator=torch.Generator().manual_seed(0))
        images = np.random.Generator(np.random.PCG64(0)).integers(0, 256, (ROWS, 1, size, size, 3), np.uint8)
        data = DenseData(latents, images)
        entrants = tuple(entrant(label, {}, world.structure.sampler) for label in options.methods)
        for who in entrants:
            if not who.trains:
                raise UsageError(f"Method '{who.label}' does not train. Leave it out of --methods.")
        task = StageTask("structure", world.structure, data, options.batch)
        return cls(task, entrants, Train(steps=options.steps, batch=options.batch), options.repetitions)

    def spend(self, entrants: Sequence[Entrant], counter: PassCounter | None = None) -> Spent:
        """Time of a training step of new students that train together. Raises RunError when one fails."""
        with TemporaryDirectory() as folder:
            students = [self._student(who, Path(folder) / str(i)) for i, who in enumerate(entrants)]
            networks = [self.task.pipeline.flow, *(student.network for student in students)]
            with counter.watching(networks) if counter else nullcontext():
                wall, cpu = time.perf_counter(), time.process_time()
                failures = train_together(students, self.task, self.train, seed=0)
                wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        for failure in failures.values():
            raise RunError(f"A student failed: {failure.reason}")
        return Spent(wall / self.train.steps, cpu / self.train.steps)

    def spend_solo(self) -> Spent:
        wall, cpu = zip(*(self.spend([who]) for who in self.entrants), strict=True)
        return Spent(sum(wall), sum(cpu))

    def passes(self, entrants: Sequence[Entrant]) -> float:
        """Network passes per sample and training step, counted."""
        counter = PassCounter()
        self.spend(entrants, counter)
        return counter.samples / (self.train.batch * self.train.steps)

    def _student(self, who: Entrant, folder: Path) -> Student:
        return Student(who.label, who.distillation, self.task.student(), self.train, self.train.steps, folder)


def measure_lockstep(options: BenchOptions, report: Reporter) -> LockstepFigures:
    """All figures, on one thread as in training. Raises UsageError, RunError."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        trial = Trial.of(options)
        alone, together = _count(trial, report)
        spent = _time(trial, report)
    finally:
        torch.set_num_threads(before)
    wall = {name: [each.wall_s for each in values] for name, values in spent.items()}
    cpu = {name: [each.cpu_s for each in values] for name, values in spent.items()}
    forwards, memory = {SOLO: sum(alone.values()), LOCKSTEP: together}, _memory(options, report)
    return LockstepFigures(options, forwards, alone, wall, cpu, _ratio(wall), _ratio(cpu), memory)


def _ratio(seconds: dict[str, list[float]]) -> list[float]:
    return [together / alone for together, alone in zip(seconds[LOCKSTEP], seconds[SOLO], strict=True)]


def _count(trial: Trial, report: Reporter) -> tuple[dict[str, float], float]:
    """Passes of each method alone, and of all together. Also warms the caches up."""
    task = report.start("count passes", len(trial.entrants) + 1)
    alone = {}
    for i, who in enumerate(trial.entrants):
        alone[who.label] = trial.passes([who])
        report.update(task, i + 1)
    together = trial.passes(trial.entrants)
    report.update(task, len(trial.entrants) + 1)
    return alone, together


def _time(trial: Trial, report: Reporter) -> dict[str, list[Spent]]:
    """Both ways by turns, so that a machine that gets slower or faster does so for both."""
    count = trial.repetitions
    spent: dict[str, list[Spent]] = {SOLO: [], LOCKSTEP: []}
    turns = {SOLO: trial.spend_solo, LOCKSTEP: lambda: trial.spend(trial.entrants)}
    task = report.start("time", count)
    for i in range(count):
        for name in (SOLO, LOCKSTEP) if i % 2 == 0 else (LOCKSTEP, SOLO):
            spent[name].append(turns[name]())
        report.update(task, i + 1)
    return spent


def _memory(options: BenchOptions, report: Reporter) -> dict[str, float]:
    """Peak of fresh processes, one per training: the peak of a process never falls."""
    trainings = [(), *((label,) for label in options.methods), options.methods]
    task, peaks = report.start("memory", len(trainings)), []
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as pool:
        for i, megabytes in enumerate(pool.map(_peak_mb, [replace(options, methods=labels) for labels in trainings])):
            peaks.append(megabytes)
            report.update(task, i + 1)
    return {"loaded": peaks[0], SOLO: max(peaks[1:-1]), LOCKSTEP: peaks[-1]}


def _peak_mb(options: BenchOptions) -> float:
    torch.set_num_threads(1)
    trial = Trial.of(options)
    trial.spend(trial.entrants)
    return peak_memory() / 1e6


def lockstep_text(found: LockstepFigures) -> str:
    options, wall, cpu, memory = found.options, found.wall_s, found.cpu_s, found.peak_memory_mb
    alone = ", ".join(f"{label} {passes:g}" for label, passes in found.forwards_alone.items())
    lines = [
        f"Training {', '.join(options.methods)} in lockstep and one after the other. World {options.world}, "
        f"batch {options.batch}, {counted(options.repetitions, 'repetition')} of "
        f"{counted(options.steps, 'step')}, by turns; one thread, torch {torch.__version__}.",
        "",
        f"{'per training step of all methods':40} {'solo':>20} {'lockstep':>20}   ratio",
        f"{'forward passes per sample (counted)':40} {found.forwards[SOLO]:>20g} {found.forwards[LOCKSTEP]:>20g}   "
        f"{found.forwards[LOCKSTEP] / found.forwards[SOLO]:.3f}",
        f"{'wall time in s, median (least to most)':40} {spread(wall[SOLO], 2):>20} {spread(wall[LOCKSTEP], 2):>20}   "
        f"{spread(found.ratio, 3)}",
        f"{'processor time in s, likewise':40} {spread(cpu[SOLO], 2):>20} {spread(cpu[LOCKSTEP], 2):>20}   "
        f"{spread(found.cpu_ratio, 3)}",
        f"{'peak memory of a process in MB':40} {memory[SOLO]:>20.0f} {memory[LOCKSTEP]:>20.0f}   "
        f"{memory[LOCKSTEP] / memory[SOLO]:.3f}",
        "",
        f"Passes alone: {alone}. A backward pass counts {BACKWARD}, a JVP {JVP}.",
        f"Memory: solo is the method that needs most; {memory['loaded']:.0f} MB before any student.",
    ]
    return "\n".join(lines) + "\n"


def lockstep_json(found: LockstepFigures) -> str:
    medians = {
        "wall_s_median": {name: statistics.median(values) for name, values in found.wall_s.items()},
        "ratio_median": statistics.median(found.ratio),
        "cpu_ratio_median": statistics.median(found.cpu_ratio),
    }
    return (
        json.dumps(
            asdict(found) | medians | {"benchmark": LOCKSTEP, "torch": torch.__version__}, indent=1, sort_keys=True
        )
        + "\n"
    )


def bench_lockstep(options: BenchOptions, as_json: bool, report: Reporter) -> str:
    found = measure_lockstep(options, report)
    return lockstep_json(found) if as_json else lockstep_text(found)


def bench_render(options: BenchOptions, as_json: bool, report: Reporter) -> str:
    from .render import measure_render, render_json, render_text  # numba takes a second to load

    found = measure_render(options.repetitions, report)
    return render_json(found) if as_json else render_text(found)


def bench_sparse(options: BenchOptions, as_json: bool, report: Reporter) -> str:
    from .sparse import measure_sparse, sparse_json, sparse_text

    found = measure_sparse(options.repetitions, report)
    return sparse_json(found) if as_json else sparse_text(found)


def bench_fd(options: BenchOptions, as_json: bool, report: Reporter) -> str:
    from .fd import fd_json, fd_text, measure_fd

    found = measure_fd(options.repetitions, report)
    return fd_json(found) if as_json else fd_text(found)


def bench_memory(options: BenchOptions, as_json: bool, report: Reporter) -> str:
    from ..driver.planning import RunOptions, make_plan
    from .memory import memory_json, memory_text, needs_of

    plan = make_plan(RunOptions(options.preset, device="cpu"), Path(), ready=False)
    found, machines = needs_of(plan, report), plan.config.estimate.machine
    limits = [(machine.name, machine.memory_gb) for machine in machines if machine.memory_gb]
    return memory_json(found) if as_json else memory_text(found, limits)


BENCHMARKS: dict[str, Callable[[BenchOptions, bool, Reporter], str]] = {
    "fd": bench_fd,
    "lockstep": bench_lockstep,
    "memory": bench_memory,
    "render": bench_render,
    "sparse": bench_sparse,
}


def bench(name: str, options: BenchOptions, as_json: bool, report: Reporter) -> str:
    """Run a benchmark; returns what to print.

    Raises:
        UsageError: unknown benchmark, world or method, or a method that does not train.
        RunError: a student failed.
    """
    if name not in BENCHMARKS:
        raise unknown_name("benchmark", name, BENCHMARKS)
    return BENCHMARKS[name](options, as_json, report)
