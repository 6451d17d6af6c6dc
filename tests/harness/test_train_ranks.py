"""The entry for torchrun: it trains the students that `mdtbench run` looks for."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mdtbench.base.errors import UsageError
from mdtbench.harness import train_ranks
from mdtbench.harness.commands import make_plan
from mdtbench.harness.jobs import is_trained

SMALL = ("data.train=3", "train.steps=1", "train.batch=2")


def call(folder: Path, monkeypatch: pytest.MonkeyPatch, *changes: str) -> BaseException | None:
    """The entry in this process, alone; also keeps its plan in `plans`."""
    in_process = (train_ranks.InProcess(), train_ranks.InProcess())
    monkeypatch.setattr(train_ranks, "teams", lambda count, device, report, plugins=(): nullcontext(in_process))
    options = [f"--set={change}" for change in changes]
    args = ["--preset", "smoke", "--methods", "vm", "--out", str(folder / "out"), "--cache", str(folder / "cache")]
    return CliRunner().invoke(train_ranks.app, [*args, *options]).exception


def test_its_students_are_those_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    plans = []
    monkeypatch.setattr(train_ranks, "make_plan", lambda options: plans.append(make_plan(options)) or plans[-1])
    assert call(tmp_path, monkeypatch, *SMALL) is None
    [training] = plans[0].trainings
    assert is_trained(tmp_path / "out", training)
    assert (tmp_path / "out" / training.folder / "training.json").exists()


@pytest.mark.parametrize("change", ["sweep.lr=[1e-4, 3e-4]", "train.budget=seconds"])
def test_what_has_to_be_measured_first_is_a_usage_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str):
    error = call(tmp_path, monkeypatch, *SMALL, change)
    assert isinstance(error, UsageError)
    assert "only `mdtbench run` makes" in str(error)
    assert not (tmp_path / "out").exists()
