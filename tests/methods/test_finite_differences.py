"""Every loss is the integral of its gradient: central differences in float64, with all its constants held.

A surrogate's value moves with what it detaches, so the constants of the first evaluation (detached tensors, target,
teacher) are recorded and given again at the changed weights.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar, cast

import pytest
import torch
from steps import (
    LABELS,
    Mlp,
    bind,
    dense,
    gradient,
    make_step,
    method,
    ragged,
    randn,
    student_for,
    times,
    twin,
    with_networks,
)
from torch import Tensor, nn

from mdtbench.flow.layout import Layout
from mdtbench.methods import Step

STEP = 1e-5
T = TypeVar("T")


class Tape:
    """Records what a function returns, and plays it back in the same order."""

    def __init__(self) -> None:
        self.kept: list[object] = []
        self.at: int | None = None  # None while recording

    def wrap(self, function: Callable[..., T]) -> Callable[..., T]:
        def call(*args) -> T:
            if self.at is None:
                self.kept.append(value := function(*args))
                return value
            self.at += 1
            return cast("T", self.kept[self.at - 1])

        return call


def moved(network: nn.Module, direction: list[Tensor], size: float) -> None:
    with torch.no_grad():
        for parameter, along in zip(network.parameters(), direction, strict=True):
            parameter.add_(size * along)


@pytest.mark.parametrize("layout", [dense(4, 3), ragged((3, 1), 3)], ids=["dense", "sparse"])
@pytest.mark.parametrize("label", LABELS)
def test_gradient_is_the_slope_of_the_loss(label: str, layout: Layout, monkeypatch: pytest.MonkeyPatch):
    student, teacher, made, tape = student_for(label, 3, 1), Mlp(3, 2), method(label), Tape()
    target = bind(twin(student, 3, 0.2), layout)
    t = times(layout.batch_size, 4)
    step = make_step(layout, t, bind(student, layout), bind(teacher, layout), frozen=target)
    step = replace(with_networks(made, step), teacher=tape.wrap(step.teacher))
    monkeypatch.setattr(torch.Tensor, "detach", tape.wrap(torch.Tensor.detach))
    monkeypatch.setattr(Step, "target", tape.wrap(Step.target))
    monkeypatch.setattr(Step, "target_derivative", tape.wrap(Step.target_derivative))
    monkeypatch.setattr(Step, "target_end_derivative", tape.wrap(Step.target_end_derivative))

    def value() -> Tensor:
        step.generator.manual_seed(5)
        return made.loss(step).value

    slope = gradient(value(), student)
    direction = [randn(*p.shape, seed=i) for i, p in enumerate(student.parameters())]
    expected = sum(
        (g * d.flatten()).sum() for g, d in zip(slope.split([d.numel() for d in direction]), direction, strict=True)
    )
    values = []
    for size in (STEP, -2 * STEP):
        moved(student, direction, size)
        tape.at = 0
        with torch.no_grad():
            values.append(value().item())
    moved(student, direction, STEP)
    difference = (values[0] - values[1]) / (2 * STEP)
    assert difference == pytest.approx(float(expected), rel=1e-5, abs=1e-8)  # observed 2e-6, pcm:k4; the others 1e-7
