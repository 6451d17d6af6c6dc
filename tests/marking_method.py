"""A method that writes down each of its steps and where it was taken: `mdtbench run --plugin marking_method.py`."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass

from mdtbench.methods import METHODS, Loss, Step
from mdtbench.methods.vm import VelocityMatching


@METHODS.register("marking", version=1, source="tests")
@dataclass(frozen=True, kw_only=True)
class Marking(VelocityMatching):
    """marks: the file. pace: least time of a part of a step, s."""

    marks: str = ""
    pace: float = 0.0

    def loss(self, step: Step) -> Loss:
        if self.marks:
            with open(self.marks, "a", encoding="utf-8") as stream:
                stream.write(f"{step.index} {_node()} {os.getpid()}\n")
        time.sleep(self.pace)
        return super().loss(step)


def _node() -> str:
    """Of Ray or Slurm, where one of them started this process."""
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        return ray.get_runtime_context().get_node_id()
    return os.environ.get("SLURMD_NODENAME", "here")
