"""Logs of trainings: a JSON object per line with a key `step` and what was measured of that step."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from ...base.files import write_text


def write_log(path: Path, entries: Iterable[Mapping[str, float]]) -> None:
    """The whole log; values need not be finite."""
    write_text(path, "".join(json.dumps(entry) + "\n" for entry in entries))


def read_log(path: Path) -> list[dict[str, float]]:
    """Empty where there is none."""
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
