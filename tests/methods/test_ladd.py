"""LADD: its gradients in closed form, who gets which and when, where it ends, and what its heads are told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from steps import (
    F64,
    Correction,
    Mlp,
    Tower,
    bind,
    dense,
    gaussian,
    gradient,
    make_step,
    method,
    networks_of,
    pulled_back,
    ragged,
    rand,
    randn,
    seeded,
    tap,
    times,
    with_networks,
    worst,
)
from torch import Tensor, nn

from mdtbench.flow.layout import Layout, SparseLayout
from mdtbench.flow.oracles import GaussianOracle
from mdtbench.flow.path import diffuse
from mdtbench.flow.samplers import Euler, Renoise
from mdtbench.flow.times import LogitNormal
from mdtbench.harness.train.taps import indices_of
from mdtbench.methods import STUDENT, Step, StoredPairs
from mdtbench.methods.ladd import HEADS, TEACHER, AdversarialDistillation, Heads
from mdtbench.methods.pcm import ShiftedUniform
from mdtbench.methods.reduction import PerVoxel

LAYOUTS = [dense(4, 3, 2), ragged((3, 5, 1), 2)]
Objective = Callable[[Tensor, Tensor], Tensor]


def ladd(**changes) -> AdversarialDistillation:
    made = method("ladd", **changes)
    assert isinstance(made, AdversarialDistillation)
    return made


def problem(layout: Layout, made: AdversarialDistillation, index: int = 0) -> tuple[nn.Module, dict, Step]:
    """Student, the networks beside it, and a step; no teacher's velocity may be asked for."""

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        raise AssertionError

    student, t = Mlp(2, 1), times(layout.batch_size, 4)
    step = make_step(layout, t, bind(student, layout), velocity, index=index)
    networks = networks_of(made, step)
    with torch.no_grad():
        for weight in networks[HEADS].parameters():
            weight.mul_(3)  # scores on both sides of the margins
    return student, networks, with_networks(made, step, networks)


