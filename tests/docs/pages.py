"""What the pages of the documentation hold: fenced blocks and links."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"
EXAMPLES = DOCS / "examples"
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<!\!)\[[^\]]+\]\(([^)\s]+)\)")


@dataclass(frozen=True)
class Block:
    """A fenced block. kind: the word after the fence."""

    kind: str
    text: str


def blocks(page: Path) -> list[Block]:
    """In their order."""
    return [Block(*found) for found in FENCE.findall(page.read_text(encoding="utf-8"))]


def links(page: Path) -> list[str]:
    """Targets of the links, without those of blocks."""
    return LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8")))
