"""DMD2: its push in closed form, where it ends and which way it leads, and who gets which gradient when."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from steps import (
    F64,
    T_MIN,
    Correction,
    Mlp,
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
    times,
    with_networks,
    worst,
)
from torch import Tensor, nn

from mdtbench.flow.layout import Layout
from mdtbench.flow.oracles import GaussianOracle
from mdtbench.flow.path import diffuse
from mdtbench.flow.samplers import Renoise
from mdtbench.methods import STUDENT, Step
from mdtbench.methods.dmd2 import CRITIC, DistributionMatching
from mdtbench.methods.ladd import HEADS, TEACHER, Logistic, contest

SIGMA_MIN = 1e-5
LAYOUTS = [dense(4, 3, 2), ragged((3, 5, 1), 2)]


def dmd2(**changes) -> DistributionMatching:
    made = method("dmd2", **changes)
    assert isinstance(made, DistributionMatching)
    return made


def problem(layout: Layout, made: DistributionMatching, index: int = 0) -> tuple[nn.Module, nn.Module, Step]:
    """Student, critic and a step with a random teacher."""
    student, t = Mlp(2, 1), times(layout.batch_size, 4)
    step = make_step(layout, t, bind(student, layout), bind(Mlp(2, 2), layout), index=index)
    networks = networks_of(made, step)
    return student, networks[CRITIC], with_networks(made, step, networks)


def draws(step: Step, jumps: int = 1) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The student's input and its time, then t and noise of the diffused sample, as a step of seed 0 draws them."""
    generator, layout = seeded(1), step.layout
    x, start = layout.randn([generator]), torch.ones_like(step.t)
    if jumps > 1:
        u = torch.rand(step.t.shape, generator=generator, dtype=F64)
        start = 1 - (u * jumps).floor() / jumps
        x = torch.where(layout.expand(start) == 1, x, diffuse(step.x_0, x, start, layout))
    t = T_MIN + (1 - T_MIN) * torch.rand(step.t.shape, generator=generator, dtype=F64)
    return x, start, t, layout.randn([generator])


@pytest.mark.parametrize("layout", LAYOUTS, ids=["dense", "sparse"])
@pytest.mark.parametrize("jumps", [1, 2, 4])
def test_the_student_is_pushed_along_the_difference_of_the_scores(jumps: int, layout: Layout):
    made = dmd2(jumps=jumps)
    student, critic, step = problem(layout, made)
    got = gradient(made.loss(step).value, student)
    x, start, t, noise = draws(step, jumps)
    begin, time = layout.expand(start), layout.expand(t)
    phi = step.student(x, start)
    sample = (x - begin * phi).detach()
    x_t = (1 - time) * sample + (SIGMA_MIN + (1 - SIGMA_MIN) * time) * noise
    real, fake = (x_t - time * net(x_t, t) for net in (lambda x, t: step.teacher(x, t, 0.0), bind(critic, layout)))
    count = layout.expand(layout.count(x))
    scale = layout.expand(layout.sum((sample - real).abs())) / count
    push = ((fake - real) / (scale + 1e-6)).detach()
    expected = pulled_back(phi, -begin * push / count / layout.batch_size, student)
    assert worst(got, expected) < 1e-10 * got.abs().max()  # observed 1e-15


@pytest.mark.parametrize("layout", LAYOUTS, ids=["dense", "sparse"])
@pytest.mark.parametrize("index", [0, 1])
def test_the_critic_learns_the_velocity_of_the_student_s_samples(index: int, layout: Layout):
    made = dmd2()
    _, critic, step = problem(layout, made, index)
    got = gradient(made.loss(step).value, critic)
    x, start, t, noise = draws(step)
    sample = (x - step.student(x, start)).detach()
    time = layout.expand(t)
    x_t = (1 - time) * sample + (SIGMA_MIN + (1 - SIGMA_MIN) * time) * noise
    velocity = bind(critic, layout)(x_t, t)
    error = velocity - ((1 - SIGMA_MIN) * noise - sample)
    count = layout.expand(layout.count(x))
    expected = pulled_back(velocity, 2 * error / count / layout.batch_size, critic)
    assert worst(got, expected) < 1e-10 * got.abs().max()


