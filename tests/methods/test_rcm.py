"""rCM: the sum of sCM and of distribution matching, each as it is alone; where it ends; how its samples are made."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from steps import (
    Correction,
    Mlp,
    bind,
    dense,
    gaussian,
    gradient,
    make_step,
    method,
    networks_of,
    ragged,
    rand,
    times,
    with_networks,
    worst,
)
from torch import Tensor, nn

from mdtbench.flow.layout import Layout
from mdtbench.methods import STUDENT, Step
from mdtbench.methods.dmd2 import CRITIC
from mdtbench.methods.rcm import RegularisedConsistency


def rcm(**changes) -> RegularisedConsistency:
    made = method("rcm", **changes)
    assert isinstance(made, RegularisedConsistency)
    return made


def problem(layout: Layout, index: int, total: int) -> tuple[nn.Module, nn.Module, Step]:
    student, t = Mlp(2, 1), times(layout.batch_size, 4)
    step = make_step(layout, t, bind(student, layout), bind(Mlp(2, 2), layout), index=index, total=total)
    networks = networks_of(rcm(), step)
    return student, networks[CRITIC], with_networks(rcm(), step, networks)


def slope(made, step: Step, network: nn.Module) -> Tensor:
    step.generator.manual_seed(1)
    return gradient(made.loss(step).value, network)


@pytest.mark.parametrize("layout", [dense(4, 3, 2), ragged((3, 5, 1), 2)], ids=["dense", "sparse"])
@pytest.mark.parametrize(("index", "total"), [(100, 100), (10, 100), (0, 100)])
def test_the_gradient_is_the_sum_of_both(index: int, total: int, layout: Layout):
    """Of sCM alone during its warm-up; of the critic as in DMD2."""
    student, critic, step = problem(layout, index, total)
    got = slope(rcm(weight=0.3), step, student)
    consistency = slope(method("scm", warmup=0.25), step, student)
    matching = slope(method("dmd2"), step, student) if index >= 25 else 0 * got
    assert worst(got, consistency + 0.3 * matching) < 1e-12
    assert index < 25 or worst(got, consistency) > 1e-3 * got.abs().max()
    assert torch.equal(slope(rcm(), step, critic), slope(method("dmd2"), step, critic))


def test_the_student_rests_while_the_critic_learns():
    made = rcm(period=3)
    assert [index for index in range(8) if made.updates(STUDENT, index)] == [0, 3, 6]
    student, critic, step = problem(dense(4, 3, 2), 1, 1)
    made.loss(step).value.backward()
    assert all(parameter.grad is None for parameter in student.parameters())
    assert all(parameter.grad is not None for parameter in critic.parameters())


def test_exact_jumps_are_the_fixed_point_when_the_critic_knows_the_data():
    oracle, layout = gaussian(4, 1), dense(64, 4)
    network = Correction(4)
    step = make_step(layout, 0.05 + 0.95 * rand(64, seed=2), network.around(oracle.student), oracle.velocity)
    step = replace(step, networks={CRITIC: oracle.velocity})
    assert worst(slope(rcm(), step, network), 0) < 1e-9
    elsewhere = make_step(layout, step.t, network.around(oracle.velocity), oracle.velocity)
    elsewhere = replace(elsewhere, networks={CRITIC: oracle.velocity})
    assert slope(rcm(), elsewhere, network).norm() > 0.05


def test_samples_are_made_in_one_to_four_steps_by_turns():
    made, layout, seen = rcm(simulated=4), dense(3, 2), []

    def student(x: Tensor, t: Tensor) -> Tensor:
        seen.append((t.clone(), torch.is_grad_enabled()))
        return 0 * x

    for turn in range(5):
        seen.clear()
        step = make_step(layout, times(3, 1), student, lambda x, t: x, index=2 * turn)
        made.sample(step)
        assert len(seen) == turn % 4 + 1
        assert (seen[0][0] == 1).all()
        assert all((later <= before).all() for (before, _), (later, _) in pairwise(seen))
        assert [grad for _, grad in seen] == [False] * (len(seen) - 1) + [True]
