"""What the first step of a training follows: neither rounding nor chance."""

from __future__ import annotations

import pytest
import torch
from steps import LABELS, Mlp, bind, dense, loss_and_gradient, make_step, method, student_for, times, twin
from torch import Tensor

LAYOUT, T = dense(24, 4), times(24, 1)
# Without guidance `gd` has nothing to learn. The norm that ECT's authors take gives rounding the weight of any other
# gap (docs/deviations.md).
EXCEPT = {"gd", "ect:paper"}


@pytest.mark.parametrize("name", [label for label in LABELS if label not in EXCEPT])
def test_rounding_does_not_turn_the_first_gradient(name: str):
    """A student that begins as its teacher, and one that differs from it by a millionth, go the same way.

    A method whose first gradient is zero but for rounding trains a student that differs from machine to machine: Adam
    makes a full step of it, however short it is.
    """
    teacher = Mlp(4, 2)
    student = student_for(name, 4, 1)
    with torch.no_grad():
        student.first.load_state_dict(teacher.first.state_dict())
        student.last.load_state_dict(teacher.last.state_dict())
        if student.two_times:
            student.end.zero_()

    def first(network: Mlp) -> Tensor:
        step = make_step(LAYOUT, T, bind(network, LAYOUT), bind(teacher, LAYOUT), index=0, total=1000)
        return loss_and_gradient(method(name), step, network)[1]

    there, near = first(student), first(twin(student, 3, 1e-6))
    assert (there - near).norm() < 0.02 * there.norm()
