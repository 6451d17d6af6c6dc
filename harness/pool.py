"""Work spread over processes, each with one thread, so that results do not depend on how many there are."""

from __future__ import annotations

import os
import queue
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.queues import Queue
from typing import TypeVar

from .progress import Reporter

Item = TypeVar("Item")
Result = TypeVar("Result")

POLL_S = 0.2
_ticks: Queue[int] | None = None  # in a worker: the way to the parent's progress bar


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def tick(units: int = 1) -> None:
    """In a worker: report `units` of work done."""
    if _ticks is not None:
        _ticks.put(units)


def run_all(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    workers: int,
    reporter: Reporter,
    label: str,
    total: int,
) -> list[Result]:
    """[function(item) for item in items], in order, over processes.

    Args:
        total: units of work, as `function` reports them with `tick`.

    Raises:
        Whatever `function` raises; the other workers are ended then.
    """
    if not items:
        return []
    task = reporter.start(label, total)
    done = 0
    with _pool(min(workers, len(items))) as (executor, ticks):
        futures = [executor.submit(function, item) for item in items]
        while not all(future.done() for future in futures):
            failed = next((f for f in futures if f.done() and f.exception() is not None), None)
            if failed is not None:
                failed.result()
            done += _drained(ticks)
            reporter.update(task, done)
        results = [future.result() for future in futures]
    reporter.update(task, total)
    return results


def _drained(ticks: Queue[int]) -> int:
    units = 0
    try:
        units += ticks.get(timeout=POLL_S)
        while True:
            units += ticks.get_nowait()
    except queue.Empty:
        return units


@contextmanager
def _pool(workers: int) -> Iterator[tuple[ProcessPoolExecutor, Queue[int]]]:
    """Spawned processes (fork is unsafe once there are threads); on any failure they are ended at once."""
    context = get_context("spawn")
    ticks: Queue[int] = context.Queue()
    executor = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=(ticks,))
    try:
        yield executor, ticks
    except BaseException:
        for process in list((executor._processes or {}).values()):
            process.kill()
        executor.shutdown(wait=False, cancel_futures=True)
        raise
    executor.shutdown()


def _start_worker(ticks: Queue[int]) -> None:
    import torch

    global _ticks
    _ticks = ticks
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what an interrupt means
    torch.set_num_threads(1)  # matrix products then round the same way on every machine of a kind