def test_the_student_moves_in_every_second_step_and_the_critic_in_all():
    made, layout = dmd2(), LAYOUTS[0]
    for index in range(4):
        student, critic, step = problem(layout, made, index)
        made.loss(step).value.backward()
        moved = index % 2 == 0
        assert made.updates(STUDENT, index) == moved
        assert made.updates(CRITIC, index)
        assert all((p.grad is not None) == moved for p in student.parameters())
        assert all(p.grad is not None and p.grad.abs().max() > 0 for p in critic.parameters())


def test_a_student_of_the_data_s_law_is_not_pushed():
    """Whatever noise it makes a sample of: the scores are equal, as soon as the critic's is that of the samples."""
    oracle, layout = gaussian(4, 1), dense(64, 4)
    network = Correction(4)
    step = make_step(layout, rand(64, seed=2), network.around(oracle.student), oracle.velocity, index=0)
    made = dmd2()
    fair = replace(step, networks={CRITIC: oracle.velocity})
    assert worst(gradient(made.loss(fair).value, network), 0) == 0
    behind = replace(step, networks={CRITIC: GaussianOracle(oracle.mean + 1, oracle.cov).velocity})
    assert gradient(made.loss(behind).value, network).norm() > 0.1


def test_the_critic_ends_at_the_velocity_of_the_samples():
    """In expectation; another velocity is as far from it as the noise of this many samples is small."""
    oracle, layout = gaussian(2, 1), dense(40_000, 2)
    critic = Correction(2)
    step = make_step(layout, rand(40_000, seed=2), oracle.student, oracle.velocity, index=1)
    exact = replace(step, networks={CRITIC: critic.around(oracle.velocity)})
    shifted = replace(step, networks={CRITIC: critic.around(lambda x, t: oracle.velocity(x, t) + 0.5)})
    made = dmd2()
    assert gradient(made.loss(exact).value, critic).norm() < 0.05  # observed 0.02
    assert gradient(made.loss(replace(shifted, generator=seeded(1))).value, critic).norm() > 0.5


@pytest.mark.parametrize(("mean", "std"), [(1.3, 1.1), (-2.0, 1.1), (-0.4, 1.5), (-0.4, 0.6)])
def test_a_step_leads_to_the_data(mean: float, std: float):
    """Generator N(mean, std^2) with the exact critic, data N(-0.4, 1.1^2): what is wrong gets less so.

    One at a time: weights by a sample's own distance couple mean and deviation in one dimension.
    """
    data = GaussianOracle(torch.tensor([-0.4], dtype=F64), torch.tensor([[1.21]], dtype=F64))
    made, layout = dmd2(), dense(20_000, 1)
    m, s = torch.tensor(mean, dtype=F64, requires_grad=True), torch.tensor(std, dtype=F64, requires_grad=True)
    law = GaussianOracle(m.detach()[None], s.detach()[None, None] ** 2)

    def student(x: Tensor, t: Tensor) -> Tensor:
        return x - (m + s * x)  # so that a jump from x makes m + s x

    step = make_step(layout, torch.rand(20_000, dtype=F64), student, data.velocity, index=0)
    made.loss(replace(step, networks={CRITIC: law.velocity})).value.backward()
    assert m.grad is not None
    assert s.grad is not None
    wrong, right = (m.grad, mean > -0.4) if std == 1.1 else (s.grad, std > 1.1)
    assert (wrong > 0) == right
    assert wrong.abs() > 0.05


def test_a_critic_that_is_not_kept_apart_would_be_seen():
    """The student's gradient does not go through the critic's prediction, nor the critic's through the sample."""
    made, layout = dmd2(), LAYOUTS[0]
    student, critic, step = problem(layout, made)
    frozen = replace(step, networks={CRITIC: lambda x, t: bind(critic, layout)(x, t).detach()})
    assert torch.equal(gradient(made.loss(step).value, student), gradient(frozen_loss(made, frozen), student))


def frozen_loss(made: DistributionMatching, step: Step) -> Tensor:
    step.generator.manual_seed(1)
    return made.loss(step).value


