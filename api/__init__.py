"""mdtbench from Python, with the words of the command line:

    import mdtbench

    run = mdtbench.run(preset="smoke", methods=["vm", "mdt"], steps=[1, 2], set={"train.steps": 100})
    run = mdtbench.load("runs/today")
    run.rows, run.assets, run.curves      # data frames
    run.table(2)                          # the paper's Table 2; a notebook shows it
    mdtbench.evaluate("my_assets", name="Mine")

Nothing heavy is imported before it is needed.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .calls import evaluate, run
    from .loaded import Run, load

    __version__: str

__all__ = ["Run", "__version__", "evaluate", "load", "run"]

_HOMES = {"run": ".calls", "evaluate": ".calls", "Run": ".loaded", "load": ".loaded"}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("importlib.metadata").version("mdtbench")
    if name not in _HOMES:
        raise AttributeError(f"module 'mdtbench' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name], __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
