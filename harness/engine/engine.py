"""The engine: has jobs done wherever there is room, folds what comes back, and does again what was lost."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from ...base.errors import RunError, UsageError
from ...base.files import write_json
from .executor import End, Executor, Local
from .graph import Graph, missing, ready
from .jobs import Job
from .receipts import Receipt, Receipts, now
from .spec import to_spec
from .work import ARRIVAL_S, UNSENDABLE, Ticket, write_setup
from .workers import POLL_S, Workers

TRIES = 3  # of a job that is lost with its machine


@dataclass(frozen=True)
class Engine:
    """Does jobs; how many processes there are, and where, changes no result.

    Attributes:
        team: processes of this machine for work without networks. networks: for work with them; on a CPU the same.
        elsewhere: what does the jobs in their place; None: they do.
        out: folder of the run, where receipts are kept; None: they are not.
        gpus: whether work with networks takes GPUs.
    """

    team: Workers
    networks: Workers
    elsewhere: Executor | None = None
    out: Path | None = None
    gpus: bool = False

    @cached_property
    def executor(self) -> Executor:
        return self.elsewhere or Local(self.team, self.networks)

    @property
    def slots(self) -> int:
        """How many jobs with networks are done at once."""
        return self.executor.slots

    def do(self, jobs: Iterable[Job]) -> None:
        """Make the results of all jobs.

        Raises:
            ValueError: a kind of job that there is not.
            RunError: a job was lost with its machine as often as it may be.
            Whatever a job raises first.
        """
        for reason in self.attempt(jobs).values():
            raise RunError(f"{reason}. The same command continues from here; try it with fewer --workers.")

    def attempt(self, jobs: Iterable[Job]) -> dict[str, str]:
        """As `do`, and goes on without jobs that are lost: why, by key, those among them that need a lost one."""
        receipts = Receipts(self.out, self.team.reporter.note) if self.out else None
        graph = missing(jobs, receipts.damaged if receipts else lambda key: False)
        return _Doing(self, graph, receipts).run() if graph.jobs else {}


@dataclass
class _Doing:
    """What is being done. The graph may grow: what turns out to be gone is made again."""

    engine: Engine
    graph: Graph
    receipts: Receipts | None
    done: set[str] = field(default_factory=set)
    lost: dict[str, str] = field(default_factory=dict)
    running: dict[str, Ticket] = field(default_factory=dict)
    tries: Counter[str] = field(default_factory=Counter)
    avoid: dict[str, str] = field(default_factory=dict)
    since: dict[str, float] = field(default_factory=dict)
    bars: dict[str, int] = field(default_factory=dict)
    units: Counter[str] = field(default_factory=Counter)  # that are done, by label

    def run(self) -> dict[str, str]:
        self._write(self.graph)
        try:
            while len(self.done) + len(self.lost) < len(self.graph.jobs):
                self._start()
                for end in self.executor.ended():
                    self._fold(end)
                self._show()
        except BaseException:
            self.executor.stop()
            raise
        self._show()
        return self.lost

    @property
    def executor(self) -> Executor:
        return self.engine.executor

    def _write(self, graph: Graph) -> None:
        """For `mdtbench work` and whoever looks: the jobs that wait."""
        out = self.engine.out
        if out is None or self.receipts is None:
            return
        write_setup(out, self.engine.team.plugins, self.engine.team.prepare)
        for key, job in graph.jobs.items():
            try:
                spec = to_spec(job)
            except TypeError as error:  # a plug-in may hold anything, and processes started here can take it
                if self.executor.remote:
                    raise UsageError(f"{error} Only the local engine can do it: leave out --executor.") from error
                spec = {UNSENDABLE: str(error)}
            write_json(
                self.receipts.job(key), {**spec, "label": job.label, "units": job.units, "gpus": self._gpus(job)}
            )

    def _start(self) -> None:
        """Hand over what can begin. Nothing overtakes a job that waits for room, as a gang would wait for ever."""
        waiting: set[bool] = set()
        for key in ready(self.graph, self.done, self.done | self.running.keys() | self.lost.keys()):
            job = self.graph.jobs[key]
            busy = [ticket.job for ticket in self.running.values()]
            if any(one.alone for one in busy) or (job.alone and busy):
                return
            if job.networks in waiting:
                continue
            if not self.executor.room(job):
                waiting.add(job.networks)
                continue
            ticket = Ticket(job, self.tries[key], self._gpus(job), self.engine.out, self.avoid.get(key, ""))
            self._bar(job.label)
            self.running[key], self.since[key] = ticket, time.monotonic()
            self.executor.start(ticket)

    def _gpus(self, job: Job) -> int:
        return job.ranks if job.networks and self.engine.gpus else 0

    def _fold(self, end: End) -> None:
        job = end.ticket.job
        if self.running.pop(job.key, None) is not end.ticket:
            return  # an attempt that was given up comes back
        if end.error is not None:
            raise end.error
        receipt = end.receipt
        if receipt is None:
            self._lose(end, end.lost)
        elif receipt.status == "gone":
            self._restore(end, receipt.error)
        elif receipt.status != "done":
            self._lose(end, receipt.error)
        elif not self._arrived(job, receipt):
            self._lose(end, "its results did not arrive, or differ from its receipt")
        else:
            self.done.add(job.key)
            self.units[job.label] += job.units
            if self.receipts:
                self.receipts.job(job.key).unlink(missing_ok=True)

    def _arrived(self, job: Job, receipt: Receipt) -> bool:
        """Whether the results are there, by their digests; those of another machine are waited for."""
        remote = self.executor.remote
        end = time.monotonic() + (ARRIVAL_S if remote else 0.0)
        while (there := job.digests(thorough=remote)) != receipt.made and time.monotonic() < end:
            time.sleep(POLL_S)
        return there == receipt.made

    def _lose(self, end: End, reason: str) -> None:
        """Try it again, elsewhere; or say that it cannot be done now, and with it what needs it."""
        job, where = end.ticket.job, end.receipt.host if end.receipt else end.host
        self.tries[job.key] += 1
        self.avoid[job.key] = where
        self._note(f"{job.key} was lost on {where or 'an unknown host'} (attempt {self.tries[job.key]}): {reason}")
        if self.receipts and end.receipt is None:
            self.receipts.lose(_lost(end.ticket, reason, where, time.monotonic() - self.since[job.key]))
        if self.tries[job.key] < TRIES:
            return
        self.lost[job.key] = f"{job.key} was lost {TRIES} times, last on {where or 'an unknown host'}: {reason}"
        while True:
            more = [key for key, after in self.graph.after.items() if key not in self.lost and after & self.lost.keys()]
            if not more:
                return
            for key in more:
                self.lost[key] = self.lost[next(iter(self.graph.after[key] & self.lost.keys()))]

    def _restore(self, end: End, reason: str) -> None:
        """Make again what a job did not find. Raises RunError: it was tried often enough."""
        job = end.ticket.job
        self.tries[job.key] += 1
        self._note(f"{job.key} waits for its inputs, which are made again: {reason}")
        if self.tries[job.key] >= TRIES:
            raise RunError(reason)
        found = missing([job])
        self._write(found)
        jobs = {**found.jobs, **self.graph.jobs}
        self.graph = Graph(jobs, {**self.graph.after, **found.after})
        for key in found.jobs.keys() & self.done:
            self.done.discard(key)
            self.units[self.graph.jobs[key].label] -= self.graph.jobs[key].units

    # --------------------------------------------------------------------------------------------------------- progress

    def _bar(self, label: str) -> None:
        if label not in self.bars:
            self.bars[label] = self.engine.team.reporter.start(label, self._total(label), 0)

    def _total(self, label: str) -> int:
        return sum(job.units for job in self.graph.jobs.values() if job.label == label)

    def _show(self) -> None:
        partial = self.executor.ticks()
        for label, task in self.bars.items():
            self._partial[label] += partial[label]
            total = self._total(label)
            self.engine.team.reporter.update(task, min(total, max(self.units[label], self._partial[label])))

    @cached_property
    def _partial(self) -> Counter[str]:
        """Units that were reported while jobs were at work."""
        return Counter()

    def _note(self, text: str) -> None:
        self.engine.team.reporter.note(text)


def _lost(ticket: Ticket, reason: str, where: str, seconds: float) -> Receipt:
    """What the driver knows of an attempt that left no receipt."""
    job = ticket.job
    return Receipt(
        key=job.key,
        kind=job.kind,
        label=job.label,
        status="lost",
        attempt=ticket.attempt,
        host=where,
        device="",
        units=job.units,
        seconds=seconds,
        gpu_seconds=seconds * ticket.gpus,
        error=reason,
        ended_utc=now(),
    )
