"""What more GPUs would give the paper's table: its graph of jobs, done in simulated time by rules like the engine's.

python docs/clusters_simulation.py        prints the table of docs/clusters.md

Hours of jobs are those that `mdtbench run --preset paper --dry-run` estimates for H100s. Overheads of a job were
measured on two cores, with `smoke`; see docs/clusters.md. Nothing here was run on a GPU.
"""

from __future__ import annotations

import heapq
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

# Hours on one H100 by student and stage; those of the first three are tried with six settings.
GRID = {"structure": {"cm": 35.0, "pcm": 35.0, "scm": 46.2}, "slat": {"cm": 30.8, "pcm": 30.8, "scm": 40.8}}
FIXED = {"structure": {"vm": 35.0, "mdt": 74.0}, "slat": {"vm": 31.0, "mdt": 66.0}}
SETTINGS, CELLS, SHARDS = 6, 51, 45  # 2,295 shards of each kind
GENERATION_H, MEASURING_H = 7.4, 91.2  # of all cells
OVERHEAD_S = {"local": 0.012, "ray": 0.036, "slurm": 0.024}  # per job
GPUS = (1, 8, 32, 256)


@dataclass(frozen=True)
class Work:
    """A job in simulated time: hours on `ranks` GPUs, after others."""

    hours: float
    ranks: int = 1
    after: tuple[str, ...] = ()


def paper(ranks: int, overhead_s: float) -> dict[str, Work]:
    """The graph: trainings of the grid, the best of them, lines' shards, scores. ranks: GPUs of a training."""
    more, jobs = overhead_s / 3600, dict[str, Work]()
    best: list[str] = []
    for stage in GRID:
        grid = {f"{stage} {name} {i}": hours for name, hours in GRID[stage].items() for i in range(SETTINGS)}
        jobs |= {name: Work(hours / ranks + more, ranks) for name, hours in grid.items()}
        jobs[f"best {stage}"] = Work(0.1, 1, tuple(grid))
        fixed = {f"{stage} {name}": hours for name, hours in FIXED[stage].items()}
        jobs |= {name: Work(hours / ranks + more, ranks) for name, hours in fixed.items()}
        best += [f"best {stage}", *fixed]
    each = CELLS * SHARDS
    for cell in range(CELLS):
        looked = []
        # Pictures of one cell fill what the run allows them on disk: the next cell waits until they were seen.
        before = (f"score {cell - 1}",) if cell else tuple(best)
        for shard in range(SHARDS):
            name = f"{cell}/{shard}"
            jobs[f"structures {name}"] = Work(GENERATION_H / 2 / each + more, 1, before)
            jobs[f"assets {name}"] = Work(GENERATION_H / 2 / each + more, 1, (f"structures {name}",))
            jobs[f"looks {name}"] = Work(MEASURING_H / each + more, 1, (f"assets {name}",))
            looked.append(f"looks {name}")
        jobs[f"score {cell}"] = Work(0.01 + more, 1, tuple(looked))
    return jobs


def makespan(jobs: Mapping[str, Work], gpus: int) -> float:
    """Hours until all is done: what is ready begins in order where there is room, and nothing overtakes a gang."""
    left = {name: len(work.after) for name, work in jobs.items()}
    needed_by: dict[str, list[str]] = {}
    for name, work in jobs.items():
        for need in work.after:
            needed_by.setdefault(need, []).append(name)
    order = {name: i for i, name in enumerate(jobs)}
    ready = [(-_long(jobs[name]), order[name], name) for name in jobs if not left[name]]
    heapq.heapify(ready)
    running: list[tuple[float, str]] = []
    free, now = gpus, 0.0
    while ready or running:
        while ready and jobs[ready[0][2]].ranks <= free:
            name = heapq.heappop(ready)[2]
            free -= jobs[name].ranks
            heapq.heappush(running, (now + jobs[name].hours, name))
        now, name = heapq.heappop(running)
        free += jobs[name].ranks
        for one in needed_by.get(name, ()):
            left[one] -= 1
            if not left[one]:
                heapq.heappush(ready, (-_long(jobs[one]), order[one], one))
    return now


def _long(work: Work) -> float:
    """Trainings come first, the longest before others; all else in order."""
    return work.hours * work.ranks if work.hours * work.ranks > 1 else 0.0


def critical_path(jobs: Mapping[str, Work]) -> float:
    """Hours with as many GPUs as one likes."""
    ends: dict[str, float] = {}
    for name, work in jobs.items():  # needs come first
        ends[name] = work.hours + max((ends[need] for need in work.after), default=0.0)
    return max(ends.values())


def table() -> Iterator[str]:
    heads = " | ".join(f"{n} GPU{'s' * (n > 1)}" for n in GPUS)
    yield f"| executor | GPUs of a training | critical path, h | {heads} |"
    yield "|---|---|---|" + "---|" * len(GPUS)
    work = sum(one.hours * one.ranks for one in paper(1, 0.0).values())
    for name, overhead in OVERHEAD_S.items():
        for ranks in (1, 8):
            jobs = paper(ranks, overhead)
            cells = []
            for gpus in GPUS:
                if ranks > gpus:
                    cells.append("-")
                    continue
                hours = makespan(jobs, gpus)
                cells.append(f"{hours:,.0f} h, {work / hours / gpus:.0%}")
            yield f"| {name} | {ranks} | {critical_path(jobs):.1f} | " + " | ".join(cells) + " |"


if __name__ == "__main__":
    sys.stdout.write("\n".join(table()) + "\n")
