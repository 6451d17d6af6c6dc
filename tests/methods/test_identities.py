"""Exact statements about the losses: the error bound (T7), the release's norm (T19), the adaptive weight (T22)."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from steps import F64, Mlp, bind, dense, gaussian, gradient, loss_of, make_step, method, rand, randn, worst
from torch import Tensor

from mdtbench.flow.guidance import Velocity
from mdtbench.methods.residual import DerivativeL2, ForwardMode, Unscaled, pushed
from mdtbench.methods.scm import AdaptiveWeights

NODES, DIM, BATCH = 400, 4, 200


def test_error_of_one_step_is_the_integral_of_the_residual():
    """t phi(x_t, t) - int_0^t v = int_0^t r along the teacher, so E|x' - X(z)|^2 <= int E|r|^2 (T7)."""
    oracle, layout = gaussian(DIM, 1), dense(BATCH, DIM)
    student, z = bind(Mlp(DIM, 2).requires_grad_(False), layout), randn(BATCH, DIM, seed=3)
    ones = torch.ones(BATCH, dtype=F64)
    ends = oracle.flow_map(z, ones, 0 * ones)
    residuals = []
    for k in range(NODES + 1):
        t = k / NODES * ones
        x = oracle.flow_map(z, ones, t)
        step = make_step(layout, t, student, oracle.velocity, x_t=x)
        v = oracle.velocity(x, t)
        residuals.append(pushed(step, x, t, v, rule=ForwardMode(), scaling=Unscaled(), delta=0.01).residual)
    r = torch.stack(residuals)
    weight = torch.full((NODES + 1, 1, 1), 1 / NODES, dtype=F64)
    weight[0] = weight[-1] = 0.5 / NODES  # trapezoidal rule
    error = student(z, ones) - (z - ends)  # int_0^1 v = z - X(z)
    assert worst(error, (weight * r).sum(0)) < 1e-3 * error.abs().max()  # observed 4e-6; the rule's own error
    bound = (weight * r.square()).sum((0, 2)).mean()
    assert error.square().sum(1).mean() < bound


def standard_velocity(x: Tensor, t: Tensor) -> Tensor:
    """Of standard normal data."""
    time = t[:, None]
    return (2 * time - 1) / (time**2 + (1 - time) ** 2) * x


def released_fixed_point(delta: float, scaling: DerivativeL2) -> Velocity:
    """phi_n = v_n - t_n d_n / (||d_n|| + c) with d_n = (phi_n - phi_{n-1}) / delta, solved up from t = 0."""

    def phi(x: Tensor, t: Tensor) -> Tensor:
        n, visited = round(t[0].item() / delta), []
        for k in range(n, -1, -1):
            visited.append(standard_velocity(x, torch.full_like(t, k * delta)))
            x = x - delta * visited[-1]
        value, c = visited[-1], scaling.constant * delta
        grow = math.sqrt(scaling.ref_dim / x.shape[1]) if scaling.ref_dim else 1.0
        for k, v in enumerate(reversed(visited[:-1]), start=1):
            # q + t q / (grow |q| + c) = e for q = phi_n - phi_{n-1}, which points along e = v_n - phi_{n-1}.
            e = v - value
            size = e.norm(dim=1, keepdim=True)
            half = (c + k * delta - grow * size) / 2
            length = ((half.square() + grow * c * size).sqrt() - half) / grow
            value = value + e * length / size.clamp(min=1e-300)
        return value

    return phi


def one_step_std(phi: Velocity, dim: int) -> float:
    z = randn(200, dim, seed=4)
    return (z - phi(z, torch.ones(200, dtype=F64))).square().mean().sqrt().item()


@pytest.mark.parametrize(("dim", "std"), [(8, 0.337), (64, 0.123), (1024, 0.031)])
def test_norm_of_the_release_removes_the_derivative(dim: int, std: float):
    """Data N(0, I): the fixed point of vm:official generates a point, not the data (T19). The data's std is 1."""
    phi, made = released_fixed_point(0.01, DerivativeL2()), method("vm:official")
    layout, x = dense(5, dim), randn(5, dim, seed=5)
    for k in (1, 30, 100):
        step = make_step(layout, torch.full((5,), 0.01 * k, dtype=F64), phi, standard_velocity, x_t=x)
        assert made.loss(step).value < 1e-20  # |push|^2: the release's own residual is zero, observed 1e-27
    assert made.loss(step).diagnostics["rms_residual"] > 0.2  # but the flow map's is not, observed 0.28 to 0.99
    assert one_step_std(phi, dim) == pytest.approx(std, rel=0.05)  # draws of the length of z at D = 8


