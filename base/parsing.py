"""JSON and TOML of anybody, within the limits of nesting and digits. Any fault is a ValueError with a plain reason."""

from __future__ import annotations

import json
import tomllib
from typing import Any

from .limits import excess, limits


class BeyondLimits(tomllib.TOMLDecodeError):
    """TOML that is nested too deep, or has a number of too many digits."""


def parse_json(text: str) -> Any:
    """Raises ValueError: no JSON, or beyond the limits."""
    try:
        value = json.loads(text, parse_int=whole_number)
    except RecursionError:
        raise ValueError(_too_deep()) from None
    return _flat_enough(value)


def parse_toml(text: str) -> dict[str, Any]:
    """Raises TOMLDecodeError: no TOML, or beyond the limits."""
    try:
        return _flat_enough(tomllib.loads(text))
    except tomllib.TOMLDecodeError:
        raise
    except RecursionError:
        raise BeyondLimits(_too_deep()) from None
    except ValueError as error:
        longest = "integer string conversion" in str(error)  # Python's own limit, far above ours
        raise BeyondLimits(_too_long() if longest else str(error)) from None


def whole_number(text: str) -> int:
    """Raises ValueError: no whole number, or one of too many digits."""
    reason = excess("digits", len(text.strip().lstrip("+-")), "a number")
    if reason:
        raise ValueError(reason)
    return int(text)


def _flat_enough(value: Any) -> Any:
    """The value, if it is not nested too deep and its whole numbers are not too long."""
    level, depth, largest = [value], 1, 10 ** limits().digits
    while level:
        reason = excess("nesting", depth, "it")
        if reason:
            raise ValueError(reason)
        inner = [item for one in level for item in _items(one)]
        if any(isinstance(item, int) and abs(item) >= largest for item in inner):
            raise ValueError(_too_long())
        level, depth = [item for item in inner if isinstance(item, dict | list)], depth + 1
    return value


def _items(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def _too_deep() -> str:
    return f"it is nested deeper than {limits().nesting} levels, which are allowed"


def _too_long() -> str:
    return f"a number has more than {limits().digits} digits, which are allowed"
