"""manifest.json: what a run says of itself. Runs of others are read, so it is checked before anything relies on it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..base.errors import MissingError
from ..base.files import read_json
from .sums import check_file

Time = Annotated[float, Field(ge=0, lt=1e11, allow_inf_nan=False)]  # seconds since the epoch


class _Manifest(BaseModel):
    """The kinds of what readers use; all else is kept as it is."""

    model_config = ConfigDict(extra="allow", strict=True)

    run_id: str | None = None
    key: str | None = None
    kind: str | None = None
    name: str | None = None
    preset: str | None = None
    device: str | None = None
    command: list[str] | None = None
    config: dict[str, Any] | None = None
    protocol: dict[str, Any] | None = None
    methods: dict[str, dict[str, Any]] | None = None
    extractors: dict[str, Any] | None = None
    reference: dict[str, Any] | None = None
    test: dict[str, Any] | None = None
    source: dict[str, Any] | None = None
    like: dict[str, Any] | None = None
    versions: dict[str, Any] | None = None
    machine: dict[str, Any] | None = None
    train_seeds: list[int] | None = None
    seeds: list[int] | None = None
    started_s: Time | None = None
    finished_s: Time | None = None
    peak_memory_gb: float | None = None
    git_commit: str | None = None


def read_manifest(path: Path) -> Mapping[str, Any]:
    """Raises MissingError when the file is absent, is no manifest, or is not what its run wrote."""
    value = read_json(path)
    check_file(path)
    try:
        _Manifest.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        reason = f"{where}: {first['msg']}" if where else first["msg"]
        raise MissingError(f"{path} is not a manifest ({reason}). Restore the file or run again.") from error
    return value
