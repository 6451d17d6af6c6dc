"""What a training took: the account that each student leaves in its folder, and the line that a report has of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...base.files import read_record
from ...results.students import StudentRecord
from ..settings.config import Train
from ..settings.methods import Entrant
from .loop import ACCOUNT_FILE, Failure


@dataclass(frozen=True)
class Trained:
    """A training as it was planned. folder: of its student."""

    who: Entrant
    steps: int
    folder: Path


def written_account(folder: Path) -> dict[str, Any]:
    """Empty before the training has ended."""
    path = folder / ACCOUNT_FILE
    return read_record(path) if path.is_file() else {}


def student_record(
    chain: Sequence[Trained], train: Train, stage: str, seed: int, failure: Failure | None, grid: int = 0
) -> StudentRecord:
    """What a student got: from the accounts of the trainings that led to it, else as it was planned.

    Args:
        chain: itself the last.
        grid: learning rates that were tried for it.
    """
    who = chain[-1].who
    accounts = [written_account(one.folder) for one in chain]
    steps = [one.get("steps", planned.steps) for one, planned in zip(accounts, chain, strict=True)]
    passes = [one.who.distillation.cost() * count for one, count in zip(chain, steps, strict=True)]
    seconds: list[float] = [one["seconds"] for one in accounts if "seconds" in one]
    return StudentRecord(
        method=who.name,
        variant=who.variant,
        train_seed=seed,
        stage=stage,
        budget=train.budget,
        steps=sum(steps),
        batch=accounts[-1].get("batch", train.batch),
        forwards=sum(passes) / sum(steps),
        lr=accounts[-1].get("lr", who.distillation.lr),
        grid=grid,
        seconds=sum(seconds) if len(seconds) == len(accounts) else None,
        skipped=accounts[-1].get("skipped"),
        error=failure.reason if failure else None,
    )
