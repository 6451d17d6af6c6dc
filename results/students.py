"""What each student was given: steps, forward passes, seconds, learning rate. One line per student of the tables."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from ..base.errors import MissingError
from ..base.files import write_text
from .rows import STRUCTURE, Amount, Count, Name
from .sums import check_file

STUDENTS_FILE: Final = "students.jsonl"


class StudentRecord(BaseModel):
    """One student: of one stage, as stages are trained separately. Version 1 knows the structure stage alone.

    `forwards` are its network forward passes per sample and training step (a backward pass counts 2), as if it
    trained alone: methods that train together share the teacher's. `batch` samples are in a step. `grid` learning
    rates were tried for its method and stage, 0 without a sweep. `budget` is what methods got equal amounts of.
    `seconds` and `skipped` are None where they were not recorded.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    schema_version: Literal[1, 2] = 2
    method: Name
    variant: str = ""
    stage: Name = STRUCTURE
    train_seed: int
    budget: Literal["steps", "forwards", "seconds"] = "steps"
    steps: Count
    batch: Count
    forwards: Amount
    lr: Amount
    grid: Count = 0
    seconds: Amount | None = None
    skipped: Count | None = None
    error: str | None = None

    @property
    def total_forwards(self) -> float:
        """Of all samples and steps."""
        return self.forwards * self.batch * self.steps


def write_students(folder: Path, students: Iterable[StudentRecord]) -> None:
    """Write the file of a run. Raises RunError when it cannot be written."""
    write_text(folder / STUDENTS_FILE, "".join(student.model_dump_json() + "\n" for student in students))


def read_students(folder: Path) -> list[StudentRecord]:
    """The students of a run; none where the file is absent, as in runs of earlier versions.

    Raises:
        MissingError: a line is not a student.
    """
    path = folder / STUDENTS_FILE
    if not path.is_file():
        return []
    check_file(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise MissingError(f"{path} is not a file of students ({error}). Run the same command again.") from error
    return [_parse(path, number, line) for number, line in enumerate(lines, 1)]


def _parse(path: Path, number: int, line: str) -> StudentRecord:
    try:
        return StudentRecord.model_validate_json(line)
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise MissingError(f"{path} line {number} is not a student ({reason}). Run the same command again.") from error
