"""Tables as JSON, with a schema, and back."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, Literal

from pydantic import TypeAdapter, ValidationError

from ..base.errors import MissingError
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


def from_json(text: str) -> tuple[Table, ...]:
    """The tables that `to_json` wrote.

    Raises:
        MissingError: the text is not such a report, or has another schema version.
    """
    try:
        return _ADAPTER.validate_json(text).tables
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise MissingError(f"Not a report ({where}: {first['msg']}). Make it with --format json.") from error


def json_schema() -> dict[str, Any]:
    """The JSON schema of the report."""
    return _ADAPTER.json_schema(mode="serialization")
