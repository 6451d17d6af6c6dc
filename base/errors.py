"""The errors a user can meet, each with its exit code.

A message says what was wrong, what is allowed and what to do; it fits one line.
"""

from __future__ import annotations

import difflib
import re
import struct
import zlib
from collections.abc import Iterable
from typing import Final

# What libraries that read files raise on broken ones, found by trying: a single bad file must not end a long run.
BROKEN_FILE: Final = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)
_BYTES = re.compile("[\udc80-\udcff]")  # how Python spells bytes of a name that are not UTF-8 (PEP 383)
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # all but tab and line feed
LONGEST, TAIL = 2000, 300  # letters of a message, and of its end, which says what to do


class MdtbenchError(Exception):
    """Base of all errors that are reported as one line, without a traceback."""

    exit_code = 1

    def __str__(self) -> str:
        """Of names and values in it, which are anybody's, no end and nothing that a terminal obeys."""
        text = printable(super().__str__())
        return text if len(text) <= LONGEST else f"{text[: LONGEST - TAIL]} [...] {text[-TAIL:]}"


class RunError(MdtbenchError):
    """A run could not be completed (full disk, all cells failed, ...)."""


class UsageError(MdtbenchError):
    """A wrong name, option, key or value on the command line or in a configuration file."""

    exit_code = 2


class MissingError(MdtbenchError):
    """A file that is not there, or whose content is not what its digest says."""

    exit_code = 4


class AssetError(MdtbenchError):
    """One asset cannot be used. The run goes on; the reason is counted and listed."""


def printable(text: str) -> str:
    """Text that every file can hold and that a terminal shows and does not obey; lines stay.

    Bytes of names that are not UTF-8 become %E9, other half characters ?, and control characters their numbers.
    """
    whole = _BYTES.sub(lambda found: f"%{ord(found[0]) - 0xDC00:02X}", text).encode("utf-8", "replace").decode()
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", whole)


def unknown_name(kind: str, name: str, allowed: Iterable[str], hint: str = "", meant: str = "") -> UsageError:
    """Error for a name that is not in `allowed`; suggests `meant`, or the nearest one."""
    allowed = sorted(allowed)
    near = [meant] if meant else difflib.get_close_matches(name, allowed, n=1, cutoff=0.5)
    if not near and len(name) > 1:  # transposed letters in a short name: mtd -> mdt
        near = [other for other in allowed if sorted(other) == sorted(name)][:1]
    suggestion = f" Did you mean '{near[0]}'?" if near else ""
    tail = f" {hint}" if hint else ""
    return UsageError(f"Unknown {kind} '{name}'.{suggestion} Available: {', '.join(allowed) or 'none'}.{tail}")
