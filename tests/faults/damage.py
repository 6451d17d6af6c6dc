"""By hand: damage files of a finished run, or of its cache, give the same command again, compare the rows.

python tests/faults/damage.py FOLDER [CALLS [FILES [SEED]]]      FOLDER is new, or that of an earlier call

CALLS times, so many FILES at once.

Files of all kinds take turns: a flipped bit, cut short, empty, other bytes. The command must end with exit code 0 and
equal rows, and `mdtbench verify` must then find nothing but entries of stores that nothing has read.
"""

from __future__ import annotations

import random
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "harness"))

from flip_bits import kinds
from kills import _commands, _finished, _rows

from mdtbench.harness.cli.verify import STORES, checked


def main(folder: Path, calls: int = 25, files: int = 4, seed: int = 0) -> int:
    """Prints a line per file and the counts. Returns how many calls were not as they should be."""
    command = _commands(folder, structure=False)[0]
    run = folder / "run"
    assert _finished(command)[0] == 0
    wanted, generator, counts = _rows(run), random.Random(seed), Counter[str]()
    order: list[tuple[Path, str]] = []
    for number in range(calls):
        harm = [_damaged(folder, order, generator) for _ in range(files)]
        code, told = _finished(command)
        rows, left = _rows(run), [one for one in checked(run).damages if not one.path.startswith(STORES)]
        fine = code == 0 and rows == wanted and "Traceback" not in told and not left
        counts["fine" if fine else "silent" if rows != wanted and code == 0 else "bad"] += 1
        words = "fine" if fine else f"BAD: exit code {code}, {left} {told[-400:]}"
        sys.stdout.write("".join(f"{number}: {one}\n" for one in harm) + f"{number}: {words}\n")
        sys.stdout.flush()
    sys.stdout.write(
        f"{files * calls} damaged files in {calls} calls: {counts['fine']} fine, {counts['silent']} silent, "
        f"{counts['bad']} bad otherwise\n"
    )
    return calls - counts["fine"]


def _damaged(folder: Path, order: list[tuple[Path, str]], generator: random.Random) -> str:
    """Damage one file of the next kind; says which and how. order: kinds that are to come, filled when it is empty."""
    if not order:
        order += [(root, kind) for root in (folder / "run", folder / "cache") for kind in kinds(root)]
        generator.shuffle(order)
    root, kind = order.pop()
    there = kinds(root).get(kind)
    if not there:  # removed by what was done before
        return _damaged(folder, order, generator)
    path, how = generator.choice(there), generator.choice([*HARM])
    path.write_bytes(HARM[how](path.read_bytes(), generator))
    return f"{path.relative_to(folder)} {how}"


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
