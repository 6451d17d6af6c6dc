"""Sweeps over learning rates and guidance: what was tried on validation assets, and what was chosen."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, ValidationInfo, field_validator

from ..base.errors import MissingError
from ..base.files import write_text
from ..base.groups import grouped
from .rows import STRUCTURE, Count, Name
from .sums import check_file

SWEEP_FILE: Final = "sweep.json"
SCHEMA_VERSION: Final = 3

Setting = Literal["lr", "cfg_strength"]
SETTINGS: Final[dict[Setting, str]] = {"lr": "learning rate", "cfg_strength": "guidance"}


class Trial(BaseModel):
    """One student of the grid. `score` is None when there is none, and `error` says why. address: of its folder.

    `cfg_strength` is the guidance of the teacher that it follows, None where it was not recorded.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    method: Name
    variant: str = ""
    stage: Name = STRUCTURE
    lr: float
    cfg_strength: float | None = None
    score: float | None = None
    error: str | None = None
    chosen: bool = False
    address: str = ""


@dataclass(frozen=True)
class Edge:
    """A chosen trial whose setting is the lowest or highest of its grid: a better one may lie outside."""

    trial: Trial
    setting: Setting

    @property
    def value(self) -> float | None:
        """Of the setting."""
        return getattr(self.trial, self.setting)


class SweepRecord(BaseModel):
    """The sweep of one stage; all trials are of it.

    Students were trained and sampled with `seed`, and scored on `assets` validation assets at `steps`. Where `halving`
    is not 1, they got one in so many of the training steps, and the best setting's student was trained anew for all.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    stage: Name = STRUCTURE
    metric: Name
    unit: str = ""
    higher_is_better: bool
    steps: Count
    assets: Count
    seed: int
    halving: Count = 1
    trials: tuple[Trial, ...]

    @field_validator("trials")
    @classmethod
    def _are_of_the_stage(cls, trials: tuple[Trial, ...], info: ValidationInfo) -> tuple[Trial, ...]:
        stage = info.data.get("stage", STRUCTURE)
        return tuple(trial.model_copy(update={"stage": stage}) for trial in trials)

    def trials_of(self, method: str, variant: str) -> list[Trial]:
        """By rising learning rate, then guidance."""
        mine = [trial for trial in self.trials if (trial.method, trial.variant) == (method, variant)]
        return sorted(mine, key=_rank)

    def varied(self) -> tuple[Setting, ...]:
        """The settings of which some method has several values."""
        whos = dict.fromkeys((trial.method, trial.variant) for trial in self.trials)
        grids = [self.trials_of(*who) for who in whos]
        return tuple(setting for setting in SETTINGS if any(len(_values(grid, setting)) > 1 for grid in grids))

    def edges(self) -> list[Edge]:
        """One per chosen trial and varied setting that is at an end of its values. Below 0 there is nothing to try."""
        return [
            Edge(trial, setting)
            for trial in self.trials
            if trial.chosen
            for setting in SETTINGS
            if _is_end(getattr(trial, setting), _values(self.trials_of(trial.method, trial.variant), setting))
        ]

    def beaten(self) -> list[Trial]:
        """The trials whose students are in no table, where there is one of their method: a better one was found."""
        settled = {(trial.method, trial.variant) for trial in self.trials if trial.chosen}
        given_up = [trial for trial in self.trials if not trial.chosen or self.halving > 1]
        return [trial for trial in given_up if (trial.method, trial.variant) in settled]


class _Sweeps(BaseModel):
    """The file."""

    model_config = ConfigDict(extra="forbid")

    schema_version: Literal[3] = SCHEMA_VERSION
    records: tuple[SweepRecord, ...]


class _Earlier(BaseModel):
    """A file of version 1 or 2: one record, in version 1 of structures alone. Other fields are those of a record."""

    model_config = ConfigDict(extra="allow")

    schema_version: Literal[1, 2]
    trials: tuple[Trial, ...]

    @property
    def records(self) -> tuple[SweepRecord, ...]:
        """One per stage."""
        fields = self.model_extra or {}
        stages = grouped(self.trials, lambda trial: trial.stage)
        return tuple(
            SweepRecord.model_validate(fields | {"stage": stage, "trials": trials}) for stage, trials in stages.items()
        )


_FILE: Final = TypeAdapter(Annotated[_Sweeps | _Earlier, Field(discriminator="schema_version")])


def choose(trials: Sequence[Trial], *, higher: bool) -> list[Trial]:
    """The trials of one method and stage with the best marked; none without a score.

    Of equal ones it is that of the lowest rate, then of the lowest guidance.
    """
    scored = [trial for trial in trials if trial.score is not None]
    sign = -1 if higher else 1
    best = min(scored, key=lambda trial: (sign * (trial.score or 0.0), *_rank(trial)), default=None)
    return [trial.model_copy(update={"chosen": trial is best}) for trial in trials]


def write_sweeps(folder: Path, records: Sequence[SweepRecord]) -> None:
    """Write the file of a run. Raises RunError when it cannot be written."""
    write_text(folder / SWEEP_FILE, _Sweeps(records=tuple(records)).model_dump_json(indent=1) + "\n")


def read_sweeps(folder: Path) -> tuple[SweepRecord, ...]:
    """The sweeps of a run, one per stage; none where it made none.

    Raises:
        MissingError: the file is not that of sweeps.
    """
    path = folder / SWEEP_FILE
    if not path.is_file():
        return ()
    check_file(path)
    try:
        return _FILE.validate_json(path.read_bytes()).records
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise MissingError(f"{path} is not a sweep ({reason}). Delete it and run the same command again.") from error


def _rank(trial: Trial) -> tuple[float, float]:
    return trial.lr, trial.cfg_strength or 0.0


def _values(trials: Iterable[Trial], setting: Setting) -> list[float]:
    """Of a setting, rising."""
    found = {getattr(trial, setting) for trial in trials}
    return sorted(found - {None})


def _is_end(value: float | None, values: Sequence[float]) -> bool:
    return bool(value) and len(values) > 1 and value in (values[0], values[-1])
