"""Parts of a batch: what they are, what is drawn for them, and that their gradients add up to the whole batch's."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from mdtbench.base.errors import UsageError
from mdtbench.flow.layout import DenseLayout, SparseLayout
from mdtbench.harness.settings.config import Train
from mdtbench.harness.settings.methods import entrant
from mdtbench.harness.train.loop import Student, train_together
from mdtbench.harness.train.parts import CutDraws, TreeSum, parts_of
from mdtbench.harness.train.task import Batch, StageTask


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def dense(batch: int) -> Batch:
    x = torch.arange(batch * 6.0).reshape(batch, 2, 3)
    return Batch(x, -x, torch.linspace(0, 0.9, batch), x[:, :, 0], DenseLayout(tuple(x.shape)))


def sparse() -> Batch:
    """Three samples of 2, 1 and 3 voxels."""
    sample = torch.tensor([0, 0, 1, 2, 2, 2])
    x = torch.arange(24.0).reshape(6, 4)
    return Batch(x, -x, torch.rand(3, generator=generator()), torch.arange(3.0), SparseLayout(sample, 3, 4))


@pytest.mark.parametrize("batch", [dense(5), sparse()])
def test_parts_are_the_batch_in_order(batch: Batch):
    total = batch.layout.batch_size
    parts = parts_of(batch, total - 1, range(total - 1))
    for name in ("x_0", "noise", "u", "cond"):
        assert torch.equal(torch.cat([getattr(part.batch, name) for part in parts]), getattr(batch, name))
    assert sum(part.share for part in parts) == pytest.approx(1)
    for part in parts:
        layout = part.batch.layout
        assert part.share == layout.batch_size / total
        assert len(part.batch.u) == layout.batch_size
        assert layout.expand(part.batch.u).shape[0] == len(part.batch.x_0)
        assert torch.equal(layout.sum(part.batch.x_0).sum(), part.batch.x_0.sum())


def test_a_process_gets_its_own_parts():
    found = parts_of(dense(8), 4, range(2, 4))
    assert [part.batch.u.tolist() for part in found] == [dense(8).u[4:6].tolist(), dense(8).u[6:].tolist()]


def test_the_whole_batch_is_left_as_it_is():
    batch = dense(3)
    [part] = parts_of(batch, 1, range(1))
    assert part.batch is batch
    assert (part.share, part.cut) == (1.0, {})


def test_more_parts_than_samples_is_a_usage_error():
    with pytest.raises(UsageError, match="batch of 3 cannot be cut in 4 parts"):
        parts_of(dense(3), 4, range(4))


def draws(layout: DenseLayout | SparseLayout, source: torch.Generator) -> list[Tensor]:
    """All kinds of draws that a method may make, one after the other."""
    b = layout.batch_size
    return [
        layout.randn([source]),
        torch.rand((b,), generator=source, dtype=torch.float64),
        torch.rand(b, generator=source),
        torch.randint(0, 100, (b, 2), generator=source),
        torch.randint(100, size=(b,), generator=source),
        torch.randn(size=(b, 3), generator=source),
    ]


@pytest.mark.parametrize("batch", [dense(5), sparse()])
def test_draws_of_parts_are_the_whole_batch_s_draws_cut(batch: Batch):
    expected = draws(batch.layout, generator())  # type: ignore[arg-type]
    found = []
    for part in parts_of(batch, 2, range(2)):
        source = generator()
        with CutDraws(source, part.cut):
            found.append(draws(part.batch.layout, source))  # type: ignore[arg-type]
    for whole, *parts in zip(expected, *found, strict=True):
        assert torch.equal(torch.cat(parts), whole)
        assert parts[0].dtype == whole.dtype


def test_draws_that_are_not_per_sample_and_other_generators_are_left_alone():
    part = parts_of(dense(6), 2, range(1, 2))[0]
    source = generator()
    with CutDraws(source, part.cut):
        common = [torch.rand((), generator=source), torch.randint(0, 9, (1,), generator=source)]
        other = torch.rand(3, generator=generator(7))
    plain = generator()
    assert torch.equal(common[0], torch.rand((), generator=plain))
    assert torch.equal(common[1], torch.randint(0, 9, (1,), generator=plain))
    assert torch.equal(other, torch.rand(3, generator=generator(7)))


def tree(numbers: list[Tensor]) -> Tensor:
    """The same sum from above: the largest power of two of them, then the rest."""
    if len(numbers) == 1:
        return numbers[0]
    half = 1 << ((len(numbers) - 1).bit_length() - 1)
    return tree(numbers[:half]) + tree(numbers[half:])


def summed(items: list[Tensor]) -> Tensor:
    total = TreeSum()
    for item in items:
        total.add([item.clone()])
    return total.value[0]


def test_sums_are_made_in_a_fixed_tree():
    """So that processes, each with a power of two of the items, may add their own first."""
    items = list(torch.randn(8, 1000, generator=generator(3)) * torch.logspace(-3, 3, 8)[:, None])
    for count in range(1, 9):
        assert torch.equal(summed(items[:count]), tree(items[:count]))
    for share in (1, 2, 4, 8):
        assert torch.equal(summed([summed(items[i : i + share]) for i in range(0, 8, share)]), summed(items))
    assert not torch.equal(summed(items), sum(items[1:], start=items[0]))  # one after the other rounds otherwise


@pytest.mark.parametrize("name", ["cm", "ect", "pcm", "scm", "scm:adaptive", "vm", "mdt", "gd", "kd"])
def test_parts_have_the_gradient_of_the_whole_batch(name: str, task: StageTask, tmp_path: Path):
    """Samples are of different size, and some methods draw numbers of their own, which parts must not draw anew."""

    def gradient(accumulate: int) -> Tensor:
        train = Train(steps=1, batch=4, warmup=0, clip=1e9, accumulate=accumulate)
        method = entrant(name, {"kd": {"teacher_steps": 3}}, task.pipeline.sampler).distillation
        made = Student(name, method, task.student(), train, 1, tmp_path / str(accumulate))
        assert train_together([made], task, train, 7) == {}
        return torch.cat([part.flatten() for part in made.learner.gradients()])

    whole = gradient(1)
    # float32 sums in another order; methods that divide differences by delta = 0.01 enlarge them to 1e-5
    assert (gradient(3) - whole).norm() < 1e-4 * whole.norm()
