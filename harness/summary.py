"""What `--dry-run` prints: the cells of a plan and an estimate of their cost."""

from __future__ import annotations

from ..flow.samplers import Euler
from ..methods import Distillation, Method
from .config import Config
from .plan import Cell, Plan

# Seconds of one core, from the phases of one run of preset `tiny` on two 2.5 GHz server cores (660 s of training for
# 200 steps, 680 s of generation for 5,760 shapes). Only the estimates of `--dry-run` use them.
FORWARD_S = 0.0026  # network forward pass of one sample in a training batch
SAMPLE_S = 0.007  # network forward pass of one asset alone
ASSET_S = 0.083  # decoding, pictures, points and features of one asset


def plan_summary(plan: Plan, workers: int) -> str:
    config, n_test = plan.config, _n_test(plan)
    train_s = sum(_train_seconds(training.entrant.method, config) for training in plan.trainings)
    passes = sum(_passes(cell) for cell in plan.cells)
    generate_s = n_test * (passes * SAMPLE_S + len(plan.cells) * ASSET_S)
    lines = [
        f"run {plan.run_id}: world {plan.world.name}, test source {plan.test.name}, {n_test} assets",
        "",
        "students to train (training seeds x methods):",
        *(f"  {t.entrant.label:10} seed {t.seed}  {config.train.steps} steps  {t.folder}" for t in plan.trainings),
        "",
        f"cells to generate: {len(plan.cells)} (methods x steps {list(config.evaluate.steps)} x generation seeds "
        f"{list(config.evaluate.seeds)}), {passes} sampler passes per asset in all",
        "",
        f"estimate: {train_s / workers / 60:.1f} min training + {generate_s / workers / 60:.1f} min generation and "
        f"features, with {workers} process(es)",
    ]
    return "\n".join(lines) + "\n"


def _n_test(plan: Plan) -> int:
    n = len(plan.test.assets())
    return n if plan.limit is None else min(n, plan.limit)


def _train_seconds(method: Method, config: Config) -> float:
    samples = config.train.batch * config.train.steps
    return method.cost() * FORWARD_S * samples if isinstance(method, Distillation) else 0


def _passes(cell: Cell) -> int:
    guided = isinstance(cell.sampler, Euler) and cell.sampler.cfg_strength != 0
    return cell.steps * (2 if guided else 1)
