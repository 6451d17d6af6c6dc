"""Methods whose students have two times: exact jumps are their fixed point, and the sign of every term counts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

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
    loss_and_gradient,
    make_step,
    method,
    pulled_back,
    ragged,
    rand,
    randn,
    seeded,
    times,
    twin,
    worst,
)
from torch import Tensor

from mdtbench.flow.derivative import end_derivative, total_derivative
from mdtbench.flow.layout import Layout, rms
from mdtbench.flow.oracles import average_velocity
from mdtbench.flow.samplers import Computation, Euler, FlowMap, Jumps, Renoise
from mdtbench.flow.times import UNIFORM, LogitNormal
from mdtbench.methods import Step
from mdtbench.methods.jumps import ENDS, LogitNormalEnds, SpanEnds, UniformEnds, jump_residual
from mdtbench.methods.shortcut import ShortcutDistillation

DIM, BATCH = 4, 64
ORACLE, LAYOUT = gaussian(DIM, 1), dense(BATCH, DIM)
T = 0.05 + 0.95 * rand(BATCH, seed=2)
LABELS = ("ayf", "ayf:paper", "lmd", "meanflow", "meanflow:adaptive", "meanflow:paper", "meanflow:plain")


def perfect(x: Tensor, t: Tensor, t_end: Tensor | None = None) -> Tensor:
    """The exact average velocity from t down to t_end; at t_end = t the velocity."""
    ends = torch.zeros_like(t) if t_end is None else t_end
    jumps = average_velocity(ORACLE.flow_map, x, t, ends)
    return torch.where((t == ends)[:, None], ORACLE.velocity(x, t), jumps)


def around_perfect(network: Correction) -> Callable[..., Tensor]:
    return network.around(perfect)


def step_of(velocity: Callable[..., Tensor], index: int = 20, kind: type[Step] = Step, total: int = 1) -> Step:
    return make_step(LAYOUT, T, velocity, ORACLE.velocity, index=index, kind=kind, total=total)


@pytest.mark.parametrize("label", LABELS)
def test_exact_jumps_are_the_fixed_point(label: str):
    """And the teacher, with which training begins, is not."""
    made = method(label, ends=UniformEnds(0.0, 0.3))  # where nothing jumps the derivative of the oracle is 0 / 0
    network = Correction(DIM)
    at_exact = gradient(made.loss(step_of(around_perfect(network))).value, network)
    assert worst(at_exact, 0) < 1e-9  # observed 5e-14
    teacher = network.around(lambda x, t, *t_end: ORACLE.velocity(x, t))
    assert gradient(made.loss(step_of(teacher)).value, network).norm() > 0.02


def test_the_warm_up_of_ayf_begins_with_guidance_distillation():
    """The first steps have almost no derivative term, and leave the teacher almost where it is."""
    network, made = Correction(DIM), method("ayf", ends=UniformEnds(0.0, 0.3))
    teacher = network.around(lambda x, t, *t_end: ORACLE.velocity(x, t))
    first = {"index": 0, "total": 100_000}
    assert worst(gradient(made.loss(step_of(teacher, **first)).value, network), 0) < 1e-3
    assert gradient(made.loss(step_of(around_perfect(network), **first)).value, network).norm() > 0.02
    assert [made.fade(index, 1000) for index in (0, 1, 125, 250, 999)] == [0.004, 0.004, 0.5, 1, 1]


@pytest.mark.parametrize("sign", [(-1, 1, 1), (1, -1, 1), (1, 1, -1), (1, 1, 1)])
def test_a_wrong_sign_moves_the_fixed_point(sign: tuple[int, int, int]):
    """Of the derivative, of its direction, of the length of the jump; with all of them right the residual is zero."""
    t_end = T * rand(BATCH, seed=3)
    x, v = randn(BATCH, DIM, seed=5), ORACLE.velocity(randn(BATCH, DIM, seed=5), T)
    phi, dphi = total_derivative(lambda x, t: perfect(x, t, t_end), x, T, sign[1] * v)
    residual = jump_residual(phi, sign[0] * dphi, v, sign[2] * (T - t_end), LAYOUT)
    size = rms(LAYOUT, residual).mean()
    assert size < 1e-10 if sign == (1, 1, 1) else size > 0.1


@pytest.mark.parametrize("layout", [dense(4, 3, 2), ragged((3, 5, 1), 2)], ids=["dense", "sparse"])
@pytest.mark.parametrize("fade", [0.02, 0.4, 1.0])
@pytest.mark.parametrize("label", ["ayf", "ayf:paper", "meanflow", "meanflow:adaptive", "meanflow:plain"])
def test_gradients(label: str, fade: float, layout: Layout):
    """In closed form, the derivative by double backward, the ends drawn here."""
    student, teacher = Mlp(2, 1, two_times=True), Mlp(2, 2)
    target, t = twin(student, 3, 0.3), times(layout.batch_size, 4)
    made = method(label, **({"warmup": 0.5} if label.startswith("ayf") else {}), ends=UniformEnds(0.3, 0.3))
    step = make_step(layout, t, bind(student, layout), bind(teacher, layout), frozen=bind(target, layout))
    _, got = loss_and_gradient(made, replace(step, index=int(50 * fade), total=100), student)
    t_end = UniformEnds(0.3, 0.3).draw(replace(step, generator=seeded(1)))
    x, v = step.x_t, step.teacher(step.x_t, t, 0.0)
    ones, zeros = torch.ones_like(t), torch.zeros_like(t)
    dphi = torch.autograd.functional.jvp(bind(target, layout), (x, t, t_end), (v, ones, zeros))[1]
    phi, length = step.student(x, t, t_end), layout.expand(t - t_end)
    count = layout.expand(layout.count(x))
    if label.startswith("meanflow"):
        r = phi + length * dphi - v
        mean = layout.expand(layout.sum(r**2)) / count
        power = {"adaptive": 1.0, "plain": 0.0}.get(label.partition(":")[2], 0.5)
        push = 2 * r / (mean + 1e-3) ** power
    else:
        r = phi + fade * length * dphi - v
        size = (layout.expand(layout.sum(r**2)) / (1 if label.endswith("paper") else count)).sqrt()
        push = 2 * r / (size + 0.1)
    expected = pulled_back(phi, push / count / layout.batch_size, student)
    assert worst(got, expected) < 1e-10 * got.abs().max()  # observed 1e-15


@pytest.mark.parametrize("layout", [dense(4, 3, 2), ragged((3, 5, 1), 2)], ids=["dense", "sparse"])
def test_gradient_of_lmd(layout: Layout):
    """2 (phi - (t - t_end) dphi/dt_end - v(X, t_end)), the derivative by double backward."""
    student, teacher = Mlp(2, 1, two_times=True), Mlp(2, 2)
    target, t = twin(student, 3, 0.3), times(layout.batch_size, 4)
    step = make_step(layout, t, bind(student, layout), bind(teacher, layout), frozen=bind(target, layout))
    _, got = loss_and_gradient(method("lmd"), step, student)
    t_end = UniformEnds(to_data=0.0).draw(replace(step, generator=seeded(1)))
    x, length = step.x_t, layout.expand(t - t_end)

    def towards(end: Tensor) -> Tensor:
        return bind(target, layout)(x, t, end)

    fixed, dphi = torch.autograd.functional.jvp(towards, (t_end,), (torch.ones_like(t),))
    v = step.teacher(x - length * fixed, t_end, 0.0)
    phi = step.student(x, t, t_end)
    push = 2 * (phi - length * dphi - v) / layout.expand(layout.count(x)) / layout.batch_size
    assert worst(got, pulled_back(phi, push, student)) < 1e-10 * got.abs().max()


@pytest.mark.parametrize("sign", [-1, 1])
def test_the_lagrangian_equation_holds_for_exact_jumps(sign: int):
    """d/dt_end of where a jump ends is the velocity there; with a wrong sign it is not."""
    t_end, x = T * rand(BATCH, seed=3), randn(BATCH, DIM, seed=5)
    phi, dphi = end_derivative(perfect, x, T, t_end)
    length = (T - t_end)[:, None]
    moved = phi - sign * length * dphi
    gap = rms(LAYOUT, moved - ORACLE.velocity(x - length * phi, t_end)).mean()
    assert gap < 1e-9 if sign == 1 else gap > 0.1


def shortcut(**changes) -> ShortcutDistillation:
    made = method("shortcut", **changes)
    assert isinstance(made, ShortcutDistillation)
    return made


def test_two_halves_of_an_exact_jump_are_the_jump():
    """So that exact jumps are the fixed point of all lengths but the shortest, whose halves are Euler steps."""
    network, made = Correction(DIM), shortcut(halvings=30)
    assert gradient(made.loss(step_of(around_perfect(network))).value, network).norm() < 1e-6
    coarse, fine = (
        gradient(shortcut(halvings=n, share=0.0).loss(step_of(around_perfect(network))).value, network).norm()
        for n in (3, 7)
    )
    assert coarse > 4 * fine > 0
    teacher = network.around(lambda x, t, *t_end: ORACLE.velocity(x, t))
    assert gradient(made.loss(step_of(teacher)).value, network).norm() > 0.005


@pytest.mark.parametrize("layout", [dense(8, 3, 2), ragged((3, 5, 1, 2, 2, 1, 1, 4), 2)], ids=["dense", "sparse"])
def test_gradient_of_shortcuts(layout: Layout):
    student, teacher = Mlp(2, 1, two_times=True), Mlp(2, 2)
    target, t = twin(student, 3, 0.3), times(layout.batch_size, 4)
    step = make_step(layout, t, bind(student, layout), bind(teacher, layout), frozen=bind(target, layout))
    made = shortcut(halvings=2, share=0.3)
    _, got = loss_and_gradient(made, step, student)
    d = made.length(replace(step, generator=seeded(1)))
    x, half, velocity = step.x_t, layout.expand(d / 2), bind(target, layout)
    shortest = (d <= 0.25).to(t.dtype)  # whose halves are steps along phi(x, t, t)
    one = velocity(x, t, t - (1 - shortest) * d / 2)
    two = velocity(x - half * one, t - d / 2, t - d / 2 - (1 - shortest) * d / 2)
    aim = torch.where(half == 0, step.teacher(x, t, 0.0), (one + two) / 2)
    phi = step.student(x, t, t - d)
    push = 2 * (phi - aim) / layout.expand(layout.count(x)) / layout.batch_size
    assert worst(got, pulled_back(phi, push, student)) < 1e-10 * got.abs().max()


def test_lengths_of_shortcuts():
    t = UNIFORM.times(rand(6000, seed=11), T_MIN)
    step = make_step(dense(6000, 1), t, lambda x, t: x, lambda x, t: x)
    lengths = shortcut().length(step)
    assert (lengths <= t).all()
    assert (lengths == 0).double().mean() == pytest.approx(0.25, abs=0.03)
    free = lengths[(t > 0.99) & (lengths > 0)]  # t limits none but the longest
    assert {2.0**-k for k in range(1, 6)} <= set(free.tolist())
    assert len(set(free[free < 0.9].tolist())) == 5


class DrawnAlong(Step):
    """A step whose derivative is taken with t_end moving along with t, as a JVP of three inputs invites one to do."""

    def towards(self, t_end: Tensor) -> Step:
        student, frozen, length = self.student, self.frozen_student, self.t - t_end
        return replace(
            self,
            student=lambda x, t: student(x, t, t - length),
            frozen_student=lambda x, t: frozen(x, t, t - length),
        )


@pytest.mark.parametrize("label", ["ayf", "meanflow"])
def test_the_end_of_a_jump_is_held_while_its_beginning_moves(label: str):
    network, made = Correction(DIM), method(label, ends=UniformEnds(0.0, 0.3))
    wrong = gradient(made.loss(step_of(around_perfect(network), kind=DrawnAlong)).value, network)
    assert wrong.norm() > 0.01


@pytest.mark.parametrize("ends", ENDS.values(), ids=ENDS)
def test_jumps_end_at_or_below_their_beginning(ends):
    layout = dense(4000, 1)
    t = UNIFORM.times(rand(4000, seed=11), T_MIN)
    step = make_step(layout, t, lambda x, t: x, lambda x, t: x)
    drawn = ends.draw(step)
    assert ((drawn >= 0) & (drawn <= t)).all()
    assert drawn.dtype == t.dtype
    still, to_data = ((drawn == t).double().mean().item(), (drawn == 0).double().mean().item())
    expected = {
        UniformEnds(): (0.1, 0.3),
        UniformEnds(to_data=0.0): (0.1, 0.0),
        LogitNormalEnds(): (0.75, 0.0),
        SpanEnds(): (0.0, None),
    }[ends]
    assert still == pytest.approx(expected[0], abs=0.03)
    assert to_data == pytest.approx(expected[1], abs=0.03) if expected[1] is not None else 0.2 < to_data < 0.5
    assert not torch.equal(drawn, ends.draw(step))  # of the step's private generator, that goes on


@pytest.mark.parametrize(("label", "share"), [("lmd", 0.0), ("meanflow", 0.3)])
def test_which_methods_jump_to_the_data_itself(label: str, share: float):
    """There the teacher holds no pull to the data, which is all that `lmd` learns from."""
    t = UNIFORM.times(rand(4000, seed=11), T_MIN)
    drawn = method(label).ends.draw(make_step(dense(4000, 1), t, lambda x, t: x, lambda x, t: x))
    assert (drawn == 0).double().mean().item() == pytest.approx(share, abs=0.03)


def test_logit_normal_ends_have_the_density_below_t():
    """As drawn again and again until one is below t."""
    t = torch.full((200_000,), 0.6, dtype=F64)
    step = make_step(dense(len(t), 1), t, lambda x, t: x, lambda x, t: x)
    drawn = LogitNormalEnds(-0.4, 1.0, 0.0).draw(step)
    every = LogitNormal(-0.4, 1.0).times(rand(400_000, seed=7), 0.0)
    kept = every[every < 0.6]
    for share in (0.1, 0.5, 0.9):
        assert drawn.quantile(share) == pytest.approx(kept.quantile(share).item(), abs=3e-3)


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_a_perfect_student_is_sampled_without_bias(steps: int):
    """Every noise goes where the flow takes it; by Euler the standard deviation of N(0, 1) is sqrt(2) at two steps."""
    noise, generators = randn(BATCH, DIM, seed=6), [seeded(7)]
    one = torch.ones(BATCH, dtype=F64)
    ends = ORACLE.flow_map(noise, one, 0 * one)

    def velocity(x: Tensor, t: Tensor, cfg_strength: float, t_end: Tensor | None = None) -> Tensor:
        assert cfg_strength == 0
        return perfect(x, t, t_end)

    assert worst(FlowMap(steps, 3.0).sample(velocity, noise, LAYOUT, generators), ends) < 1e-9
    by_euler = worst(Euler(steps, 3.0).sample(velocity, noise, LAYOUT, generators), ends)
    assert by_euler < 1e-9 if steps == 1 else by_euler > 0.3


def test_one_jump_is_the_same_computation_for_all_samplers():
    assert FlowMap(1).computation() == Renoise(1).computation() == Euler(1).computation()
    assert FlowMap(2).computation() != Euler(2).computation()
    assert FlowMap(4, 3.0).computation() == Jumps(Euler(4, 3.0).computation().times, (0.0,) * 4)
    assert isinstance(FlowMap(1).computation(), Computation)
    assert FlowMap(2).note() == ""


def test_the_sampler_says_where_each_jump_ends():
    seen = []

    def velocity(x: Tensor, t: Tensor, cfg_strength: float, t_end: Tensor) -> Tensor:
        seen.append((t[0].item(), t_end[0].item()))
        return x

    FlowMap(3).sample(velocity, randn(2, 1, seed=1), dense(2, 1), [])  # type: ignore[arg-type]
    times_of = Euler(3).computation().times
    assert seen == [pytest.approx(pair) for pair in pairwise(times_of)]
