"""A sweep over learning rates: what was tried on validation assets, and what was chosen."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from ..base.errors import MissingError
from ..base.files import write_text
from .rows import STRUCTURE, Count, Name

SWEEP_FILE: Final = "sweep.json"


class Trial(BaseModel):
    """One student of the grid. `score` is None when there is none, and `error` says why. address: of its shapes."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    method: Name
    variant: str = ""
    stage: Name = STRUCTURE
    lr: float
    score: float | None = None
    error: str | None = None
    chosen: bool = False
    address: str = ""


class SweepRecord(BaseModel):
    """A sweep. Students were trained and sampled with `seed`, and scored on `assets` validation assets at `steps`.

    Version 1 knows the structure stage alone.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    schema_version: Literal[1, 2] = 2
    metric: Name
    unit: str = ""
    higher_is_better: bool
    steps: Count
    assets: Count
    seed: int
    trials: tuple[Trial, ...]

    def trials_of(self, method: str, variant: str, stage: str = STRUCTURE) -> list[Trial]:
        """By rising learning rate."""
        who = (method, variant, stage)
        mine = [trial for trial in self.trials if (trial.method, trial.variant, trial.stage) == who]
        return sorted(mine, key=lambda trial: trial.lr)

    def edges(self) -> list[Trial]:
        """The chosen trials whose rate is the lowest or highest of its grid: a better one may lie outside."""
        chosen = [trial for trial in self.trials if trial.chosen]
        grids = [[t.lr for t in self.trials_of(trial.method, trial.variant, trial.stage)] for trial in chosen]
        return [t for t, grid in zip(chosen, grids, strict=True) if len(grid) > 1 and t.lr in (grid[0], grid[-1])]


def choose(trials: Sequence[Trial], *, higher: bool) -> list[Trial]:
    """The trials of one method and stage with the best marked, of equal ones the lowest rate; none without a score."""
    scored = [trial for trial in trials if trial.score is not None]
    sign = -1 if higher else 1
    best = min(scored, key=lambda trial: (sign * (trial.score or 0.0), trial.lr), default=None)
    return [trial.model_copy(update={"chosen": trial is best}) for trial in trials]


def write_sweep(folder: Path, sweep: SweepRecord) -> None:
    """Write the file of a run. Raises RunError when it cannot be written."""
    write_text(folder / SWEEP_FILE, sweep.model_dump_json(indent=1) + "\n")


def read_sweep(folder: Path) -> SweepRecord | None:
    """The sweep of a run, None where it made none.

    Raises:
        MissingError: the file is not that of a sweep.
    """
    path = folder / SWEEP_FILE
    if not path.is_file():
        return None
    try:
        return SweepRecord.model_validate_json(path.read_bytes())
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise MissingError(f"{path} is not a sweep ({reason}). Delete it and run the same command again.") from error
