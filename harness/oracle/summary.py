"""What `--dry-run` prints for an oracle run."""

from __future__ import annotations

from ...base.text import counted
from .plan import OraclePlan

# Seconds of one core per forward pass of a training step of preset `oracle`, mostly the cost of calls.
PASS_S = 0.0016


def oracle_summary(plan: OraclePlan, workers: int) -> str:
    """The students of a plan and an estimate of their cost."""
    config, trainings = plan.config, plan.trainings
    seconds = sum(training.entrant.distillation.cost() * PASS_S * training.steps for training in trainings)
    lines = [
        f"run {plan.run_id}: problems {', '.join(config.oracle.problems)}",
        "",
        f"{counted(len(trainings), 'student')} to train:",
        *(f"  {t.entrant.label:13} seed {t.seed}  {t.steps} steps  {t.folder}" for t in trainings),
        "",
        f"measured at steps {list(config.evaluate.steps)}, {config.evaluate.samples} points of noise per problem",
        f"estimate: {seconds / workers / 60:.1f} min, with {counted(workers, 'process', 'processes')}",
    ]
    return "\n".join(lines) + "\n"
