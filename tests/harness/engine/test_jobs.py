"""Jobs over stores: nothing is done twice, what is needed is done first, and memory limits how many run at once."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mdtbench.base.errors import RunError
from mdtbench.harness.engine.jobs import GB, KINDS, Engine, Job, Place, missing_jobs, run_job
from mdtbench.harness.engine.store import Address, Slot

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
class Inline:
    """Workers that are this process; remembers what it was asked."""

    count: int = 4
    asked: list[tuple[str, int, int, int]] = field(default_factory=list)

    def map(self, function: Callable, items: Sequence, label: str, total: int, limit: int = 0) -> list:
        self.asked.append((label, len(items), total, limit))
        return [function(item) for item in items]


@pytest.fixture(autouse=True)
def nothing_computed() -> None:
    COMPUTED.clear()


@pytest.fixture
def engine() -> Engine:
    team: Any = Inline()
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


def test_kinds_follow_one_another_and_labels_have_their_own_bars(tmp_path: Path, engine: Engine):
    jobs = [Sum(tmp_path, kind, kind, label=f"all {kind}", units=i) for i, kind in enumerate(reversed(KINDS))]
    more = [replace(jobs[0], name="more"), replace(jobs[0], name="bar", label="a bar")]
    engine.do([*jobs, *more])
    assert COMPUTED[: len(KINDS) - 1] == list(KINDS[:-1])
    team: Any = engine.team
    assert team.asked[0] == (f"all {KINDS[0]}", 1, len(KINDS) - 1, 4)
    assert sorted(team.asked[-2:]) == [("a bar", 1, 0, 4), (f"all {KINDS[-1]}", 2, 0, 4)]


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


def test_networks_have_their_own_processes_and_memory_limits_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    memory = {"SC_PHYS_PAGES": 20_000, "SC_PAGE_SIZE": int(GB / 1000)}  # 20 GB
    monkeypatch.setattr(os, "sysconf", memory.__getitem__)
    team, networks = Inline(8), Inline(3)
    engine = Engine(team, networks)  # type: ignore[arg-type]
    engine.do([Sum(tmp_path, "plain", units=5), Sum(tmp_path, "network", label="seen", networks=True)])
    assert (team.asked, networks.asked) == ([("sums", 1, 5, 8)], [("seen", 1, 1, 3)])
    for size, limit in ((0.1, 3), (6.0, 2), (8.0, 2), (8.1, 1), (100.0, 1)):  # 16 of 20 GB may be used
        networks.asked.clear()
        jobs = [Sum(tmp_path, f"{size} {i}", label="seen", networks=True, memory_gb=size * i) for i in (0, 1)]
        engine.do(jobs)
        assert networks.asked == [("seen", 2, 2, limit)]


def test_a_full_disk_ends_the_run_and_a_wrong_kind_is_no_silence(tmp_path: Path, engine: Engine):
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"Cannot write to .*--out or --cache"):
        run_job(Sum(tmp_path / "file", "a"))
    with pytest.raises(ValueError, match="'nonsense' of Sum is no kind"):
        engine.do([Sum(tmp_path, "a", "nonsense")])
    with pytest.raises(RunError, match="is missing"):
        Sum(tmp_path, "never").places[0].get()


def test_a_failure_of_a_job_reaches_who_asked(tmp_path: Path, engine: Engine):
    with pytest.raises(KeyError):
        engine.do([Sum(tmp_path, "top", "scores", (Broken(tmp_path, "broken", "prepare"),))])
    assert COMPUTED == []
