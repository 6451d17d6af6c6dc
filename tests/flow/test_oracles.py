"""The exact teachers: T1 to T5 of the method notes, and the quantile map of 1-D mixtures."""

from __future__ import annotations

import math

import pytest
import torch
from steps import F64, dense, gaussian, rand, randn, times, worst
from torch import Tensor

from mdtbench.flow.derivative import total_derivative
from mdtbench.flow.guidance import combine
from mdtbench.flow.layout import rms
from mdtbench.flow.oracles import (
    ComponentOracle,
    GaussianOracle,
    MixtureOracle,
    ProductOracle,
    gaussian_w2,
    integrate,
    matrix_sqrt,
    sliced_w2,
    translated,
)
from mdtbench.methods.residual import backward_difference, velocity_residual

DIMS = (4, 6, 8)
MODES = MixtureOracle(
    torch.tensor([0.3, 0.5, 0.2], dtype=F64),
    torch.tensor([[-1.2], [0.4], [1.5]], dtype=F64),
    torch.tensor([0.09, 0.25, 0.16], dtype=F64),
)


def exact_derivative(velocity):
    return lambda x, t, v: total_derivative(velocity, x, t, v)[1]


@pytest.mark.parametrize("dim", DIMS)
def test_velocity_is_the_conditional_expectation_of_noise_minus_data(dim: int):
    """E[z - x_0 | x_t] by Gaussian conditioning, through a linear solve instead of modes."""
    oracle, x, t = gaussian(dim, 1), randn(5, dim, seed=2), times(5, 3)
    for point, time in zip(x, t, strict=True):
        marginal = (1 - time) ** 2 * oracle.cov + time**2 * torch.eye(dim, dtype=F64)
        shared = time * torch.eye(dim, dtype=F64) - (1 - time) * oracle.cov  # Cov(z - x_0, x_t)
        expected = -oracle.mean + shared @ torch.linalg.solve(marginal, point - (1 - time) * oracle.mean)
        got = oracle.velocity(point[None], time[None])[0]
        assert worst(got, expected) < 1e-11  # observed 2e-15


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize(("start", "end"), [(1.0, 0.0), (0.8, 0.3), (0.2, 0.9)])
def test_flow_map_is_the_end_of_the_integrated_velocity(dim: int, start: float, end: float):
    oracle, x = gaussian(dim, 5), randn(6, dim, seed=6)
    span = torch.full((6,), start, dtype=F64), torch.full((6,), end, dtype=F64)
    got = integrate(oracle.velocity, x, start, end, steps=800)
    assert worst(got, oracle.flow_map(x, *span)) < 1e-9  # observed 1e-13; RK4's own error


@pytest.mark.parametrize("dim", DIMS)
def test_residual_of_the_perfect_student_is_zero(dim: int):
    oracle, x, t = gaussian(dim, 7), randn(20, dim, seed=8), times(20, 9)
    layout, v = dense(20, dim), oracle.velocity(x, t)
    phi, perfect = oracle.student(x, t), exact_derivative(oracle.student)
    assert worst(velocity_residual(phi, perfect(x, t, v), v, t, layout), 0) < 1e-10  # observed 6e-15
    # The sign of t dphi/dt matters: with the other one nothing cancels.
    wrong = velocity_residual(phi, -perfect(x, t, v), v, t, layout)
    assert rms(layout, wrong).mean() > 0.5  # observed 1.2
    # The teacher itself is no fixed point.
    untrained = velocity_residual(v, exact_derivative(oracle.velocity)(x, t, v), v, t, layout)
    assert rms(layout, untrained).mean() > 0.5  # observed 1.3


@pytest.mark.parametrize("dim", DIMS)
def test_total_derivative_of_the_perfect_student(dim: int):
    """Along the teacher dphi*/dt = (v - phi*) / t."""
    oracle, x, t = gaussian(dim, 11), randn(20, dim, seed=12), times(20, 13).clamp(min=0.1)
    v = oracle.velocity(x, t)
    phi, dphi = total_derivative(oracle.student, x, t, v)
    assert torch.equal(phi, oracle.student(x, t))
    assert worst(dphi, (v - phi) / t[:, None]) < 1e-10  # observed 3e-14


