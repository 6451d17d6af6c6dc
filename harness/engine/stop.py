"""SIGTERM: what a scheduler sends before it takes a machine away. A training saves its state; other work ends.

A process that called `heed` notes the signal inside of `careful`, and ends at once outside of it.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

CODE = 128 + signal.SIGTERM  # of a process that a signal has ended
_asked, _careful = False, False


class Stopped(BaseException):
    """Work that was told to end and has saved where it was. No Exception: it is no failure of whatever was at work."""


class Terminated(KeyboardInterrupt):
    """SIGTERM in the process that drives a run."""


def heed() -> None:
    """In a worker: listen to SIGTERM."""
    signal.signal(signal.SIGTERM, _hear)


def stopping() -> bool:
    """Whether this process was told to end."""
    return _asked


@contextmanager
def careful() -> Iterator[None]:
    """A block that looks at `stopping` often enough, and ends by itself."""
    global _careful
    before, _careful = _careful, True
    try:
        yield
    finally:
        _careful = before


@contextmanager
def terminated() -> Iterator[None]:
    """In the process that drives a run: SIGTERM raises Terminated in the block."""
    before = signal.signal(signal.SIGTERM, _raise)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _hear(number: int, frame: FrameType | None) -> None:
    global _asked
    _asked = True
    if not _careful:
        os._exit(CODE)


def _raise(number: int, frame: FrameType | None) -> None:
    raise Terminated
