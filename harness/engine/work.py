"""One job in the process that does it, whoever sent it there: do it, then say so in a receipt."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...base.errors import RunError, UsageError
from ...base.files import read_json, write_json
from .device import is_device_fault
from .held import let_go
from .jobs import GoneError, Job
from .plugins import load_plugin, path_of
from .provenance import device_name
from .receipts import JOBS, SETUP, Receipt, host, now, receipts_of
from .spec import from_spec, to_spec
from .stop import Stopped
from .store import be_patient
from .workers import make_ready

UNSENDABLE = "unsendable"
ARRIVAL_S = 60.0  # for a result to be seen by other machines: attributes of a network folder are stale for so long


class LostError(RunError):
    """The machine and not the work is to blame: another attempt may succeed."""


@dataclass(frozen=True)
class Ticket:
    """An attempt at a job.

    Attributes:
        attempt: from 0. gpus: that it takes. out: folder of the run, for receipts; None: nobody asked for them.
        avoid: host that an earlier attempt was lost on.
    """

    job: Job
    attempt: int = 0
    gpus: int = 0
    out: Path | None = None
    avoid: str = ""


def perform(ticket: Ticket) -> Receipt:
    """Do a job and write its receipt; of an attempt that was lost, beside the others.

    Raises:
        Whatever the job raises, where that is its own failure.
    """
    job, started = ticket.job, time.monotonic()
    let_go(job.affinity)
    try:
        job.perform()
        receipt = _receipt(ticket, started, "done")
    except Stopped as stop:
        sys.stderr.write(f"mdtbench: SIGTERM: {job.key} {stop}; the same command continues from there.\n")
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        if isinstance(error, GoneError | LostError) or is_device_fault(error):
            receipt = _receipt(ticket, started, "gone" if isinstance(error, GoneError) else "lost", reason)
            if ticket.out is not None:
                receipts_of(ticket.out).lose(receipt)
            return receipt
        _keep(ticket, _receipt(ticket, started, "failed", reason))
        raise
    _keep(ticket, receipt)
    return receipt


def write_setup(out: Path, plugins: Sequence[str], prepare: Callable[[], None] | None) -> None:
    """Beside jobs, what `ready_for` needs. plugins: names of modules."""
    write_json(out / JOBS / SETUP, to_spec((tuple(path_of(name) for name in plugins), prepare)))


def ready_for(out: Path) -> None:
    """Make this process one that does jobs of a run that may be driven from another machine.

    Raises:
        MissingError: nothing was ever given to others there, or a plug-in is not where it was.
    """
    plugins, prepare = from_spec(read_json(out / JOBS / SETUP))
    make_ready([load_plugin(path) for path in plugins], prepare)
    be_patient(ARRIVAL_S)


def job_of(out: Path, key: str) -> Job:
    """A job that waits.

    Raises:
        MissingError: there is no such job, or its file is damaged.
        UsageError: only processes that the driver starts can do it.
    """
    spec = read_json(out / JOBS / f"{key}.json")
    if UNSENDABLE in spec:
        raise UsageError(f"{key} cannot be done elsewhere: {spec[UNSENDABLE]} Leave it to `mdtbench run`.")
    return from_spec(spec)


def gpus_of(out: Path, key: str) -> int:
    """That a job that waits takes."""
    return read_json(out / JOBS / f"{key}.json")["gpus"]


def _keep(ticket: Ticket, receipt: Receipt) -> None:
    if ticket.out is not None:
        receipts_of(ticket.out).put(receipt)


def _receipt(ticket: Ticket, started: float, status: str, error: str = "") -> Receipt:
    job, seconds = ticket.job, time.monotonic() - started
    return Receipt(
        key=job.key,
        kind=job.kind,
        label=job.label,
        status=status,  # type: ignore[arg-type]
        attempt=ticket.attempt,
        host=host(),
        device=device_name("cuda" if ticket.gpus else "cpu"),
        units=job.units,
        seconds=seconds,
        gpu_seconds=seconds * ticket.gpus,
        made=job.digests() if status == "done" else {},
        error=error,
        ended_utc=now(),
    )
