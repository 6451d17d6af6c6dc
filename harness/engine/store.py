"""Artefacts addressed by all of their inputs: renders, features, samples are computed once and found again.

entries-1/KIND/AB/DIGEST.npz    the arrays; AB are the first two digits of the digest
entries-1/KIND/AB/DIGEST.json   the record: the inputs in clear, sha256 and size of the data, when and by what made
locks/DIGEST.lock               held while an entry is written, moved or removed
quarantine/                     damaged entries, for whoever wants to know what happened to them

The record is written last and removed first, so an entry either is whole or is not there, whatever was killed; both are
on the disk before they get their names. Every read compares the data with their sha256.
That takes a third of the time of a read for floats and a sixth for pictures (270 MB/s of stored data on one core
without SHA instructions).
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

import numpy as np
from filelock import FileLock
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from ...base.errors import MissingError, RunError
from ...base.files import canonical_json, digest_of, file_sha256, read_json, write_json
from .files import load_arrays, save_arrays

FORMAT = 1  # part of every address and of the path: raise it when entries are stored another way
ENTRIES, LOCKS, QUARANTINE = f"entries-{FORMAT}", "locks", "quarantine"
KIND = re.compile(r"[a-z][a-z0-9_-]*")

Arrays = dict[str, NDArray]
RETRY_S = 2.0
_patience_s = 0.0


def be_patient(seconds: float) -> None:
    """In this process, wait so long for an entry to become whole: a network folder may show it late or in part."""
    global _patience_s
    _patience_s = seconds


@dataclass(frozen=True)
class Address:
    """What an artefact is made of; two artefacts may differ only if their addresses do.

    Attributes:
        kind: what is stored ("renders", "features", ...): small letters, digits, - and _.
        inputs: everything that decides the content, code versions and digests of weights and assets included.
            JSON values; floats count by their shortest decimal form, so 1 and 1.0 differ.

    Raises:
        ValueError: `kind` is not such a name, or `inputs` hold NaN or infinity.
        TypeError: `inputs` hold what JSON has not (arrays, paths, numpy numbers).
    """

    kind: str
    inputs: Mapping[str, object]

    def __post_init__(self) -> None:
        if not KIND.fullmatch(self.kind):
            raise ValueError(f"A kind of cache entry has lower-case letters, digits, - and _ (got '{self.kind}').")
        # A copy, as the caller may change its own; what JSON has not is found here, where the culprit is in sight.
        object.__setattr__(self, "inputs", json.loads(canonical_json(self.inputs)))

    @cached_property
    def digest(self) -> str:
        """64 hexadecimal digits."""
        return digest_of([FORMAT, self.kind, self.inputs])


class Record(BaseModel):
    """Content of an entry's JSON file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int
    kind: str
    inputs: dict[str, JsonValue]
    sha256: str
    size: int
    created_utc: str
    tool: str
    record_sha256: str = ""  # of all fields before; none in entries of earlier versions

    @property
    def own_sha256(self) -> str:
        return digest_of(self.model_dump(mode="json", exclude={"record_sha256"}))


@dataclass(frozen=True)
class Slot:
    """Where the entry of a digest lies, whether it is there or not."""

    root: Path
    kind: str
    digest: str

    @property
    def data(self) -> Path:
        return self.root / ENTRIES / self.kind / self.digest[:2] / f"{self.digest}.npz"

    @property
    def record(self) -> Path:
        return self.data.with_suffix(".json")

    @property
    def lock(self) -> Path:
        return self.root / LOCKS / f"{self.digest}.lock"


def to_stderr(text: str) -> None:
    """One line."""
    sys.stderr.write(f"mdtbench: {text}\n")


