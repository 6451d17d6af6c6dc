"""How many steps a method trains for: equal steps, forward passes or seconds, for which steps are timed."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ...base.errors import RunError
from ...base.files import read_record, write_record
from ...methods import METHODS
from ..engine.device import clock
from ..engine.files import intact
from ..settings.config import Train
from ..settings.methods import Entrant
from .loop import Student, train_together
from .pairs import batches_of, learned_of
from .task import Task

BUDGET_METHOD = "cm"  # equal budgets are what its training of `train.steps` steps takes
BUDGET_FORWARDS = 6  # its forward passes per sample and step
BUDGET_FILE = "seconds_per_step.json"  # in a run's folder
TIMED_STEPS = 5  # after one that is not timed


def training_steps(who: Entrant, train: Train, step_seconds: Mapping[str, float]) -> int:
    """Optimiser steps that a method gets under a stage's budget; with stored pairs as many as their epochs take.

    Args:
        step_seconds: of a step, by label; equal forward passes stand for equal seconds where one is not known.
    """
    if pairs := who.distillation.stored_pairs():
        return pairs.epochs * learned_of(batches_of(pairs, train.batch))
    if train.budget == "steps":
        return train.steps
    if train.budget == "seconds" and {who.label, BUDGET_METHOD} <= step_seconds.keys():
        share = step_seconds[BUDGET_METHOD] / step_seconds[who.label]
    else:
        share = BUDGET_FORWARDS / who.distillation.cost()
    return max(1, round(train.steps * share))


def to_time(entrants: Iterable[Entrant]) -> dict[str, Entrant]:
    """What must be timed, by label: these, and `BUDGET_METHOD` as it is where it is not among them."""
    entry = METHODS.get(BUDGET_METHOD)
    yardstick = Entrant(BUDGET_METHOD, BUDGET_METHOD, "", entry.version, entry.value(cfg_strength=1.0))
    return {who.label: who for who in (yardstick, *entrants)}


def step_seconds(
    path: Path,
    entrants: Mapping[str, Entrant],
    inputs: Callable[[Entrant], list[Any]],
    measure: Callable[[Sequence[Entrant]], Mapping[str, float]],
    tell: Callable[[str], None],
) -> dict[str, float]:
    """Seconds of a training step by label: measured once and kept, as the numbers of steps follow from them.

    Args:
        path: where they are kept. inputs: what decides a time, as JSON. measure: as `timed_steps`. tell: of damage.
    """
    known = read_record(path) if intact(path, read_record, tell) else {}
    keys = {label: json.dumps(inputs(who)) for label, who in entrants.items()}
    if todo := [who for label, who in entrants.items() if keys[label] not in known]:
        measured = measure(todo)
        known |= {keys[who.label]: measured.get(who.label) for who in todo}
        write_record(path, known)
    return {label: known[key] for label, key in keys.items() if known[key] is not None}


def timed_steps(entrants: Iterable[Entrant], task: Task, train: Train) -> dict[str, float]:
    """Median seconds of a training step of each method alone, by label; a method that fails has none.

    Raises:
        RunError: the machine failed, which says nothing about the method: a time that is wanting would stay so.
    """
    timed = {who.label: _timed(who, task, train) for who in entrants}
    return {label: seconds for label, seconds in timed.items() if seconds is not None}


def _timed(who: Entrant, task: Task, train: Train) -> float | None:
    seconds = []
    with TemporaryDirectory() as folder:
        for index in range(1 + TIMED_STEPS):
            trainee = Student(who.label, who.distillation, task.student(), train, 1, Path(folder) / str(index))
            started = clock(trainee.device)
            failure = train_together([trainee], task, train, index).get(trainee.folder.name)
            if failure and failure.lost:
                raise RunError(
                    f"The machine failed while steps were timed: {failure.reason}. The same command tries again."
                )
            if failure:
                return None
            seconds.append(clock(trainee.device) - started)
    return statistics.median(seconds[1:])
