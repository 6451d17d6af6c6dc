"""What each method got to train with, and what sweeps found."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

from ..base.groups import grouped
from ..base.text import counted
from .cells import FAILED, NO_VALUE, Cell, Column, decimals_of
from .places import label_of
from .students import StudentRecord
from .sweep import SETTINGS, SweepRecord, Trial
from .tables import Line, Table

METHOD, STAGE = Column("method", "Method", "label"), Column("stage", "Stage", "label")
BUDGET_COLUMNS = (
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
    """A line per stage, method and variant, over training seeds; the stage has a column where there are several."""
    groups = grouped(students, lambda student: (student.stage, student.method, student.variant))
    staged = len({student.stage for student in students}) > 1
    footnotes: list[str] = []
    lines = [
        Line("Per student", method, variant, None, "student", _budget(mine, staged, footnotes))
        for (_, method, variant), mine in groups.items()
    ]
    budgets = dict.fromkeys(EQUAL[student.budget] for student in students)
    notes = (
        f"Methods got equal {' and '.join(budgets)}.",
        "Passes: network forward passes, a backward pass counted as 2, as if each student trained alone; students that "
        "train together share the teacher's. Training: mean seconds of a student's own steps.",
    )
    columns = (*_name_columns(staged), *BUDGET_COLUMNS)
    return Table("training_budget", "Training budget", columns, tuple(lines), notes, tuple(footnotes))


def sweep_table(record: SweepRecord) -> Table:
    """A line per method and setting of a stage; the chosen ones are marked as best. Guidance where it varies."""
    varied = record.varied()
    guided = "cfg_strength" in varied
    columns = (
        METHOD,
        Column("lr", "Learning rate", "label"),
        *((Column("cfg_strength", "Guidance", "label"),) if guided else ()),
        Column(record.metric, record.metric, "metric", record.higher_is_better, record.unit),
        Column("chosen", "Chosen", "count"),
    )
    footnotes: list[str] = []
    scores = [abs(trial.score) for trial in record.trials if trial.score is not None]
    decimals = decimals_of(max(scores, default=0.0), significant=4)
    group = f"{counted(record.assets, 'validation asset')}, {counted(record.steps, 'step')}"
    grids = dict.fromkeys((trial.method, trial.variant) for trial in record.trials)
    lines = [
        Line(group, *who, record.steps, "student", _trial(trial, decimals, guided, footnotes))
        for who in grids
        for trial in record.trials_of(*who)
    ]
    notes = []
    if record.halving > 1:
        notes.append(
            f"Settings were tried for 1/{record.halving} of the training steps; the chosen one then trained for all."
        )
    notes += [f"Seed {record.seed} for training and generation. Test assets are not among the validation assets."]
    notes += [
        f"{label_of(edge.trial.method, edge.trial.variant)}: the best {SETTINGS[edge.setting]}, {edge.value:g}, is at "
        "the edge of the grid; a better one may lie outside."
        for edge in record.edges()
    ]
    what = " and ".join(SETTINGS[setting] for setting in varied or ("lr",)).capitalize()
    title = f"{what} of the {record.stage} stage, chosen on validation assets"
    return Table(f"sweep_{record.stage}", title, columns, tuple(lines), tuple(notes), tuple(footnotes))


def _name_columns(staged: bool) -> tuple[Column, ...]:
    return (METHOD, STAGE) if staged else (METHOD,)


def _name_cells(student: StudentRecord, staged: bool) -> tuple[Cell, ...]:
    label = Cell(label_of(student.method, student.variant))
    return (label, Cell(student.stage)) if staged else (label,)


def _budget(students: Sequence[StudentRecord], staged: bool, footnotes: list[str]) -> tuple[Cell, ...]:
    failed = [student for student in students if student.error]
    where = ", ".join(cell.text for cell in _name_cells(students[0], staged))
    for reason in dict.fromkeys(student.error for student in failed):
        footnotes.append(f"{where}: {len(failed)} of {len(students)} students failed: {reason}")
    trained = f"{len(students) - len(failed)}/{len(students)}" if failed else str(len(students))
    seconds = [student.seconds for student in students if student.seconds is not None]
    skipped = [student.skipped for student in students if student.skipped is not None]
    return (
        *_name_cells(students[0], staged),
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


def _trial(trial: Trial, decimals: int, guided: bool, footnotes: list[str]) -> tuple[Cell, ...]:
    settings = [trial.lr, trial.cfg_strength] if guided else [trial.lr]
    names = (
        Cell(label_of(trial.method, trial.variant)),
        *(Cell(NO_VALUE if value is None else f"{value:g}", value) for value in settings),
    )
    score = Cell(FAILED, n_failed=1)
    if trial.score is not None:
        score = Cell(f"{trial.score:.{decimals}f}", trial.score, n=1, best=trial.chosen)
    elif trial.error:
        guidance = f", guidance {names[-1].text}" if guided else ""
        footnotes.append(f"{names[0].text}, {names[1].text}{guidance}: {trial.error}")
        score = Cell(FAILED, n_failed=1, notes=(len(footnotes),))
    return *names, score, Cell("yes" if trial.chosen else "")
