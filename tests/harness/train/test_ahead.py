"""What is made ahead is what would be made when it is asked for."""

from __future__ import annotations

import threading

import pytest

from mdtbench.harness.train.ahead import Ahead


def test_the_next_step_is_made_before_it_is_asked_for():
    ahead, made, ready = Ahead[int](), list[int](), threading.Event()

    def square(index: int) -> int:
        made.append(index)
        if index == 1:
            ready.set()
        return index**2

    assert ahead.value(square, "a", 0) == 0
    assert ready.wait(10)
    assert [ahead.value(square, "a", index) for index in (1, 7)] == [1, 49]
    assert made[:2] == [0, 1]
    assert made.count(1) == 1  # it was not made again


def test_streams_do_not_meet():
    ahead = Ahead[tuple[str, int]]()
    for index in range(3):
        for stream in "ab":
            assert ahead.value(lambda step, of=stream: (of, step), stream, index) == (stream, index)


def test_what_raises_does_so_in_its_own_step():
    ahead = Ahead[float]()
    assert ahead.value(lambda step: 1 / (1 - step), "a", 0) == 1
    with pytest.raises(ZeroDivisionError):
        ahead.value(lambda step: 1 / (1 - step), "a", 1)
    assert ahead.value(lambda step: 1 / (1 - step), "a", 2) == -1
