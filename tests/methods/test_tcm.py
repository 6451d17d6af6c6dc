"""TCM: which student answers where, its gradient in closed form, what it converges to, how it is sampled."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from steps import (
    F64,
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
    twin,
    with_networks,
    worst,
)

from mdtbench.flow.layout import Layout
from mdtbench.flow.samplers import Renoise
from mdtbench.methods import Begins
from mdtbench.methods.ect import Proportional
from mdtbench.methods.tcm import FIRST, Above, Truncated, TruncatedConsistency

BOUNDARY = 0.5


def tcm(**changes) -> TruncatedConsistency:
    made = method("tcm", **changes)
    assert isinstance(made, TruncatedConsistency)
    return made


def test_times_are_above_the_boundary_and_a_quarter_is_at_it():
    t = Above(0.3, 0.25).times(rand(20_000, seed=1), 0.01)
    assert t.min() == 0.3
    assert (t == 0.3).double().mean() == pytest.approx(0.25, abs=0.01)
    inside = t[t > 0.3]
    assert inside.mean() == pytest.approx(0.65, abs=0.01)
    assert inside.max() > 0.999


@pytest.mark.parametrize("layout", [dense(4, 3, 2), ragged((3, 5, 1, 2), 2)], ids=["dense", "sparse"])
def test_gradient(layout: Layout):
    """One pair inside, one across the boundary, one from the boundary, one inside again."""
    student, teacher, target = Mlp(2, 1), Mlp(2, 2), twin(Mlp(2, 1), 3, 0.3)
    t = torch.tensor([0.9, 0.505, BOUNDARY, 0.7], dtype=F64)
    made = tcm(approach=Proportional(), apart=0.02)
    step = make_step(layout, t, bind(student, layout), bind(teacher, layout), frozen=bind(target, layout))
    networks = networks_of(made, step)
    step = with_networks(made, step, networks)
    got = gradient(made.loss(step).value, student)
    earlier = 0.98 * t
    time, before = layout.expand(t), layout.expand(earlier)
    x = step.x_t
    behind = x - (time - before) * step.teacher(x, t, 0.0)
    # t' is below the boundary in the second and third pair: there the first student answers.
    answers = [net(behind, before) for net in (target, networks[FIRST])]
    below = layout.expand(torch.tensor([False, True, True, False]))
    gap = x - time * step.student(x, t) - (behind - before * torch.where(below, answers[1], answers[0]))
    constant = 0.00054 * layout.expand(layout.count(gap)).sqrt()
    size = (layout.expand(layout.sum(gap**2)) + constant**2).sqrt()
    weight = layout.expand(torch.tensor([4 / 3, 4 / 3, 0.1 * 4, 4 / 3], dtype=F64))
    push = -weight * time * gap / size / (time - before) / layout.batch_size
    assert worst(got, pulled_back(step.student(x, t), push, student)) < 1e-10 * got.abs().max()
    assert all(not parameter.requires_grad for parameter in networks[FIRST].parameters())


def test_a_perfect_student_above_a_perfect_one_is_the_limit_of_close_pairs():
    oracle, layout = gaussian(4, 1), dense(64, 4)
    t = Above().times(rand(64, seed=2), 0.0)

    def size(velocity, first, apart: float) -> float:
        network = Correction(4)
        step = make_step(layout, t, network.around(velocity), oracle.velocity)
        made = tcm(apart=apart, huber=10.0, approach=Proportional())  # a large constant: a gradient as large as the gap
        return gradient(made.loss(replace(step, networks={FIRST: first})).value, network).norm().item()

    coarse, fine = (size(oracle.student, oracle.student, apart) for apart in (0.004, 0.002))
    assert 1.9 < coarse / fine < 2.1
    assert size(oracle.velocity, oracle.student, 0.002) > 10 * fine
    # A wrong student below the boundary moves it: it is what holds this one to the data.
    assert size(oracle.student, oracle.velocity, 0.002) > 10 * fine


@pytest.mark.parametrize(("steps", "times"), [(1, (1, 0)), (2, (1, 0.4, 0)), (4, (1, 0.8, 0.6, 0.4, 0))])
def test_it_is_sampled_above_the_boundary_alone(steps: int, times: tuple[float, ...]):
    sampler = tcm(times=Above(0.4)).sampler(steps)
    assert isinstance(sampler, Truncated)
    assert sampler.computation().times == pytest.approx(times)
    assert sampler.computation().fresh_noise == (steps > 1)
    assert sampler.note() == ""
    oracle, noise = gaussian(3, 1), randn(2000, 3, seed=5)
    made = sampler.sample(lambda x, t, s: oracle.student(x, t), noise, dense(2000, 3), [seeded(1)])
    assert worst(torch.cov(made.T), oracle.cov) < 0.3  # of a perfect student: the data's law
    if steps == 1:
        assert sampler.computation() == Renoise(1).computation()


def test_it_begins_as_another_student():
    assert tcm().begins_as() == Begins("ect", 0.7)
    assert tcm(first="cm", first_share=0.25).begins_as() == Begins("cm", 0.25)
    assert tcm().networks()[FIRST].rate == 0
