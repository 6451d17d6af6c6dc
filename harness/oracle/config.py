"""Configuration of a run on problems with a known law: a preset with a table [oracle] and no world."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import Field

from ...flow.samplers import sampler_of
from ..settings.config import Budget, Section, Train, load_as, read_preset
from .families import check_problems

Names = Annotated[tuple[str, ...], Field(min_length=1)]


class OracleSection(Section):
    problems: Names
    methods: Names = Field(description="distilled when none are named; the teacher's own rows are always there")
    seeds: tuple[int, ...] = Field(default=(0, 1, 2), min_length=1, description="training seeds when none are named")
    cfg_strength: float = Field(default=0.0, ge=0, description="of the guided problems")
    width: int = Field(default=64, gt=0, description="hidden units of a student in the plane, of each of two layers")


class OracleTrain(Section):
    """As the table [train] of other presets; `batch` samples are drawn of each problem."""

    steps: int = Field(gt=0)
    batch: int = Field(gt=0)
    lr: float | None = Field(default=None, gt=0, description="of all methods whose table names none")
    warmup: int = Field(default=10, ge=0)
    ema: float = Field(default=0.99, ge=0, lt=1)
    clip: float = Field(default=10.0, gt=0)
    t_min: float = Field(default=0.01001, gt=0, lt=1)
    budget: Budget = Field(default="steps", description="what methods get equal amounts of")

    def common(self) -> Train:
        """Without the rate, which each method has."""
        return Train(**self.model_dump(exclude={"lr"}))


class OracleEvaluate(Section):
    steps: tuple[Annotated[int, Field(gt=0)], ...] = Field(default=(1, 2, 4), min_length=1)
    samplers: tuple[str, ...] = Field(default=("renoise", "euler"), description="of students, beside their own")
    samples: int = Field(gt=1, description="points of noise per problem")


class OracleConfig(Section):
    """All that decides a result. `methods` holds changed parameters, by method name."""

    oracle: OracleSection
    train: OracleTrain
    evaluate: OracleEvaluate
    methods: dict[str, dict[str, Any]] = Field(default_factory=dict)


def is_oracle(preset: str) -> bool:
    """Whether a preset (a shipped name or a .toml file) is of such a run. Raises UsageError as `load_config`."""
    values = read_preset(preset)
    return "oracle" in values and "world" not in values


def load_oracle_config(preset: str, changes: Sequence[str] = ()) -> OracleConfig:
    """The configuration of a preset of problems with `key.sub=value` changes applied.

    Raises:
        UsageError: unknown preset, key, problem or sampler, or a value of the wrong type.
    """
    config = load_as(OracleConfig, preset, changes)
    check_problems(config.oracle.problems)
    for name in config.evaluate.samplers:
        sampler_of(name, 1, 1.0)
    return config
