"""What `--dry-run` prints: the cells of a plan and an estimate of their cost."""

from __future__ import annotations

from collections.abc import Iterable

from .device import is_cpu
from .plan import AssetCell, Cell, Plan, Training

# Seconds of one core, from the phases of one run of preset `tiny` on two 2.5 GHz server cores (660 s of training for
# 200 steps, 680 s of generation for 5,760 shapes). Only the estimates of `--dry-run` use them.
FORWARD_S = 0.0026  # network forward pass of one sample in a training batch
SAMPLE_S = 0.007  # network forward pass of one asset alone
ASSET_S = 0.083  # decoding, pictures, points and features of one structure
SLAT_FORWARD_S = 0.014  # forward pass of the second stage for one sample in a training batch
WHOLE_ASSET_S = 0.5  # decoders, pictures, points and features of one whole asset


def plan_summary(plan: Plan, workers: int) -> str:
    config, n_test = plan.config, _n_test(plan)
    grid = [cell.training for cell in plan.grid if cell.training]
    students = {training.folder: training for training in (*plan.trainings, *grid)}.values()
    train_s = sum(_train_seconds(training, config.train.batch, FORWARD_S) for training in students)
    generate_s = _generate_seconds(plan.cells, n_test) + _generate_seconds(plan.grid, config.sweep.assets)
    if plan.second:
        train_s += sum(_train_seconds(t, plan.second.train.batch, SLAT_FORWARD_S) for t in plan.second.trainings)
        n_whole = min(n_test, config.evaluate.whole or n_test)
        generate_s += sum(n_whole * (_passes(cell) * SAMPLE_S + WHOLE_ASSET_S) for cell in plan.second.cells)
    passes = sum(_passes(cell) for cell in plan.cells)
    gpu = "" if is_cpu(plan.device) else f" of a CPU: no time of {plan.device} is known"
    lines = [
        f"run {plan.run_id}: world {plan.world.name} on {plan.device}, test source {plan.test.name}, {n_test} assets",
        "",
        "students to train (training seeds x methods):",
        *(f"  {t.entrant.label:13} seed {t.seed}  {t.steps} steps  {t.folder}" for t in plan.all_trainings),
        *_provisos(plan),
        "",
        f"cells to generate: {len(plan.cells)} (methods x steps {list(config.evaluate.steps)} x samplers x generation "
        f"seeds {list(config.evaluate.seeds)}), {passes} sampler passes per asset in all",
        *_whole_assets(plan),
        "",
        f"estimate: {train_s / workers / 60:.1f} min training + {generate_s / workers / 60:.1f} min generation and "
        f"features, with {workers} process(es){gpu}",
    ]
    return "\n".join(lines) + "\n"


def _whole_assets(plan: Plan) -> list[str]:
    if plan.second is None:
        return []
    apart = list(plan.config.evaluate.apart)
    alone = f", of generation seeds {apart} also with one stage left to the teacher" if apart else ""
    count = plan.config.evaluate.whole
    first = f" of the first {count} assets" if count else ""
    return [f"whole assets to assemble: {len(plan.second.cells)} cells{first}{alone}"]


def _provisos(plan: Plan) -> list[str]:
    """What the run itself will find out."""
    lines = []
    if plan.config.train.budget == "seconds":
        lines.append("  budget seconds: steps are set when the run has timed them; shown are those of equal forwards")
    if plan.grid:
        section = plan.config.sweep
        lines.append(
            f"  sweep: {len(plan.grid)} students at learning rates {list(section.lr)}, scored with {section.metric} on "
            f"{section.assets} validation toys; the chosen rates are those of the students above"
        )
    return lines


def _n_test(plan: Plan) -> int:
    n = len(plan.test.assets())
    return n if plan.limit is None else min(n, plan.limit)


def _train_seconds(training: Training, batch: int, forward_s: float) -> float:
    return training.entrant.distillation.cost() * forward_s * batch * training.steps


def _generate_seconds(cells: Iterable[Cell], n_assets: int) -> float:
    return sum(n_assets * (_passes(cell) * SAMPLE_S + ASSET_S) for cell in cells)


def _passes(cell: Cell | AssetCell) -> int:
    return sum(2 if strength else 1 for strength in cell.sampler.computation().strengths)
