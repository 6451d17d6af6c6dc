"""Progress without a terminal: a line at the start, one now and then, one at the end."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from mdtbench.harness.engine import progress
from mdtbench.harness.engine.progress import LineReporter


def test_a_task_starts_and_ends_with_a_line_and_is_quiet_between(monkeypatch: pytest.MonkeyPatch):
    now, stream = [0.0], io.StringIO()
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    reporter = LineReporter(Console(file=stream, width=20))
    task = reporter.start("distil [all]", 40)
    other = reporter.start("resumed", 9, done=3)
    for seconds, done in ((1.0, 1), (16.0, 20), (17.0, 21), (18.0, 40), (19.0, 40), (50.0, 40)):
        now[0] = seconds
        reporter.update(task, done, "loss 0.5")
    reporter.update(other, 9)
    assert stream.getvalue().splitlines() == [
        "distil [all]: 0/40",
        "resumed: 3/9",
        "distil [all]: 20/40 loss 0.5",
        "distil [all]: 40/40 loss 0.5",
        "resumed: 9/9",
    ]
