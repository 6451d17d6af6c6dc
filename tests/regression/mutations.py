"""Faults that a regression check has to find, and a way to try them on a copy of the package.

    python tests/regression/mutations.py --out DIR [--repeat 20] [OPTION OF `mdtbench run` ...]

makes a baseline with the code as it is, runs it unchanged `--repeat` times and once with each fault, holds every run
against the baseline, and prints both tables. Each run has an empty cache: what is cached was made by other code.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROOMS = ("assets", "base", "flow", "geometry", "harness", "methods", "metrics", "render", "results", "trellis")
REGRESSION = 3
TOLERANCES = "default = { spreads = 0.5, chance = false }\ncontrols = { spreads = 0.1, chance = false }\n"


@dataclass(frozen=True)
class Mutation:
    """One line of one file, made wrong."""

    name: str
    file: str
    right: str
    wrong: str


MUTATIONS = (
    Mutation(
        "sign of VD's gradient flipped", "methods/mdt.py", "layout.expand(1 - t) * push", "layout.expand(t - 1) * push"
    ),
    Mutation(
        "stop-gradient of the consistency target dropped",
        "methods/contract.py",
        "with torch.no_grad():\n            return self.frozen_student(x, t, *t_end)",
        "with torch.enable_grad():\n            return self.frozen_student(x, t, *t_end)",
    ),
    Mutation(
        "guidance strength off by one",
        "flow/guidance.py",
        "(1 + cfg_strength) * v_cond - cfg_strength * v_neg",
        "cfg_strength * v_cond - (cfg_strength - 1) * v_neg",
    ),
    Mutation(
        "t and 1 - t swapped on the path",
        "flow/path.py",
        "time = layout.expand(t)\n    return (1 - time)",
        "time = layout.expand(1 - t)\n    return (1 - time)",
    ),
    Mutation(
        "pictures that extractors see resized by dropping pixels",
        "render/meshes.py",
        "total += samples[i::size, j::size]\n    total /= size * size",
        "total = samples[::size, ::size].copy()",
    ),
)


@dataclass(frozen=True)
class Checked:
    """A run held against the baseline: exit code of `compare`, what it said, seconds that both took."""

    name: str
    code: int
    summary: str
    first: str
    seconds: float


def copy_package(folder: Path, mutation: Mutation | None = None) -> Path:
    """A copy of the package that `python -m` finds with PYTHONPATH=folder, with at most one fault."""
    shutil.copytree(ROOT / "api", folder / "mdtbench", ignore=shutil.ignore_patterns("__pycache__"))
    for room in ROOMS:
        shutil.copytree(ROOT / room, folder / "mdtbench" / room, ignore=shutil.ignore_patterns("__pycache__"))
    if mutation:
        path = folder / "mdtbench" / mutation.file
        text = path.read_text(encoding="utf-8")
        if text.count(mutation.right) != 1:
            raise ValueError(f"{mutation.file} has the line of '{mutation.name}' {text.count(mutation.right)} times")
        path.write_text(text.replace(mutation.right, mutation.wrong), encoding="utf-8")
    return folder


@dataclass(frozen=True)
class Trial:
    """The code as it is, in a copy, and the runs that are held against its own.

    Attributes:
        package: the copy; it does all comparing. out: folder of the runs. options: of `mdtbench run`.
    """

    package: Path
    out: Path
    options: tuple[str, ...]

    def baseline(self) -> Path:
        """A run, kept as `compare --save` does, with the tolerances of a check of every commit."""
        first, folder = self.out / "as-it-is", self.out / "baseline"
        run(self.package, first, self.options)
        done = call(self.package, ["compare", str(first), "--save", str(folder)])
        if done.returncode:
            raise RuntimeError(done.stderr.decode())
        (folder / "tolerances.toml").write_text(TOLERANCES, encoding="utf-8")
        return folder

    def faults(self, baseline: Path) -> Iterator[Checked]:
        """Each fault alone."""
        for index, mutation in enumerate(MUTATIONS):
            package = copy_package(self.out / f"package-{index}", mutation)
            yield self._checked(mutation.name, package, self.out / f"fault-{index}", baseline, ())
            shutil.rmtree(package)

    def repetitions(self, baseline: Path, count: int) -> Iterator[Checked]:
        """The code as it is, with one and with two worker processes in turn."""
        for index in range(count):
            workers = 1 + index % 2
            name, out = f"unchanged, {workers} worker(s)", self.out / f"unchanged-{index}"
            yield self._checked(name, self.package, out, baseline, ("--workers", str(workers)))

    def _checked(self, name: str, package: Path, out: Path, baseline: Path, more: Sequence[str]) -> Checked:
        started = time.monotonic()
        run(package, out, [*self.options, *more])
        done = call(self.package, ["compare", str(out), str(baseline), "--any-change", "--format", "json"])
        if done.returncode not in (0, REGRESSION):
            raise RuntimeError(done.stderr.decode()[-2000:])
        found = json.loads(done.stdout)
        changed = [one for one in found["comparison"]["differences"] if one["verdict"] in ("worse", "better")]
        first = f"{changed[0]['method']} {changed[0]['steps'] or ''} {changed[0]['metric']}" if changed else ""
        return Checked(name, done.returncode, found["summary"].partition(" (")[0], first, time.monotonic() - started)


def run(package: Path, out: Path, options: Sequence[str]) -> None:
    """`mdtbench run` with an empty cache. Failed students are rows too; without rows there is nothing to compare."""
    cache = out.with_name(f"{out.name}-cache")
    done = call(package, ["run", "--out", str(out), "--cache", str(cache), *options])
    shutil.rmtree(cache, ignore_errors=True)
    if not (out / "rows.jsonl").is_file():
        raise RuntimeError(f"no rows: {done.stderr.decode()[-2000:]}")


def call(package: Path, words: Sequence[str]) -> subprocess.CompletedProcess[bytes]:
    """The command line of a copy."""
    env = {**os.environ, "PYTHONPATH": str(package)}
    return subprocess.run([sys.executable, "-m", "mdtbench", *words], capture_output=True, env=env)


def table(title: str, checked: Sequence[Checked]) -> str:
    """Markdown."""
    lines = [f"### {title}", "", "| run | exit code | verdicts | first | seconds |", "|---|---|---|---|---|"]
    lines += [f"| {c.name} | {c.code} | {c.summary} | {c.first} | {c.seconds:.0f} |" for c in checked]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="a folder, made if need be")
    parser.add_argument("--baseline", type=Path, help="folder of a baseline; made with the code as it is by default")
    parser.add_argument("--repeat", type=int, default=20, help="unchanged runs")
    arguments, options = parser.parse_known_args()
    out: Path = arguments.out.resolve()
    trial = Trial(copy_package(out / "package"), out, tuple(options))
    baseline = arguments.baseline or trial.baseline()
    found = list(_told(trial.faults(baseline)))
    unchanged = list(_told(trial.repetitions(baseline, arguments.repeat)))
    sys.stdout.write(table("Faults", found) + "\n" + table("Unchanged", unchanged))
    return int(any(one.code != REGRESSION for one in found) or any(one.code for one in unchanged))


def _told(checked: Iterator[Checked]) -> Iterator[Checked]:
    for one in checked:
        sys.stderr.write(f"{one.name}: exit {one.code}, {one.summary}, {one.seconds:.0f} s\n")
        yield one


if __name__ == "__main__":
    sys.exit(main())