@pytest.mark.parametrize("dim", DIMS)
def test_one_step_is_the_affine_map_to_the_data(dim: int):
    oracle, z = gaussian(dim, 17), randn(9, dim, seed=18)
    got = z - oracle.student(z, torch.ones(9, dtype=F64))
    assert worst(got, oracle.mean + z @ matrix_sqrt(oracle.cov)) < 1e-12  # observed 9e-16


def test_student_at_time_zero_is_minus_x_and_its_limit():
    oracle, x = gaussian(4, 19), randn(3, 4, seed=20)
    assert torch.equal(oracle.student(x, torch.zeros(3, dtype=F64)), -x)
    near = oracle.student(x, torch.full((3,), 1e-6, dtype=F64))
    assert worst(near, -x) < 1e-4  # observed 2e-6; first order in t


@pytest.mark.parametrize("dim", DIMS)
def test_discrete_residual_at_the_fixed_point_is_first_order(dim: int):
    oracle, x, t = gaussian(dim, 21), randn(200, dim, seed=22), 0.1 + 0.9 * rand(200, seed=23)
    layout = dense(200, dim)

    def size(delta: float) -> float:
        phi = oracle.student(x, t)
        v = oracle.velocity(x, t)
        dphi = backward_difference(oracle.student, phi, x, t, v, delta, layout)
        return rms(layout, velocity_residual(phi, dphi, v, t, layout)).mean().item()

    slope = math.log10(size(0.01) / size(0.001))
    assert 0.9 < slope < 1.1  # observed 1.004 to 1.005


def test_guidance_moves_the_mean_and_keeps_the_covariance():
    oracle = gaussian(5, 25)
    guided = oracle.guided(torch.zeros(5, dtype=F64), 2.0)
    assert torch.equal(guided.cov, oracle.cov)
    assert worst(guided.mean, 3 * oracle.mean) < 1e-14


def test_mixture_of_one_is_the_gaussian():
    mixture = MixtureOracle(
        torch.ones(1, dtype=F64), torch.tensor([[0.3, -1.0]], dtype=F64), torch.tensor([0.5], dtype=F64)
    )
    single = GaussianOracle(mixture.means[0], 0.5 * torch.eye(2, dtype=F64))
    x, t = randn(9, 2, seed=31), times(9, 32)
    assert worst(mixture.velocity(x, t), single.velocity(x, t)) < 1e-12  # observed 0


def test_mixture_velocity_is_the_score_form():
    """v = -(x + t grad log q_t) / (1 - t), the score by differentiation of a log density written here."""
    means = randn(3, 4, seed=33)
    weights, variances = torch.tensor([0.2, 0.5, 0.3], dtype=F64), torch.tensor([0.3, 0.1, 0.8], dtype=F64)
    x, t = randn(12, 4, seed=34).requires_grad_(), 0.05 + 0.9 * rand(12, seed=35)
    variance = (1 - t[:, None]) ** 2 * variances + t[:, None] ** 2
    distance = (x[:, None] - (1 - t)[:, None, None] * means).square().sum(2)
    density = (weights * variance**-2 * torch.exp(-distance / (2 * variance))).sum(1)  # D = 4
    (score,) = torch.autograd.grad(density.log().sum(), x)
    expected = -(x + t[:, None] * score) / (1 - t[:, None])
    got = MixtureOracle(weights, means, variances).velocity(x, t)
    assert worst(got.detach(), expected.detach()) < 1e-11  # observed 1e-15


@pytest.mark.parametrize(("start", "end"), [(1.0, 0.0), (0.6, 0.1), (0.3, 1.0)])
def test_quantile_map_is_the_end_of_the_integrated_velocity(start: float, end: float):
    x = torch.linspace(-1.8, 1.8, 25, dtype=F64)[:, None]
    span = torch.full((25,), start, dtype=F64), torch.full((25,), end, dtype=F64)
    got = integrate(MODES.velocity, x, start, end, steps=200)
    assert worst(got, MODES.flow_map(x, *span)) < 1e-8  # observed 7e-11


