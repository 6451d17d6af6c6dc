"""By hand, as root: disks that are full, read-only or without inodes, under --out and under --cache.

python tests/faults/disks.py FOLDER      FOLDER is new; file systems in memory are mounted below it

The command must end with one line, or go on without a cache; with the disk freed, the same command must give equal
rows.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from kills import _commands, _finished, _rows

# How a file system is made and how it is freed.
DISKS = {
    "full": ("size=400k", "remount,size=1g"),
    "nearly full": ("size=6m", "remount,size=1g"),
    "read-only": ("ro", "remount,rw"),
    "without inodes": ("nr_inodes=20", "remount,nr_inodes=100000"),
}


def main(folder: Path) -> int:
    """Prints a line per disk and the counts. Returns how many were not as they should be."""
    folder.mkdir(parents=True)
    bad = 0
    [plain] = _commands(folder / "plain", structure=True)
    assert _finished(plain)[0] == 0
    wanted = _rows(folder / "plain" / "run")
    for place in ("run", "cache"):
        for name, (made, freed) in DISKS.items():
            here, disk = folder / f"{place} {name}", folder / f"{place} {name}" / place
            disk.mkdir(parents=True)
            _mount(made, disk)
            try:
                [command] = _commands(here, structure=True)
                code, told = _finished(command)
                _mount(freed, disk)
                again, more = _finished(command)
                lines = [line for line in told.split("\n") if line.startswith("mdtbench: ")]
                fine = again == 0 and _rows(here / "run") == wanted and "Traceback" not in told + more
                fine = fine and (code == 0 or bool(lines))
            finally:
                subprocess.run(["umount", str(disk)], check=True)
            bad += not fine
            last = lines[-1] if lines else told[-200:]
            sys.stdout.write(f"{place} {name}: {'fine' if fine else 'BAD'}: exit code {code}, {last}\n")
            sys.stdout.flush()
    sys.stdout.write(f"{2 * len(DISKS)} disks: {bad} bad\n")
    return bad


def _mount(options: str, disk: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(disk)], check=True)


if __name__ == "__main__":
    raise SystemExit(bool(main(Path(sys.argv[1]))))
