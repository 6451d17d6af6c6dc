"""What Python processes that we start have in their environment.

They import nothing from the current folder, whatever lies there: `python -c` and `python -m` put that folder first, so
a file `random.py` in it would be executed in place of Python's. And they compute with one thread: several add in
another order, so that distances would differ in their last digits between machines of two cores and of four.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType

VARIABLES: Mapping[str, str] = MappingProxyType({"PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": "1"})


def environment() -> dict[str, str]:
    """This process's environment, for a Python process that it starts."""
    return {**os.environ, **VARIABLES}


@contextmanager
def orderly_children() -> Iterator[None]:
    """For the time of the block, for those who start processes with this process's environment."""
    before = {name: os.environ.get(name) for name in VARIABLES}
    os.environ.update(VARIABLES)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
