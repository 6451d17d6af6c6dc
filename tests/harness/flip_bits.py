"""By hand: one flipped bit in one file of each kind of a run, found by `mdtbench verify` or not.

python tests/harness/flip_bits.py RUN     RUN is a finished run's folder, which is left as it was
"""

from __future__ import annotations

import random
import sys
from collections import defaultdict
from pathlib import Path

from mdtbench.harness.cli.verify import checked
from mdtbench.harness.engine.store import ENTRIES

NOT_CHECKED = {"driver.lock", "locks", "quarantine"}  # empty, or of no result


def kinds(run: Path) -> dict[str, list[Path]]:
    """Files of a run, or of a cache, by what they are; empty ones are left out."""
    found: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(path for path in run.rglob("*") if path.is_file() and path.stat().st_size):
        parts = path.relative_to(run).parts
        if NOT_CHECKED & {*parts}:
            continue
        if parts[0] == "students":
            kind = f"students/*/{parts[-1]}"
        elif ENTRIES in parts:
            kind = f"{'/'.join(parts[:-2])}/*{path.suffix}"
        else:
            kind = "/".join([*parts[:1], f"*{path.suffix}"]) if len(parts) > 1 else path.name
        found[kind].append(path)
    return found


def main(run: Path, per_kind: int = 1, seed: int = 0) -> int:
    """Prints a line per flip. Returns how many were not found."""
    generator, silent, flips = random.Random(seed), 0, 0
    before = checked(run)
    if before.damages:
        raise SystemExit(f"{run} is damaged already: {before.damages[0]}")
    for kind, paths in kinds(run).items():
        for _ in range(per_kind):
            path = generator.choice(paths)
            data = path.read_bytes()
            bit = generator.randrange(8 * len(data))
            changed = bytearray(data)
            changed[bit // 8] ^= 1 << bit % 8
            path.write_bytes(changed)
            found = [one for one in checked(run).damages]
            path.write_bytes(data)
            flips += 1
            silent += not found
            told = f"{found[0].path}: {found[0].reason[:60]}" if found else "NOT FOUND"
            sys.stdout.write(f"{kind}: bit {bit} of {path.name}: {told}\n")
    sys.stdout.write(f"{flips} flips in {len(kinds(run))} kinds of files, {silent} not found\n")
    return silent


if __name__ == "__main__":
    raise SystemExit(bool(main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1)))
