"""What worker processes tell while they work reaches the user through the parent, beside its progress."""

from __future__ import annotations

import pytest
from silent import Silent

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
    assert report.notes == ["a begins", "b begins"]
    assert report.done[-1] == 5


def test_without_a_parent_it_is_a_line_on_standard_error(capsys: pytest.CaptureFixture[str]):
    tell("something")
    assert capsys.readouterr() == ("", "something\n")
