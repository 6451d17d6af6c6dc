"""Variances that an earlier run measured, for those who plan the next: written by `report --format power`.

PRESET.variances.json beside a preset's file, baselines/PRESET/variances.json for shipped ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from ..base.errors import MissingError
from .places import CONTROLS, name_of
from .report import RunResults
from .variances import Components
from .verdicts import Over, verdicts

SHIPPED: Final = Path(__file__).parent / "baselines"
FILE: Final = "variances.json"
DIGITS: Final = 4


class Record(BaseModel):
    """Of differences of two methods in one column at one number of steps; see `variances.Components`.

    Attributes:
        over: what `unit` is the variance between: "assets" or "generation seeds".
        trainings: training seeds. assets, generation_seeds: their numbers; values of assets are means over the latter.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    stage: str
    steps: int
    metric: str
    metric_version: int
    over: Over
    training: float | None
    unit: float
    rest: float
    trainings: int
    assets: int
    generation_seeds: int

    def components(self, assets: int) -> Components:
        """For a run of so many assets: the noise of a distance, which no single asset has, falls with their number."""
        known = Components(self.training, self.unit, self.rest)
        return known if self.over == "assets" else known.with_assets(assets / self.assets)


class Recording(BaseModel):
    """What a run recorded. world: digest of the networks that it distilled."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    run_id: str
    date: str
    world: str
    methods: tuple[str, ...]
    records: tuple[Record, ...]

    def find(self, stage: str, steps: int, metric: str, version: int, generation_seeds: int) -> Record | None:
        """What was recorded of a column, measured in the same way."""
        wanted = (stage, steps, metric, version, generation_seeds)
        for one in self.records:
            if (one.stage, one.steps, one.metric, one.metric_version, one.generation_seeds) == wanted:
                return one
        return None


def recording_of(run: RunResults, world: str) -> Recording:
    """The variances of a finished run; without those of columns in which a single value per method tells nothing.

    Args:
        world: digest of its networks.
    """
    rows = run.rows
    students = rows.loc[~rows["method"].isin(CONTROLS), ["method", "variant"]].drop_duplicates()
    return Recording(
        run_id=rows["run_id"].iloc[0],
        date=rows["created_utc"].max()[:10],
        world=world,
        methods=tuple(name_of(*who) for who in students.itertuples(index=False, name=None)),
        records=tuple(_records(run)),
    )


def _records(run: RunResults) -> Iterator[Record]:
    keys = ["stage", "metric"]
    about = run.rows.groupby(keys).agg({"metric_version": "max", "n_total": "max", "seed": "nunique"})
    counts = dict(zip(about.index, about.itertuples(index=False, name=None), strict=True))
    for one in verdicts(run.rows, run.assets):
        known = one.race.components
        if known is None or one.steps is None:
            continue
        version, assets, seeds = counts[one.stage, one.metric]
        yield Record(
            stage=one.stage,
            steps=one.steps,
            metric=one.metric,
            metric_version=version,
            over=one.over,
            training=None if known.training is None else _rounded(known.training),
            unit=_rounded(known.unit),
            rest=_rounded(known.rest),
            trainings=one.race.shape[0],
            assets=assets,
            generation_seeds=seeds,
        )


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def to_json(recording: Recording) -> str:
    return recording.model_dump_json(indent=1) + "\n"


def file_of(preset: str) -> Path:
    """Where the variances of a preset are, given its name or file."""
    path = Path(preset)
    return path.with_suffix(f".{FILE}") if path.suffix == ".toml" else SHIPPED / preset / FILE


def read_recording(preset: str) -> Recording | None:
    """Of a preset; None where none were recorded. Raises MissingError: the file is damaged."""
    path = file_of(preset)
    if not path.is_file():
        return None
    try:
        return Recording.model_validate_json(path.read_text(encoding="utf-8"))
    except ValidationError as error:
        raise MissingError(
            f"{path} holds no variances ({error.errors()[0]['msg']}). `mdtbench report RUN --format power` makes them."
        ) from error
