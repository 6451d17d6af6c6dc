"""One file per distillation method. This room knows `flow` and nothing else of the project.

A new method is one file: a frozen dataclass with a `loss` and a `sampler`, registered under a name, and its
module listed below (or, in another package, declared as an entry point of group `mdtbench.methods`).
"""

from . import ayf, cm, dmd2, ect, gd, kd, ladd, lmd, mdt, meanflow, pcm, rcm, scm, shortcut, sid, tcm, undistilled, vm  # noqa: F401  (importing a module registers its method)
from .contract import METHODS, STUDENT, Begins, Distillation, Features, Loss, Method, Network, Step, StoredPairs

__all__ = [
    "METHODS",
    "STUDENT",
    "Begins",
    "Distillation",
    "Features",
    "Loss",
    "Method",
    "Network",
    "Step",
    "StoredPairs",
]
