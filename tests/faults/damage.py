"""By hand: damage one file of a finished run, or of its cache, give the same command again, compare the rows.

python tests/faults/damage.py FOLDER [FILES [SEED]]      FOLDER is new, or that of an earlier call

Files of all kinds take turns: a flipped bit, cut short, empty, other bytes. The command must end with exit code 0 and
equal rows, and `mdtbench verify` must then find nothing.
"""

from __future__ import annotations

import random
import sys
from collections import Counter
from itertools import cycle
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "harness"))

from flip_bits import kinds
from kills import _commands, _finished, _rows

from mdtbench.harness.cli.verify import checked


def main(folder: Path, files: int = 100, seed: int = 0) -> int:
    """Prints a line per file and the counts. Returns how many were not as they should be."""
    command = _commands(folder, structure=False)[0]
    run, cache = folder / "run", folder / "cache"
    assert _finished(command)[0] == 0
    wanted, generator, counts = _rows(run), random.Random(seed), Counter[str]()
    order: list[tuple[Path, str]] = []
    for number, how in zip(range(files), cycle(HARM), strict=False):
        if not order:
            order = [(root, kind) for root in (run, cache) for kind in kinds(root)]
            generator.shuffle(order)
        root, kind = order.pop()
        path = generator.choice(kinds(root)[kind])
        path.write_bytes(HARM[how](path.read_bytes(), generator))
        code, told = _finished(command)
        fine = code == 0 and _rows(run) == wanted and "Traceback" not in told and not checked(run).damages
        silent = _rows(run) != wanted and code == 0
        counts["fine" if fine else "silent" if silent else "bad"] += 1
        words = "fine" if fine else f"BAD: exit code {code}, {checked(run).damages} {told[-400:]}"
        sys.stdout.write(f"{number}: {path.relative_to(folder)} {how}: {words}\n")
        sys.stdout.flush()
    sys.stdout.write(
        f"{files} damaged files: {counts['fine']} fine, {counts['silent']} silent, {counts['bad']} bad otherwise\n"
    )
    return files - counts["fine"]


def _flipped(data: bytes, generator: random.Random) -> bytes:
    changed, bit = bytearray(data), generator.randrange(8 * len(data))
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


HARM = {
    "with a flipped bit": _flipped,
    "cut short": lambda data, generator: data[: generator.randrange(len(data))],
    "empty": lambda data, generator: b"",
    "of other bytes": lambda data, generator: generator.randbytes(len(data)),
}


if __name__ == "__main__":
    raise SystemExit(bool(main(Path(sys.argv[1]), *map(int, sys.argv[2:]))))