@pytest.mark.parametrize("layout", LAYOUTS, ids=["dense", "sparse"])
@pytest.mark.parametrize("index", [0, 1])
def test_the_adversarial_term_is_that_of_ladd(index: int, layout: Layout):
    """With a weight in the student and none in the heads; the critic learns as without it."""
    made, weight = method("dmd2:gan", gan=0.3), 0.3
    student, critic, _ = problem(layout, dmd2(), index)
    step = make_step(layout, times(layout.batch_size, 4), bind(student, layout), bind(Mlp(2, 2), layout), index=index)
    networks = networks_of(made, step) | {CRITIC: critic}
    step, plain = with_networks(made, step, networks), dmd2()
    loss = made.loss(step)
    step.generator.manual_seed(1)
    sample = plain.sampled(step, moves=index == 0)
    matched = plain.matched(step, sample, weight=float(index == 0))
    found = contest(step, sample, step.t, Logistic(), plain.reduction)
    for name in (CRITIC, HEADS):
        expected = gradient(matched.value + found.of_heads, networks[name])
        assert expected.abs().max() > 0
        assert worst(gradient(loss.value, networks[name]), expected) < 1e-12
    assert set(loss.diagnostics) == {*matched.diagnostics, *found.diagnostics}
    if index == 0:
        assert found.of_student is not None
        pushed, fooled = (gradient(value, student) for value in (matched.value, found.of_student))
        assert worst(gradient(loss.value, student), pushed + weight * fooled) < 1e-12
        assert fooled.abs().max() > 1e-3
    else:
        assert found.of_student is None
        assert worst(gradient(loss.value, student), 0) == 0


def test_without_an_adversary_there_are_no_heads():
    assert set(dmd2().networks()) == {CRITIC}
    made = method("dmd2:gan", taps=2, head_rate=5.0)
    assert made.gan == 3e-3  # type: ignore[attr-defined]
    networks = made.networks()
    assert set(networks) == {CRITIC, TEACHER, HEADS}
    assert (networks[TEACHER].taps, networks[TEACHER].rate, networks[HEADS].rate) == (2, 0, 5)


@pytest.mark.parametrize(
    "label", ["dmd2", "dmd2:four", "dmd2:gan", "dmd2:paper", "rcm", "rcm:paper", "sid", "sid:paper"]
)
def test_passes_are_those_of_a_whole_cycle(label: str):
    made, layout, spent = method(label), dense(2, 2), []

    def counting(velocity):
        def call(x: Tensor, t: Tensor) -> Tensor:
            spent.append(3 if torch.is_grad_enabled() else 1)
            return velocity(x, t)

        return call

    def teacher(x: Tensor, t: Tensor, s: float) -> Tensor:
        spent.append(2)
        return x

    def attached(x: Tensor, t: Tensor, s: float) -> Tensor:
        spent.append(6)
        return x

    class Counting(Step):
        def target_derivative(self, x: Tensor, t: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
            spent.append(2)  # beside the pass that the network itself counts
            return super().target_derivative(x, t, v)

    student, critic = (counting(bind(Mlp(2, seed), layout)) for seed in (1, 3))
    cycle = made.student_period() * getattr(made, "simulated", 1)
    for index in range(cycle, 2 * cycle):  # warm-ups are over
        step = make_step(layout, times(2, 1), student, lambda x, t: x, index=index, kind=Counting)
        networks = {**with_networks(made, step).networks, CRITIC: critic}
        if TEACHER in networks:
            networks[TEACHER] = counting(networks[TEACHER])
        made.loss(replace(step, teacher=teacher, attached_teacher=attached, networks=networks))
    assert made.cost() == pytest.approx(sum(spent) / cycle)


def test_it_is_sampled_as_it_was_trained():
    assert dmd2(rescale_t=3.0).sampler(1) == Renoise(1, 3.0, 1)
    assert dmd2().sampler(1).note() == ""
    assert "trained for 1: out of its design" in dmd2().sampler(2).note()
    assert method("dmd2:four").sampler(4).note() == ""
    assert Renoise(2).note() == ""
    noise = randn(3, 2, seed=1)
    made = [Renoise(2, 1.0, n).sample(lambda x, t, s: x, noise, dense(3, 2), [seeded(1)]) for n in (0, 1)]
    assert torch.equal(*made)
    assert Renoise(2, 1.0, 1).computation() == Renoise(2).computation()
