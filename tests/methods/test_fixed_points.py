"""What each method converges to: the flow map, up to the discretisation (T14, T15)."""

from __future__ import annotations

import pytest
import torch
from steps import F64, Correction, dense, gaussian, gradient, make_step, method, rand, randn, worst
from torch import Tensor

from mdtbench.flow.derivative import total_derivative
from mdtbench.flow.guidance import Velocity
from mdtbench.flow.layout import rms
from mdtbench.flow.oracles import GaussianOracle, average_velocity
from mdtbench.methods.residual import backward_difference, velocity_residual

DIM, BATCH = 4, 64
ORACLE, LAYOUT = gaussian(DIM, 1), dense(BATCH, DIM)
# Away from 0 and from PCM's edge at 0.5, so that no pair is clamped.
T = torch.cat([0.05 + 0.44 * rand(BATCH // 2, seed=2), 0.55 + 0.45 * rand(BATCH // 2, seed=3)])


def gradient_at(velocity: Velocity, made, index: int = 20, total: int = 1) -> Tensor:
    """Gradient of a method's loss at a student that equals `velocity`."""
    network = Correction(DIM)
    step = make_step(LAYOUT, T, network.around(velocity), ORACLE.velocity, index=index, total=total)
    return gradient(made.loss(step).value, network)


def phased_student(phases: int) -> Velocity:
    pcm = method("pcm", phases=phases)
    return lambda x, t: average_velocity(ORACLE.flow_map, x, t, pcm.lower_edge(t))


@pytest.mark.parametrize(
    ("name", "parameters", "order"),
    [
        ("vm", {}, 1),  # gradient is the residual, O(delta)
        ("mdt", {}, 1),
        ("cm", {}, 2),  # gradient is delta times the residual
        ("pcm", {"phases": 1}, 2),
        ("pcm", {"phases": 2}, 2),
    ],
)
def test_perfect_student_is_the_limit_of_a_discrete_method(name: str, parameters: dict, order: int):
    """At the exact flow map the gradient vanishes with delta, at the method's order; at the teacher it does not."""
    perfect = phased_student(parameters["phases"]) if parameters else ORACLE.student
    # Small steps, so that neither the bound nor the pseudo-Huber constant bends the line.
    coarse, fine = (
        gradient_at(perfect, method(name, delta=delta, **parameters)).norm().item() for delta in (0.002, 0.001)
    )
    assert 0.9 * 2**order < coarse / fine < 1.1 * 2**order  # observed 1.97 and 4.00
    elsewhere = gradient_at(ORACLE.velocity, method(name, delta=0.002, **parameters)).norm().item()
    assert elsewhere > 10 * coarse  # observed 43 to 101 times


def test_perfect_student_is_the_fixed_point_of_scm():
    made = method("scm")
    assert worst(gradient_at(ORACLE.student, made), 0) < 1e-9  # observed 1e-15
    assert gradient_at(ORACLE.velocity, made).norm() > 0.05  # observed 0.44
    # Not of its warm-up, which distils guidance: the first steps have almost no derivative term.
    assert gradient_at(ORACLE.student, made, index=0, total=1000).norm() > 0.05  # observed 0.31


@pytest.mark.parametrize("sign", [(-1, 1), (1, -1)])
def test_a_wrong_sign_moves_the_fixed_point(sign: tuple[int, int]):
    """Of the time or of the direction of the derivative: the residual of the perfect student is no longer small."""
    x, v = randn(BATCH, DIM, seed=5), ORACLE.velocity(randn(BATCH, DIM, seed=5), T)
    phi = ORACLE.student(x, T)

    dphi = sign[0] * total_derivative(ORACLE.student, x, T, sign[1] * v)[1]
    assert rms(LAYOUT, velocity_residual(phi, dphi, v, T, LAYOUT)).mean() > 0.1


GENERATORS = {
    "perfect": ORACLE.student,
    "teacher": ORACLE.velocity,
    "anything": lambda x, t: torch.sin(3 * x) + 2,
}


@pytest.mark.parametrize("generator", list(GENERATORS))
def test_velocity_distillation_has_no_gradient_at_the_flow_map_whatever_it_generates(generator: str):
    """T15. Continuous derivative: r' is zero at every generated point. Discrete: the gradient halves with delta."""
    network = Correction(DIM)
    student = network.around(GENERATORS[generator])
    step = make_step(LAYOUT, T, student, ORACLE.velocity, frozen=ORACLE.student)
    sample = (step.noise - student(step.noise, torch.ones_like(T))).detach()
    x = (1 - T)[:, None] * sample + T[:, None] * randn(BATCH, DIM, seed=6)
    v = ORACLE.velocity(x, T)
    r = velocity_residual(ORACLE.student(x, T), total_derivative(ORACLE.student, x, T, v)[1], v, T, LAYOUT)
    assert worst(r, 0) < 1e-10  # observed 6e-15

    def size(delta: float) -> float:
        step.generator.manual_seed(7)
        return gradient(method("mdt", delta=delta).distillation(step).value, network).norm().item()

    assert 1.9 < size(0.001) / size(0.0005) < 2.1  # observed 1.984 to 1.987


# One-step standard deviation of the fixed points on the grid t_k = k delta, data N(1, 0.25).
CM_STD = {0.1: 0.43078, 0.05: 0.46425, 0.02: 0.48540, 0.01: 0.49265}
VM_STD = {0.1: 0.52169, 0.05: 0.51187, 0.02: 0.50500, 0.01: 0.50255, 0.005: 0.50128}
LINE = GaussianOracle(torch.ones(1, dtype=F64), torch.full((1, 1), 0.25, dtype=F64))


def euler_velocities(x: Tensor, t: Tensor, delta: float) -> tuple[list[Tensor], Tensor]:
    """v_n, ..., v_0 along the Euler trajectory down from the grid time t, and its end at 0."""
    velocities = []
    for k in range(round(t[0].item() / delta), -1, -1):
        velocities.append(LINE.velocity(x, torch.full_like(t, k * delta)))
        end, x = x, x - delta * velocities[-1]
    return velocities, end


def euler_map(delta: float) -> Velocity:
    """phi_n = (x - N-step Euler map) / t_n."""

    def phi(x: Tensor, t: Tensor) -> Tensor:
        return (x - euler_velocities(x, t, delta)[1]) / t.clamp(min=delta)[:, None]

    return phi


def running_mean(delta: float) -> Velocity:
    """phi_n = mean of v_n, ..., v_0: n + 1 points."""
    return lambda x, t: torch.stack(euler_velocities(x, t, delta)[0]).mean(0)


def one_step_std(phi: Velocity) -> float:
    ends = torch.tensor([[1.0], [-1.0]], dtype=F64)
    out = ends - phi(ends, torch.ones(2, dtype=F64))
    return (out[0] - out[1]).item() / 2


def grid(delta: float) -> list[Tensor]:
    n = round(1 / delta)
    return [torch.full((3,), k * delta, dtype=F64) for k in (1, 2, n // 2, n)]


@pytest.mark.parametrize("delta", CM_STD)
def test_cm_converges_to_the_euler_solver_of_the_teacher(delta: float):
    phi, x = euler_map(delta), randn(3, 1, seed=8)
    for t in grid(delta):
        step = make_step(dense(3, 1), t, phi, LINE.velocity, x_t=x)
        assert method("cm", delta=delta).loss(step).diagnostics["rms_gap"] < 1e-10
    assert one_step_std(phi) == pytest.approx(CM_STD[delta], abs=5e-6)  # five digits are known


@pytest.mark.parametrize("delta", VM_STD)
def test_vm_converges_to_the_running_mean_of_the_teachers_velocity(delta: float):
    phi, x, layout = running_mean(delta), randn(3, 1, seed=9), dense(3, 1)
    for t in grid(delta):
        v = LINE.velocity(x, t)
        dphi = backward_difference(phi, phi(x, t), x, t, v, delta, layout)
        assert worst(velocity_residual(phi(x, t), dphi, v, t, layout), 0) < 1e-10  # observed 2e-14
        step = make_step(layout, t, phi, LINE.velocity, x_t=x)
        assert method("vm", delta=delta).loss(step).diagnostics["rms_residual"] < 1e-10
    assert one_step_std(phi) == pytest.approx(VM_STD[delta], abs=5e-6)  # five digits are known


def test_cm_and_vm_residuals_differ_by_the_change_of_phi():
    """r_VM = r_CM + (phi - phi') with r_CM = (t phi - t' phi') / delta - v, and f - f' = -delta r_CM."""
    delta, x = 0.01, randn(BATCH, DIM, seed=10)
    v = ORACLE.velocity(x, T)
    phi, before = ORACLE.velocity(x, T), ORACLE.velocity(x - delta * v, T - delta)
    dphi = backward_difference(ORACLE.velocity, phi, x, T, v, delta, LAYOUT)
    r_vm = velocity_residual(phi, dphi, v, T, LAYOUT)
    time = T[:, None]
    r_cm = (time * phi - (time - delta) * before) / delta - v
    assert worst(r_vm, r_cm + phi - before) < 1e-11  # observed 4e-14
    gap = (x - time * phi) - (x - delta * v - (time - delta) * before)
    assert worst(gap, -delta * r_cm) < 1e-13
