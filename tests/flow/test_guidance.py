"""Classifier-free guidance: its convention, its count of network passes, and the shift oracle (T18)."""

from __future__ import annotations

import pytest
import torch
from steps import dense, gaussian, randn, times, worst
from torch import Tensor

from mdtbench.flow.guidance import Guided, SharedTeacher, combine
from mdtbench.flow.oracles import GaussianOracle
from mdtbench.flow.samplers import Euler


def test_combine_is_one_plus_s_minus_s():
    assert torch.equal(combine(torch.tensor([2.0]), torch.tensor([0.5]), 3.0), torch.tensor([6.5]))
    assert torch.equal(combine(torch.tensor([2.0]), torch.tensor([0.5]), 0.0), torch.tensor([2.0]))


@pytest.mark.parametrize("strength", [0.5, 3.0, 100.0])
def test_guidance_between_equal_covariances_is_a_shift_of_the_mean(strength: float):
    cond, neg_mean = gaussian(6, 1), randn(6, seed=2)
    neg = GaussianOracle(neg_mean, cond.cov)
    x, t = randn(15, 6, seed=3), times(15, 4)
    got = combine(cond.velocity(x, t), neg.velocity(x, t), strength)
    guided = cond.guided(neg_mean, strength)
    assert worst(got, guided.velocity(x, t)) < 1e-10  # observed 7e-14
    ones = torch.ones(15, dtype=x.dtype)
    shift = (x - guided.student(x, ones)) - (x - cond.student(x, ones))
    assert worst(shift, strength * (cond.mean - neg_mean)) < 1e-10  # observed 1e-14


class Counting:
    """Velocities 1 (cond) and 3 (negative) that note every network call and its size in conditions."""

    def __init__(self):
        self.calls: list[int] = []
        self.guided = Guided(self.cond, self.pair)

    def cond(self, x: Tensor, t: Tensor) -> Tensor:
        self.calls.append(1)
        return torch.ones_like(x)

    def pair(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        self.calls.append(2)
        return torch.ones_like(x), 3 * torch.ones_like(x)


def test_guided_counts_one_pass_without_guidance_and_two_with():
    network, x, t = Counting(), randn(2, 3, seed=5), torch.ones(2)
    assert worst(network.guided(x, t, 0.0), 1.0) == 0
    assert (network.guided.nfe, network.calls) == (1, [1])
    assert worst(network.guided(x, t, 2.0), 3 * 1.0 - 2 * 3.0) == 0
    assert (network.guided.nfe, network.calls) == (3, [1, 2])


def test_guidance_interval_is_counted_step_by_step():
    """12 uniform steps, guided while 0.5 <= t <= 1: t = 1, 11/12, ..., 6/12, seven of them, both ends included."""
    network, noise = Counting(), randn(2, 3, seed=6)
    Euler(12, 1.0, 3.0, (0.5, 1.0)).sample(network.guided, noise, dense(2, 3), [])
    assert network.calls == [2] * 7 + [1] * 5
    assert network.guided.nfe == 19


def test_a_shared_pair_is_computed_once_and_belongs_to_one_point_alone():
    calls = []

    def pair(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        calls.append(1)
        return x + t[:, None], 3 * x - t[:, None]

    layout, x, t = dense(2, 3), randn(2, 3, seed=7), torch.tensor([0.25, 0.5], dtype=torch.float64)
    teacher = SharedTeacher(Guided(lambda x, t: x, pair), x, t)

    def guided(x: Tensor, t: Tensor, strength: float | Tensor) -> Tensor:
        return combine(x + t[:, None], 3 * x - t[:, None], strength)

    of_samples = layout.expand(torch.tensor([0.0, 2.0], dtype=torch.float64))
    for strength in (0.0, 2.0, of_samples):
        assert torch.equal(teacher(x, t, strength), guided(x, t, strength))
    assert len(calls) == 1
    for other in ((x, t / 2), (2 * x, t), (x.clone(), t)):
        assert torch.equal(teacher(*other, 2.0), guided(*other, 2.0))
    assert len(calls) == 4
    assert torch.equal(teacher(x, t, 1.0), guided(x, t, 1.0))  # what was kept is still that of the point
    assert len(calls) == 4
