"""What each method got to train with, and what the sweep over learning rates found."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence

from .cells import FAILED, NO_VALUE, Cell, Column, decimals_of
from .students import StudentRecord
from .sweep import SweepRecord, Trial
from .tables import Line, Table, label_of

BUDGET_COLUMNS = (
    Column("method", "Method", "label"),
    Column("students", "Students", "count"),
    Column("train_steps", "Steps", "cost"),
    Column("forwards", "Passes", "cost", unit="per sample and step"),
    Column("total_forwards", "All passes", "cost", unit="per student"),
    Column("train_s", "Training", "cost", unit="s"),
    Column("lr", "Learning rate", "cost"),
    Column("grid", "Rates tried", "cost"),
    Column("skipped", "Skipped steps", "cost"),
)


EQUAL = {"steps": "steps of training", "forwards": "forward passes", "seconds": "seconds of training"}


def budget_table(students: Sequence[StudentRecord]) -> Table:
    """A line per method and variant, over training seeds."""
    groups: dict[tuple[str, str], list[StudentRecord]] = {}
    for student in students:
        groups.setdefault((student.method, student.variant), []).append(student)
    footnotes: list[str] = []
    lines = [
        Line("Per student", method, variant, None, "student", _budget(mine, footnotes))
        for (method, variant), mine in groups.items()
    ]
    budgets = dict.fromkeys(EQUAL[student.budget] for student in students)
    notes = (
        f"Methods got equal {' and '.join(budgets)}.",
        "Passes: network forward passes, a backward pass counted as 2, as if each student trained alone; students that "
        "train together share the teacher's. Training: mean seconds of a student's own steps.",
    )
    return Table("training_budget", "Training budget", BUDGET_COLUMNS, tuple(lines), notes, tuple(footnotes))


def sweep_table(sweep: SweepRecord) -> Table:
    """A line per method and learning rate; the chosen ones are marked as best."""
    score = Column(sweep.metric, sweep.metric, "metric", sweep.higher_is_better, sweep.unit)
    columns = (
        Column("method", "Method", "label"),
        Column("lr", "Learning rate", "label"),
        score,
        Column("chosen", "Chosen", "count"),
    )
    footnotes: list[str] = []
    decimals = _decimals(trial.score for trial in sweep.trials)
    group = f"{sweep.assets} validation toys, {sweep.steps} step{'s' * (sweep.steps != 1)}"
    methods = dict.fromkeys((trial.method, trial.variant) for trial in sweep.trials)
    lines = [
        Line(group, *who, sweep.steps, "student", _trial(trial, decimals, footnotes))
        for who in methods
        for trial in sweep.trials_of(*who)
    ]
    notes = [f"Seed {sweep.seed} for training and generation. Test toys are not among the validation toys."]
    notes += [
        f"{label_of(trial.method, trial.variant)}: the best learning rate, {trial.lr:g}, is at the edge of the grid; "
        "a better one may lie outside."
        for trial in sweep.edges()
    ]
    title = "Learning rates, chosen on validation toys"
    return Table("learning_rates", title, columns, tuple(lines), tuple(notes), tuple(footnotes))


def _budget(students: Sequence[StudentRecord], footnotes: list[str]) -> tuple[Cell, ...]:
    failed = [student for student in students if student.error]
    label = label_of(students[0].method, students[0].variant)
    for reason in dict.fromkeys(student.error for student in failed):
        footnotes.append(f"{label}: {len(failed)} of {len(students)} students failed: {reason}")
    trained = f"{len(students) - len(failed)}/{len(students)}" if failed else str(len(students))
    seconds = [student.seconds for student in students if student.seconds is not None]
    skipped = [student.skipped for student in students if student.skipped is not None]
    return (
        Cell(label),
        Cell(trained, notes=(len(footnotes),) if failed else ()),
        _same([student.steps for student in students], "{:.0f}".format),
        _same([student.forwards for student in students], "{:g}".format),
        _same([student.total_forwards for student in students], "{:.0f}".format),
        _seconds(seconds),
        _same([student.lr for student in students], "{:g}".format),
        _same([student.grid for student in students], lambda n: f"{n:.0f}" if n else NO_VALUE),
        Cell(str(sum(skipped)), float(sum(skipped))) if skipped else Cell(NO_VALUE),
    )


def _same(values: Sequence[float], spelled: Callable[[float], str]) -> Cell:
    """A value that all students of a method should share; a range where they do not."""
    low, high = min(values), max(values)
    return Cell(spelled(low), float(low), n=len(values)) if low == high else Cell(f"{spelled(low)}-{spelled(high)}")


def _seconds(values: Sequence[float]) -> Cell:
    if not values:
        return Cell(NO_VALUE)
    mean = statistics.fmean(values)
    return Cell(f"{mean:.{decimals_of(mean, significant=3)}f}", mean, n=len(values))


def _trial(trial: Trial, decimals: int, footnotes: list[str]) -> tuple[Cell, ...]:
    label = label_of(trial.method, trial.variant)
    score = Cell(FAILED, n_failed=1)
    if trial.score is not None:
        score = Cell(f"{trial.score:.{decimals}f}", trial.score, n=1, best=trial.chosen)
    elif trial.error:
        footnotes.append(f"{label}, {trial.lr:g}: {trial.error}")
        score = Cell(FAILED, n_failed=1, notes=(len(footnotes),))
    return Cell(label), Cell(f"{trial.lr:g}", trial.lr), score, Cell("yes" if trial.chosen else "")


def _decimals(scores: Iterable[float | None]) -> int:
    return decimals_of(max((abs(score) for score in scores if score is not None), default=0.0), significant=4)
