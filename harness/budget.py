"""Equal budgets: seconds of a training step, and the record of what every student got."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..base.files import digest_of, read_json, write_json
from ..methods import METHODS
from ..results.rows import STRUCTURE
from ..results.students import StudentRecord
from .config import Train
from .parameters import Entrant
from .plan import BUDGET_METHOD, SLAT, Plan, Training
from .workshop import Workshop

BUDGET_FILE = "budget.json"
TRAINING_FILE = "training.json"  # in a student's folder, written when its training ends
REMARK = "Median seconds of a training step of each method alone. A run that is resumed reads them from here."


def step_seconds(plan: Plan, shop: Workshop, stage: str = STRUCTURE) -> dict[str, float]:
    """Seconds of a training step of a stage by label, of all that train and of `BUDGET_METHOD`.

    Measured once and kept in the run's folder: the numbers of steps follow from them, and with those the students.
    """
    path = shop.out / BUDGET_FILE
    known: dict[str, Any] = read_json(path)["step_seconds"] if path.is_file() else {}
    second = plan.second if stage == SLAT else None
    train, all_entrants = (second.train, second.entrants) if second else (plan.config.train, plan.entrants)
    entrants = {who.label: who for who in (_yardstick(), *all_entrants) if who.trains}
    addresses = {label: _address(who, train, stage, plan.networks_sha) for label, who in entrants.items()}
    todo = [who for label, who in entrants.items() if addresses[label] not in known]
    if todo:
        measured = shop.step_seconds(todo, stage)
        known |= {addresses[who.label]: {"label": who.label, "seconds": measured.get(who.label)} for who in todo}
        write_json(path, {"remark": REMARK, "step_seconds": known})
    seconds = {label: known[address]["seconds"] for label, address in addresses.items()}
    return {label: value for label, value in seconds.items() if value is not None}


def students(plan: Plan, out: Path, failed: Mapping[str, str]) -> list[StudentRecord]:
    """What each student of the tables got: from its own record where it has one, else from the plan."""
    return [_student(training, plan, out, failed.get(training.folder)) for training in plan.all_trainings]


def _student(training: Training, plan: Plan, out: Path, error: str | None) -> StudentRecord:
    who = training.entrant
    train = plan.second.train if plan.second and training.stage == SLAT else plan.config.train
    grid = plan.grid if training.stage == STRUCTURE else ()
    written = _written(out / training.folder / TRAINING_FILE)
    return StudentRecord(
        method=who.name,
        variant=who.variant,
        train_seed=training.seed,
        stage=training.stage,
        budget=train.budget,
        steps=written.get("steps", training.steps),
        batch=written.get("batch", train.batch),
        forwards=who.distillation.cost(),
        lr=written.get("lr", train.lr or who.distillation.lr),
        grid=len({cell.entrant.distillation.lr for cell in grid if cell.entrant.label == who.label}),
        seconds=written.get("seconds"),
        skipped=written.get("skipped"),
        error=error,
    )


def _written(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def _yardstick() -> Entrant:
    """`BUDGET_METHOD` as it is; a run that has the method measures the run's own."""
    entry = METHODS.get(BUDGET_METHOD)
    return Entrant(BUDGET_METHOD, BUDGET_METHOD, "", entry.version, entry.value(cfg_strength=1.0))


def _address(who: Entrant, train: Train, stage: str, networks_sha: str) -> str:
    settings = train.model_dump(exclude={"steps", "budget"})
    return digest_of([stage, who.label, who.version, repr(who.method), settings, networks_sha])[:16]
