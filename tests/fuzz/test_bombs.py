"""Small files that announce or unpack to much are refused, or read, below 2 GB and in seconds."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from bombs import bombs, peak_gb
from readers import READERS, run

MOST_GB = 1.0  # more than before
ALL = [pytest.param(*bomb, id=bomb[1]) for bomb in bombs()]


@pytest.mark.parametrize(("reader", "what", "data"), ALL)
def test_a_bomb_does_not_go_off(reader, what, data):
    file, read, _ = READERS[reader]
    before = peak_gb()
    run(read, file, data)
    assert peak_gb() - before < MOST_GB


def test_there_are_many():
    assert len(ALL) >= 50
