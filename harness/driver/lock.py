"""One driver per run folder: two that write the same folder would spoil each other's results."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from ...base.errors import MissingError, RunError, UsageError
from ...base.files import read_json, sweep_parts, write_json

LOCK, DRIVER = "driver.lock", "driver.json"
BEAT_S = 20.0  # how often a driver says that it lives
LOST_AFTER_S = 120.0  # of another host, whose processes cannot be looked for


@dataclass(frozen=True)
class Driver:
    """Who writes a folder; times in seconds since the epoch."""

    host: str
    pid: int
    started_s: float
    beat_s: float

    def __str__(self) -> str:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.started_s))
        return f"process {self.pid} on {self.host} since {since}"


def driver_of(out: Path) -> Driver | None:
    """Who says that it writes a folder; None where nobody does, or has not for a while."""
    found = _found(out)
    return found if found and time.time() - found.beat_s < LOST_AFTER_S else None


@contextmanager
def driving(out: Path) -> Iterator[None]:
    """Be the one driver of a run folder for the time of the block. A killed driver's lock is free.

    Raises:
        UsageError: another is at work there; says where and since when.
        RunError: the folder cannot be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = FileLock(out / LOCK)
        lock.acquire(timeout=0)
    except Timeout:
        raise _taken(out, _found(out)) from None
    except OSError as error:
        raise RunError(f"Cannot write to {out}: {error.strerror}. Choose another --out.") from error
    try:
        _check_other_host(out)
        sweep_parts(out)  # whoever wrote them is dead: we have the lock
        with _heart(out):
            yield
    finally:
        lock.release()  # the file stays: who has it open must not hold it beside a new one


@contextmanager
def _heart(out: Path) -> Iterator[None]:
    started, stop = time.time(), threading.Event()
    _beat(out, started)
    thread = threading.Thread(target=_beating, args=(out, started, stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        (out / DRIVER).unlink(missing_ok=True)


def _check_other_host(out: Path) -> None:
    """A lock need not reach other hosts of a network folder: their heartbeat does."""
    found = _found(out)
    if found and found.host != socket.gethostname() and time.time() - found.beat_s < LOST_AFTER_S:
        raise _taken(out, found)


def _taken(out: Path, found: Driver | None) -> UsageError:
    return UsageError(f"{out} is being written by {found or 'another process'}. Wait for it, or give another --out.")


def _found(out: Path) -> Driver | None:
    """What the folder's driver says of itself; None where nobody does."""
    with suppress(MissingError, TypeError):
        return Driver(**read_json(out / DRIVER))
    return None


def _beat(out: Path, started: float) -> None:
    write_json(out / DRIVER, asdict(Driver(socket.gethostname(), os.getpid(), started, time.time())))


def _beating(out: Path, started: float, stop: threading.Event) -> None:
    while not stop.wait(BEAT_S):
        with suppress(RunError):  # a full disk: the next beat may get through
            _beat(out, started)
