"""Jobs over stores: nothing is done twice, what is needed is done first, and memory limits how many run at once."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from inprocess import InProcess
from silent import Silent

from mdtbench.base.errors import RunError
from mdtbench.harness.engine.device import GB
from mdtbench.harness.engine.engine import Engine
from mdtbench.harness.engine.executor import Local
from mdtbench.harness.engine.graph import missing, missing_jobs, ready
from mdtbench.harness.engine.jobs import KINDS, GoneError, Job, Place, until_there
from mdtbench.harness.engine.store import Address, Slot
from mdtbench.harness.engine.work import Ticket

COMPUTED: list[str] = []  # names of jobs, in the order in which they were computed


@dataclass(frozen=True)
class Sum(Job):
    """1 and the sum of what it needs, in each of its places."""

    root: Path
    name: str
    kind: str = "scores"
    of: tuple[Sum, ...] = ()
    label: str = "sums"
    networks: bool = False
    memory_gb: float = 0.0
    parts: int = 1
    units: int = 1
    ranks: int = 1

    @property
    def places(self) -> tuple[Place, ...]:
        return tuple(Place(self.root, Address("sums", {"name": self.name, "part": i})) for i in range(self.parts))

    @property
    def needs(self) -> Sequence[Job]:
        return self.of

    def compute(self) -> list[dict]:
        COMPUTED.append(self.name)
        total = 1 + sum(int(job.places[0].get()["sum"]) for job in self.of)
        return [{"sum": np.array(total + i)} for i in range(self.parts)]


class Broken(Sum):
    def compute(self) -> list[dict]:
        raise KeyError


@dataclass
class Bars(Silent):
    """Remembers which were started, and of how many units."""

    started: list[tuple[str, int]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def start(self, label: str, total: int, done: int = 0) -> int:
        self.started.append((label, total))
        return len(self.started) - 1


@pytest.fixture(autouse=True)
def nothing_computed() -> None:
    COMPUTED.clear()


@pytest.fixture
def engine() -> Engine:
    team: Any = InProcess(Bars())
    return Engine(team, team)


def value(job: Sum, part: int = 0) -> int:
    return int(job.places[part].get()["sum"])


def data_of(job: Sum) -> Path:
    return Slot(job.root, job.places[0].address.kind, job.places[0].digest).data


def test_what_is_needed_is_made_first_and_nothing_twice(tmp_path: Path, engine: Engine):
    base = Sum(tmp_path, "base", "prepare")
    sides = [Sum(tmp_path, name, "structures", (base,)) for name in ("left", "right")]
    top = Sum(tmp_path, "top", "scores", (*sides, base), parts=2)
    engine.do([top, top, sides[0]])
    assert sorted(COMPUTED) == ["base", "left", "right", "top"]
    assert (COMPUTED[0], COMPUTED[-1]) == ("base", "top")
    assert [value(top), value(top, 1)] == [1 + 2 + 2 + 1, 7]
    engine.do([top])
    assert len(COMPUTED) == 4
    other = Sum(tmp_path, "other", "scores", (base,))
    assert missing_jobs([top, other]) == [other]
    engine.do([other, top])
    assert COMPUTED[4:] == ["other"]


def test_earlier_kinds_are_first_and_labels_have_their_own_bars(tmp_path: Path, engine: Engine):
    jobs = [Sum(tmp_path, kind, kind, label=f"all {kind}", units=i) for i, kind in enumerate(reversed(KINDS))]
    more = [replace(jobs[0], name="more", units=3), replace(jobs[0], name="bar", label="a bar")]
    engine.do([*jobs, *more])
    assert COMPUTED[: len(KINDS) - 1] == list(KINDS[:-1])
    bars: Any = engine.team.reporter
    assert bars.started[0] == (f"all {KINDS[0]}", len(KINDS) - 1)
    assert sorted(bars.started[-2:]) == [("a bar", 0), (f"all {KINDS[-1]}", 3)]


def test_what_is_ready_follows_from_what_is_done(tmp_path: Path):
    base = Sum(tmp_path, "base", "prepare")
    sides = [Sum(tmp_path, name, "structures", (base,)) for name in ("left", "right")]
    top = Sum(tmp_path, "top", "scores", tuple(sides))
    graph = missing([top])
    keys = [job.key for job in (base, *sides, top)]
    assert list(graph.jobs) == keys
    assert ready(graph, (), ()) == keys[:1]
    assert ready(graph, keys[:1], keys[:1]) == keys[1:3]
    assert ready(graph, keys[:2], keys[:3]) == []
    assert ready(graph, keys[:3], keys[:3]) == keys[3:]


def test_a_need_that_is_done_needs_nothing_itself(tmp_path: Path, engine: Engine):
    base = Sum(tmp_path, "base", "prepare")
    side = Sum(tmp_path, "side", "structures", (base,))
    engine.do([side])
    data_of(base).with_suffix(".json").unlink()
    engine.do([Sum(tmp_path, "top", "scores", (side,))])
    assert COMPUTED == ["base", "side", "top"]


def test_a_job_is_done_when_all_its_places_are(tmp_path: Path, engine: Engine):
    job = Sum(tmp_path, "two", parts=2)
    engine.do([job])
    Slot(job.root, "sums", job.places[1].digest).record.unlink()
    assert not job.done
    engine.do([job])
    assert COMPUTED == ["two", "two"]


def test_one_address_in_two_folders_is_two_results(tmp_path: Path, engine: Engine):
    here, there = Sum(tmp_path / "here", "a"), Sum(tmp_path / "there", "a")
    assert here.places[0].digest == there.places[0].digest
    assert here.places[0] != there.places[0]
    engine.do([here, there])
    assert value(here) == value(there) == 1


def test_a_damaged_entry_is_told_set_aside_and_made_again(tmp_path: Path, engine: Engine):
    job = Sum(tmp_path, "a")
    engine.do([job])
    data_of(job).write_bytes(b"half of it")
    with pytest.raises(RunError, match=r"of kind sums .* is missing or was damaged. The same command makes it again"):
        value(job)
    assert list((tmp_path / "quarantine").iterdir())
    engine.do([job])
    assert (value(job), COMPUTED) == (1, ["a", "a"])
    data_of(job).write_bytes(b"half of it")
    told: list[str] = []

    def driver() -> int:
        engine.do([job])
        return value(job)

    assert until_there(driver, told.append) == 1
    assert [line.endswith("It is begun anew now.") for line in told] == [True]

    def never() -> int:
        raise GoneError("a sum is missing.")

    with pytest.raises(GoneError, match="a sum is missing"):
        until_there(never, told.append)


def test_networks_have_their_own_processes_and_memory_limits_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    memory = {"SC_PHYS_PAGES": 20_000, "SC_PAGE_SIZE": int(GB / 1000)}  # 20 GB
    monkeypatch.setattr(os, "sysconf", memory.__getitem__)
    team, networks = InProcess(), InProcess()
    engine = Engine(team, networks)  # type: ignore[arg-type]
    engine.do([Sum(tmp_path, "plain", units=5), Sum(tmp_path, "network", label="seen", networks=True)])
    assert (dict(team.given), dict(networks.given)) == ({"sums": 1}, {"seen": 1})
    for size, limit in ((0.1, 3), (6.0, 2), (8.0, 2), (8.1, 1), (100.0, 1)):  # 16 of 20 GB may be used
        hands = Held(3)
        local = Local(hands, hands)  # type: ignore[arg-type]
        jobs = [Sum(tmp_path, f"{size} {i}", label="seen", networks=True, memory_gb=size) for i in range(4)]
        for job in jobs:
            if local.room(job):
                local.start(Ticket(job))
        assert len(hands.given) == limit


def test_a_gang_takes_as_many_processes_as_it_has_ranks(tmp_path: Path):
    hands = Held(4)
    local = Local(hands, hands)  # type: ignore[arg-type]
    local.start(Ticket(Sum(tmp_path, "one")))
    assert local.room(Sum(tmp_path, "three", ranks=3))
    assert not local.room(Sum(tmp_path, "four", ranks=4))
    assert Local(Held(2), Held(2)).room(Sum(tmp_path, "more than there are", ranks=3))  # type: ignore[arg-type]


class Held:
    """Workers that never come to an end."""

    def __init__(self, count: int):
        self.count = count
        self.given: list[Ticket] = []

    @property
    def free(self) -> int:
        return self.count - len(self.given)

    def submit(self, function: Callable, ticket: Ticket, label: str, holds: str) -> Future:
        self.given.append(ticket)
        return Future()


def test_a_full_disk_ends_the_run_and_a_wrong_kind_is_no_silence(tmp_path: Path, engine: Engine):
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"Cannot write to .*--out or --cache"):
        Sum(tmp_path / "file", "a").perform()
    with pytest.raises(ValueError, match="'nonsense' of Sum is not a kind of job"):
        engine.do([Sum(tmp_path, "a", "nonsense")])
    with pytest.raises(RunError, match="is missing"):
        Sum(tmp_path, "never").places[0].get()


def test_a_failure_of_a_job_reaches_who_asked(tmp_path: Path, engine: Engine):
    with pytest.raises(KeyError):
        engine.do([Sum(tmp_path, "top", "scores", (Broken(tmp_path, "broken", "prepare"),))])
    assert COMPUTED == []
