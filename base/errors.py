"""The errors a user can meet, each with its exit code.

A message says what was wrong, what is allowed and what to do; it fits one line.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable


class MdtbenchError(Exception):
    """Base of all errors that are reported as one line, without a traceback."""

    exit_code = 1

    def __str__(self) -> str:
        """The message, of which names of files may be a part."""
        return printable(super().__str__())


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
    """Text that every file can hold: bytes of names that are not UTF-8 as %E9, other half characters as ?."""
    return _BYTES.sub(lambda found: f"%{ord(found[0]) - 0xDC00:02X}", text).encode("utf-8", "replace").decode()


# How Python spells the bytes of a name that are not UTF-8 (PEP 383).
_BYTES = re.compile("[\udc80-\udcff]")


def unknown_name(kind: str, name: str, allowed: Iterable[str], hint: str = "", meant: str = "") -> UsageError:
    """Error for a name that is not in `allowed`; suggests `meant`, or the nearest one."""
    allowed = sorted(allowed)
    near = [meant] if meant else difflib.get_close_matches(name, allowed, n=1, cutoff=0.5)
    if not near and len(name) > 1:  # transposed letters in a short name: mtd -> mdt
        near = [other for other in allowed if sorted(other) == sorted(name)][:1]
    suggestion = f" Did you mean '{near[0]}'?" if near else ""
    tail = f" {hint}" if hint else ""
    return UsageError(f"Unknown {kind} '{name}'.{suggestion} Available: {', '.join(allowed) or 'none'}.{tail}")
