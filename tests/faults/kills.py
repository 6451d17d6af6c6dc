"""By hand: kill a run or an evaluation at random moments, give the same command again, compare the rows.

python tests/faults/kills.py FOLDER [KILLS [SEED]] [--structure]

Kills take turns: the whole group, the parent alone, a worker; of a run with both stages and --export, then of an
evaluation of what it exported. The time of the kill is drawn from that of the undisturbed command. --structure: runs of
the first stage alone, which take a tenth of the time.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

TESTS = Path(__file__).parents[1]
COMMAND = [sys.executable, "-m", "mdtbench"]
SMALL = (
    *("--preset", "smoke", "--methods", "vm", "--steps", "1", "--workers", "1", "--export", "glb,ply"),
    *("--set", "train.steps=6", "--set", "slat.steps=3", "--set", "data.train=4", "--set", "train.batch=4"),
    *("--set", "evaluate.whole=2", "--set", "evaluate.seeds=[0]", "--set", "protocol.columns=main"),
)
TIMED = ("latency_s", "structure_s", "slat_s", "decode_s")  # of this machine's load
ELSEWHERE = ("created_utc", "peak_mem_gb", "git_commit", "git_dirty")  # fields that may differ from call to call
HOURS = 1
GRACE_S = 60.0  # for workers to end by themselves
LEFT, LATE = "left behind", "ended by itself"


def main(folder: Path, kills: int = 50, seed: int = 0, *, structure: bool = False) -> int:
    """Prints a line per kill and the counts. Returns how many were not as they should be."""
    folder.mkdir(parents=True, exist_ok=True)
    generator, counts = random.Random(seed), Counter[str]()
    started = time.monotonic()
    made = _commands(folder / "whole", structure)
    names = ("run", "evaluation")[: len(made)]
    whole = [_finished(command) for command in made]
    took = (time.monotonic() - started) / len(made)
    wanted = [_rows(folder / "whole" / name) for name in names]
    assert all(code == 0 for code, _ in whole), whole
    for number in range(kills):
        which = number % len(made)
        place = folder / f"kill{number}"
        if which:  # the evaluation needs what the run exported
            shutil.copytree(folder / "whole" / "run", place / "run")
        command = _commands(place, structure)[which]
        what = _killed(command, generator.uniform(0.05, 0.8) * took, generator)
        code, told = _finished(command)
        rows = _rows(place / names[which])
        parts = list((place / names[which]).rglob(".*.part"))  # those of the cache may be another run's: `cache gc`
        fine = code == 0 and rows == wanted[which] and "Traceback" not in told and not parts and LEFT not in what
        counts["fine" if fine else "bad"] += 1
        counts["late"] += what.startswith(LATE)
        sys.stdout.write(f"{number}: {names[which]}, {what}: {'fine' if fine else f'BAD: {parts} {told[-300:]}'}\n")
        sys.stdout.flush()
        if fine:
            shutil.rmtree(place)
    sys.stdout.write(
        f"{kills} kills, of which {counts['late']} too late: {counts['fine']} with equal rows, {counts['bad']} bad\n"
    )
    return counts["bad"]


def write_assets(folder: Path) -> Path:
    """Two boxes, as test assets."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, (x, y, z) in {"flat": (1, 1, 0.3), "tall": (0.4, 0.5, 1)}.items():
        corners = [(i, j, k) for i in (0, x) for j in (0, y) for k in (0, z)]
        lines = [f"v {i} {j} {k} {i} {j} {k}" for i, j, k in corners]
        faces = ("1 2 4 3", "5 7 8 6", "1 5 6 2", "3 4 8 7", "1 3 7 5", "2 6 8 4")
        (folder / f"{name}.obj").write_text("\n".join([*lines, *(f"f {face}" for face in faces)]) + "\n")
    return folder


def _commands(folder: Path, structure: bool) -> list[list[str]]:
    cache = ["--cache", str(folder / "cache")]
    given = write_assets(folder / "assets")
    run = [*COMMAND, "run", *SMALL, "--assets", str(given), "--out", str(folder / "run"), *cache]
    if structure:
        return [[word for word in run if word not in ("--export", "glb,ply")] + ["--stages", "structure"]]
    made = folder / "run" / "export"
    evaluation = [*COMMAND, "evaluate", str(made / "vm-1x2"), "--name", "VM", "--reference", str(made / "truth")]
    evaluation += ["--set", "extractors=random", "--plugin", str(TESTS / "official_plugin.py"), "--workers", "1"]
    return [run, [*evaluation, "--out", str(folder / "evaluation"), *cache]]


def _finished(command: list[str]) -> tuple[int, str]:
    done = subprocess.run(command, capture_output=True, text=True, timeout=3600 * HOURS, check=False)
    return done.returncode, done.stderr + done.stdout


def _killed(command: list[str], after: float, generator: random.Random) -> str:
    """Start a command and kill it, or a part of it, after so many seconds. Says what was done."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        process.wait(after)
        return f"{LATE} within {after:.1f} s"
    except subprocess.TimeoutExpired:
        kind = generator.choice(("group", "parent", "worker"))
    if kind == "worker" and (children := _children(process.pid)):
        os.kill(generator.choice(children), signal.SIGKILL)
        process.wait(3600 * HOURS)
    elif kind == "parent":
        process.kill()
        process.wait()
    else:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    end = time.monotonic() + GRACE_S
    while (left := _group(process.pid)) and time.monotonic() < end:
        time.sleep(0.5)
    return f"{kind} after {after:.1f} s" + (f", {LEFT}: {left}" if left else "")


def _children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(word) for path in tasks for word in path.read_text().split()]


def _group(pid: int) -> list[int]:
    """Processes of a group that still run."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == pid and fields[0] != "Z":
            found.append(int(path.parent.name))
    return found


def _rows(folder: Path) -> list[dict]:
    path = folder / "rows.jsonl"
    if not path.is_file():
        return []
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    kept = [row for row in rows if row["metric"] not in TIMED]
    return [{k: v for k, v in row.items() if k not in ELSEWHERE} for row in kept]


if __name__ == "__main__":
    words = [word for word in sys.argv[1:] if word != "--structure"]
    raise SystemExit(bool(main(Path(words[0]), *map(int, words[1:]), structure="--structure" in sys.argv)))