def test_without_the_norm_the_fixed_point_is_the_data():
    def running_mean(x: Tensor, t: Tensor) -> Tensor:
        velocities = []
        for k in range(round(t[0].item() / 0.01), -1, -1):
            velocities.append(standard_velocity(x, torch.full_like(t, 0.01 * k)))
            x = x - 0.01 * velocities[-1]
        return torch.stack(velocities).mean(0)

    step = make_step(dense(5, 64), torch.ones(5, dtype=F64), running_mean, standard_velocity, x_t=randn(5, 64, seed=5))
    assert method("vm:paper").loss(step).value < 1e-20
    assert one_step_std(running_mean, 64) == pytest.approx(1.0, abs=0.02)


def test_small_latents_can_emulate_the_norm_of_large_ones():
    scaling = DerivativeL2(ref_dim=1024)
    phi, x = released_fixed_point(0.01, scaling), randn(5, 8, seed=5)
    step = make_step(dense(5, 8), torch.ones(5, dtype=F64), phi, standard_velocity, x_t=x)
    assert method("vm:official", scaling=scaling).loss(step).value < 1e-20
    assert one_step_std(phi, 8) < 0.04  # as at D = 1024; 0.337 without


@pytest.mark.parametrize("error", [0.02, 1.0, 7.0])
def test_adaptive_weight_learns_minus_the_log_of_the_error(error: float):
    """exp(w) L - w is least at w = -log L (T22)."""
    made = AdaptiveWeights()
    network, t = made.network(), rand(64, seed=6)
    assert worst(network(t).detach(), 0) == 0  # at first every time weighs 1
    optimiser = torch.optim.Adam(network.parameters(), lr=0.02)
    for _ in range(400):
        optimiser.zero_grad()
        made.weigh(torch.full_like(t, error), t, network).mean().backward()
        optimiser.step()
    assert worst(network(t).detach(), -math.log(error)) < 0.05  # observed 0.01 and less


def test_adaptive_weight_follows_the_time():
    made = AdaptiveWeights()
    network, t = made.network(), torch.linspace(0.01, 1, 64, dtype=F64)
    error = torch.exp(3 * t - 2)
    optimiser = torch.optim.Adam(network.parameters(), lr=0.02)
    for _ in range(400):
        optimiser.zero_grad()
        made.weigh(error, t, network).mean().backward()
        optimiser.step()
    assert worst(network(t).detach(), 2 - 3 * t) < 0.2  # observed 0.05


def test_adaptive_weight_multiplies_the_loss_of_scm():
    """At zero weight the loss and its gradient are those of equal weights; the network gets a gradient too."""
    student, layout = Mlp(4, 1), dense(6, 4)
    step = make_step(layout, rand(6, seed=7), bind(student, layout), bind(Mlp(4, 2), layout))
    plain, adaptive = method("scm"), method("scm:adaptive")
    assert worst(loss_of(plain, step).value, loss_of(adaptive, step).value) < 1e-15
    with pytest.raises(ValueError, match="auxiliary network"):
        adaptive.loss(step)
    network = adaptive.auxiliary()
    with torch.no_grad():
        network.offset.fill_(0.7)
    value, plain_value = adaptive.loss(replace(step, auxiliary=network)).value, plain.loss(step).value
    assert worst(value, math.exp(0.7) * plain_value - 0.7) < 1e-6  # the network is float32
    slope = gradient(value, student)
    assert worst(slope, math.exp(0.7) * gradient(plain_value, student)) < 1e-6
    (of_network,) = torch.autograd.grad(value, network.offset)
    assert worst(of_network, math.exp(0.7) * plain_value - 1) < 1e-6
    # Two makes are equal, and neither touches the global generator.
    state = torch.get_rng_state()
    first, second = adaptive.auxiliary(), adaptive.auxiliary()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_adaptive_weight_sees_the_angle_of_the_trigonometric_flow():
    """Waves cos(k tau), sin(k tau), tan tau = t / (1 - t): 0 at data, pi / 2 at noise."""
    network, t = AdaptiveWeights(waves=3, width=6).network(), torch.tensor([0.0, 0.3, 1.0], dtype=F64)
    with torch.no_grad():
        network.first.copy_(torch.eye(6))
        network.last.copy_(torch.arange(1.0, 7.0))
        network.bias.copy_(torch.arange(6.0) / 10)
    tau = torch.stack([t[0], (t[1] / (1 - t[1])).atan(), math.pi / 2 * t[2]])
    inputs = torch.cat(
        [torch.stack([(k * tau).cos() for k in (1, 2, 3)], 1), torch.stack([(k * tau).sin() for k in (1, 2, 3)], 1)], 1
    )
    inputs = inputs + torch.arange(6.0, dtype=F64) / 10
    expected = (inputs / (1 + (-inputs).exp())) @ torch.arange(1.0, 7.0, dtype=F64)
    assert worst(network(t).detach(), expected) < 1e-5  # the network is float32