class Store:
    """A cache folder, shared by any number of processes. It is made by the first `put`.

    Whether something could be kept (full disk, read-only folder) is told by `put`, and `warn` hears once why not. A
    damaged entry is moved to the quarantine, told to `warn`, and is then as if it had never been there.
    """

    def __init__(self, root: Path, warn: Callable[[str], None] = to_stderr):
        """warn: takes one line, e.g. a reporter's `note`; standard error by default."""
        self.root = root
        self._warn = warn
        self._told_unwritable = False

    def get(self, address: Address, *, expected: bool = False) -> Arrays | None:
        """The arrays of an address, verified; None when they have to be made. Counts as use for the collector.

        Args:
            expected: somebody said that it is there: it is waited for, see `be_patient`.
        """
        slot = self._slot(address)
        try:
            found = _read(slot)
            if found is not None or not (expected and _patience_s):
                return found
        except MissingError:
            pass
        if expected:
            self._await(slot)
        # A writer or the collector may have come between our reads: only who holds the lock can tell damage.
        with self._locked(slot):
            return self._settled(slot)

    def _await(self, slot: Slot) -> None:
        """Until an entry is whole, or patience is at its end."""
        end = time.monotonic() + _patience_s
        while time.monotonic() < end:
            time.sleep(min(RETRY_S, _patience_s))
            with suppress(MissingError):
                if _checked(slot):
                    return

    def put(self, address: Address, arrays: Mapping[str, ArrayLike]) -> bool:
        """Keep arrays, in place of what was there. False when the folder cannot be written, which is told once."""
        slot = self._slot(address)
        with self._locked(slot):
            return self._write(slot, address, _as_arrays(arrays))

    def sha256(self, address: Address, *, thorough: bool) -> str:
        """Of the data of an entry; "" where there is none, or a damaged one. thorough: the data are read."""
        slot = self._slot(address)
        try:
            record = _checked(slot) if thorough else _record_of(slot)
        except MissingError:
            return ""
        return record.sha256 if record else ""

    def slots(self) -> Iterator[Slot]:
        """Of all entries, by kind and digest."""
        for path in sorted((self.root / ENTRIES).glob("*/??/*.json")):
            yield Slot(self.root, path.parent.parent.name, path.stem)

    def damage(self, slot: Slot) -> str | None:
        """What is wrong with an entry, which stays where it is; None for an intact or absent one."""
        try:
            _checked(slot)
        except MissingError as error:
            return str(error)
        return None

    def verify(self, slot: Slot) -> str | None:
        """What is wrong with an entry, which is moved to the quarantine then; None for an intact or absent one."""
        with suppress(MissingError):
            _checked(slot)
            return None
        with self._locked(slot):
            try:
                _checked(slot)
            except MissingError as error:
                self._set_aside(slot, error)
                return str(error)
        return None

    def _slot(self, address: Address) -> Slot:
        return Slot(self.root, address.kind, address.digest)

    def _settled(self, slot: Slot) -> Arrays | None:
        """What there is; for the holder of the lock, to whom damage is real."""
        try:
            return _read(slot)
        except MissingError as error:
            self._set_aside(slot, error)
            return None

    def _set_aside(self, slot: Slot, damage: MissingError) -> None:
        moved = quarantine(self.root, slot.digest, [slot.record, slot.data])
        fate = "It was moved to the quarantine" if moved else "It cannot be moved away"
        self._warn(f"Damaged {slot.kind} in the cache: {damage} {fate}, and is made again when needed.")

    def _write(self, slot: Slot, address: Address, arrays: Arrays) -> bool:
        try:
            slot.record.unlink(missing_ok=True)  # until the new one is there: no old record beside new data
            save_arrays(slot.data, arrays)
            write_json(slot.record, _record(address, slot.data).model_dump(mode="json"))
        except (OSError, RunError) as error:
            with suppress(OSError):
                slot.data.unlink(missing_ok=True)
            self._tell_unwritable(error)
            return False
        return True

    @contextmanager
    def _locked(self, slot: Slot) -> Iterator[None]:
        """Alone with an entry. Where no lock can be written nothing else can, so there it goes on without one."""
        with ExitStack() as stack:
            try:
                slot.lock.parent.mkdir(parents=True, exist_ok=True)
                stack.enter_context(FileLock(slot.lock))
            except OSError as error:
                self._tell_unwritable(error)
            yield

    def _tell_unwritable(self, error: Exception) -> None:
        if not self._told_unwritable:
            self._told_unwritable = True
            reason = getattr(error.__cause__ or error, "strerror", None) or error
            self._warn(f"The cache {self.root} cannot be written ({reason}).")


def quarantine(root: Path, name: str, paths: list[Path]) -> bool:
    """Move damaged files away, as quarantine/NAME-TIME and their suffixes. False when the folder cannot be written."""
    folder, now = root / QUARANTINE, datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f")
    try:
        folder.mkdir(exist_ok=True)
        for path in filter(Path.exists, paths):
            target = folder / f"{name}-{now}{path.suffix}"
            os.replace(path, target)
            os.utime(target)  # its age in the quarantine is what the collector goes by
    except OSError:
        return False
    return True


def _read(slot: Slot) -> Arrays | None:
    """The arrays of an intact entry; None when there is none. Raises MissingError when it is damaged."""
    if _checked(slot) is None:
        return None
    arrays = load_arrays(slot.data)
    with suppress(OSError):  # a read-only cache can be read
        os.utime(slot.data)  # when it was last used, for the collector
    return arrays


def _checked(slot: Slot) -> Record | None:
    """The record of an entry whose data are what it says; None when there is none. Raises MissingError when damaged."""
    record = _record_of(slot)
    if record is None:
        return None
    try:
        size, sha256 = slot.data.stat().st_size, file_sha256(slot.data)
    except OSError as error:
        raise MissingError(f"{error.filename or slot.data} cannot be read ({error.strerror}).") from error
    if record.record_sha256 not in ("", record.own_sha256):
        raise MissingError(f"{slot.record} has another sha256 than when it was written.")
    if digest_of([record.format, record.kind, record.inputs]) != slot.digest:
        raise MissingError(f"{slot.record} has inputs of another address.")
    if (size, sha256) != (record.size, record.sha256):
        raise MissingError(
            f"{slot.data} has {size} bytes with sha256 {sha256[:16]}..., "
            f"expected {record.size} with {record.sha256[:16]}...."
        )
    return record


def _record_of(slot: Slot) -> Record | None:
    """What an entry says of itself; None when there is none. Raises MissingError when that is damaged."""
    if not slot.record.exists():
        return None
    try:
        return Record.model_validate(read_json(slot.record))
    except ValidationError as error:
        raise MissingError(f"{slot.record} is not a record ({error.errors()[0]['msg']}).") from error
    except OSError as error:
        raise MissingError(f"{slot.record} cannot be read ({error.strerror}).") from error


def _record(address: Address, data: Path) -> Record:
    fields = {
        "format": FORMAT,
        "kind": address.kind,
        "inputs": address.inputs,
        "sha256": file_sha256(data),
        "size": data.stat().st_size,
        "created_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "tool": f"mdtbench {version('mdtbench')}",
    }
    record = Record.model_validate(fields)
    return record.model_copy(update={"record_sha256": record.own_sha256})


def _as_arrays(arrays: Mapping[str, ArrayLike]) -> Arrays:
    return {name: np.asarray(array) for name, array in arrays.items()}
