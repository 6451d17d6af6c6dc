"""Files that are either complete or absent, and their digests."""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from stat import S_ISREG
from typing import Any

from .errors import MissingError, RunError
from .limits import MB, excess
from .parsing import parse_json

SHA256 = "sha256"  # key of a record
PART = ".part"
_PART = re.compile(rf"\..+\.[0-9a-f]{{8}}{re.escape(PART)}")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; on success it takes the place of `path`, else it is removed.

    What it holds is on the disk before it takes the place, so a power cut leaves the one or the other.

    Raises:
        RunError: the folder cannot be written or the disk is full.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.{secrets.token_hex(4)}{PART}")
        os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))  # less the process's umask
    except OSError as error:
        raise RunError(f"Cannot write {path}: {error.strerror}. Free the disk or choose another --out.") from error
    try:
        yield part
        _flush(part)
        os.replace(part, path)
    except OSError as error:
        raise RunError(f"Cannot write {path}: {error.strerror}. Free the disk or choose another --out.") from error
    finally:
        part.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def sweep_parts(folder: Path) -> int:
    """Remove what killed processes left half written, anywhere below a folder in which nobody else writes.

    Returns:
        How many files went.
    """
    found = [path for path in folder.rglob(f".*{PART}") if _PART.fullmatch(path.name) and path.is_file()]
    for path in found:
        path.unlink(missing_ok=True)
    return len(found)


def write_text(path: Path, text: str) -> None:
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Raises MissingError when the file is absent or is not JSON."""
    try:
        return parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise MissingError(f"Missing file {path}.") from error
    except OSError as error:
        raise MissingError(f"{path} cannot be read ({error.strerror}). Restore the file or make it again.") from error
    except ValueError as error:
        raise MissingError(f"{path} is not valid JSON ({error}). Restore the file or make it again.") from error


def write_record(path: Path, value: Mapping[str, Any]) -> None:
    """A JSON object with its own sha256, for `read_record`."""
    write_json(path, {**value, SHA256: digest_of(dict(value))})


def read_record(path: Path) -> dict[str, Any]:
    """What `write_record` wrote, checked. Raises MissingError when the file is absent or damaged."""
    value = read_json(path)
    try:
        intact = isinstance(value, dict) and value.pop(SHA256, None) == digest_of(value)
    except ValueError:  # numbers that are not finite, which are never written
        intact = False
    if not intact:
        raise MissingError(f"{path} is damaged: its content has another sha256 than when it was written.")
    return value


def canonical_json(value: Any) -> str:
    """The one spelling of a JSON value, fit for a digest."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest_of(value: Any) -> str:
    """sha256 of the canonical JSON of `value`, in hexadecimal."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """Raises MissingError when there is no such file."""
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except FileNotFoundError as error:
        raise MissingError(f"Missing file {path}.") from error


def file_fault(path: Path) -> str:
    """Why a file that is there is not to be read, as the end of a sentence; "" where it may be.

    Pipes and devices never end; what is above `limits.file_mb` would fill the memory.
    """
    stat = path.stat()
    if not S_ISREG(stat.st_mode):
        return "is no regular file: put a file in its place"
    reason = excess("file_mb", stat.st_size / MB, "it")
    return f"is too large: {reason}" if reason else ""
