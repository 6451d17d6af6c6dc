"""Where jobs are done. The engine asks whether there is room, hands over tickets, and is told how they ended."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections import Counter
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from typing import ClassVar

from .device import GB
from .jobs import Job
from .receipts import Receipt, host
from .work import Ticket, perform
from .workers import POLL_S, Workers

MEMORY_SHARE = 0.8  # of the machine's, that jobs may take


def memory_gb() -> float:
    """Of this machine, that jobs may take."""
    return MEMORY_SHARE * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GB


def most_at_once(each_gb: float, count: int) -> int:
    """How many of `count` processes of this size the machine's memory holds; at least one."""
    return max(1, min(count, int(memory_gb() / each_gb))) if each_gb else count


@dataclass(frozen=True)
class End:
    """How an attempt ended: with a receipt, with the job's own exception, or lost.

    Attributes:
        lost: why. host: where it was, "" where nobody knows.
    """

    ticket: Ticket
    receipt: Receipt | None = None
    error: BaseException | None = None
    lost: str = ""
    host: str = ""


class Executor(ABC):
    """Processes that do jobs.

    Attributes:
        remote: whether results come over a network folder, and jobs as files in the run's folder.
    """

    remote: ClassVar[bool] = True

    @property
    @abstractmethod
    def slots(self) -> int:
        """How many jobs with networks are done at once."""

    @abstractmethod
    def room(self, job: Job) -> bool:
        """Whether the job can be handed over now."""

    @abstractmethod
    def start(self, ticket: Ticket) -> None: ...

    @abstractmethod
    def ended(self) -> list[End]:
        """What has ended since; waits a moment for something to end."""

    def ticks(self) -> Counter[str]:
        """Units of work of jobs that are not done yet, since the last call, by label; where they are known."""
        return Counter()

    @abstractmethod
    def stop(self) -> None:
        """End what is running, after a failure or an interrupt."""


@dataclass
class Local(Executor):
    """The worker processes of this machine."""

    team: Workers
    networks: Workers
    tickets: dict[Future[Receipt], Ticket] = field(default_factory=dict)
    remote: ClassVar[bool] = False

    @property
    def slots(self) -> int:
        return self.networks.count

    def room(self, job: Job) -> bool:
        team, running = self._team(job), [ticket.job for ticket in self.tickets.values()]
        mine = [one for one in running if self._team(one) is team]
        if not mine:
            return team.free > 0
        fits = sum(one.memory_gb for one in running) + job.memory_gb <= memory_gb()
        ranks = sum(one.ranks for one in mine) + job.ranks
        return team.free > 0 and ranks <= team.count and (fits or not job.memory_gb)

    def start(self, ticket: Ticket) -> None:
        job, team = ticket.job, self._team(ticket.job)
        future = team.submit(perform, ticket, job.label, job.affinity if job.memory_gb else "")
        self.tickets[future] = ticket

    def ended(self) -> list[End]:
        wait(self.tickets, POLL_S, FIRST_COMPLETED)
        done = [future for future in self.tickets if future.done()]
        return [_end(self.tickets.pop(future), future) for future in done]

    def stop(self) -> None:
        """Nothing: whoever made the processes ends them."""

    def ticks(self) -> Counter[str]:
        return self.team.ticks() if self.team is self.networks else self.team.ticks() + self.networks.ticks()

    def _team(self, job: Job) -> Workers:
        return self.networks if job.networks else self.team


def _end(ticket: Ticket, future: Future[Receipt]) -> End:
    error = future.exception()
    if isinstance(error, BrokenProcessPool):
        return End(ticket, lost="its process was killed from outside (out of memory?)", host=host())
    if error is not None:
        return End(ticket, error=error, host=host())
    return End(ticket, future.result(), host=host())
