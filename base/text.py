"""Text for people: columns, counts, notes."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

NOTE_END = "; "  # between notes on one thing


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns two blanks apart."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(text.ljust(n) for text, n in zip(row, widths, strict=True)).rstrip() for row in rows]


def joined_notes(texts: Iterable[str]) -> str:
    """Notes on one thing, each once. texts: notes, or some of them joined."""
    return NOTE_END.join(dict.fromkeys(part for text in texts for part in text.split(NOTE_END) if part))


def counted_notes(notes: Sequence[str], what: str) -> list[str]:
    """How many things have notes, where some have: '1 of 64 test assets has notes'."""
    count = sum(map(bool, notes))
    return [f"{count} of {len(notes)} {what} {'has' if count == 1 else 'have'} notes (assets.jsonl)"] if count else []


def spread(values: Sequence[float], digits: int) -> str:
    """'2.30 (2.20 to 2.41)': median, least and most."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def counted(count: int, what: str, plural: str = "") -> str:
    """'1 asset', '2 assets', '3,218 assets'. plural: where it is not `what` with an s."""
    return f"{count:,} {what if count == 1 else plural or what + 's'}"
