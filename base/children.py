"""Python processes that we start import nothing from the current folder, whatever lies there.

`python -c` and `python -m` put that folder first, so a file `random.py` in it would be executed in place of Python's.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

SAFE_PATH = "PYTHONSAFEPATH"


def environment() -> dict[str, str]:
    """This process's environment, for a Python process that it starts."""
    return {**os.environ, SAFE_PATH: "1"}


@contextmanager
def safe_children() -> Iterator[None]:
    """For the time of the block, for those who start processes with this process's environment."""
    before = os.environ.get(SAFE_PATH)
    os.environ[SAFE_PATH] = "1"
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(SAFE_PATH, None)
        else:
            os.environ[SAFE_PATH] = before
