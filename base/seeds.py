"""One seed per purpose. No generator is global, none depends on rank, batch size or order."""

from __future__ import annotations

import hashlib


def seed_of(*parts: str | int) -> int:
    """A 63-bit seed that is a function of its parts alone, the same on every machine.

    Example: ``seed_of("sample", asset_id, run_seed)``.
    """
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
