"""A run is jobs over stores: what is in a store is not done again.

A job is known by the addresses of its results, which are digests of all its inputs. `Engine.do` finds what is missing
for some jobs, and has each done when those that it needs have ended. So what a run computes does not depend on how many
processes there are and where, and a run is resumed by doing it again.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from ...base.errors import RunError
from ...base.files import digest_of
from .store import Address, Arrays, Slot, Store
from .workers import tick

# Of those that can begin, earlier kinds are first.
KINDS = (
    "prepare",
    "cells",
    "encode",
    "pairs",
    "train",
    "structures",
    "assets",
    "pictures",
    "features",
    "scores",
    "prune",
)


Found = TypeVar("Found")
AGAIN = 8  # times that a driver begins anew for a result that it misses


class GoneError(RunError):
    """A result that a job reads is not there: it was damaged, or the cache was emptied since it was made."""


def until_there(do: Callable[[], Found], tell: Callable[[str], None]) -> Found:
    """do(); again where it misses a result, which its jobs then make again. Raises GoneError: that did not help."""
    for _ in range(AGAIN):
        try:
            return do()
        except GoneError as error:
            tell(f"{error} It is begun anew now.")
    return do()


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

    def sha256(self, *, thorough: bool) -> str:
        """Of its data, "" where there are none. thorough: the data are read, not only what is recorded of them."""
        return Store(self.root).sha256(self.address, thorough=thorough)

    def get(self) -> Arrays:
        """Raises GoneError when it is not there, or was damaged and is set aside now."""
        found = Store(self.root).get(self.address, expected=True)
        if found is None:
            raise GoneError(
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
        kind: one of `KINDS`. label: for progress; jobs with one label share a bar.
        networks: whether it computes with networks, and so where those are.
        memory_gb: of a process that does it, beyond what any has.
        ranks: processes that do it together, on one machine, each with a GPU where networks are on GPUs.
        alone: whether nothing else may run beside it.
        minutes: that a scheduler should give it, at most.
        affinity: what it wants to find loaded: jobs of one affinity are given to one process where that is possible.
    """

    kind: str
    label: str
    networks: bool = False
    memory_gb: float = 0.0
    ranks: int = 1
    alone: bool = False
    minutes: float = 10.0
    affinity: str = ""

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

    @cached_property
    def key(self) -> str:
        """Its name in files: equal for equal work."""
        places = [[str(place.root), place.digest] for place in self.places]
        return f"{self.kind}-{digest_of([type(self).__name__, places])[:20]}"

    def perform(self) -> None:
        """Do it, and keep the results."""
        for place, arrays in zip(self.places, self.compute(), strict=True):
            place.put(arrays)
        tick(self.units)

    def digests(self, *, thorough: bool = False) -> dict[str, str]:
        """sha256 of each result that is there. thorough: the data are read, not only what is recorded of them."""
        found = {place.digest: place.sha256(thorough=thorough) for place in self.places}
        return {name: sha256 for name, sha256 in found.items() if sha256}


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
