"""A learning rate for every method: one student per rate of the grid, scored on validation toys, never on test assets.

The students of all rates train together with those of the other methods. One with the chosen rate and seed is the
run's own student, bit for bit and on disk. The validation toys are of the split that the floor row draws from; that row
has no student, so nothing is chosen on what it measures.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from ..base.errors import UsageError
from ..metrics import METRICS, Comparison, Metric
from ..results.sweep import SweepRecord, Trial, choose, read_sweep, write_sweep
from .parameters import Entrant
from .plan import Cell, Plan, validation_source
from .references import Truth
from .workshop import Workshop


def sweep_rates(plan: Plan, shop: Workshop) -> SweepRecord:
    """Try the plan's grid and choose; what is tried once is found again in the run's folder.

    Raises:
        UsageError: the metric says nothing about shapes that have no teacher's to be compared with.
    """
    section = plan.config.sweep
    metric = METRICS.get(section.metric).value
    known = _known_trials(shop, metric)
    todo = [cell for cell in plan.grid if cell.folder not in known]
    trials = {**known, **(_tried(todo, metric, plan, shop) if todo else {})}
    by_method = [
        choose([trials[cell.folder] for cell in cells], higher=metric.higher_is_better)
        for cells in _by_label(plan.grid).values()
    ]
    record = SweepRecord(
        metric=section.metric,
        unit=metric.unit,
        higher_is_better=metric.higher_is_better,
        steps=min(plan.config.evaluate.steps),
        assets=section.assets,
        seed=section.seed,
        trials=tuple(trial for method in by_method for trial in method),
    )
    write_sweep(shop.out, record)
    return record


def rates(plan: Plan, record: SweepRecord) -> dict[str, float]:
    """The chosen learning rates by label; a method of which no student could be scored has none."""
    chosen = {trial.address: trial.lr for trial in record.trials if trial.chosen}
    return {cell.entrant.label: chosen[cell.folder] for cell in plan.grid if cell.folder in chosen}


def hopeless(plan: Plan, record: SweepRecord) -> dict[str, str]:
    """Reasons, by folder, of the students of methods that have no learning rate."""
    swept, chosen = _by_label(plan.grid), rates(plan, record)
    reasons = {who: _reasons(record, cells[0].entrant) for who, cells in swept.items() if who not in chosen}
    return {t.folder: reasons[t.entrant.label] for t in plan.trainings if t.entrant.label in reasons}


def _reasons(record: SweepRecord, who: Entrant) -> str:
    trials = record.trials_of(who.name, who.variant)
    return "no learning rate gave a student: " + "; ".join(f"{trial.lr:g}: {trial.error}" for trial in trials)


def _by_label(grid: Iterable[Cell]) -> dict[str, list[Cell]]:
    groups: dict[str, list[Cell]] = {}
    for cell in grid:
        groups.setdefault(cell.entrant.label, []).append(cell)
    return groups


def _known_trials(shop: Workshop, metric: Metric) -> dict[str, Trial]:
    """Trials of an earlier call by address; those that failed, too, as the same student would fail again."""
    record = read_sweep(shop.out)
    if record is None or record.metric != metric.name:
        return {}
    return {trial.address: trial for trial in record.trials}


def _tried(cells: Sequence[Cell], metric: Metric, plan: Plan, shop: Workshop) -> Mapping[str, Trial]:
    source = validation_source(plan.config)
    toys = shop.prepare(source)
    truth = shop.truth(source, toys)
    _check_metric(metric, truth)
    failed = shop.train([cell.training for cell in cells if cell.training], "try learning rates")
    good = [cell for cell in cells if cell.training and cell.training.folder not in failed]
    shop.generate(good, toys)
    scores = {cell.folder: _score(cell, metric, truth, shop) for cell in good}
    return {cell.folder: _trial(cell, scores.get(cell.folder), failed) for cell in cells}


def _check_metric(metric: Metric, truth: Truth) -> None:
    if metric.score(truth.shapes, Comparison(truth.shapes, truth.embedding, None)) is None:
        raise UsageError(
            f"sweep.metric '{metric.name}' compares with the teacher's shapes, which a sweep does not make. "
            f"Choose another, for example FD_tiny2d."
        )


def _score(cell: Cell, metric: Metric, truth: Truth, shop: Workshop) -> float | None:
    """None when no shape could be made or the score is not finite."""
    shapes = shop.generated(cell, len(truth.shapes.ok)).shapes
    score = metric.score(shapes, Comparison(truth.shapes, truth.embedding, None)) if shapes.ok.any() else None
    return score.value if score is not None and math.isfinite(score.value) else None


def _trial(cell: Cell, score: float | None, failed: Mapping[str, str]) -> Trial:
    who, training = cell.entrant, cell.training
    error = failed.get(training.folder if training else "", "no shape could be made or the score is not finite")
    return Trial(
        method=who.name,
        variant=who.variant,
        lr=who.distillation.lr,
        score=score,
        error=error if score is None else None,
        address=cell.folder,
    )
