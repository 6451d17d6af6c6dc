"""A finished run as data frames."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    from pandas.io.formats.style import Styler


def load(folder: str | Path) -> Run:
    """A run by its folder, made by `run`, `evaluate`, `merge` or `import`."""
    return Run(Path(folder))


@dataclass(frozen=True)
class Run:
    """What a run's folder holds."""

    folder: Path