def test_mixture_student_is_a_fixed_point():
    """dphi*/dt by a central difference along the exact trajectory; the bisection cannot be differentiated."""
    x, t, h = randn(9, 1, seed=37), 0.2 + 0.7 * rand(9, seed=38), 1e-4

    def along(offset: float) -> Tensor:
        return MODES.student(MODES.flow_map(x, t, t + offset), t + offset)

    dphi = (along(h) - along(-h)) / (2 * h)
    residual = MODES.student(x, t) + t[:, None] * dphi - MODES.velocity(x, t)
    assert worst(residual, 0) < 1e-5  # observed 4e-8; h^2 times a third derivative


def test_cdf_of_a_mixture_has_its_samples_shares():
    at = torch.tensor([[-8.0], [-0.4], [8.0]], dtype=F64)
    expected = sum(
        w * 0.5 * (1 + math.erf((-0.4 - m) / math.sqrt(2 * s)))
        for w, m, s in [(0.3, -1.2, 0.09), (0.5, 0.4, 0.25), (0.2, 1.5, 0.16)]
    )
    got = MODES.cdf(at, torch.zeros(3, dtype=F64))[:, 0]
    assert worst(got, torch.tensor([0.0, expected, 1.0], dtype=F64)) < 1e-12  # observed 6e-17


def test_flow_map_of_a_planar_mixture_is_refused():
    planar = MixtureOracle(torch.ones(1, dtype=F64), torch.zeros(1, 2, dtype=F64), torch.ones(1, dtype=F64))
    ones = torch.ones(3, dtype=F64)
    with pytest.raises(ValueError, match="D = 2"):
        planar.flow_map(randn(3, 2, seed=1), ones, 0 * ones)


def test_euler_teacher_multiplies_one_factor_per_mode():
    oracle, steps = gaussian(4, 41), 20
    eig, basis = torch.linalg.eigh(oracle.cov)
    factor = torch.ones(4, dtype=F64)
    x = basis.T + oracle.mean * 0  # rows are the modes
    for k in range(steps):
        t = 1 - k / steps
        factor = factor * (1 - (t - (1 - t) * eig) / ((1 - t) ** 2 * eig + t**2) / steps)
    centred = GaussianOracle(0 * oracle.mean, oracle.cov)
    for k in range(steps):
        x = x - centred.velocity(x, torch.full((4,), 1 - k / steps, dtype=F64)) / steps
    assert worst(x, factor[:, None] * basis.T) < 1e-12  # observed 2e-16


def test_gaussian_w2_of_commuting_and_of_general_covariances():
    a, b = gaussian(3, 43), gaussian(3, 44)
    same = gaussian_w2(a.mean, a.cov, a.mean, a.cov)
    assert same < 1e-6  # square root of rounding
    moved = gaussian_w2(a.mean, a.cov, a.mean + 2, a.cov)
    assert worst(moved, math.sqrt(12)) < 1e-9
    scaled = gaussian_w2(a.mean, 4 * a.cov, a.mean, a.cov)
    assert worst(scaled.square(), a.cov.trace()) < 1e-9
    cross = matrix_sqrt(b.cov) @ a.cov @ matrix_sqrt(b.cov)
    expected = (a.mean - b.mean).square().sum() + (a.cov + b.cov - 2 * matrix_sqrt(cross)).trace()
    assert worst(gaussian_w2(a.mean, a.cov, b.mean, b.cov).square(), expected) < 1e-10
    assert worst(gaussian_w2(b.mean, b.cov, a.mean, a.cov).square(), expected) < 1e-10


def turned_product() -> ProductOracle:
    """Two modes along one axis and one, a Gaussian, along the other; axes turned by 0.7."""
    turn = torch.tensor([[math.cos(0.7), -math.sin(0.7)], [math.sin(0.7), math.cos(0.7)]], dtype=F64)
    return ProductOracle(
        torch.tensor([[0.4, 0.6], [1.0, 0.0]], dtype=F64),
        torch.tensor([[-1.5, 1.0], [0.2, 0.0]], dtype=F64),
        torch.tensor([[0.1, 0.3], [0.5, 1.0]], dtype=F64),
        turn,
    )


def test_components_of_a_gaussian_have_its_velocity():
    oracle, x, t = gaussian(4, 51), randn(9, 4, seed=52), times(9, 53)
    assert worst(oracle.components().velocity(x, t), oracle.velocity(x, t)) < 1e-12  # observed 4e-15


