"""SECURITY.md says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

from mdtbench.base.limits import Limits

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "SECURITY.md").read_text(encoding="utf-8")


def test_the_limits_are_those_of_the_code():
    rows = re.findall(r"^\| `(\w+)` \| ([\d,]+) \|", TEXT, re.M)
    assert {name: int(value.replace(",", "")) for name, value in rows} == Limits().model_dump()


def test_all_files_that_it_names_are_there():
    named = re.findall(r"\b(?:base|tests)/[\w/]+(?:\.py)?", TEXT)
    assert len(named) >= 6
    for path in named:
        assert (ROOT / path).exists(), path
