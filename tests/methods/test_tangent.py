"""TrigFlow written in the rectified flow's variables (T8 to T11). The trigonometric side is written here."""

from __future__ import annotations

import math

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
    rand,
    randn,
    unguided,
    worst,
)
from torch import Tensor

from mdtbench.flow.oracles import integrate
from mdtbench.methods.residual import ResidualRms
from mdtbench.methods.scm import tangent, trig_scale

SIGMAS = (1.0, 0.5)


def to_flow(x_trig: Tensor, tau: Tensor, sd: float) -> tuple[Tensor, Tensor]:
    """(x_trig, tau) -> (x_rf, t): t = sd s / (c + sd s), x_rf = x_trig / (c + sd s)."""
    scale = tau.cos() + sd * tau.sin()
    return x_trig / scale[:, None], sd * tau.sin() / scale


def trig_network(velocity, sd: float):
    """F(x_trig, tau) = [(sd c - s) x_trig + sd phi(x_rf, t)] / (sd (c + sd s))."""

    def network(x_trig: Tensor, tau: Tensor) -> Tensor:
        c, s = tau.cos()[:, None], tau.sin()[:, None]
        phi = velocity(*to_flow(x_trig, tau, sd))
        return ((sd * c - s) * x_trig + sd * phi) / (sd * (c + sd * s))

    return network


@pytest.mark.parametrize("sd", SIGMAS)
def test_trigonometric_flow_ends_where_the_rectified_flow_ends(sd: float):
    """dx_trig/dtau = sd F_teacher from pi/2 to 0, against the closed flow map (T10)."""
    oracle, z = gaussian(4, 1), randn(5, 4, seed=2)
    teacher = trig_network(oracle.velocity, sd)
    end = integrate(lambda x, tau: sd * teacher(x, tau), sd * z, math.pi / 2, 0.0, steps=400)
    ones = torch.ones(5, dtype=F64)
    assert worst(end, oracle.flow_map(z, ones, 0 * ones)) < 1e-8  # observed 1e-10


@pytest.mark.parametrize("sd", SIGMAS)
def test_data_prediction_is_the_same_in_both_forms(sd: float):
    """c x_trig - sd s F = x_rf - t phi (T11)."""
    phi, x_trig, tau = bind(Mlp(4, 1), dense(9, 4)), randn(9, 4, seed=3), math.pi / 2 * rand(9, seed=4)
    x, t = to_flow(x_trig, tau, sd)
    trig = tau.cos()[:, None] * x_trig - sd * tau.sin()[:, None] * trig_network(phi, sd)(x_trig, tau)
    assert worst(trig.detach(), (x - t[:, None] * phi(x, t)).detach()) < 1e-12  # observed 4e-16


@pytest.mark.parametrize("fade", [0.0, 0.3, 1.0])
def test_tangent_is_the_one_of_the_trigonometric_form(fade: float):
    """g = -c^2 (F - dx/dtau) - r_w (c s x + c s dF/dtau), d/dtau along the teacher (T9)."""
    layout, oracle = dense(9, 4), gaussian(4, 5)
    phi = bind(Mlp(4, 6).requires_grad_(False), layout)
    x_trig, tau = randn(9, 4, seed=7), math.pi / 2 * rand(9, seed=8)
    network = trig_network(phi, 1.0)
    slope = trig_network(oracle.velocity, 1.0)(x_trig, tau)  # dx_trig / dtau
    F, dF = torch.func.jvp(network, (x_trig, tau), (slope, torch.ones_like(tau)))
    c, s = tau.cos()[:, None], tau.sin()[:, None]
    expected = -(c**2) * (F - slope) - fade * (c * s * x_trig + c * s * dF)

    x, t = to_flow(x_trig, tau, 1.0)
    v = oracle.velocity(x, t)
    value, dphi = torch.func.jvp(phi, (x, t), (v, torch.ones_like(t)))
    got = tangent(value, v, value + t[:, None] * dphi - v, t, fade, layout)
    assert worst(got, expected) < 1e-12  # observed 7e-16


def test_faded_in_tangent_is_minus_one_minus_t_n_r():
    layout, t = dense(7, 5), rand(7, seed=9)
    phi, v, r = randn(7, 5, seed=10), randn(7, 5, seed=11), randn(7, 5, seed=12)
    n = (t**2 + (1 - t) ** 2).sqrt()
    assert torch.equal(tangent(phi, v, r, t, 1.0, layout), -(((1 - t) * n)[:, None]) * r)
    assert worst(trig_scale(t), n) < 1e-15
    assert worst(tangent(phi, v, r, torch.ones(7, dtype=F64), 1.0, layout), 0) == 0
    assert worst(tangent(phi, v, r, torch.ones(7, dtype=F64), 0.4, layout), 0) == 0


