"""Names of files that are made of asset ids."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

LONGEST = 180  # bytes of a part of a path: file systems allow 255, endings and temporary names need some
UNSAFE = re.compile(r"[^\w .,()+=@-]")


def safe_path(asset_id: str) -> Path:
    """A relative path that stays below its folder; different for different ids. Slashes separate sub-folders.

    An id that is no safe path itself gets, after the change, a digest of what it was.
    """
    parts = [_safe_part(part) for part in asset_id.split("/") if part not in ("", ".")]
    path = "/".join(parts)
    if parts and path == asset_id:
        return Path(path)
    digest = hashlib.sha256(asset_id.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return Path(f"{path}-{digest}" if parts else digest)


def _safe_part(part: str) -> str:
    safe = UNSAFE.sub("_", part)
    if safe.startswith("."):
        safe = "_" + safe[1:]  # neither a hidden file nor the folder above
    return safe.encode("utf-8")[:LONGEST].decode("utf-8", "ignore")
