"""What a process keeps from one job to the next because it is slow to load: one thing, known by a job's affinity."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, TypeVar

from .device import give_back_memory

Thing = TypeVar("Thing")


@dataclass(frozen=True)
class _Held:
    affinity: str
    memory_gb: float
    thing: Any


_held: dict[Hashable, _Held] = {}  # one or none


def held(key: Hashable, load: Callable[[], Thing], affinity: str, memory_gb: float) -> Thing:
    """The thing, loaded once as long as this process keeps it; the one before is gone before.

    Args:
        key: tells it from others. affinity: of the jobs that use it. memory_gb: that it takes; 0: hardly any.
    """
    if key not in _held:
        _held.clear()
        give_back_memory()
        _held[key] = _Held(affinity, memory_gb, load())
    return _held[key].thing


def let_go(affinity: str = "") -> None:
    """Free what takes memory, unless jobs of this affinity use it."""
    if any(one.memory_gb and one.affinity != affinity for one in _held.values()):
        _held.clear()
        give_back_memory()
