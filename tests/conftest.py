"""Lets every test import the helpers that lie beside this file (golden_io), and gives each process one thread.

Two processes of tests on two cores, each with a thread per core, would wait for one another.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

TOLD = "told"

os.environ.setdefault("OMP_NUM_THREADS", "1")
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as in jobs that a shell runs in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)  # else commands would inherit that and ignore us
sys.path.insert(0, str(Path(__file__).parent))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What tests told with the fixture `say`, whichever process ran them."""
    reports = [one for key in ("passed", "failed") for one in terminalreporter.getreports(key)]
    for report in reports:
        for line in (text for name, text in report.user_properties if name == TOLD):
            terminalreporter.write_line(f"{report.nodeid.rpartition('::')[2]}: {line}")


@pytest.fixture
def say(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Tells at the end of all tests what happened in this one."""
    return lambda text: record_property(TOLD, text)
