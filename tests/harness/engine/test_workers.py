"""What worker processes tell while they work reaches the user through the parent, beside its progress."""

from __future__ import annotations

import pytest
from engine_jobs import keep, kept
from silent import Silent

from mdtbench.harness.engine import held as module
from mdtbench.harness.engine.held import held, let_go
from mdtbench.harness.engine.workers import tell, tick, workers


class Counting(Silent):
    def __init__(self):
        super().__init__()
        self.done: list[int] = []

    def update(self, task: int, done: int, info: str = "") -> None:
        del task, info
        self.done.append(done)


def test_notes_of_workers_are_notes_of_the_parent_and_no_units_of_work():
    report = Counting()
    with workers(1, report) as team:
        team.map(tell, ["a begins", "b begins"], "tell", 0)
        assert set(report.done) == {0}
        team.map(tick, [2, 3], "work", 5)
        team.submit(tell, "c begins", "tell").result()  # nobody asks for notes after this one
    assert report.notes == ["a begins", "b begins", "c begins"]
    assert report.done[-1] == 5


def test_without_a_parent_it_is_a_line_on_standard_error(capsys: pytest.CaptureFixture[str]):
    tell("something")
    assert capsys.readouterr() == ("", "something\n")


def test_a_process_frees_what_it_kept_when_a_job_wants_something_else(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "_held", {})
    loaded: list[str] = []

    def load(name: str, memory_gb: float = 1.0) -> str:
        return held(name, lambda: loaded.append(name) or name, name, memory_gb)

    assert (load("a"), load("a")) == ("a", "a")
    let_go("a")
    assert list(module._held) == ["a"]
    let_go("")
    assert not module._held
    load("small", 0.0)
    let_go("")
    assert list(module._held) == ["small"]  # hardly any memory: no reason to load it again
    load("b")
    assert list(module._held) == ["b"]
    assert loaded == ["a", "small", "b"]


def test_what_idle_processes_keep_is_freed_before_another_job_loads_what_it_wants():
    with workers(2, Silent()) as team:
        first = [team.submit(keep, ("a", 1.0), "", "a") for _ in range(2)]
        both = {future.result() for future in first}
        assert len(both) == 2
        again = team.submit(keep, ("a", 1.0), "", "a").result()
        assert again in both
        one = team.submit(keep, ("b", 1.0), "", "b").result()
        same = team.submit(keep, ("b", 1.0), "", "b").result()
        assert one == same  # the process that has it
        states = dict(future.result() for future in [team.submit(kept, None, "", "b") for _ in range(2)])
        assert states == {one: ["b"], (both - {one}).pop(): []}
