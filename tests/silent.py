"""A reporter for tests."""

from __future__ import annotations


class Silent:
    """Prints nothing, keeps its notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def start(self, label: str, total: int, done: int = 0) -> int:
        return 0

    def update(self, task: int, done: int, info: str = "") -> None: ...
