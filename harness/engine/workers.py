"""Work spread over processes, each with one thread, so that results do not depend on how many there are."""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from importlib import import_module
from multiprocessing import get_context, parent_process
from multiprocessing.queues import Queue
from typing import TypeVar

from ...base.errors import RunError
from .device import is_cpu
from .progress import Reporter

Item = TypeVar("Item")
Result = TypeVar("Result")

POLL_S = 0.2
_ticks: Queue[int | str] | None = None  # in a worker: the way to the parent's progress bar, and to its notes


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def tick(units: int = 1) -> None:
    """In a worker: report `units` of work done."""
    if _ticks is not None:
        _ticks.put(units)


def tell(text: str) -> None:
    """One line for the user at once, on standard error; in a worker through the parent, whose progress is there."""
    if _ticks is not None:
        _ticks.put(text)
    else:
        sys.stderr.write(f"{text}\n")


class Workers:
    """Processes that are started once and used by all phases of a run. Make with `workers`.

    Args:
        plugins: modules that each process imports, for what they register.
        prepare: what each process calls before it works.
    """

    def __init__(
        self, count: int, reporter: Reporter, plugins: Sequence[str] = (), prepare: Callable[[], None] | None = None
    ):
        self.count = count
        self.reporter = reporter
        self.plugins = tuple(plugins)
        self.prepare = prepare
        context = get_context("spawn")  # fork is unsafe once there are threads
        self._queue: Queue[int | str] = context.Queue()
        first = (self._queue, tuple(plugins), prepare)
        self._executor = ProcessPoolExecutor(count, context, initializer=_start_worker, initargs=first)

    def map(
        self, function: Callable[[Item], Result], items: Sequence[Item], label: str, total: int, limit: int = 0
    ) -> list[Result]:
        """[function(item) for item in items], in order.

        Args:
            total: units of work, as `function` reports them with `tick`.
            limit: so many at once, where not every process may work; 0: all.

        Raises:
            RunError: a process was killed from outside.
            Whatever `function` raises first.
        """
        if not items:
            return []
        try:
            return self._map(function, items, label, total, limit or self.count)
        except BrokenProcessPool as error:
            raise RunError(
                "A worker process was killed from outside (out of memory?). "
                "The same command goes on from here; try it with fewer --workers."
            ) from error

    def _map(
        self, function: Callable[[Item], Result], items: Sequence[Item], label: str, total: int, limit: int
    ) -> list[Result]:
        task, done, waiting = self.reporter.start(label, total), 0, list(reversed(items))
        futures: list[Future] = []
        while waiting or not all(future.done() for future in futures):
            _raise_first(futures)
            room = 2 * self.count if limit >= self.count else limit  # one more each, so that no process waits for us
            while waiting and sum(not future.done() for future in futures) < room:
                futures.append(self._executor.submit(function, waiting.pop()))
            done += self._drained()
            self.reporter.update(task, done)
        results = [future.result() for future in futures]
        self._drained()
        self.reporter.update(task, total)
        return results

    def _drained(self) -> int:
        """Units of work that were reported since; notes are passed on."""
        said: list[int | str] = []
        with suppress(queue.Empty):
            said.append(self._queue.get(timeout=POLL_S))
            while True:
                said.append(self._queue.get_nowait())
        for text in (one for one in said if isinstance(one, str)):
            self.reporter.note(text)
        return sum(one for one in said if isinstance(one, int))

    def close(self) -> None:
        self._executor.shutdown()

    def kill(self) -> None:
        """End all processes at once; what they were writing is absent, not half there."""
        for process in list((self._executor._processes or {}).values()):
            process.kill()
        self._executor.shutdown(wait=False, cancel_futures=True)


@contextmanager
def workers(
    count: int, reporter: Reporter, plugins: Sequence[str] = (), prepare: Callable[[], None] | None = None
) -> Iterator[Workers]:
    """Worker processes, ended with the block: orderly after success, at once after a failure or an interrupt."""
    team = Workers(count, reporter, plugins, prepare)
    try:
        yield team
    except BaseException:
        team.kill()
        raise
    team.close()


@contextmanager
def teams(
    count: int,
    device: str,
    reporter: Reporter,
    plugins: Sequence[str] = (),
    prepare: Callable[[], None] | None = None,
) -> Iterator[tuple[Workers, Workers]]:
    """Processes for work without networks, and those for work with networks: on a CPU the same.

    Args:
        count: of processes; 0: one per core, but one for the networks on a GPU, which all of them would share.
    """
    with workers(count or cores(), reporter, plugins, prepare) as team:
        if is_cpu(device):
            yield team, team
            return
        with workers(count or 1, reporter, plugins, prepare) as networks:
            yield team, networks


def _raise_first(futures: Sequence[Future]) -> None:
    for future in futures:
        if future.done():
            future.result()


def _start_worker(ticks: Queue[int | str], plugins: Sequence[str], prepare: Callable[[], None] | None) -> None:
    import torch

    global _ticks
    _ticks = ticks
    threading.Thread(target=_end_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what an interrupt means
    torch.set_num_threads(1)  # matrix products then round the same way on every machine of a kind
    for module in plugins:
        import_module(module)
    if prepare:
        prepare()


def _end_with_parent() -> None:
    """A worker would wait for work for ever after its parent was killed."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
