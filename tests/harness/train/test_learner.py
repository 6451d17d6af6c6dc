"""The optimiser step: schedule, moving average, skipped steps, and a state that goes on bit for bit."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from mdtbench.harness.train import learner as learner_module
from mdtbench.harness.train.learner import FIRST_SCALE, AdaptiveGradClipper, Learner, LossScale, Recipe, blend

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
    assert [recipe.schedule(i) for i in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert recipe.schedule(4) == 1.0
    assert recipe.schedule(54) == pytest.approx(0.5)  # half way: cos(pi/2) = 0
    assert recipe.schedule(29) == pytest.approx(0.5 + math.sqrt(0.125))  # a quarter: cos(pi/4)
    assert recipe.schedule(104) == pytest.approx(0.0, abs=1e-15)
    assert Recipe(steps=3, lr=1.0, warmup=0).schedule(0) == 1.0
    constant = Recipe(steps=104, lr=2.0, warmup=4, constant=True)
    assert [constant.schedule(index) for index in (0, 3, 4, 50, 103)] == [0.25, 1.0, 1.0, 1.0, 1.0]
    assert Recipe(steps=2, lr=1.0, warmup=2).schedule(1) == 1.0  # warm-up as long as training


def test_a_step_uses_the_rate_of_its_index():
    made = learner(warmup=2)
    train(made, 1)
    [(adamw, _)] = made.optimisers
    assert adamw.param_groups[0]["lr"] == made.recipe.lr * made.recipe.schedule(0) == 5e-3
    train(made, 1)
    assert adamw.param_groups[0]["lr"] == made.recipe.lr * made.recipe.schedule(1) == 1e-2


def test_updates_are_those_of_adamw():
    """Betas 0.9 and 0.99, epsilon 1e-8, decoupled weight decay; a second implementation, in float64."""
    module = nn.Linear(3, 2, bias=False, dtype=torch.float64)
    made = Learner(module, Recipe(8, lr=1e-2, warmup=2, clip=1e9, weight_decay=0.1))
    gradients = torch.randn(6, 2, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64).numpy()
    weight, first, second = module.weight.detach().numpy().copy(), np.zeros((2, 3)), np.zeros((2, 3))
    for index, gradient in enumerate(gradients):
        made.step((torch.from_numpy(gradient) * module.weight).sum())
        first, second = 0.9 * first + 0.1 * gradient, 0.99 * second + 0.01 * gradient**2
        step = first / (1 - 0.9 ** (index + 1)) / (np.sqrt(second / (1 - 0.99 ** (index + 1))) + 1e-8)
        weight -= 1e-2 * made.recipe.schedule(index) * (0.1 * weight + step)
        np.testing.assert_allclose(module.weight.detach().numpy(), weight, rtol=0, atol=1e-14)


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


def gradient(norm: float) -> list[nn.Parameter]:
    """Two parameters whose gradients have this norm together."""
    parameters = [nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(2))]
    parameters[0].grad = torch.tensor([0.6 * norm])
    parameters[1].grad = torch.tensor([0.0, -0.8 * norm])
    return parameters


def test_the_clipper_follows_the_percentile_of_recent_norms_from_a_full_buffer_on():
    clipper = AdaptiveGradClipper(max_norm=1.0, percentile=75, size=4)
    norms = [0.1, 5.0, 0.4, 0.2, 0.3, 0.05]
    limits = []
    for norm in norms:
        limits.append(clipper.limit)
        assert clipper(gradient(norm)) == pytest.approx(norm, rel=1e-6)  # the norm before, in float32
    # Not full before four norms; then percentiles, the oldest norm dropping out first, never above max_norm.
    expected = [1.0, 1.0, 1.0, 1.0, min(1.0, np.percentile(norms[:4], 75)), min(1.0, np.percentile(norms[1:5], 75))]
    assert limits == pytest.approx(expected, rel=1e-6)
    assert clipper.limit == pytest.approx(np.percentile(norms[2:6], 75), rel=1e-6)  # 5.0 is forgotten: below 1 now


def test_the_clipper_clips_at_its_limit_and_forgets_norms_that_are_not_finite():
    clipper = AdaptiveGradClipper(max_norm=1.0, percentile=50, size=2)
    for norm in (0.2, 0.4):
        clipper(gradient(norm))
    assert clipper.limit == pytest.approx(0.3, rel=1e-6)
    parameters = gradient(0.9)
    clipper(parameters)
    assert parameters[0].grad is not None
    assert parameters[0].grad.item() == pytest.approx(0.6 * 0.3, rel=1e-5)  # torch adds 1e-6 to the norm
    before = clipper.limit
    assert math.isnan(clipper(gradient(math.nan)))
    assert clipper.limit == before == pytest.approx(0.65, rel=1e-6)


def test_a_percentile_changes_nothing_before_the_buffer_is_full():
    plain, adaptive = learner(clip=0.01), learner(clip=0.01, clip_percentile=10)
    train(plain, 3)
    train(adaptive, 3)
    assert all(torch.equal(a, b) for a, b in zip(plain.module.parameters(), adaptive.module.parameters(), strict=True))


def test_several_averages_are_kept_beside_the_first():
    made = learner(ema=0.5, more_ema=(0.0, 0.9))
    before = {name: p.detach().clone() for name, p in made.parameters.items()}
    train(made, 1)
    for name, parameter in made.parameters.items():
        torch.testing.assert_close(made.more[0.0][name], parameter.detach(), atol=0, rtol=0)
        # one rounding of a float32 of size 1
        torch.testing.assert_close(made.more[0.9][name], 0.9 * before[name] + 0.1 * parameter, atol=1e-7, rtol=0)
        torch.testing.assert_close(made.average[name], (before[name] + parameter) / 2, atol=1e-7, rtol=0)


def test_gradients_of_parts_add_up_to_that_of_their_sum():
    whole, cut = learner(), learner()
    whole.step(whole.module(X).square().mean())
    cut.forget()
    for rows in (X[:1], X[1:]):
        cut.backward(cut.module(rows).square().mean() * (len(rows) / len(X)))
    cut.advance(finite_loss=True)
    for a, b in zip(whole.module.parameters(), cut.module.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=0)  # Adam's first step is lr = 1e-2 times a rounded sign


def test_a_scaled_loss_gives_the_same_updates():
    plain, scaled = learner(), learner(scale_loss=True)
    train(plain, 4)
    train(scaled, 4)
    # powers of two: not one bit differs
    assert all(torch.equal(a, b) for a, b in zip(plain.module.parameters(), scaled.module.parameters(), strict=True))
    assert scaled.scale is not None
    assert (scaled.scale.value, scaled.scale.streak) == (FIRST_SCALE, 4)


def test_the_loss_scale_halves_on_overflow_and_doubles_after_many_good_steps(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(learner_module, "GROW_AFTER", 3)
    scale, values = LossScale(), []
    for finite in (False, True, True, True, True, False):
        scale.update(finite)
        values.append(scale.value / FIRST_SCALE)
    assert values == [0.5, 0.5, 0.5, 1.0, 1.0, 0.5]
    for _ in range(40):
        scale.update(finite=False)
    assert scale.value == 1.0


def test_an_overflow_that_a_smaller_scale_may_mend_is_skipped_but_does_not_end_a_training():
    made = learner(scale_loss=True)
    made.forget()
    made.backward(made.module(X).mean() * 3e38 / FIRST_SCALE * 4)  # finite; times the scale it is not
    made.advance(finite_loss=True)
    assert (made.skipped, made.skipped_in_a_row) == (1, 0)
    made.step(made.module(X).mean() * math.nan)
    assert (made.skipped, made.skipped_in_a_row) == (2, 1)


@pytest.mark.parametrize("everything", [False, True])
def test_a_restored_learner_goes_on_bit_for_bit(everything: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(learner_module, "GROW_AFTER", 2)

    def made() -> Learner:
        if not everything:
            return learner(weight_decay=0.1)
        one = learner(more_ema=(0.5, 0.9), clip_percentile=50, scale_loss=True)
        one.clipper = AdaptiveGradClipper(100.0, 50, size=2)
        return one

    whole, first, second = made(), made(), made()
    train(whole, 6)
    train(first, 3)
    state = {key: value.clone() for key, value in first.state().items()}
    train(second, 1)  # what it had before must not matter
    second.restore(state)
    assert second.done == 3
    train(second, 3)
    expected, found = whole.state(), second.state()
    assert {f"optimiser.{key}/2.bias" for key in ("exp_avg", "exp_avg_sq", "step")} <= set(expected)
    assert set(found) == set(expected)
    assert [key for key in expected if not torch.equal(found[key], expected[key])] == []
    if everything:
        assert {"clip.norms", "clip.seen", "scale.value", "scale.streak", "average.0.5/2.bias"} <= set(expected)
        assert whole.scale is not None
        assert whole.scale.value == 8 * FIRST_SCALE  # it did grow
        assert whole.clipper.limit < 100  # and the percentile counts


def test_matrices_of_layers_can_have_an_optimiser_of_their_own():
    torch.manual_seed(0)
    module = nn.ModuleDict(
        {"blocks": nn.ModuleList([nn.ModuleDict({"mlp": nn.Linear(3, 3), "adaLN_modulation": nn.Linear(3, 3)})])}
    )
    made = Learner(module, Recipe(5, lr=1e-2, warmup=2, matrix_lr=4e-2))
    taken = {type(one).__name__: {id(p) for p in one.param_groups[0]["params"]} for one, _ in made.optimisers}
    assert taken["Muon"] == {id(made.parameters["blocks.0.mlp.weight"])}
    assert len(taken["AdamW"]) == 3
    made.step(sum(p.square().sum() for p in module.parameters()))  # type: ignore[arg-type]
    assert {one.param_groups[0]["lr"] for one, _ in made.optimisers} == {0.5e-2, 2e-2}
    assert "optimiser.momentum_buffer/blocks.0.mlp.weight" in made.state()
