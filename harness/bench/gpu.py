"""`mdtbench bench gpu`: the first minutes on a GPU. One JSON line per check, random weights, no file of weights needed.

A check that fails is a line with its error, and the next one begins; one that finds too little time left is a line that
says so. `--tiny` rehearses all of it with small networks on the CPU. Lines of steps and passes are what
`--set estimate.measured=FILE` reckons with (`harness/plan/measured.py`).
"""

from __future__ import annotations

import json
import platform
import time
import traceback
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

import torch

from ...base.errors import UsageError
from ..engine.device import CPU, CUDA, settle
from ..engine.provenance import processor
from . import gpu_kernels, gpu_steps
from .full_size import FULL, SMALL
from .gpu_session import Check, Line, Session

SECONDS = 570  # ten minutes with the start
LEAST = 20.0  # seconds that a check must find left
LONGEST = 400  # letters of an error
LIBRARIES = ("torch", "triton", "gsplat", "xformers", "spconv")


def bench_gpu(*, tiny: bool, seconds: int, out: Path | None, echo: Callable[[str], None], only: str = "") -> None:
    """Make all checks.

    Args:
        seconds: after which no check begins. out: file that lines are also written to. only: names of checks.
    Raises:
        UsageError: no GPU and no rehearsal, or an unknown check.
    """
    checks = _chosen(only)
    if not tiny and not torch.cuda.is_available():
        raise UsageError("There is no CUDA device here. Run `bench gpu` on a GPU, or rehearse it with --tiny.")
    device = torch.device(CPU if tiny else CUDA)
    settle(device)
    started = time.monotonic()
    session = Session(device, SMALL if tiny else FULL, started + seconds)

    def say(line: Line) -> None:
        text = json.dumps({**line, "at_s": round(time.monotonic() - started, 1)})
        echo(text)
        if out:
            with out.open("a", encoding="utf-8") as stream:
                stream.write(text + "\n")

    for name, check in checks.items():
        if session.left < LEAST:
            say({"check": name, "skipped": f"{session.left:.0f} s left"})
            continue
        for line in guarded(check, session):
            say({"check": name, **line})
        session.forget()
    say({"check": "done"})


def guarded(check: Check, session: Session) -> Iterator[Line]:
    """Its lines; in place of those that an exception leaves out, a line that names it."""
    try:
        yield from check(session)
    except Exception as error:  # what fails on a GPU is what is to be found out
        frame = traceback.extract_tb(error.__traceback__)[-1]
        text = " ".join(f"{type(error).__name__}: {error}".split())[:LONGEST]
        yield {"error": text, "where": f"{Path(frame.filename).name}:{frame.lineno}"}


def _chosen(only: str) -> dict[str, Check]:
    checks = {check.__name__: check for check in CHECKS}
    names = [name.strip() for name in only.split(",") if name.strip()]
    for name in names:
        if name not in checks:
            raise UsageError(f"There is no check '{name}'. Available: {', '.join(checks)}.")
    return {name: check for name, check in checks.items() if not names or name in names}


def environment(session: Session) -> Iterator[Line]:
    """Versions, the device, whether algorithms are deterministic."""
    found = {name: version_of(name) for name in LIBRARIES}
    strict = torch.are_deterministic_algorithms_enabled()
    gpu = torch.cuda.get_device_name(session.device) if session.real else processor()
    yield {
        "device": gpu, "python": platform.python_version(), "cuda": torch.version.cuda, "deterministic": strict, **found
    }  # fmt: skip


def version_of(name: str) -> str:
    """Of a library, or why it cannot be imported. An import may succeed where kernels are built at first use."""
    try:
        return str(import_module(name).__version__)
    except Exception as error:  # a library built for another torch raises anything
        return f"no ({type(error).__name__})"


# In the order in which they are made: what would stop a run first, then what it costs.
CHECKS: tuple[Check, ...] = (
    environment,
    gpu_kernels.ceilings,
    gpu_kernels.neighbour_table,
    gpu_kernels.attention,
    gpu_kernels.convolutions,
    gpu_kernels.against_the_cpu,
    gpu_steps.encoder,
    gpu_steps.structure_steps,
    gpu_steps.slat_steps,
    gpu_steps.passes,
    gpu_steps.pipeline,
    gpu_kernels.gaussians,
)
