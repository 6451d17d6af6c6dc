"""A method is written once: the sparse layout gives what the dense one gives."""

from __future__ import annotations

import pytest
import torch
from steps import (
    DISTILLATIONS,
    Mlp,
    bind,
    dense,
    gradient,
    loss_and_gradient,
    make_step,
    method,
    ragged,
    times,
    twin,
    worst,
)

from mdtbench.methods.vm import matching_loss


@pytest.mark.parametrize("name", DISTILLATIONS)
def test_samples_of_one_length_give_the_dense_result(name: str):
    student, teacher = Mlp(3, 1), Mlp(3, 2)
    target, t, results = twin(student, 3, 0.2), times(4, 4), []
    for layout in (dense(4, 5, 3), ragged((5, 5, 5, 5), 3)):
        step = make_step(layout, t, bind(student, layout), bind(teacher, layout), frozen=bind(target, layout))
        results.append((step, *loss_and_gradient(method(name), step, student)))
    (full, full_loss, full_gradient), (sparse, sparse_loss, sparse_gradient) = results
    assert torch.equal(full.x_t.flatten(0, 1), sparse.x_t)
    assert worst(full_loss.value.detach(), sparse_loss.value.detach()) < 1e-12  # observed 1e-16
    assert worst(full_gradient, sparse_gradient) < 1e-12  # observed 1e-16
    for key, value in full_loss.diagnostics.items():
        assert worst(value, sparse_loss.diagnostics[key]) < 1e-12


@pytest.mark.parametrize("name", ["cm", "pcm", "scm", "vm"])  # VD draws per batch: see test_gradients
def test_a_batch_of_two_objects_is_the_mean_of_two_batches_of_one(name: str):
    """Objects of different size weigh the same."""
    student, teacher, lengths = Mlp(3, 1), Mlp(3, 2), (2, 7)
    target, t, both = twin(student, 3, 0.2), times(2, 4), ragged(lengths, 3)

    def run(layout, t, x_t=None):
        step = make_step(layout, t, bind(student, layout), bind(teacher, layout), frozen=bind(target, layout), x_t=x_t)
        loss, slope = loss_and_gradient(method(name), step, student)
        return step.x_t, loss.value.detach(), slope

    x_t, value, slope = run(both, t)
    alone = [
        run(ragged((length,), 3), t[i : i + 1], part)
        for i, (length, part) in enumerate(zip(lengths, x_t.split(lengths), strict=True))
    ]
    assert worst(value, (alone[0][1] + alone[1][1]) / 2) < 1e-12
    assert worst(slope, (alone[0][2] + alone[1][2]) / 2) < 1e-12  # observed 4e-16
    assert worst(slope, (2 * alone[0][2] + 7 * alone[1][2]) / 9) > 1e-3  # not weighted by voxels


def test_matching_term_of_mdt_is_that_of_vm():
    student, layout = Mlp(3, 1), ragged((2, 7), 3)
    step = make_step(layout, times(2, 4), bind(student, layout), bind(Mlp(3, 2), layout))
    of_mdt = gradient(matching_loss(step, 0.0, 0.01, 0.1).value, student)
    assert torch.equal(of_mdt, gradient(method("vm").loss(step).value, student))
