"""No gradient through targets (T21), nothing infinite at the ends of time (T23), and the stated cost."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from steps import (
    F64,
    LABELS,
    T_MIN,
    TARGETED,
    LeakyStep,
    Mlp,
    bind,
    dense,
    loss_and_gradient,
    loss_of,
    make_step,
    method,
    student_for,
    times,
    twin,
    worst,
)
from torch import Tensor

from mdtbench.flow.layout import DenseLayout
from mdtbench.methods import METHODS, Distillation, Step

LAYOUT, T = dense(24, 4), times(24, 1)  # enough that some sample of every kind is there


def test_all_distillations_are_tested():
    built_in = (name for name in METHODS.names() if METHODS.get(name).value.__module__.startswith("mdtbench."))
    distillations = {name for name in built_in if issubclass(METHODS.get(name).value, Distillation)}
    assert distillations == {label.partition(":")[0] for label in LABELS}


@pytest.mark.parametrize("name", LABELS)
def test_only_the_student_gets_a_gradient(name: str):
    student, teacher = student_for(name, 4, 1), Mlp(4, 2)
    target = twin(student, 3, 0.1)
    step = make_step(LAYOUT, T, bind(student, LAYOUT), bind(teacher, LAYOUT), frozen=bind(target, LAYOUT))
    loss = loss_of(method(name), step)
    loss.value.backward()
    assert all(p.grad is None for net in (teacher, target) for p in net.parameters())
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in student.parameters())
    assert all(not value.requires_grad for value in loss.diagnostics.values())


@pytest.mark.parametrize("name", TARGETED)
def test_online_target_is_a_constant(name: str):
    """The target's values matter, its dependence on the weights does not; a leak would change the gradient."""
    student, teacher = student_for(name, 4, 1), Mlp(4, 2)

    def run(frozen: torch.nn.Module, kind: type[Step] = Step) -> tuple[Tensor, Tensor]:
        step = make_step(
            LAYOUT, T, bind(student, LAYOUT), bind(teacher, LAYOUT), frozen=bind(frozen, LAYOUT), kind=kind
        )
        loss, gradient = loss_and_gradient(method(name), step, student)
        return loss.value.detach(), gradient

    value, online = run(student)
    copied_value, copied = run(copy.deepcopy(student))
    assert torch.equal(value, copied_value)
    assert torch.equal(online, copied)
    assert worst(online, run(twin(student, 3, 0.1))[1]) > 1e-3 * online.abs().max()
    leaky_value, leaky = run(student, LeakyStep)
    assert worst(value, leaky_value) < 1e-12 * max(1, value.abs())
    assert worst(online, leaky) > 3e-3 * online.abs().max()  # least shortcut:paper, of whose samples few jump


@pytest.mark.parametrize("name", ["kd", "mdt", "mdt:official"])
def test_a_teacher_that_forgets_to_stop_changes_nothing(name: str):
    """Where a method walks along the teacher by itself, it stops the gradient by itself."""
    student, made = Mlp(4, 1), method(name)
    made = made if name == "kd" else replace(made, lambda_vm=1e-9)  # VM's teacher is the step's business

    def run(stopped: bool) -> Tensor:
        def teacher(x: Tensor, t: Tensor, cfg_strength: float) -> Tensor:
            v = bind(student, LAYOUT)(x, t).square()
            return v.detach() if stopped else v

        step = replace(make_step(LAYOUT, T, bind(student, LAYOUT), bind(student, LAYOUT)), teacher=teacher)
        return loss_and_gradient(made, step, student)[1]

    assert worst(run(stopped=False), run(stopped=True)) < 1e-7 * run(stopped=True).abs().max()  # VM's 1e-9


@pytest.mark.parametrize("name", LABELS)
@pytest.mark.parametrize("t_min", [T_MIN, 1e-5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("at_start", [True, False])
def test_loss_and_gradient_are_finite_at_the_ends_of_time(name: str, t_min: float, dtype: torch.dtype, at_start: bool):
    """Also where nothing is left to learn: at the start the student is the teacher, and a gap can be exactly zero."""
    layout, student = DenseLayout((2, 4), dtype), student_for(name, 4, 1).to(dtype)
    teacher = student if at_start else Mlp(4, 2).to(dtype)
    t = torch.tensor([t_min, 1.0], dtype=dtype)
    for index in (0, 1):
        step = make_step(layout, t, bind(student, layout), bind(teacher, layout), index=index)
        loss, gradient = loss_and_gradient(method(name), step, student)
        assert torch.isfinite(loss.value)
        assert torch.isfinite(gradient).all()
        assert all(torch.isfinite(value) for value in loss.diagnostics.values())


@pytest.mark.parametrize("index", [0, 1])
def test_scm_has_no_signal_at_pure_noise(index: int):
    """g = 0 at t = 1."""
    student, t = Mlp(4, 1), torch.ones(24, dtype=F64)
    step = make_step(LAYOUT, t, bind(student, LAYOUT), bind(Mlp(4, 2), LAYOUT), index=index)
    loss, gradient = loss_and_gradient(method("scm"), step, student)
    assert loss.value == 0
    assert worst(gradient, 0) == 0


@pytest.mark.parametrize(
    "name", [label for label in LABELS if not any(one.rate for one in method(label).networks().values())]
)
def test_cost_counts_the_forward_passes(name: str):
    """Teacher 2 (both conditions), forward 1, forward mode 3, backward 2 per differentiated forward."""
    velocity, spent = bind(student_for(name, 4, 1), LAYOUT), []

    class Counting(Step):
        def target_derivative(self, x: Tensor, t: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
            spent.append(2)  # beside the pass that the network itself counts
            return super().target_derivative(x, t, v)

        def target_end_derivative(self, x: Tensor, t: Tensor, t_end: Tensor) -> tuple[Tensor, Tensor]:
            spent.append(2)
            return super().target_end_derivative(x, t, t_end)

    def network(x: Tensor, *times: Tensor) -> Tensor:
        spent.append(3 if torch.is_grad_enabled() else 1)
        return velocity(x, *times)

    def teacher(x: Tensor, t: Tensor) -> Tensor:
        spent.append(2)
        return x

    made = method(name)
    step = make_step(LAYOUT, T, network, teacher, kind=Counting)
    frozen = {name: lambda x, t: spent.append(1) or x for name in made.networks()}
    made.loss(replace(step, auxiliary=made.auxiliary(), networks=frozen))
    assert made.cost() == sum(spent)
