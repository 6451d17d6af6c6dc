"""The lock file beside downloaded weights: which bytes came from where, so that later downloads are the same."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ...base.errors import MissingError
from ...base.files import read_json, write_json

LOCK_FILE = "weights.lock.json"
LOCK_FORMAT = 1

Trust = Literal["list", "hub", "first use"]


class LockEntry(BaseModel):
    """One file.

    Attributes:
        trust: who said beforehand what the digest must be: our list, the hub's answer, or nobody ("first use").
        address: where it came from; "" for a file that was put there by hand.
        revision: commit of the repository, "" where there is none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    bytes: int = Field(ge=0)
    trust: Trust
    address: str = ""
    repo: str = ""
    revision: str = ""
    recorded_utc: str


class _LockFile(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1]
    files: dict[str, LockEntry]


def read_lock(folder: Path) -> dict[str, LockEntry]:
    """Entries by the files' paths in `folder`; none when there is no lock. Raises MissingError when it is damaged."""
    path = folder / LOCK_FILE
    if not path.exists():
        return {}
    try:
        return dict(_LockFile.model_validate(read_json(path)).files)
    except ValidationError as error:
        raise MissingError(
            f"{path} is not a lock file of format {LOCK_FORMAT} ({error.errors()[0]['msg']}). Restore or remove it."
        ) from error


def write_lock(folder: Path, entries: Mapping[str, LockEntry]) -> None:
    """Replace the lock file at once. Raises RunError when it cannot be written."""
    files = {name: entry.model_dump(mode="json") for name, entry in entries.items()}
    write_json(folder / LOCK_FILE, {"format": LOCK_FORMAT, "files": files})


def now_utc() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
