"""The engine on Slurm, through submitit: Slurm jobs that do bundles of jobs, whose receipts say what came of them.

A training is a Slurm job of its own. Before its time is over, and when it has to make room, it saves where it is and
goes back into the queue. What Slurm says of jobs is only asked to learn that one is gone: without its database it knows
no more, and it calls what it took away completed.
"""

from __future__ import annotations

import shlex
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from ...base.children import VARIABLES
from ...base.errors import MissingError, RunError, UsageError
from ...base.files import write_json
from .executor import End, Executor
from .jobs import Job
from .receipts import Receipt, Receipts, receipts_of
from .slurm_work import CLOSED, work
from .work import ARRIVAL_S, Ticket

POLL_S = 0.5  # between two looks at receipts
ASK_S = 5.0  # between two questions to Slurm
MOST = 32  # jobs that are handed over at a time
LEAST_MIN = 60  # of a Slurm job
LONG_MIN = 6 * 60  # a job that may take longer shares its Slurm job with no other
SLOTS = 8  # Slurm jobs at a time, where --workers says nothing
WARNING_S = 120  # that Slurm tells a job of before its time is over


def settings_of(pairs: Sequence[str], sbatch: Path | None) -> tuple[dict[str, str], list[str]]:
    """Options of sbatch by name, and commands that come before a job.

    Args:
        pairs: key=value each. sbatch: a script, of which the #SBATCH lines and the commands are taken.

    Raises:
        UsageError: something else than key=value. MissingError: there is no such script.
    """
    options, commands = dict[str, str](), list[str]()
    if sbatch is not None and not sbatch.is_file():
        raise MissingError(f"There is no sbatch script {sbatch}. Give the path of one to --sbatch.")
    for line in sbatch.read_text(encoding="utf-8").splitlines() if sbatch else ():
        if line.startswith("#SBATCH"):
            pairs = (*(word.lstrip("-") for word in shlex.split(line.removeprefix("#SBATCH"))), *pairs)
        elif line.strip() and not line.startswith("#"):
            commands.append(line)
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not name or not (value or not equals):
            raise UsageError(
                f"--slurm takes options of sbatch as key=value (got '{pair}'), e.g. partition=gpu,time=60."
            )
        options[name.strip().replace("-", "_")] = value.strip() if equals else ""  # as submitit spells them
    return options, commands


@dataclass
class Worker:
    """A Slurm job, which does jobs one after the other.

    OUT/slurm/NAME/KEY.json waits, KEY.mine is being done or begins anew, `closed`: it takes no more.
    """

    folder: Path
    number: str
    shape: tuple[object, ...]
    tickets: list[Ticket] = field(default_factory=list)

    @property
    def closed(self) -> bool:
        return (self.folder / CLOSED).exists()

    def give(self, ticket: Ticket) -> None:
        self.tickets.append(ticket)
        write_json(self.folder / f"{ticket.job.key}.json", [ticket.attempt, ticket.gpus])


