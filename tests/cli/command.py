"""Runs the command line as a process of its own."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass

COMMAND = [sys.executable, "-m", "mdtbench"]


@dataclass(frozen=True)
class Result:
    """Exit code, standard output, standard error."""

    code: int
    out: str
    err: str


def run_process(*args: object) -> Result:
    """The command line in a process of its own."""
    done = subprocess.run([*COMMAND, *map(str, args)], capture_output=True, text=True, timeout=600)
    return Result(done.returncode, done.stdout, done.stderr)