def test_unnormalised_scm_is_vm_times_a_function_of_time():
    """grad |F - sg F - g|^2 = k(t) grad |phi - sg(v - t dphi)|^2 with k = (1 - t) (t^2 + (1 - t)^2), batch 1 (T8a)."""
    layout = dense(1, 6)
    for seed in range(5):
        network, t = Mlp(6, seed), rand(1, seed=seed + 20)
        phi, x, v = bind(network, layout), randn(1, 6, seed=seed + 40), randn(1, 6, seed=seed + 60)
        value, dphi = torch.autograd.functional.jvp(phi, (x, t), (v, torch.ones_like(t)), create_graph=True)
        r = (value + t * dphi - v).detach()
        g = tangent(value.detach(), v, r, t, 1.0, layout)
        F = trig_scale(t) * value  # up to a part without parameters
        of_scm = gradient((F - F.detach() - g).square().sum(), network)
        of_vm = gradient((value - (v - t * dphi).detach()).square().sum(), network)
        k = ((1 - t) * (t**2 + (1 - t) ** 2)).item()
        assert worst(of_scm, k * of_vm) / of_vm.abs().max() < 1e-10  # observed 4e-16


@pytest.mark.parametrize("t_value", [0.05, 0.4, 0.9])
def test_scm_is_vm_times_a_positive_number_through_their_losses(t_value: float):
    """The losses themselves, bounds included. phi is affine in (x, t), so that VM's difference is exact (T8b)."""
    layout, t, bound = dense(1, 6), torch.tensor([t_value], dtype=F64), ResidualRms().constant
    network, oracle = Correction(6), gaussian(6, 13)
    with torch.no_grad():
        network.weight.copy_(randn(6, 6, seed=14))
        network.slope.copy_(randn(6, seed=15))
    phi = network.around(lambda x, t: 0 * x)
    step = make_step(layout, t, phi, oracle.velocity)
    of_vm = gradient(method("vm").loss(step).value, network)
    of_scm = gradient(method("scm").loss(step).value, network)

    v = oracle.velocity(step.x_t, t)
    r = phi(step.x_t, t) + t * (v @ network.weight + network.slope) - v
    size, n = r.square().mean().sqrt(), (t**2 + (1 - t) ** 2).sqrt()
    ratio = ((1 - t) * n**2) * (size + bound) / ((1 - t) * n * size + bound)
    assert worst(of_scm, ratio.detach() * of_vm) / of_vm.abs().max() < 1e-10  # observed 2e-15


def test_bound_keeps_the_direction_and_limits_the_length():
    layout, r = dense(3, 8), randn(3, 8, seed=16) * torch.tensor([[1e-9], [1.0], [1e9]], dtype=F64)
    got = ResidualRms(0.1).residual(r, layout)
    length, size = got.square().mean(1).sqrt(), r.square().mean(1).sqrt()
    assert worst(got / length[:, None], r / size[:, None]) < 1e-12
    assert worst(length, size / (size + 0.1)) < 1e-12
    assert worst(ResidualRms(0.1).residual(0 * r, layout), 0) == 0


def test_warm_up_fades_the_derivative_in():
    made = method("scm", warmup=0.5)
    assert [made.fade(i, 100) for i in (0, 1, 25, 50, 99)] == [0.02, 0.02, 0.5, 1.0, 1.0]
    assert method("scm", warmup=0.0).fade(0, 100) == 1.0


@pytest.mark.parametrize("label", ["scm", "ayf"])
def test_no_step_without_a_gradient(label: str):
    """A student that is its teacher learns from the first step on, and the more the later.

    Without a gradient but rounding Adam would take a step of full length in a direction that differs between machines.
    """
    layout, oracle, network = dense(50, 3), gaussian(3, 17), Correction(3)
    phi, t = network.around(lambda x, t, *t_end: oracle.velocity(x, t)), rand(50, seed=18)

    def size(index: int) -> float:
        step = make_step(layout, t, phi, oracle.velocity, index=index, total=10)
        return gradient(method(label, warmup=0.5).loss(step).value, network).abs().max().item()

    assert size(5) > 0.05
    assert size(5) > 1.2 * size(0) > 0.01


def test_unguided_helper_refuses_guidance():
    with pytest.raises(AssertionError):
        unguided(lambda x, t: x)(torch.ones(1), torch.ones(1), 1.0)
