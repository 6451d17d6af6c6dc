"""The file of tolerances of `mdtbench compare`: how much a metric may move before it counts."""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from ..base.errors import MissingError, UsageError, unknown_name
from ..base.parsing import parse_toml

DEFAULT: Final = "default"  # for all metrics without an entry of their own
CONTROLS: Final = "controls"  # for lines that no method is in, whatever the metric


class Tolerance(BaseModel):
    """One of three: in the metric's unit, as a part of the baseline's value, or in spreads.

    A spread is the sd of the metric over generation seeds, of all lines of the baseline together. Without `chance`
    the tolerance stands alone: for runs that repeat their numbers exactly, where every difference has a cause.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    absolute: float | None = Field(None, ge=0)
    relative: float | None = Field(None, ge=0)
    spreads: float | None = Field(None, ge=0)
    chance: bool = True

    @model_validator(mode="after")
    def _is_one(self) -> Tolerance:
        if [self.absolute, self.relative, self.spreads].count(None) != 2:
            raise ValueError("give one of absolute, relative and spreads")
        return self

    def of(self, baseline: float, spread: float | None) -> float | None:
        """In the metric's unit; None when it is in spreads and no spread is known."""
        if self.absolute is not None:
            return self.absolute
        if self.relative is not None:
            return self.relative * abs(baseline)
        return None if spread is None or self.spreads is None else self.spreads * spread


_FILE = TypeAdapter(dict[str, Tolerance])


def read_tolerances(path: Path, metrics: Collection[str]) -> Mapping[str, Tolerance]:
    """The tolerances of a file by metric.

    Args:
        metrics: Those that there are rows of; others in the file are mistakes.
    Raises:
        MissingError: no such file.
        UsageError: it is not TOML, a metric is unknown, or an entry is not a tolerance.
    """
    try:
        tolerances = _FILE.validate_python(parse_toml(path.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise MissingError(f"Missing file {path}. Write one, or leave --tolerance out.") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(
            f"{path} is not TOML ({error}). Write lines such as FD_tiny2d = {{ relative = 0.05 }}."
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UsageError(
            f"{path}: bad tolerance of {where} ({first['msg']}) - give one of absolute, relative and spreads, "
            f"at least 0 - for example {{ relative = 0.05 }}."
        ) from error
    for name in tolerances:
        if name not in (DEFAULT, CONTROLS, *metrics):
            raise unknown_name("metric", name, [*metrics, DEFAULT, CONTROLS], f"It is in {path}.")
    return tolerances