def scores(networks: dict, x: Tensor, t: Tensor, layout: Layout) -> list[Tensor]:
    """Of every token behind all three blocks, written out."""
    heads, found = networks[HEADS], []
    for i, h in enumerate(networks[TEACHER](x, layout.expand(t))):
        normed = (h - h.mean(-1, keepdim=True)) / (h.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
        inner = heads.hidden[i](normed) + layout.expand(t) * heads.time[i].weight[:, 0]
        found.append(heads.score[i](torch.where(inner > 0, inner, 0.2 * inner)))
    return found


def mean(values: list[Tensor], layout: Layout) -> Tensor:
    """Over tokens, then samples, then taps."""
    if isinstance(layout, SparseLayout):
        layout = replace(layout, channels=1)
    return sum(((layout.sum(one) / layout.count(one)).mean() for one in values), torch.zeros(())) / len(values)


def draws(step: Step, jumps: int = 1) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The student's input and its time, then the noise of datum and sample, as a step of seed 0 draws them."""
    generator, layout = seeded(1), step.layout
    x, start = layout.randn([generator]), torch.ones_like(step.t)
    if jumps > 1:
        u = torch.rand(step.t.shape, generator=generator, dtype=F64)
        start = 1 - (u * jumps).floor() / jumps
        x = torch.where(layout.expand(start) == 1, x, diffuse(step.x_0, x, start, layout))
    return x, start, layout.randn([generator]), layout.randn([generator])


OF_HEADS: dict[str, Objective] = {
    "hinge": lambda real, fake: (1 - real).clamp(min=0) + (1 + fake).clamp(min=0),
    "logistic": lambda real, fake: -torch.sigmoid(real).log() - torch.sigmoid(-fake).log(),
}
OF_STUDENT: dict[str, Callable[[Tensor], Tensor]] = {
    "hinge": lambda fake: -fake,
    "logistic": lambda fake: -torch.sigmoid(fake).log(),
}


def objective(name: str) -> dict:
    field = AdversarialDistillation.__dataclass_fields__["objective"]
    return {"objective": field.metadata["choices"][name]}


@pytest.mark.parametrize("layout", LAYOUTS, ids=["dense", "sparse"])
@pytest.mark.parametrize("jumps", [1, 2, 4])
@pytest.mark.parametrize("name", OF_STUDENT)
def test_the_student_is_pushed_to_where_the_heads_score_higher(name: str, jumps: int, layout: Layout):
    made = ladd(jumps=jumps, **objective(name))
    student, networks, step = problem(layout, made)
    got = gradient(made.loss(step).value, student)
    x, start, _, noise = draws(step, jumps)
    phi = step.student(x, start)
    x_t = diffuse(x - layout.expand(start) * phi, noise, step.t, layout).detach().requires_grad_()
    value = mean([OF_STUDENT[name](one) for one in scores(networks, x_t, step.t, layout)], layout)
    [push] = torch.autograd.grad(value, x_t)
    expected = pulled_back(phi, -layout.expand(start * (1 - step.t)) * push, student)
    assert worst(got, expected) < 1e-10 * got.abs().max()


@pytest.mark.parametrize(("label", "shares"), [("ladd:paper", (0.1, 0.1, 0.1, 0.7)), ("ladd:two", (0.5, 0.5))])
def test_how_many_samples_begin_at_noise(label: str, shares: tuple[float, ...]):
    made, layout, seen = method(label), dense(20_000, 2), []
    step = make_step(layout, times(20_000, 1), lambda x, t: seen.append(t) or x, lambda x, t: x)
    made.loss(with_networks(made, step))
    begun, counts = seen[0].unique(return_counts=True)
    assert worst(begun, (torch.arange(len(shares)) + 1) / len(shares)) < 1e-12
    assert worst(counts / 20_000, torch.tensor(shares)) < 0.02


@pytest.mark.parametrize("layout", LAYOUTS, ids=["dense", "sparse"])
@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("name", OF_HEADS)
def test_the_heads_learn_to_tell_samples_from_data_in_all_steps(name: str, index: int, layout: Layout):
    made = ladd(**objective(name))
    _, networks, step = problem(layout, made, index)
    got = gradient(made.loss(step).value, networks[HEADS])
    x, start, of_datum, of_sample = draws(step)
    sample = (x - step.student(x, start)).detach()
    real, fake = (
        scores(networks, diffuse(one, noise, step.t, layout), step.t, layout)
        for one, noise in ((step.x_0, of_datum), (sample, of_sample))
    )
    terms = [OF_HEADS[name](*pair) for pair in zip(real, fake, strict=True)]
    if name == "hinge":  # both sides of both margins
        assert sum((one > 1).sum() + (other < -1).sum() for one, other in zip(real, fake, strict=True)) > 0
        assert all((term > 0).any() for term in terms)
    expected = gradient(mean(terms, layout), networks[HEADS])
    assert worst(got, expected) < 1e-10 * got.abs().max()


@pytest.mark.parametrize("layout", LAYOUTS, ids=["dense", "sparse"])
def test_who_learns_when(layout: Layout):
    """The student in every `period`-th step, the heads in all and the same, the teacher in none."""
    made = ladd(period=2)
    of_heads = []
    for index in range(4):
        student, networks, step = problem(layout, made, index)
        loss = made.loss(step)
        loss.value.backward()
        moved = index % 2 == 0
        assert made.updates(STUDENT, index) == moved
        assert made.updates(HEADS, index)
        assert all((p.grad is not None and bool(p.grad.abs().max() > 0)) == moved for p in student.parameters())
        assert all(p.grad is None for p in networks[TEACHER].parameters())
        of_heads.append(torch.cat([p.grad.flatten() for p in networks[HEADS].parameters()]))
        assert not any(value.requires_grad for value in loss.diagnostics.values())
    assert of_heads[0].abs().max() > 0
    assert all(worst(one, of_heads[0]) < 1e-12 for one in of_heads)


def test_the_value_is_the_sum_of_both_terms():
    made, layout = ladd(), LAYOUTS[0]
    _, networks, step = problem(layout, made)
    x, start, of_datum, of_sample = draws(step)
    real = scores(networks, diffuse(step.x_0, of_datum, step.t, layout), step.t, layout)
    sample = x - step.student(x, start)
    fake = scores(networks, diffuse(sample, of_sample, step.t, layout), step.t, layout)
    loss = made.loss(step)
    learned = mean([OF_HEADS["hinge"](*pair) for pair in zip(real, fake, strict=True)], layout)
    assert worst(loss.value, learned - mean(fake, layout)) < 1e-12
    assert worst(loss.diagnostics["score_real"], mean(real, layout)) < 1e-12
    assert worst(loss.diagnostics["score_fake"], mean(fake, layout)) < 1e-12


def test_per_voxel_reduction_weighs_samples_by_their_tokens():
    made, layout = ladd(reduction=PerVoxel()), ragged((2, 7), 2)
    _, networks, step = problem(layout, made, index=1)
    x, start, of_datum, of_sample = draws(step)
    sample = (x - step.student(x, start)).detach()
    real = scores(networks, diffuse(step.x_0, of_datum, step.t, layout), step.t, layout)
    fake = scores(networks, diffuse(sample, of_sample, step.t, layout), step.t, layout)
    expected = torch.stack([OF_HEADS["hinge"](*pair).mean() for pair in zip(real, fake, strict=True)]).mean()
    assert worst(made.loss(step).value, expected) < 1e-12


def test_a_tap_has_a_head_of_its_own_whatever_the_depth():
    for depth, taps, blocks in ((1, 4, (0,)), (3, 4, (0, 1, 2)), (4, 4, (0, 1, 2, 3)), (24, 4, (5, 11, 17, 23))):
        tower, networks = Tower(2, 1, depth), ladd(taps=taps, width=5).networks()
        assert indices_of(tower, networks[TEACHER].taps) == blocks
        assert networks[HEADS].head is not None
        heads = networks[HEADS].head(tower)
        assert isinstance(heads, Heads)
        assert [(one.in_features, one.out_features) for one in heads.hidden] == [(8, 5)] * len(blocks)  # type: ignore[attr-defined]
        found = heads.double()(tap(tower, dense(3, 2), taps)(randn(3, 2, seed=1), rand(3, seed=2)), rand(3, seed=2))
        assert [one.shape for one in found] == [(3, 1)] * len(blocks)


def test_rates():
    made = ladd(head_rate=7.0)
    assert made.networks()[HEADS].rate == 7
    assert made.networks()[TEACHER].rate == 0
    assert made.times == LogitNormal(0.0, 1.0)
    assert method("ladd:paper").times == LogitNormal(1.0, 1.0)
    assert method("ladd:fastgen").times == ShiftedUniform(5.0)


@pytest.mark.parametrize(
    ("label", "wrong", "told"),
    [
        ("ladd", {"taps": 0}, r"taps must be at least 1 \(got 0\)"),
        ("ladd", {"first": 1.0}, r"from 0 to below 1 \(got 1.0\)"),
        ("ladd", {"first": -0.1}, r"from 0 to below 1 \(got -0.1\)"),
        ("dmd2", {"taps": 0}, r"taps must be at least 1 \(got 0\): set gan = 0"),
    ],
)
def test_what_cannot_be_is_refused(label: str, wrong: dict, told: str):
    with pytest.raises(ValueError, match=told):
        method(label, **wrong)


def test_the_heads_of_exact_samples_learn_nothing():
    """In expectation: samples and data have one law. Of another one they do."""
    oracle, count = gaussian(2, 1), 40_000
    layout, made = dense(count, 2), ladd()
    data = replace(make_step(layout, rand(count, seed=2), oracle.student, oracle.velocity, index=1))
    root = torch.linalg.cholesky(oracle.cov)
    data = replace(data, x_0=oracle.mean + randn(count, 2, seed=5) @ root.T)
    networks = networks_of(made, data)
    exact = with_networks(made, data, networks)
    shifted = replace(exact, student=lambda x, t: oracle.student(x, t) + 0.5)
    with torch.no_grad():
        networks[HEADS].score[0].bias.zero_()  # type: ignore[index]
        for one in networks[HEADS].score:  # type: ignore[union-attr]
            one.weight.mul_(0.1)  # below the margins, where the hinge is linear in the scores
            one.bias.zero_()
    there = gradient(made.loss(exact).value, networks[HEADS]).norm()
    away = gradient(made.loss(replace(shifted, generator=seeded(1))).value, networks[HEADS]).norm()
    assert there < 0.05 * away


def test_heads_and_student_together_lead_to_the_data():
    """A student that only shifts its noise ends at the mean of the data, which nothing but the heads knows."""
    mean, made, count = torch.tensor([1.5, -1.0], dtype=F64), ladd(period=2, width=64), 256
    data = GaussianOracle(mean, torch.eye(2, dtype=F64))
    student, layout = Correction(2), dense(count, 2)
    networks = networks_of(made, make_step(layout, rand(count, seed=1), data.velocity, data.velocity))
    optimisers = [
        torch.optim.Adam(network.parameters(), lr=rate, betas=(0.0, 0.99))
        for network, rate in ((student, 0.02), (networks[HEADS], 0.01))
    ]
    far = mean.norm()
    for index in range(400):
        shift = student.around(lambda x, t: 0 * x)
        step = make_step(layout, 0.5 * rand(count, seed=index), shift, data.velocity, seed=2 * index, index=index)
        step = replace(step, x_0=mean + randn(count, 2, seed=10_000 + index))
        for optimiser in optimisers:
            optimiser.zero_grad()
        made.loss(with_networks(made, step, networks)).value.backward()
        for optimiser in optimisers:
            optimiser.step()
    noise = randn(4000, 2, seed=3)
    ended = (noise - student.around(lambda x, t: 0 * x)(noise, torch.ones(4000, dtype=F64))).mean(0)
    assert (ended - mean).norm() < 0.15 * far


@pytest.mark.parametrize("label", ["ladd", "ladd:two", "ladd:four", "ladd:paper", "ladd:fastgen"])
def test_passes_are_those_of_a_whole_cycle(label: str):
    made, layout, spent = method(label), dense(2, 2), []

    def counting(network: Callable) -> Callable:
        def call(x: Tensor, t: Tensor):
            spent.append(3 if torch.is_grad_enabled() else 1)
            return network(x, t)

        return call

    student = counting(bind(Mlp(2, 1), layout))
    for index in range(made.student_period()):
        step = make_step(layout, times(2, 1), student, lambda x, t: x, index=index)
        full = with_networks(made, step)
        made.loss(replace(full, networks={**full.networks, TEACHER: counting(full.networks[TEACHER])}))
    assert made.cost() == pytest.approx(sum(spent) / made.student_period())
    assert replace(made, period=5).cost() == 3.8  # type: ignore[call-arg]


def test_samples_of_the_guided_teacher_may_stand_for_data():
    made = ladd(pairs=64, epochs=3, teacher_steps=8, cfg_strength=2.0, cfg_interval=(0.5, 1.0), rescale_t=3.0)
    assert made.stored_pairs() == StoredPairs(64, 3, Euler(8, 3.0, 2.0, (0.5, 1.0)), watched=False)
    assert ladd().stored_pairs() is None
    assert made.cost() == ladd().cost()


def test_it_is_sampled_as_it_was_trained():
    assert ladd(rescale_t=3.0).sampler(1) == Renoise(1, 3.0, 1)
    assert "trained for 1: out of its design" in ladd().sampler(2).note()
    assert method("ladd:four").sampler(4).note() == ""
