"""Progress of long work: bars on a terminal, plain lines elsewhere. Everything goes to standard error."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

LINE_EVERY_S = 15.0


class Reporter(Protocol):
    """Where long work says how far it is."""

    def note(self, text: str) -> None:
        """One line that stays."""
        ...

    def start(self, label: str, total: int, done: int = 0) -> int:
        """Begin a task of `total` units; returns its handle."""
        ...

    def update(self, task: int, done: int, info: str = "") -> None: ...


class LineReporter:
    """A line when a task starts, one every 15 seconds, one at its end."""

    def __init__(self, console: Console):
        self._console = console
        self._tasks: list[tuple[str, int]] = []
        self._last: list[float] = []
        self._ended: set[int] = set()

    def note(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def start(self, label: str, total: int, done: int = 0) -> int:
        self._tasks.append((label, total))
        self._last.append(time.monotonic())
        self.note(f"{label}: {done}/{total}")
        return len(self._tasks) - 1

    def update(self, task: int, done: int, info: str = "") -> None:
        label, total = self._tasks[task]
        if task in self._ended:
            return
        if done >= total:
            self._ended.add(task)
        now = time.monotonic()
        if done >= total or now - self._last[task] > LINE_EVERY_S:
            self._last[task] = now
            self.note(f"{label}: {done}/{total} {info}".rstrip())


class BarReporter:
    def __init__(self, progress: Progress):
        self._progress = progress

    def note(self, text: str) -> None:
        self._progress.console.print(text, highlight=False, markup=False)

    def start(self, label: str, total: int, done: int = 0) -> int:
        return int(self._progress.add_task(label, total=total, completed=done, info=""))

    def update(self, task: int, done: int, info: str = "") -> None:
        self._progress.update(TaskID(task), completed=done, info=info)


@contextmanager
def reporter() -> Iterator[Reporter]:
    console = Console(stderr=True, force_jupyter=False)
    if not console.is_terminal:
        yield LineReporter(console)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[info]}"),
    )
    with Progress(*columns, console=console) as progress:
        yield BarReporter(progress)
