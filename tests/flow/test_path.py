"""The path between data and noise, and the derivatives along a trajectory."""

from __future__ import annotations

import torch
from steps import F64, Mlp, bind, dense, ragged, rand, randn, worst
from torch import nn

from mdtbench.flow.derivative import earlier_point, total_derivative
from mdtbench.flow.path import SIGMA_MIN, conditional_velocity, diffuse, jump


def test_path_goes_from_data_to_noise_and_keeps_a_trace_of_noise():
    x_0, noise, layout = randn(2, 3, seed=1), randn(2, 3, seed=2), dense(2, 3)
    zero, one = torch.zeros(2, dtype=F64), torch.ones(2, dtype=F64)
    assert SIGMA_MIN == 1e-5  # TRELLIS
    assert worst(diffuse(x_0, noise, zero, layout), x_0 + 1e-5 * noise) < 1e-16
    assert worst(diffuse(x_0, noise, one, layout), noise) < 1e-15


def test_conditional_velocity_is_the_derivative_of_the_path():
    x_0, noise, layout = randn(2, 3, seed=1), randn(2, 3, seed=2), dense(2, 3)
    t, h = torch.tensor([0.2, 0.7], dtype=F64), 0.1
    slope = (diffuse(x_0, noise, t + h, layout) - diffuse(x_0, noise, t, layout)) / h
    assert worst(slope, conditional_velocity(x_0, noise)) < 1e-13  # observed 1e-15; the path is straight


def test_jump_along_the_conditional_velocity_stays_on_the_path():
    x_0, noise, layout = randn(4, 2, seed=3), randn(4, 2, seed=4), ragged((3, 1), 2)
    t, t_end = torch.tensor([0.9, 0.5], dtype=F64), torch.tensor([0.1, 0.6], dtype=F64)
    v = conditional_velocity(x_0, noise)
    got = jump(diffuse(x_0, noise, t, layout), v, t, t_end, layout)
    assert worst(got, diffuse(x_0, noise, t_end, layout)) < 1e-14  # observed 4e-16


def test_earlier_point_steps_towards_the_data_and_stops_there():
    x, v, layout = randn(2, 3, seed=5), randn(2, 3, seed=6), dense(2, 3)
    t = torch.tensor([0.5, 0.004], dtype=F64)
    x_earlier, t_earlier = earlier_point(x, t, v, 0.01, layout)
    assert worst(t_earlier, torch.tensor([0.49, 0.0], dtype=F64)) < 1e-15
    assert worst(x_earlier, x - torch.tensor([[0.01], [0.004]], dtype=F64) * v) < 1e-15


def test_total_derivative_is_the_jacobian_along_the_velocity():
    layout = dense(3, 4)
    velocity, x, t, v = bind(Mlp(4, 1), layout), randn(3, 4, seed=7), rand(3, seed=8), randn(3, 4, seed=9)
    phi, dphi = total_derivative(velocity, x, t, v)
    by_x, by_t = torch.autograd.functional.jacobian(velocity, (x, t))
    expected = torch.einsum("bibj,bj->bi", by_x, v) + torch.einsum("bib->bi", by_t)
    assert worst(phi, velocity(x, t)) == 0
    assert worst(dphi, expected) < 1e-12  # observed 2e-16


def test_total_derivative_passes_through_attention():
    """The fused attention kernels have no forward-mode derivative; the math kernel has."""
    projection = nn.Linear(8, 8, dtype=F64)

    def velocity(x, t):
        heads = projection(x * (1 + t[:, None, None])).unflatten(-1, (2, 4)).transpose(1, 2)
        return nn.functional.scaled_dot_product_attention(heads, heads, heads).transpose(1, 2).flatten(2)

    x, t, v, h = randn(2, 5, 8, seed=11), rand(2, seed=12), randn(2, 5, 8, seed=13), 1e-5
    with torch.no_grad():
        _, dphi = total_derivative(velocity, x, t, v)
        expected = (velocity(x + h * v, t + h) - velocity(x - h * v, t - h)) / (2 * h)
    assert worst(dphi, expected) < 1e-8  # observed 5e-10; the central difference is of order h^2 and 1e-16 / h
