"""Which jobs are missing, and which of them can begin."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

from .jobs import KINDS, Job


@dataclass(frozen=True)
class Graph:
    """Jobs by key, earlier kinds first; and by key the jobs among them that must have ended before."""

    jobs: Mapping[str, Job]
    after: Mapping[str, frozenset[str]]


def missing(jobs: Iterable[Job], damaged: Callable[[str], bool] = lambda key: False) -> Graph:
    """The jobs that are not done, and those of their needs, each once.

    Args:
        damaged: whether what is known of a job, by its key, cannot be trusted, so that it is done again.

    Raises:
        ValueError: a kind of job that there is not.
    """
    found: dict[str, Job] = {}
    needs: dict[str, list[str]] = {}
    asked: set[str] = set()
    todo = list(jobs)
    while todo:
        job = todo.pop()
        if job.key in asked:
            continue
        asked.add(job.key)
        if job.done and not damaged(job.key):
            continue
        if job.kind not in KINDS:
            raise ValueError(f"'{job.kind}' of {type(job).__name__} is not a kind of job.")
        mine = list(job.needs)
        found[job.key], needs[job.key] = job, [need.key for need in mine]
        todo += mine
    found = dict(reversed(found.items()))
    labels = list(dict.fromkeys(job.label for job in found.values()))  # together: a process then loads a network once
    ordered = sorted(found, key=lambda key: (KINDS.index(found[key].kind), labels.index(found[key].label)))
    return Graph({key: found[key] for key in ordered}, {key: frozenset(needs[key]) & found.keys() for key in ordered})


def missing_jobs(jobs: Iterable[Job]) -> list[Job]:
    """The jobs that are not done, and those of their needs, each once."""
    return list(missing(jobs).jobs.values())


def ready(graph: Graph, done: Collection[str], taken: Collection[str]) -> list[str]:
    """Keys of the jobs that can begin, in order: what they need is done, and nobody has taken them."""
    return [key for key, after in graph.after.items() if key not in taken and all(need in done for need in after)]
