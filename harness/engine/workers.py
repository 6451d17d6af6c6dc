"""Work spread over processes, each with one thread, so that results do not depend on how many there are."""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context, parent_process
from multiprocessing.queues import Queue
from typing import TypeVar

from ...base.children import orderly_children
from ...base.errors import RunError
from .device import is_cpu
from .held import let_go
from .plugins import import_plugin
from .progress import Reporter
from .stop import CODE, Stopped, Terminated, heed

Item = TypeVar("Item")
Result = TypeVar("Result")

POLL_S = 0.2
GRACE_S = 60.0  # for trainings to save where they are
# In a worker: the way to the parent's progress bar (label and units) and to its notes.
_ticks: Queue[tuple[str, int] | str] | None = None
_label = ""  # in a worker: of what it is doing


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def tick(units: int = 1) -> None:
    """In a worker: report `units` of work done."""
    if _ticks is not None:
        _ticks.put((_label, units))


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
        self._context = get_context("spawn")  # fork is unsafe once there are threads
        self._queue: Queue[tuple[str, int] | str] = self._context.Queue()
        # A pool of one each, so that a process that is killed takes no other's work with it.
        self._hands: list[ProcessPoolExecutor | None] = [None] * count
        self._tasks: list[Future | None] = [None] * count
        self._holds = [""] * count  # affinity of what each keeps that takes memory

    @property
    def free(self) -> int:
        """How many processes have nothing to do."""
        return sum(task is None or task.done() for task in self._tasks)

    def submit(self, function: Callable[[Item], Result], item: Item, label: str, holds: str = "") -> Future[Result]:
        """Hand function(item) to a free process; there must be one. A killed process is BrokenProcessPool.

        Args:
            holds: affinity of what the process will keep in memory. One that keeps it is taken, and what others keep
                without work is freed first, so that only processes at work count.
        """
        idle = [i for i, task in enumerate(self._tasks) if task is None or task.done()]
        index = next((i for i in idle if self._holds[i] == holds), idle[0])
        for i in idle:
            if self._holds[i] not in ("", holds):
                self._let_go(i)
        self._holds[index] = holds
        try:
            future = self._hand(index).submit(_call, function, item, label)
        except BrokenProcessPool:  # it was killed while it had nothing to do, or before
            self._hands[index] = None
            future = self._hand(index).submit(_call, function, item, label)
        self._tasks[index] = future
        return future

    def _let_go(self, index: int) -> None:
        """Of an idle process. Waits for it: what the job loads must not come beside what goes."""
        self._holds[index] = ""
        try:
            wait([self._hand(index).submit(let_go)])
        except BrokenProcessPool:  # it is gone, with all that it kept
            self._hands[index] = None

    def _hand(self, index: int) -> ProcessPoolExecutor:
        hand = self._hands[index]
        if hand is None:
            first = (self._queue, self.plugins, self.prepare)
            hand = ProcessPoolExecutor(1, self._context, initializer=_start_worker, initargs=first)
            self._hands[index] = hand
        return hand

    def ticks(self) -> Counter[str]:
        """Units of work that were done since the last call, by label; notes are passed on."""
        found: Counter[str] = Counter()
        while True:
            try:
                said = self._queue.get_nowait()
            except queue.Empty:
                return found
            if isinstance(said, str):
                self.reporter.note(said)
            else:
                found[said[0]] += said[1]

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
                "The same command continues from here; try it with fewer --workers."
            ) from error

    def _map(
        self, function: Callable[[Item], Result], items: Sequence[Item], label: str, total: int, limit: int
    ) -> list[Result]:
        task, done, waiting = self.reporter.start(label, total), 0, list(reversed(items))
        futures: list[Future] = []
        while waiting or not all(future.done() for future in futures):
            while waiting and self.free and sum(not future.done() for future in futures) < limit:
                futures.append(self.submit(function, waiting.pop(), label))
            wait([future for future in futures if not future.done()], POLL_S, FIRST_COMPLETED)
            _raise_first(futures)
            done += self.ticks()[label]
            self.reporter.update(task, done)
        self.ticks()
        self.reporter.update(task, total)
        return [future.result() for future in futures]

    def close(self) -> None:
        for hand in self._hands:
            if hand is not None:
                hand.shutdown()
        self.ticks()  # a note may come later than the result of the job that wrote it, but not after its process

    def kill(self, *, gently: bool = False) -> None:
        """End all processes at once; what they were writing is absent, not half there.

        Args:
            gently: trainings save where they are first.
        """
        hands = [hand for hand in self._hands if hand is not None]
        processes = [process for hand in hands for process in (hand._processes or {}).values()]
        if gently:
            for process in processes:
                process.terminate()
            end = time.monotonic() + GRACE_S
            for process in processes:
                process.join(max(0.0, end - time.monotonic()))
        for process in processes:
            process.kill()
        for hand in hands:
            hand.shutdown(wait=False, cancel_futures=True)


@contextmanager
def workers(
    count: int, reporter: Reporter, plugins: Sequence[str] = (), prepare: Callable[[], None] | None = None
) -> Iterator[Workers]:
    """Worker processes, ended with the block: orderly after success, at once after a failure or an interrupt."""
    with orderly_children():
        team = Workers(count, reporter, plugins, prepare)
        try:
            yield team
        except BaseException as error:
            team.kill(gently=isinstance(error, Terminated))
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


def _call(function: Callable[[Item], Result], item: Item, label: str) -> Result:
    """In a worker."""
    global _label
    _label = label
    try:
        return function(item)
    except Stopped:  # nobody waits for it
        os._exit(CODE)


def _start_worker(
    ticks: Queue[tuple[str, int] | str], plugins: Sequence[str], prepare: Callable[[], None] | None
) -> None:
    global _ticks
    _ticks = ticks
    threading.Thread(target=_end_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what an interrupt means
    make_ready(plugins, prepare)


def make_ready(plugins: Sequence[str], prepare: Callable[[], None] | None) -> None:
    """Make this process one that does jobs. plugins: modules that can be imported."""
    import torch

    heed()
    torch.set_num_threads(1)  # matrix products then round the same way on every machine of a kind
    for module in plugins:
        import_plugin(module)
    if prepare:
        prepare()


def _end_with_parent() -> None:
    """A worker would wait for work for ever after its parent was killed."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
