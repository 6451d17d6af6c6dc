"""Files as other programs write them: each is read as `cases/facts.csv` says, with a note, or refused with a reason."""

from __future__ import annotations

import pytest
from case_facts import CASES, case_files, found_facts, right_facts

RIGHT = right_facts()


@pytest.mark.parametrize("path", case_files(), ids=lambda path: path.relative_to(CASES).as_posix())
def test_case(path):
    name = path.relative_to(CASES).as_posix()
    found = found_facts(path)
    assert not found.wrong(RIGHT[name]), (found, RIGHT[name])


def test_every_case_is_in_the_table():
    assert {path.relative_to(CASES).as_posix() for path in case_files()} == set(RIGHT)


def test_files_that_differ_in_one_feature_differ_in_the_facts():
    """Else the facts would say nothing of it."""
    wraps = {RIGHT[f"03-sampler-wrap/{name}.glb"].corner for name in ("repeat", "mirrored", "clamped")}
    assert len(wraps) == 3
    alike = {RIGHT[f"01-float-colours-above-one/{name}.obj"].colour for name in ("control", "eps", "over")}
    assert len(alike) == 1
