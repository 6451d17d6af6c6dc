"""`Workers` that work in the process of a test: starting others takes seconds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from silent import Silent

from mdtbench.harness.engine.jobs import Engine


class InProcess:
    """Remembers how many jobs of each label it was given."""

    count = 1

    def __init__(self, reporter: Any = None, plugins: Sequence[str] = ()):
        self.reporter = reporter or Silent()
        self.plugins = tuple(plugins)
        self.given: Counter[str] = Counter()

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
