"""A method is written once: the sparse layout gives what the dense one gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest
import torch
from steps import (
    F64,
    LABELS,
    Mlp,
    bind,
    dense,
    gradient,
    loss_and_gradient,
    make_step,
    method,
    ragged,
    seeded,
    student_for,
    times,
    twin,
    worst,
)
from torch import Tensor

from mdtbench.flow.layout import SparseLayout
from mdtbench.methods.mdt import SharedDraws
from mdtbench.methods.reduction import PerSample, PerVoxel, reduced_mean


@dataclass(frozen=True)
class Scripted(SparseLayout):
    """A layout whose fresh noise is given."""

    draws: list[Tensor] = field(default_factory=list)

    def randn(self, generators: Sequence[torch.Generator]) -> Tensor:
        return self.draws.pop(0)


@pytest.mark.parametrize("name", LABELS)
def test_samples_of_one_length_give_the_dense_result(name: str):
    student, teacher = student_for(name, 3, 1), Mlp(3, 2)
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


@pytest.mark.parametrize(
    "name", ["cm", "ect", "gd", "kd", "pcm", "pcm:weighted", "scm", "scm:adaptive", "vm", "vm:paper"]
)  # VD and ends of jumps are drawn per batch
def test_a_batch_of_two_objects_is_the_mean_of_two_batches_of_one(name: str):
    """Objects of different size weigh the same."""
    student, teacher, lengths = Mlp(3, 1), Mlp(3, 2), (2, 7)
    target, t, both = twin(student, 3, 0.2), times(2, 4), ragged(lengths, 3)

    def run(layout, t, x_t=None, noise=None):
        step = make_step(layout, t, bind(student, layout), bind(teacher, layout), frozen=bind(target, layout), x_t=x_t)
        step = step if noise is None else replace(step, noise=noise)
        loss, slope = loss_and_gradient(method(name), step, student)
        return step, loss.value.detach(), slope

    step, value, slope = run(both, t)
    alone = [
        run(ragged((length,), 3), t[i : i + 1], x_t, noise)
        for i, (length, x_t, noise) in enumerate(
            zip(lengths, step.x_t.split(lengths), step.noise.split(lengths), strict=True)
        )
    ]
    assert worst(value, (alone[0][1] + alone[1][1]) / 2) < 1e-12
    assert worst(slope, (alone[0][2] + alone[1][2]) / 2) < 1e-12  # observed 4e-16
    assert worst(slope, (2 * alone[0][2] + 7 * alone[1][2]) / 9) > 1e-3  # not weighted by voxels


def test_matching_term_of_mdt_is_that_of_vm():
    student, layout = Mlp(3, 1), ragged((2, 7), 3)
    step = make_step(layout, times(2, 4), bind(student, layout), bind(Mlp(3, 2), layout))
    of_mdt = gradient(method("mdt", lambda_vd=0.0).loss(step).value, student)
    assert torch.equal(of_mdt, gradient(method("vm").loss(step).value, student))


@pytest.mark.parametrize("name", ["cm:weighted", "ect", "gd", "kd", "mdt", "mdt:paper", "pcm", "scm:adaptive", "vm"])
def test_per_voxel_reduction_weighs_objects_by_their_voxels(name: str):
    """The mean over all voxels: what a batch of one gives, weighted 2 : 7. VD's draws are the step's, to be shared."""
    student, teacher, lengths = Mlp(3, 1), Mlp(3, 2), (2, 7)
    target, t, both = twin(student, 3, 0.2), times(2, 4), ragged(lengths, 3)
    made = method(name, reduction=PerVoxel(), **({"vd_draws": SharedDraws()} if name.startswith("mdt") else {}))
    fresh = both.randn([seeded(5)])

    def run(layout, t, x_t, noise, fresh):
        scripted = Scripted(layout.sample, layout.batch_size, 3, F64, draws=[fresh])
        step = make_step(layout, t, bind(student, layout), bind(teacher, layout), frozen=bind(target, layout), x_t=x_t)
        return loss_and_gradient(made, replace(step, noise=noise, layout=scripted), student)[1]

    step = make_step(both, t, bind(student, both), bind(teacher, both))
    together = run(both, t, step.x_t, step.noise, fresh)
    parts = zip(*(x.split(lengths) for x in (step.x_t, step.noise, fresh)), strict=True)
    alone = [run(ragged((n,), 3), t[i : i + 1], *part) for i, (n, part) in enumerate(zip(lengths, parts, strict=True))]
    assert worst(together, (2 * alone[0] + 7 * alone[1]) / 9) < 1e-12  # observed 2e-16
    assert worst(together, (alone[0] + alone[1]) / 2) > 1e-3


def test_reductions_weigh_objects_of_different_size():
    layout, x = ragged((1, 3), 1), torch.tensor([[8.0], [0.0], [0.0], [0.0]], dtype=F64)
    assert reduced_mean(layout, x, PerSample()) == 4.0  # (8 + 0) / 2
    assert reduced_mean(layout, x, PerVoxel()) == 2.0  # 8 / 4