@dataclass
class Slurm(Executor):
    """Slurm jobs that do jobs of a run. Make it on a machine that has `sbatch` and sees the run's folder.

    Attributes:
        options: of sbatch, in place of what a job asks for. setup: commands before a job.
        count: Slurm jobs at a time. patience_s: for a receipt of a Slurm job that has ended.
    """

    out: Path
    options: dict[str, str]
    setup: Sequence[str] = ()
    count: int = SLOTS
    patience_s: float = ARRIVAL_S
    waiting: list[Ticket] = field(default_factory=list)
    workers: list[Worker] = field(default_factory=list)
    gone: dict[str, float] = field(default_factory=dict)  # since when Slurm does not know a job, by its number
    asked: float = 0.0

    @property
    def slots(self) -> int:
        return self.count

    def room(self, job: Job) -> bool:
        """Always: what waits is bundled."""
        return True

    def start(self, ticket: Ticket) -> None:
        self.waiting.append(ticket)

    def ended(self) -> list[End]:
        self._hand_over()
        time.sleep(POLL_S)
        self._ask()
        ends = [end for worker in self.workers for end in self._of(worker)]
        self.workers = [one for one in self.workers if one.number not in self.gone or one.tickets]
        return ends

    def stop(self) -> None:
        for worker in self.workers:
            (worker.folder / CLOSED).touch()  # it must not put itself back
        if self.workers:
            subprocess.run(["scancel", *(one.number for one in self.workers)], check=False)

    def _hand_over(self) -> None:
        """To Slurm jobs that have nothing to do, then to new ones; as many to each as leave some for the others."""
        open_ = [one for one in self.workers if not one.closed and one.number not in self.gone]
        while self.waiting:
            first = self.waiting[0]
            idle = [one for one in open_ if not one.tickets and one.shape == _shape(first) and not _long(first)]
            new = self.count - len(open_)
            if not idle and new <= 0:
                self._make_room()
                return
            alike = [one for one in self.waiting if _shape(one) == _shape(first)]
            share = 1 if _long(first) else min(MOST, -(-len(alike) // (len(idle) + max(new, 0))))
            if not idle:
                idle = [self._submitted(alike[:share])]
                open_ += idle
            for ticket in alike[:share]:
                idle[0].give(ticket)
                self.waiting.remove(ticket)

    def _make_room(self) -> None:
        """End a Slurm job that waits for more, of another kind than what is to be done."""
        spare = next((one for one in self.workers if not one.tickets and not one.closed), None)
        if spare:
            (spare.folder / CLOSED).touch()

    def _submitted(self, tickets: Sequence[Ticket]) -> Worker:
        import submitit  # pyright: ignore[reportMissingImports]
        from submitit.core.utils import FailedJobError  # pyright: ignore[reportMissingImports]

        folder = self.out / "slurm" / uuid4().hex[:12]
        folder.mkdir(parents=True)
        executor = submitit.SlurmExecutor(self.out / "slurm")
        executor.update_parameters(
            setup=[*(f"export {name}={value}" for name, value in VARIABLES.items()), *self.setup],
            signal_delay_s=WARNING_S,
            time=max(LEAST_MIN, round(sum(one.job.minutes for one in tickets))),
            additional_parameters=self._asked_for(tickets[0]),
        )
        try:
            job = executor.submit(work, str(self.out), str(folder))
        except FailedJobError as error:
            reason = "; ".join(str(error).split("\n"))
            raise RunError(f"Slurm takes no job: {reason}. Correct --slurm or --sbatch.") from error
        self.workers.append(Worker(folder, str(job.job_id), _shape(tickets[0])))
        return self.workers[-1]

    def _asked_for(self, ticket: Ticket) -> dict[str, Any]:
        gpus, job = ticket.gpus, ticket.job
        asked: dict[str, Any] = {"job_name": job.kind, "cpus_per_task": job.ranks, "requeue": True}
        asked |= {"gpus_per_node": gpus} if gpus and "gres" not in self.options else {}
        asked |= {"exclusive": True} if job.alone else {}
        given = {name: value for name, value in self.options.items() if gpus or name not in ("gres", "gpus_per_node")}
        return asked | {name: value or True for name, value in given.items()}

    def _ask(self) -> None:
        """Which Slurm jobs have ended."""
        now = time.monotonic()
        if now - self.asked < ASK_S or not self.workers:
            return
        told = subprocess.run(["squeue", "--me", "-h", "-o", "%A"], capture_output=True, text=True, check=False)
        self.asked = now
        if told.returncode == 0:  # else the controller does not answer: nothing is known to have ended
            known = set(told.stdout.split())
            self.gone = {one.number: self.gone.get(one.number, now) for one in self.workers if one.number not in known}

    def _of(self, worker: Worker) -> list[End]:
        """What has ended of a Slurm job; its other tickets are left, or wait anew where it never took them."""
        ends, left = list[End](), list[Ticket]()
        gone = time.monotonic() - self.gone.get(worker.number, time.monotonic()) > self.patience_s
        for ticket in worker.tickets:
            found = _receipt(receipts_of(self.out), ticket)
            waits = worker.folder / f"{ticket.job.key}.json"
            if found and found.status == "failed":
                ends.append(End(ticket, error=RunError(f"{ticket.job.key} failed on {found.host}: {found.error}")))
            elif found:
                ends.append(End(ticket, found))
            elif (worker.closed or worker.number in self.gone) and _taken(waits):
                self.waiting.append(ticket)
            elif gone:
                where = f"Slurm job {worker.number}"
                ends.append(End(ticket, lost=f"{where} ended without a receipt", host=where))
            else:
                left.append(ticket)
        worker.tickets = left
        return ends


def _shape(ticket: Ticket) -> tuple[object, ...]:
    """What jobs of one Slurm job have in common."""
    job = ticket.job
    return ticket.gpus, job.ranks, job.alone, _long(ticket)


def _long(ticket: Ticket) -> bool:
    return ticket.job.minutes > LONG_MIN


def _taken(path: Path) -> bool:
    """Whether there was such a file, which is gone now: of several that ask, one is told so."""
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    return True


def _receipt(receipts: Receipts, ticket: Ticket) -> Receipt | None:
    """What was written of this attempt, or of one after it: Slurm begins a job anew that it put back."""
    found = receipts.get(ticket.job.key)
    if found and found.attempt >= ticket.attempt:
        return found
    return next((one for one in receipts.lost() if (one.key, one.attempt) == (ticket.job.key, ticket.attempt)), None)
