"""`--executor` and its options: where the jobs of a run are done."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from ...base.errors import UsageError, unknown_name
from ..engine.executor import Executor

LOCAL, RAY, SLURM = "local", "ray", "slurm"
EXECUTORS = (LOCAL, RAY, SLURM)


@dataclass(frozen=True)
class Where:
    """The options, parsed. address: of a Ray cluster. slurm: options of sbatch. sbatch: a script that has them."""

    name: str = LOCAL
    address: str = ""
    slurm: tuple[str, ...] = ()
    sbatch: Path | None = None

    def check(self) -> None:
        """Raises UsageError for an option that has no meaning, and for what is not installed here."""
        if self.name not in EXECUTORS:
            raise unknown_name("executor", self.name, EXECUTORS)
        of = {"--address": (self.address, RAY), "--slurm": (self.slurm, SLURM), "--sbatch": (self.sbatch, SLURM)}
        for option, (value, name) in of.items():
            if value and self.name != name:
                raise UsageError(f"{option} is for --executor {name} (got {self.name}). Leave one of them out.")
        if self.name == RAY and find_spec("ray") is None:
            raise UsageError("--executor ray needs Ray, which is not installed. pip install 'mdtbench[ray]'.")
        if self.name == SLURM and find_spec("submitit") is None:
            raise UsageError("--executor slurm needs submitit, which is not installed. pip install 'mdtbench[slurm]'.")
        if self.name == SLURM and shutil.which("sbatch") is None:
            raise UsageError("--executor slurm needs a machine that has `sbatch`. Run it on a login node.")

    def executor(self, out: Path, *, gpus: bool, workers: int) -> Executor | None:
        """None: the processes of this machine.

        Raises:
            UsageError: a wrong option, or no cluster of one's own at the address.
            MissingError: there is no such script.
        """
        if self.name == RAY:
            from ..engine.ray_cluster import connected

            return connected(self.address, out.resolve(), gpus=gpus, count=workers)
        if self.name == SLURM:
            from ..engine.slurm import SLOTS, Slurm, settings_of

            return Slurm(out.resolve(), *settings_of(self.slurm, self.sbatch), workers or SLOTS)
        return None