def test_components_of_a_product_leave_out_impossible_combinations():
    components = turned_product().components()
    assert components.weights.tolist() == [0.4, 0.6]
    assert components.variances.tolist() == [[0.1, 0.5], [0.3, 0.5]]


@pytest.mark.parametrize(("start", "end"), [(1.0, 0.0), (0.2, 0.9)])
def test_product_map_is_the_end_of_the_integrated_velocity(start: float, end: float):
    oracle, x = turned_product(), randn(20, 2, seed=54)
    span = torch.full((20,), start, dtype=F64), torch.full((20,), end, dtype=F64)
    got = integrate(oracle.components().velocity, x, start, end, steps=200)
    assert worst(got, oracle.flow_map(x, *span)) < 1e-8  # observed 1e-10; RK4's own error


def test_several_mixtures_at_once_are_each_alone():
    one, two = turned_product().components(), gaussian(2, 55).components()
    two = ComponentOracle(two.weights.repeat(2) / 2, two.means.repeat(2, 1), two.variances.repeat(2, 1), two.basis)
    both = ComponentOracle(
        *(torch.stack([getattr(o, name) for o in (one, two)]) for name in ("weights", "means", "variances", "basis"))
    )
    x, t = randn(2, 7, 2, seed=56), torch.stack([times(7, 57), times(7, 58)])
    got = both.velocity(x, t)
    assert worst(got[0], one.velocity(x[0], t[0])) < 1e-13
    assert worst(got[1], two.velocity(x[1], t[1])) < 1e-13


def test_samples_of_components_have_their_moments():
    oracle = turned_product().components()
    got = oracle.sample(40_000, torch.Generator().manual_seed(1))
    mean = (oracle.weights @ oracle.means) @ oracle.basis.T
    assert worst(got.mean(0), mean) < 0.03  # five standard errors of a deviation of 1.3
    square = oracle.weights[:, None, None] * (
        torch.diag_embed(oracle.variances) + oracle.means[:, :, None] * oracle.means[:, None]
    )
    centre = oracle.weights @ oracle.means
    expected = oracle.basis @ (square.sum(0) - torch.outer(centre, centre)) @ oracle.basis.T
    assert worst(got.T.cov(), expected) < 0.06


@pytest.mark.parametrize("strength", [3.0, 100.0])
@pytest.mark.parametrize("name", ["gaussian", "product"])
def test_guidance_between_translations_is_a_translation(name: str, strength: float):
    """T18, and its extension: of a product, along an axis that is Gaussian."""
    product = turned_product()
    base = gaussian(2, 61).components() if name == "gaussian" else product.components()
    step = randn(2, seed=62) if name == "gaussian" else 0.6 * product.basis[:, 1]
    own, neg = randn(2, seed=63) + step, randn(2, seed=63)
    x, t = randn(30, 2, seed=64), times(30, 65)
    guided = combine(translated(base.velocity, x, t, own), translated(base.velocity, x, t, neg), strength)
    expected = translated(base.velocity, x, t, own + strength * (own - neg))
    assert worst(guided, expected) < 1e-10  # observed 2e-13


def test_guidance_across_modes_is_no_translation():
    product = turned_product()
    base, step = product.components(), 0.6 * product.basis[:, 0]  # along the axis that has two modes
    x, t = randn(30, 2, seed=66), times(30, 67)
    guided = combine(translated(base.velocity, x, t, step), base.velocity(x, t), 3.0)
    assert worst(guided, translated(base.velocity, x, t, 4 * step)) > 0.5  # observed 5


def test_sliced_w2_of_a_shift_and_of_a_point():
    """A shift d moves its projection on the direction a by d.a, whose square is |d|^2 / 2 on average."""
    x = randn(100, 2, seed=71)
    assert sliced_w2(x, x[torch.randperm(100, generator=torch.Generator().manual_seed(0))], 16) < 1e-12
    assert worst(sliced_w2(x + torch.tensor([3.0, 4.0], dtype=F64), x, 16), 5 / math.sqrt(2)) < 1e-12
    spread = x.square().sum(1).mean().div(2).sqrt()
    assert worst(sliced_w2(x, 0 * x, 16), spread) < 1e-12
