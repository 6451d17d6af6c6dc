"""What became of each job of a run, written last by whoever did it.

OUT/receipts/KEY.json          digests of what was made, where, how long; or the job's own failure
OUT/receipts/lost/KEY-N.json   an attempt that was lost with its machine
OUT/jobs/KEY.json              a job that waits or is being done, as `mdtbench work` takes it; see `spec`

Seconds and hosts are here and not in results, so that equal runs have equal results whoever did them.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from ...base.errors import MissingError
from ...base.files import read_json, write_json
from .store import quarantine, to_stderr

RECEIPTS, LOST, JOBS = "receipts", "lost", "jobs"
SETUP = "setup.json"  # in the folder of jobs: what a process needs before it can do one


class Receipt(BaseModel):
    """What came of a job.

    Attributes:
        status: failed: by its own exception; lost: with its machine; gone: what it reads was not there.
        made: sha256 of each result by its digest or file. error: why it is not done.
        device: model of what computed. attempt: from 0.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str
    kind: str
    label: str
    status: Literal["done", "failed", "lost", "gone"]
    attempt: int
    host: str
    device: str
    units: int
    seconds: float
    gpu_seconds: float
    made: Mapping[str, str] = {}
    error: str = ""
    ended_utc: str = ""


@dataclass(frozen=True)
class Receipts:
    """Those of a run's folder."""

    out: Path
    warn: Callable[[str], None]

    def path(self, key: str) -> Path:
        return self.out / RECEIPTS / f"{key}.json"

    def job(self, key: str) -> Path:
        """Where the job itself is while it is not done."""
        return self.out / JOBS / f"{key}.json"

    def get(self, key: str) -> Receipt | None:
        """None where there is none; a damaged one is set aside, told, and then as if it had never been there."""
        path = self.path(key)
        if not path.exists():
            return None
        try:
            receipt = _read(path)
            if receipt.key == key:
                return receipt
            problem = f"it belongs to {receipt.key}"
        except MissingError as error:
            problem = str(error)
        moved = quarantine(self.out / RECEIPTS, key, [path])
        fate = "It was moved to the quarantine" if moved else "It cannot be moved away"
        self.warn(f"Damaged receipt {path}: {problem} {fate}, and its job is done again.")
        return None

    def damaged(self, key: str) -> bool:
        """Whether there was a receipt that says nothing; it is set aside then."""
        return self.path(key).exists() and self.get(key) is None

    def put(self, receipt: Receipt) -> None:
        """Keep one. Whoever was thought lost and comes back late changes nothing: a later attempt's receipt stays."""
        found = self.get(receipt.key)
        if found is None or found.attempt <= receipt.attempt:
            write_json(self.path(receipt.key), receipt.model_dump(mode="json"))

    def lose(self, receipt: Receipt) -> None:
        """Keep what is known of a lost attempt."""
        write_json(
            self.out / RECEIPTS / LOST / f"{receipt.key}-{receipt.attempt}.json", receipt.model_dump(mode="json")
        )

    def all(self) -> Iterator[Receipt]:
        keys = (path.stem for path in sorted((self.out / RECEIPTS).glob("*.json")))
        return (receipt for receipt in map(self.get, keys) if receipt)

    def lost(self) -> list[Receipt]:
        """Of all lost attempts."""
        return [_read(path) for path in sorted((self.out / RECEIPTS / LOST).glob("*.json"))]


def receipts_of(out: Path) -> Receipts:
    """With warnings on standard error."""
    return Receipts(out, to_stderr)


def host() -> str:
    return socket.gethostname()


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _read(path: Path) -> Receipt:
    """Raises MissingError when it is absent or damaged."""
    try:
        return Receipt.model_validate(read_json(path))
    except ValidationError as error:
        raise MissingError(f"{path} is not a receipt ({error.errors()[0]['msg']}).") from error
