"""What a training step reads and draws is made while the step before it is computed."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")
_READER = ThreadPoolExecutor(1)  # one thing at a time, in the order in which it will be asked for


class Ahead(Generic[T]):
    """Values of numbered steps, each a function of its number alone; that of the next step is made beside.

    What raises does so where the value is asked for.
    """

    def __init__(self) -> None:
        self._coming: dict[Hashable, tuple[int, Future[T]]] = {}

    def value(self, make: Callable[[int], T], stream: Hashable, index: int) -> T:
        """`make(index)`. stream: what else decides; one step of each is made ahead."""
        known, coming = self._coming.pop(stream, (None, None))
        found = coming if coming is not None and known == index else _READER.submit(make, index)
        self._coming[stream] = index + 1, _READER.submit(make, index + 1)
        return found.result()
