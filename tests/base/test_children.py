"""Processes that we start execute nothing from the current folder, and have one thread."""

from __future__ import annotations

import operator
import os
import subprocess
import sys

import pytest
from silent import Silent

from mdtbench.base.children import VARIABLES, environment
from mdtbench.harness.engine.workers import workers

TRAPS = ("selectors", "random", "queue", "json", "torch", "numpy")  # what a starting worker imports


@pytest.fixture
def trapped(tmp_path, monkeypatch):
    """A current folder whose files leave a trace when they are executed."""
    folder = tmp_path / "here"
    folder.mkdir()
    for name in TRAPS:
        trace = f"open({str(tmp_path / 'sprung')!r}, 'a').write({name!r})\n"
        (folder / f"{name}.py").write_text(f"{trace}raise SystemExit(3)\n")
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", ".")])
    return tmp_path / "sprung"


def test_workers_execute_nothing_from_the_current_folder(trapped, monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    with workers(1, Silent()) as team:
        assert team.map(operator.neg, [4], "negate", 1) == [-4]
    assert not trapped.exists()
    assert not VARIABLES.keys() & os.environ.keys()


def test_workers_compute_with_one_thread(monkeypatch):
    """A distance between features has the same last digits on any number of cores."""
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    with workers(1, Silent()) as team:
        assert team.map(os.getenv, ["OMP_NUM_THREADS"], "ask", 1) == ["1"]
    assert os.environ["OMP_NUM_THREADS"] == "2"


def test_other_children_execute_nothing_from_the_current_folder(trapped):
    command = [sys.executable, "-c", "import random, selectors"]
    assert subprocess.run(command, check=False).returncode == 3  # the trap works
    trapped.unlink()
    subprocess.run(command, check=True, env=environment())
    assert not trapped.exists()


def test_the_command_executes_nothing_from_the_current_folder(trapped):
    done = subprocess.run([sys.executable, "-m", "mdtbench", "list", "presets"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "smoke" in done.stdout
    assert not trapped.exists()
