"""`mdtbench bench memory`: it counts what torch takes, and the preset's training steps fit a GPU."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
import torch
from plans import planned

from mdtbench.harness.bench.full_size import SMALL
from mdtbench.harness.bench.memory import Need, memory_json, memory_text, step_need, without_numbers
from mdtbench.harness.protocol.values import Stage
from mdtbench.harness.settings.config import Train
from mdtbench.methods import Distillation, Loss, Step
from mdtbench.methods.cm import ConsistencyDistillation
from mdtbench.methods.mdt import VelocityMatchingDistillation
from mdtbench.trellis import create

TRAIN = Train(steps=2, batch=16, warmup=0, precision="float16")
CM = ConsistencyDistillation(cfg_strength=5.0)
MB = 1e6


def peak(run: Callable[[], object]) -> float:
    with without_numbers() as alive:
        run()
        return alive.peak


def test_storages_count_once_and_until_they_are_gone():
    def run() -> None:
        x = torch.zeros(1000, 250)  # 1 MB
        y = x.T.reshape(-1)  # a copy
        assert x.view(-1).shape == y.shape
        del x, y
        torch.zeros(300, 1000)

    assert peak(run) == 2 * MB
    assert peak(lambda: torch.zeros(300, 1000)) == 1.2 * MB


def test_what_autograd_saves_is_alive_until_the_backward_pass():
    with without_numbers() as alive:
        x = torch.zeros(1000, 250, requires_grad=True)
        out = x.exp().exp().sum()  # both exponentials are saved
        assert alive.now == 3 * MB + 4
        out.backward()
        assert alive.now == 2 * MB + 4  # x and its gradient
        del out, x
        assert alive.now == 0


def need(stage: Stage, method: Distillation, **changes: object) -> Need:
    return step_need(stage, "mine", method, TRAIN.model_copy(update=changes), SMALL)


@pytest.mark.parametrize("stage", ["structure", pytest.param("slat", marks=pytest.mark.slow)])
def test_more_samples_take_more_and_recomputed_blocks_less(stage: Stage):
    few, many = need(stage, CM, batch=2), need(stage, CM)
    assert (few.samples, many.samples) == (2, 16)
    assert few.kept == many.kept
    assert 1.2 * few.step < many.step
    assert need(stage, CM, checkpoint_blocks=True).step < 0.9 * many.step


def test_averages_and_sums_of_parts_are_counted():
    plain, averages, parts = (
        need("structure", CM, **{"batch": 2, **c}) for c in ({}, {"more_ema": (0.0,)}, {"batch": 8, "parts": 4})
    )
    weights = 4 * sum(p.numel() for p in create(*SMALL.networks["structure flow"]).parameters())
    assert averages.kept - plain.kept == weights
    condition = 2 * SMALL.tokens * 256 * 4
    assert parts.step - plain.step == 2 * weights + 3 * condition  # of 3 parts before the last: (0 + 1), 2


def test_each_student_more_keeps_what_is_its_own():
    """Weights, two averages, two moments (the target of `cm` is the student); the teacher is there once."""
    weights = 4 * sum(p.numel() for p in create(*SMALL.networks["structure flow"]).parameters())
    assert need("structure", CM, more_ema=(0.0,)).student == pytest.approx(5 * weights, rel=0.01)


def test_graphs_of_the_two_terms_of_mdt_are_not_alive_together():
    @dataclass(frozen=True, kw_only=True)
    class AtOnce(VelocityMatchingDistillation):
        def losses(self, step: Step) -> Iterator[Loss]:
            first, second = VelocityMatchingDistillation.losses(self, step)
            yield Loss(first.value + second.value)

    one, both = (need("structure", make(cfg_strength=5.0)).step for make in (VelocityMatchingDistillation, AtOnce))
    assert 1.2 * one < both


def test_the_table_says_what_fits():
    found = [Need("structure", "cm", 8, True, 15e9, 19e9, 11e9), Need("slat", "mdt", 8, False, 16e9, 52.1e9, 11e9)]
    lines = memory_text(found, [("A800", 80.0)]).splitlines()
    assert lines[1].split() == ["cm", "structure", "8", "yes", "15.0", "19.0", "34.0", "11.0", "4", "at", "once"]
    assert lines[2].split()[-4:] == ["68.1", "11.0", "too", "large"]
    assert json.loads(memory_json(found))["needs"][1]["step"] == 52.1e9


@pytest.mark.slow
@pytest.mark.parametrize("label", ["cm", "mdt:official"])
@pytest.mark.parametrize("stage", ["structure", "slat"])
def test_steps_of_the_preset_fit_its_gpus(stage: Stage, label: str):
    """At full size, on shapes alone: no GPU, and no memory either."""
    plan = planned(preset="paper", methods=(label,))
    [line] = [line for line in plan.lines if line.label == label and line.steps == 1]
    train = plan.config.stage(stage).model_copy(update={"more_ema": (0.0,)})
    found = step_need(stage, label, line.who[stage].distillation, train)
    limits = [machine.memory_gb for machine in plan.config.estimate.machine]
    assert limits == [80, 80]
    assert found.peak > 20e9
    assert found.at_once(80) >= train.lockstep > 1
