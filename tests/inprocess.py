"""`Workers` that work in the process of a test: starting others takes seconds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

from silent import Silent

from mdtbench.harness.engine.engine import Engine


class InProcess:
    """Remembers how many jobs of each label it was given."""

    count = 1

    def __init__(self, reporter: Any = None, plugins: Sequence[str] = ()):
        self.reporter = reporter or Silent()
        self.plugins = tuple(plugins)
        self.given: Counter[str] = Counter()

    free = 1
    prepare = None

    def submit(self, function: Callable[[Any], Any], item: Any, label: str, holds: str = "") -> Future[Any]:
        del holds
        self.given[label] += 1
        future: Future[Any] = Future()
        try:
            future.set_result(function(item))
        except Exception as error:
            future.set_exception(error)
        return future

    def ticks(self) -> Counter[str]:
        return Counter()

    def map(
        self, function: Callable[[Any], Any], items: Sequence[Any], label: str, total: int, limit: int = 0
    ) -> list[Any]:
        self.given[label] += len(items)
        return [function(item) for item in items]


def in_process() -> tuple[Engine, InProcess]:
    """An engine, and the only team it has."""
    team: Any = InProcess()
    return Engine(team, team), team


@contextmanager
def teams(
    count: int, device: str, reporter: Any, plugins: Sequence[str] = (), prepare: Any = None
) -> Iterator[tuple[Any, Any]]:
    """In the place of `engine.workers.teams`."""
    team = InProcess(reporter, plugins)
    yield team, team
