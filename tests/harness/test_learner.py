"""The optimiser step: schedule, moving average, skipped steps, and a state that goes on bit for bit."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from mdtbench.harness.learner import Learner, Recipe, blend

X = torch.linspace(-1, 1, 12).reshape(4, 3)


def learner(steps: int = 6, **recipe: float) -> Learner:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))
    module[0].bias.requires_grad_(False)
    return Learner(module, Recipe(steps, lr=1e-2, **recipe))


def train(made: Learner, steps: int) -> None:
    for _ in range(steps):
        made.step((made.module(X) - made.done).square().mean())


def test_the_rate_rises_linearly_then_falls_along_a_cosine():
    recipe = Recipe(steps=104, lr=2.0, warmup=4)
    assert [recipe.rate(i) for i in range(4)] == [0.5, 1.0, 1.5, 2.0]
    assert recipe.rate(4) == 2.0
    assert recipe.rate(54) == pytest.approx(1.0)  # half way: cos(pi/2) = 0
    assert recipe.rate(29) == pytest.approx(1 + math.sqrt(0.5))  # a quarter: cos(pi/4)
    assert recipe.rate(104) == pytest.approx(0.0, abs=1e-15)
    assert Recipe(steps=3, lr=1.0, warmup=0).rate(0) == 1.0
    assert Recipe(steps=2, lr=1.0, warmup=2).rate(1) == 1.0  # warm-up as long as training


def test_a_step_uses_the_rate_of_its_index():
    made = learner(warmup=2)
    train(made, 1)
    assert made.optimiser.param_groups[0]["lr"] == made.recipe.rate(0) == 5e-3
    train(made, 1)
    assert made.optimiser.param_groups[0]["lr"] == made.recipe.rate(1) == 1e-2


def test_blend_is_decay_times_old_plus_the_rest_times_new():
    average, values = {"a": torch.tensor([1.0, 4.0])}, {"a": torch.tensor([3.0, 0.0])}
    blend(average, values, 0.75)
    assert average["a"].tolist() == [1.5, 3.0]


def test_the_average_follows_the_weights_and_settles_into_the_module():
    made = learner(ema=0.5)
    before = {name: p.detach().clone() for name, p in made.parameters.items()}
    train(made, 1)
    for name, parameter in made.parameters.items():
        assert not torch.equal(parameter, before[name])
        # one rounding of a float32 of size 1
        torch.testing.assert_close(made.average[name], (before[name] + parameter) / 2, atol=1e-7, rtol=0)
    module = made.settle()
    assert not module.training
    assert all(torch.equal(parameter, made.average[name]) for name, parameter in made.parameters.items())


def test_frozen_parameters_are_not_learnt():
    made = learner()
    assert set(made.parameters) == {"0.weight", "2.weight", "2.bias"}


def test_the_gradient_is_clipped_to_the_norm():
    module = nn.Linear(1, 1, bias=False)
    made = Learner(module, Recipe(1, lr=1e-2, clip=0.5))
    assert made.step(100 * module.weight.sum()) == pytest.approx(100.0)  # the norm before clipping is reported
    assert module.weight.grad is not None
    assert module.weight.grad.item() == pytest.approx(0.5, rel=1e-4)  # torch adds 1e-6 to the norm


@pytest.mark.parametrize("broken", ["loss", "gradient"])
def test_a_step_that_is_not_finite_changes_nothing_and_is_counted(broken: str):
    made = learner()
    train(made, 1)
    kept = {key: value.clone() for key, value in made.state().items()}
    # d sqrt(u)/du is infinite at 0, and 0 * inf is NaN, while the loss itself is 0
    loss = made.module(X).mean() * math.nan if broken == "loss" else (0 * made.module(X)).sqrt().mean()
    assert math.isfinite(loss.item()) == (broken == "gradient")
    made.step(loss)
    assert (made.done, made.skipped, made.skipped_in_a_row) == (2, 1, 1)
    after = made.state()
    assert all(torch.equal(after[key], kept[key]) for key in kept if "done" not in key and "skipped" not in key)
    train(made, 1)  # and training goes on
    assert (made.done, made.skipped, made.skipped_in_a_row) == (3, 1, 0)
    assert all(torch.isfinite(p).all() for p in made.parameters.values())


def test_a_restored_learner_goes_on_bit_for_bit():
    whole, first = learner(weight_decay=0.1), learner(weight_decay=0.1)
    train(whole, 5)
    train(first, 2)
    state = {key: value.clone() for key, value in first.state().items()}
    assert {"adam.exp_avg/2.bias", "adam.exp_avg_sq/2.bias", "adam.step/2.bias"} <= set(state)
    second = learner(weight_decay=0.1)
    train(second, 1)  # what it had before must not matter
    second.restore(state)
    assert second.done == 2
    train(second, 3)
    expected, found = whole.state(), second.state()
    assert set(found) == set(expected)
    assert all(torch.equal(found[key], expected[key]) for key in expected)
