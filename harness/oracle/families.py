"""The problems of all families by name."""

from __future__ import annotations

from collections.abc import Sequence

from ...base.errors import UsageError, unknown_name
from .family import Family
from .picture_family import PICTURES, Pictures
from .plane import Plane
from .plane_problems import PROBLEMS

FAMILIES: dict[str, Sequence[str]] = {"plane": tuple(PROBLEMS), "pictures": (PICTURES,)}


def check_problems(names: Sequence[str]) -> None:
    """Raises UsageError for unknown names, and for those of two families: they cannot train as one task."""
    known = [name for problems in FAMILIES.values() for name in problems]
    for name in names:
        if name not in known:
            raise unknown_name("oracle problem", name, known)
    if not any(set(names) <= set(problems) for problems in FAMILIES.values()):
        raise UsageError(f"Problems of two families ({', '.join(names)}) cannot train together. Make two runs of them.")


def family_of(names: Sequence[str], cfg_strength: float, width: int) -> Family:
    """The family with these problems, for names that passed `check_problems`."""
    return Pictures.of() if PICTURES in names else Plane.of(names, cfg_strength, width)
