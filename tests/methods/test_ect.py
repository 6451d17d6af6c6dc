"""ECT: its pairs stage by stage, its gradient in closed form, what it converges to."""

from __future__ import annotations

import math
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
    loss_and_gradient,
    make_step,
    method,
    pulled_back,
    ragged,
    rand,
    times,
    twin,
    worst,
)

from mdtbench.flow.layout import Layout
from mdtbench.methods.ect import EasyConsistencyTuning, Proportional, Sigmoid


def ect(**changes) -> EasyConsistencyTuning:
    made = method("ect", **changes)
    assert isinstance(made, EasyConsistencyTuning)
    return made


@pytest.mark.parametrize(("index", "share"), [(0, 0.5), (99, 0.5), (100, 0.25), (799, 2**-8), (800, 2**-8)])
def test_pairs_come_closer_by_stages(index: int, share: float):
    t = times(50, 1)
    apart = (t - ect(approach=Proportional()).earlier(t, index, 800)) / t
    assert worst(apart, share) < 1e-12
    wider = ect(cfg_strength=1.0).earlier(t, index, 800)
    expected = (1 - share * (1 + 8 / (1 + t.exp()))).clamp(min=0)
    assert worst(wider / t, expected) < 1e-12


def test_a_stage_in_which_nothing_can_be_learned_gives_its_steps_to_the_next():
    """Without guidance, where all pairs end at the data."""
    t = times(50, 1)
    guided, unguided = ect(cfg_strength=1.0), ect()
    assert worst(guided.earlier(t, 99, 800), 0) == 0
    assert torch.equal(unguided.earlier(t, 0, 800), guided.earlier(t, 100, 800))
    assert torch.equal(unguided.earlier(t, 300, 800), guided.earlier(t, 300, 800))


def test_the_first_stages_learn_what_one_step_of_the_teacher_predicts():
    """There t' = 0: the aim is x - t v, whatever the student."""
    layout, t = dense(6, 4), times(6, 1)
    student, teacher = Mlp(4, 1), Mlp(4, 2)
    made = ect(cfg_strength=1.0)
    assert worst(made.earlier(t, 0, 800), 0) == 0
    step = make_step(layout, t, bind(student, layout), bind(teacher, layout), index=0, total=800)
    loss = made.loss(replace(step, teacher=lambda x, t, cfg_strength: bind(teacher, layout)(x, t)))
    error = t[:, None] * (student(step.x_t, t[:, None]) - teacher(step.x_t, t[:, None]))
    constant = made.huber * 2
    expected = (((error.square().sum(1) + constant**2).sqrt() - constant) / t).mean()
    assert worst(loss.value, expected) < 1e-12


def test_pairs_are_never_closer_than_the_limit():
    t = times(50, 1)
    made = ect(stages=20, approach=Proportional())
    assert worst((t - made.earlier(t, 999, 1000)) / t, made.closest) < 1e-12
    assert Sigmoid(8.0, 1.0).share(torch.zeros(1, dtype=F64)).item() == 5


@pytest.mark.parametrize("huber", [0.00054, 0.0])
@pytest.mark.parametrize("layout", [dense(4, 3, 2), ragged((3, 5, 1), 2)], ids=["dense", "sparse"])
@pytest.mark.parametrize("index", [2, 7])
def test_gradient(index: int, layout: Layout, huber: float):
    """-t gap / (|gap| (t - t')) for each sample, up to the constant of the pseudo-Huber norm."""
    channels = 2
    student, teacher = Mlp(channels, 1), Mlp(channels, 2)
    target = twin(student, 3, 0.3)
    t = times(layout.batch_size, 4)
    step = make_step(layout, t, bind(student, layout), bind(teacher, layout), frozen=bind(target, layout))
    step = replace(step, index=index, total=8)
    _, got = loss_and_gradient(ect(huber=huber), step, student)
    before = t * (1 - 2.0 ** -(index + 1) * (1 + 8 / (1 + t.exp()))).clamp(min=0)
    time, earlier = layout.expand(t), layout.expand(before)
    x = step.x_t
    behind = x - (time - earlier) * step.teacher(x, t, 0.0)
    gap = x - time * step.student(x, t) - (behind - earlier * step.frozen_student(behind, before))
    constant = huber * layout.expand(layout.count(gap)).sqrt() if huber else 1e-8
    size = (layout.expand(layout.sum(gap**2)) + constant**2).sqrt()
    push = -time * gap / size / (time - earlier) / layout.batch_size
    assert worst(got, pulled_back(step.student(x, t), push, student)) < 1e-10 * got.abs().max()  # observed 2e-15


def test_a_perfect_student_is_the_limit_of_close_pairs():
    """The gap of the exact flow map is that of one Euler step, O((t - t')^2), and the weight takes one order of it."""
    oracle, layout = gaussian(4, 1), dense(64, 4)
    t = 0.05 + 0.95 * rand(64, seed=2)

    def size(velocity, stages: int) -> float:
        network = Correction(4)
        step = make_step(layout, t, network.around(velocity), oracle.velocity)
        # A large constant makes the norm quadratic, so that the gradient is as large as the gap.
        made = ect(stages=stages, closest=0.0, huber=10.0, approach=Proportional())
        return gradient(made.loss(step).value, network).norm().item()

    coarse, fine = size(oracle.student, 8), size(oracle.student, 9)
    assert 1.9 < coarse / fine < 2.1
    assert size(oracle.velocity, 9) > 10 * fine
    assert math.isfinite(coarse)
