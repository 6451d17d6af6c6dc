"""Tables as JSON."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

from pydantic import TypeAdapter

from .tables import Table

SCHEMA_VERSION: Final = 3


@dataclass(frozen=True)
class Report:
    """What the JSON holds."""

    schema_version: Literal[3]
    tables: tuple[Table, ...]


_ADAPTER = TypeAdapter(Report)


def to_json(tables: Iterable[Table]) -> str:
    """The tables with all their numbers, unrounded."""
    return _ADAPTER.dump_json(Report(SCHEMA_VERSION, tuple(tables)), indent=1).decode() + "\n"
