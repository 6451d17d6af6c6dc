"""Runs the command line inside the test's process, where it computes little."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from command import Result

from mdtbench.harness.cli.app import main


@pytest.fixture
def mdtbench(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """The command line in this process: starting Python and torch anew for every typo would take seconds.

    Where a test does not set another, the terminal's width is that of files, whatever the tests run in.
    """
    monkeypatch.setenv("COLUMNS", "140")

    def call(*args: object) -> Result:
        monkeypatch.setattr(sys, "path", list(sys.path))  # plug-ins are put there
        monkeypatch.setattr(sys, "argv", ["mdtbench", *map(str, args)])
        capsys.readouterr()
        code = None
        try:
            main()
        except SystemExit as ended:
            code = ended.code
        return Result(code if isinstance(code, int) else int(code is not None), *capsys.readouterr())

    return call
