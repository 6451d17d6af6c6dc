"""The engine on Ray: actors that do jobs, on the nodes of a cluster. A node that dies takes its actors' jobs with it.

Whoever reaches the port of a Ray cluster can run code there: bind it to an address that only you reach.
"""

from __future__ import annotations

import getpass
import logging
import os
import sys
import time
from collections import Counter
from contextlib import chdir
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...base.children import VARIABLES
from ...base.errors import RunError, UsageError
from .executor import End, Executor
from .jobs import Job
from .receipts import Receipt, host
from .work import Ticket, perform, ready_for
from .workers import POLL_S

PATIENCE_S = 20.0  # for a process to begin


class Hand:
    """In a process of the cluster. Networks that it has loaded stay loaded."""

    def __init__(self, out: str, here: str):
        """here: the driver's current folder, from which paths of jobs may start."""
        if Path(here).is_dir():
            os.chdir(here)
        ready_for(Path(out))

    def where(self) -> str:
        return host()

    def perform(self, ticket: Ticket) -> Receipt:
        return perform(ticket)


@dataclass
class Actor:
    """A process of the cluster, as the driver knows it.

    Attributes:
        gpus, cpus: that it holds. host: where it is, "" until it has said so.
        asked: whether it was asked where it is, and not yet for work: what died before has lost nothing.
        since: when it was made, s. affinity: of its last job, whose networks it has loaded.
    """

    handle: Any
    gpus: int
    cpus: int
    host: str = ""
    ticket: Ticket | None = None
    asked: bool = False
    since: float = field(default_factory=time.monotonic)
    affinity: str = ""


@dataclass
class Cluster(Executor):
    """Actors of a Ray cluster, made and ended as jobs need them. Make with `connected`."""

    ray: Any
    out: Path
    gpus: bool
    actors: list[Actor] = field(default_factory=list)
    tasks: dict[Any, Actor] = field(default_factory=dict)

    @property
    def slots(self) -> int:
        return max(1, int(self.ray.cluster_resources().get("GPU" if self.gpus else "CPU", 1)))

    def room(self, job: Job) -> bool:
        gpus, cpus = self._shape(job)
        if any(self._idle(gpus, cpus)):
            return True
        there, held = self.ray.cluster_resources(), Counter[str]()
        for actor in self.actors:
            if actor.ticket:
                held.update({"GPU": actor.gpus, "CPU": actor.cpus})
        return held["GPU"] + gpus <= there.get("GPU", 0) and held["CPU"] + cpus <= there.get("CPU", 0)

    def start(self, ticket: Ticket) -> None:
        shape = self._shape(ticket.job)
        idle = self._idle(*shape)
        idle.sort(key=lambda one: (one.host == ticket.avoid, one.affinity != ticket.job.affinity))
        actor = idle[0] if idle else self._made(*shape)
        actor.ticket, actor.asked, actor.affinity = ticket, True, ticket.job.affinity
        self.tasks[actor.handle.where.remote()] = actor

    def ended(self) -> list[End]:
        self._unblock()
        done, _ = self.ray.wait(list(self.tasks), timeout=POLL_S)
        more, _ = self.ray.wait(list(self.tasks), num_returns=len(self.tasks), timeout=0)
        ends = [self._end(task, self.tasks.pop(task)) for task in dict.fromkeys((*done, *more))]
        return [end for end in ends if end]

    def stop(self) -> None:
        for actor in self.actors:
            self.ray.kill(actor.handle)

    def _idle(self, gpus: int, cpus: int) -> list[Actor]:
        return [one for one in self.actors if one.ticket is None and (one.gpus, one.cpus) == (gpus, cpus)]

    def _made(self, gpus: int, cpus: int) -> Actor:
        """A new one; those without work make room for it."""
        for actor in [one for one in self.actors if one.ticket is None]:
            self.ray.kill(actor.handle)
            self.actors.remove(actor)
        remote = self.ray.remote(Hand).options(
            num_gpus=gpus, num_cpus=cpus, max_restarts=0, scheduling_strategy="SPREAD"
        )
        actor = Actor(remote.remote(str(self.out), str(Path.cwd())), gpus, cpus)
        self.actors.append(actor)
        return actor

    def _shape(self, job: Job) -> tuple[int, int]:
        return (job.ranks if self.gpus and job.networks else 0), job.ranks

    def _end(self, task: Any, actor: Actor) -> End | None:
        """How an actor's job ended; None when it begins now, or its actor was dead and another takes it."""
        ticket, asked, errors = actor.ticket, actor.asked, self.ray.exceptions
        assert ticket is not None
        try:
            found = self.ray.get(task)
        except errors.RayTaskError as error:  # the job's own
            actor.ticket = None
            return End(ticket, error=error.cause or error)
        except errors.RayError as error:  # its process, its node, or the way there
            self._drop(actor)
            if getattr(error, "actor_init_failed", False):
                return End(ticket, error=RunError(f"A process of the Ray cluster cannot do this run's jobs: {error}"))
            if asked:
                self.start(ticket)
                return None
            return End(ticket, lost=type(error).__name__, host=actor.host)
        if asked:
            actor.host, actor.asked = found, False
            self.tasks[actor.handle.perform.remote(ticket)] = actor
            return None
        actor.ticket = None
        return End(ticket, found)

    def _unblock(self) -> None:
        """Work of a process that does not begin goes to one that has none: it may hold what the other waits for.

        Just after the loss of a node Ray counts its processors as there, and a process that waits for them waits for
        ever.
        """
        for task, actor in list(self.tasks.items()):
            late = not actor.host and time.monotonic() - actor.since > PATIENCE_S
            if late and actor.ticket and any(one.ticket is None for one in self.actors):
                del self.tasks[task]
                self._drop(actor)
                self.start(actor.ticket)

    def _drop(self, actor: Actor) -> None:
        """End an actor that did not answer, whatever it may still be doing, and its idle neighbours."""
        for one in [one for one in self.actors if one is actor or (one.ticket is None and one.host == actor.host)]:
            self.ray.kill(one.handle)
            self.actors.remove(one)


def connected(address: str, out: Path, *, gpus: bool, count: int) -> Cluster:
    """A running cluster, or with address "" one on this machine that ends with the run.

    Args:
        address: auto or HOST:PORT. count: CPUs of a cluster of one's own; 0: all.

    Raises:
        UsageError: Ray is not installed, there is no cluster at the address, or another user started it.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UsageError(
            f"--executor ray needs Ray ({error}) - pip install 'mdtbench[ray]' - or leave it out."
        ) from error
    path = os.pathsep.join(path for path in sys.path if path)  # where plug-ins and this package are found
    variables = {"PYTHONPATH": path, **VARIABLES}
    options: dict[str, Any] = {"runtime_env": {"env_vars": variables}}
    options |= {"address": address} if address else {"num_cpus": count or None, "include_dashboard": False}
    try:
        with chdir("/"):  # Ray's processes import from what is the current folder here before anything else
            ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)
    except ConnectionError as error:
        raise UsageError(
            f"There is no Ray cluster at '{address}' ({error}). Start one with `ray start --head`."
        ) from error
    owner = ray.get(ray.remote(getpass.getuser).remote())
    if owner != getpass.getuser():
        ray.shutdown()
        raise UsageError(
            f"The Ray cluster at '{address}' is that of {owner}. Start one of your own, with another port."
        )
    return Cluster(ray, out, gpus)
