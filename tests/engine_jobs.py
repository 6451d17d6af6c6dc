"""Jobs for tests of engines: any process that has this folder in its path can do them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mdtbench.harness.engine import held as module
from mdtbench.harness.engine.held import held, let_go
from mdtbench.harness.engine.jobs import Job, Place
from mdtbench.harness.engine.receipts import host
from mdtbench.harness.engine.store import Address


@dataclass(frozen=True)
class Add(Job):
    """1 and the sum of what it needs.

    Attributes:
        trouble: what happens while it is done, see `_trouble`. seconds: that it takes; with `once`, the first time.
    """

    root: Path
    name: str
    kind: str = "scores"
    of: tuple[Add, ...] = ()
    trouble: str = ""
    seconds: float = 0.0
    networks: bool = False
    ranks: int = 1
    once: bool = False

    label = "sums"

    @property
    def places(self) -> tuple[Place, ...]:
        return (Place(self.root, Address("sums", {"name": self.name})),)

    @property
    def needs(self) -> Sequence[Job]:
        return self.of

    def value(self) -> int:
        return int(self.places[0].get()["sum"])

    @property
    def log(self) -> Path:
        """A line per attempt: who, where."""
        return self.root.parent / f"{self.name}.log"

    @property
    def attempts(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []

    def compute(self) -> list[dict]:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("a") as stream:
            stream.write(f"{os.getpid()} {host()} {os.environ.get('SLURMD_NODENAME', '')}\n")
        first = len(self.attempts) == 1
        time.sleep(self.seconds if first or not self.once else 0.0)
        self._trouble()
        return [{"sum": np.array(1 + sum(job.value() for job in self.of))}]

    def perform(self) -> None:
        """And mark the end of an attempt that took long."""
        first = not self.attempts
        super().perform()
        if first and self.once:
            self.log.with_suffix(".end").touch()

    def _trouble(self) -> None:
        first = len(self.attempts) == 1
        if self.trouble == "fails":
            raise KeyError(self.name)
        if self.trouble == "memory" and first:
            raise MemoryError("too much")
        if self.trouble == "killed" or (self.trouble == "killed once" and first):
            os.kill(os.getpid(), signal.SIGKILL)


def keep(what: tuple[str, float]) -> int:
    """Load something of so many GB for jobs of this name, as a job does; which process did."""
    name, memory_gb = what
    let_go(name)
    held(name, lambda: name, name, memory_gb)
    return os.getpid()


def kept(_: object) -> tuple[int, list[object]]:
    time.sleep(0.5)  # so that the next one goes to another process
    return os.getpid(), list(module._held)
