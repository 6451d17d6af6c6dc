"""Text for people: columns, counts."""

from __future__ import annotations

from collections.abc import Sequence


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns two blanks apart."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(text.ljust(n) for text, n in zip(row, widths, strict=True)).rstrip() for row in rows]


def counted(count: int, what: str, plural: str = "") -> str:
    """'1 asset', '2 assets', '3,218 assets'. plural: where it is not `what` with an s."""
    return f"{count:,} {what if count == 1 else plural or what + 's'}"
