"""Readers under random and hostile bytes: an answer, or an error of one line; no other exception, no hang, no bomb.

A minute in CI. By hand: python tests/fuzz/test_fuzz.py [SECONDS [SEED]]; what it finds is kept in tests/fuzz/found.
"""

from __future__ import annotations

import random
import resource
import signal
import sys
import time
import traceback
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))

from changed_bytes import mutated
from readers import CASES, READERS, run

FOUND = Path(__file__).parent / "found"
ROUNDS = 60  # inputs per reader in CI
HANG_S = 20
MOST_GB = 2.0
OTHER_THINGS = (b"", b"\0" * 100, b"[" * 100_000, b"9" * 5000, b"\xff" * 9, b"{}", b"[]", b"null", b"0", b'"a"')


def hung(*_: object) -> None:
    raise TimeoutError(f"no answer in {HANG_S} s")


@pytest.fixture(autouse=True, scope="module")
def _no_hang():
    before = signal.signal(signal.SIGALRM, hung)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("name", READERS)
@settings(max_examples=ROUNDS, deadline=None, derandomize=True, database=None)
@given(generator=st.randoms(use_true_random=False))
def test_readers_answer_or_say_why_not(name, generator):
    file, read, seed = READERS[name]
    signal.alarm(HANG_S)
    run(read, file, mutated(seed, generator))


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("data", OTHER_THINGS, ids=range(len(OTHER_THINGS)))
def test_readers_answer_to_what_is_something_else(name, data):
    file, read, _ = READERS[name]
    signal.alarm(HANG_S)
    run(read, file, data)


@pytest.mark.parametrize("path", sorted(CASES.iterdir()), ids=lambda path: path.name)
def test_files_that_did_harm_once(path):
    for file, read, _ in READERS.values():
        if Path(file).suffix == path.suffix:
            signal.alarm(HANG_S)
            run(read, file, path.read_bytes())


@pytest.mark.parametrize("path", sorted(FOUND.glob("*")), ids=lambda path: path.name)
def test_inputs_that_were_found(path):
    file, read, _ = READERS[path.name.rpartition("-")[0]]
    signal.alarm(HANG_S)
    run(read, file, path.read_bytes())


def fuzz(seconds: float, seed: int) -> int:
    """Fuzz all readers in turn. Returns how many inputs did harm; one per reader and place is kept."""
    signal.signal(signal.SIGALRM, hung)
    generator, counts, seen = random.Random(seed), Counter[str](), set[tuple[str, str]]()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for name, (file, read, start) in READERS.items():
            data = mutated(start, generator)
            counts["inputs"] += 1
            signal.alarm(HANG_S)
            try:
                run(read, file, data)
            except BaseException as error:
                signal.alarm(0)
                if isinstance(error, KeyboardInterrupt):
                    raise
                counts["hangs" if isinstance(error, TimeoutError) else "unexpected"] += 1
                place = f"{type(error).__name__} {traceback.extract_tb(error.__traceback__)[-1]}"
                if (name, place) not in seen:
                    seen.add((name, place))
                    FOUND.mkdir(exist_ok=True)
                    (FOUND / f"{name}-{len(list(FOUND.iterdir()))}").write_bytes(data)
                    sys.stdout.write(f"{name}: {type(error).__name__}: {str(error)[:100]}: {place}\n")
            signal.alarm(0)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    sys.stdout.write(
        f"{counts['inputs']} inputs to {len(READERS)} readers (seed {seed}): {counts['unexpected']} unexpected, "
        f"{counts['hangs']} hangs, peak memory {peak:.2f} GB\n"
    )
    return counts["unexpected"] + counts["hangs"] + (peak > MOST_GB)


if __name__ == "__main__":
    arguments = [int(word) for word in sys.argv[1:]]
    raise SystemExit(bool(fuzz(*(arguments + [3600, 0][len(arguments) :]))))
