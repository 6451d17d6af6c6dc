"""A run is jobs over stores: what is in a store is not done again.

A job is known by the addresses of its results, which are digests of all its inputs. `Engine.do` finds what is missing
for some jobs, and does that kind by kind in worker processes: no job needs another of its kind, and a kind begins when
those that it needs have ended. So what a run computes does not depend on how many processes there are, and a run is
resumed by doing it again.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ...base.errors import RunError
from .store import Address, Arrays, Slot, Store
from .workers import Workers, tick

# In the order in which they are done. Those of one kind may run at once.
KINDS = ("prepare", "cells", "encode", "pairs", "structures", "assets", "pictures", "features", "scores")
GB = 1e9


@dataclass(frozen=True, eq=False)
class Place:
    """Where a result lies: an address in the store of a folder."""

    root: Path
    address: Address

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Place) and (self.root, self.digest) == (other.root, other.digest)

    def __hash__(self) -> int:
        return hash((self.root, self.digest))

    @property
    def digest(self) -> str:
        return self.address.digest

    def exists(self) -> bool:
        """Whether there is an entry, intact or not."""
        return Slot(self.root, self.address.kind, self.address.digest).record.exists()

    def get(self) -> Arrays:
        """Raises RunError when it is not there, or was damaged and is set aside now."""
        found = Store(self.root).get(self.address)
        if found is None:
            raise RunError(
                f"A result of kind {self.address.kind} in {self.root} is missing or was damaged. "
                "The same command makes it again."
            )
        return found

    def remove(self) -> None:
        """Of what nothing will read again. Only where no other process works."""
        slot = Slot(self.root, self.address.kind, self.address.digest)
        slot.record.unlink(missing_ok=True)  # first: no record without its data
        slot.data.unlink(missing_ok=True)

    def put(self, arrays: Arrays) -> None:
        """Raises RunError when the folder cannot be written: later jobs need what is in it."""
        if not Store(self.root).put(self.address, arrays):
            raise RunError(f"Cannot write to {self.root}. Free the disk, or choose another --out or --cache.")


class Job(ABC):
    """One piece of work, as plain data that any process can take.

    Attributes:
        kind: one of `KINDS`. label: for progress; jobs of one kind with one label share a bar.
        networks: whether it computes with networks, and so where those are.
        memory_gb: of a process that does it, beyond what any has.
    """

    kind: str
    label: str
    networks: bool = False
    memory_gb: float = 0.0

    @property
    @abstractmethod
    def places(self) -> tuple[Place, ...]:
        """Where its results go; it is done when all are there."""

    @property
    def needs(self) -> Sequence[Job]:
        """The jobs whose results it reads."""
        return ()

    @property
    def units(self) -> int:
        """How much it is, for progress."""
        return 1

    @abstractmethod
    def compute(self) -> Sequence[Arrays]:
        """The results, in the order of `places`."""

    @property
    def done(self) -> bool:
        return all(place.exists() for place in self.places)


class OneResult(Job):
    """A job with a single result.

    Attributes:
        root: folder of the store. entry: the kind of the result there.
    """

    root: Path
    entry: str

    @property
    @abstractmethod
    def inputs(self) -> Mapping[str, Any]:
        """Everything that decides the result, as JSON."""

    @abstractmethod
    def result(self) -> Arrays:
        """What lies at `place` when it is done."""

    @cached_property
    def place(self) -> Place:
        return Place(self.root, Address(self.entry, self.inputs))

    @property
    def places(self) -> tuple[Place, ...]:
        return (self.place,)

    def compute(self) -> Sequence[Arrays]:
        return [self.result()]


def run_job(job: Job) -> None:
    """In a worker."""
    for place, arrays in zip(job.places, job.compute(), strict=True):
        place.put(arrays)
    tick(job.units)


@dataclass(frozen=True)
class Engine:
    """Worker processes on this machine; their number changes no result.

    Attributes:
        team: for work without networks. networks: for work with them; on a CPU the same.
    """

    team: Workers
    networks: Workers

    def do(self, jobs: Iterable[Job]) -> None:
        """Make the results of all jobs.

        Raises:
            ValueError: a kind of job that there is not.
            RunError, or whatever a job raises first.
        """
        missing = missing_jobs(jobs)
        for job in missing:
            if job.kind not in KINDS:
                raise ValueError(f"'{job.kind}' of {type(job).__name__} is no kind of job.")
        for kind in KINDS:
            for label in dict.fromkeys(job.label for job in missing if job.kind == kind):
                todo = [job for job in missing if (job.kind, job.label) == (kind, label)]
                team = self.networks if todo[0].networks else self.team
                limit = _fitting(max(job.memory_gb for job in todo), team.count)
                team.map(run_job, todo, label, sum(job.units for job in todo), limit)


def missing_jobs(jobs: Iterable[Job]) -> list[Job]:
    """The jobs that are not done, and those of their needs, each once."""
    found: dict[tuple[object, ...], Job] = {}
    asked: set[tuple[object, ...]] = set()
    todo = list(jobs)
    while todo:
        job = todo.pop()
        key = (type(job).__name__, *job.places)
        if key in asked:
            continue
        asked.add(key)
        if not job.done:
            found[key] = job
            todo += job.needs
    return list(reversed(found.values()))


def _fitting(memory_gb: float, count: int) -> int:
    """How many of `count` processes of this size the machine's memory holds; at least one."""
    if not memory_gb:
        return count
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GB
    return max(1, min(count, int(0.8 * total / memory_gb)))
