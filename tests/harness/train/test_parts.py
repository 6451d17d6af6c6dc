"""Parts of a batch: what they are, what is drawn for them, and that their gradients add up to the whole batch's."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mdtbench.base.errors import UsageError
from mdtbench.base.seeds import seed_of
from mdtbench.flow.layout import DenseLayout, SparseLayout
from mdtbench.harness.settings.config import Train
from mdtbench.harness.settings.methods import entrant
from mdtbench.harness.train.batch import Batch
from mdtbench.harness.train.loop import Student, train_together
from mdtbench.harness.train.parts import WHOLE, Part, TreeSum, cut
from mdtbench.harness.train.task import StageTask
from mdtbench.methods import Loss, Step
from mdtbench.methods.vm import VelocityMatching

SEED = 7


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
    parts = [cut(batch, Part(i, total - 1)) for i in range(total - 1)]
    for name in ("x_0", "noise", "u", "cond"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(batch, name))
    assert sum(part.share for part in parts) == pytest.approx(1)
    for part in parts:
        layout = part.layout
        assert part.share == layout.batch_size / total
        assert len(part.u) == layout.batch_size
        assert layout.expand(part.u).shape[0] == len(part.x_0)
        assert torch.equal(layout.sum(part.x_0).sum(), part.x_0.sum())
    assert cut(batch, WHOLE) is batch
    assert batch.share == 1.0


def test_more_parts_than_samples_is_a_usage_error():
    with pytest.raises(UsageError, match=r"batch of 3 cannot be cut in 4 parts .*train.parts"):
        cut(dense(3), Part(0, 4))


def drawn(task: StageTask, count: int) -> list[Batch]:
    return [task.draw(SEED, 2, Part(i, count)) for i in range(count)]


def test_parts_hold_the_objects_of_the_batch_and_draw_for_themselves(task: StageTask):
    """Noise and times of a part follow from its own number; those of a whole batch from no number."""
    whole, parts = task.draw(SEED, 2), drawn(task, 3)
    for name in ("x_0", "cond"):
        found = torch.cat([getattr(part, name) for part in parts])
        torch.testing.assert_close(found, getattr(whole, name), rtol=1e-5, atol=1e-6)  # encoded in other batches
    assert torch.equal(torch.cat([part.x_0 for part in parts]), whole.x_0)
    assert [part.share for part in parts] == [0.25, 0.25, 0.5]
    numbers = torch.cat([whole.u, *(part.u for part in parts)])
    assert len(numbers.unique()) == len(numbers) == 8
    for again, part in zip(drawn(task, 3), parts, strict=True):
        assert torch.equal(again.noise, part.noise)
    assert not torch.equal(task.draw(SEED, 2, Part(0, 4)).u, parts[0].u)


def test_a_part_reads_and_encodes_its_own_pictures_alone(structure_task: StageTask, monkeypatch: pytest.MonkeyPatch):
    seen: list[int] = []
    conditioner = structure_task.pipeline.conditioner
    hook = conditioner.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    drawn(structure_task, 3)
    hook.remove()
    assert seen == [1, 1, 2]


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


@dataclass(frozen=True)
class Joined(StageTask):
    """A whole batch is what three parts have drawn, one after the other."""

    def draw(self, seed: int, index: int, part: Part = WHOLE) -> Batch:
        if part.count > 1:
            return super().draw(seed, index, part)
        parts = [super(Joined, self).draw(seed, index, Part(i, 3)) for i in range(3)]
        tensors = {name: torch.cat([getattr(p, name) for p in parts]) for name in ("x_0", "noise", "u", "cond")}
        return Batch(**tensors, layout=super().draw(seed, index).layout)


@pytest.mark.parametrize("name", ["cm", "ect", "pcm", "scm", "scm:adaptive", "vm", "gd", "kd"])
def test_parts_have_the_gradient_of_their_samples_together(name: str, task: StageTask, tmp_path: Path):
    """Samples are of different size. mdt draws noise of its own in every part."""
    joined = Joined(*(getattr(task, field.name) for field in fields(task)))

    def gradient(parts: int) -> Tensor:
        train = Train(steps=1, batch=4, warmup=0, clip=1e9, parts=parts)
        method = entrant(name, {"kd": {"teacher_steps": 3}}, task.pipeline.sampler).distillation
        made = Student(name, method, task.student(), train, 1, tmp_path / str(parts))
        assert train_together([made], joined, train, 7) == {}
        return torch.cat([part.flatten() for part in made.learner.gradients()])

    whole = gradient(1)
    # float32 sums in another order; methods that divide differences by delta = 0.01 enlarge them to 1e-5
    assert (gradient(3) - whole).norm() < 1e-4 * whole.norm()


def test_private_draws_of_parts_differ(structure_task: StageTask, tmp_path: Path):
    """mdt's own noise, which two parts must not share."""
    first: list[float] = []

    @dataclass(frozen=True, kw_only=True)
    class Noting(VelocityMatching):
        def loss(self, step: Step) -> Loss:
            first.append(float(torch.rand((), generator=step.generator)))
            return super().loss(step)

    train = Train(steps=2, batch=4, warmup=0, parts=2)
    made = Student("noting", Noting(cfg_strength=1.0), structure_task.student(), train, 2, tmp_path)
    assert train_together([made], structure_task, train, SEED) == {}
    words = [(index, part, 2) for index in range(2) for part in range(2)]
    seeds = [seed_of("method", "noting", SEED, *each) for each in words]
    assert first == [float(torch.rand((), generator=torch.Generator().manual_seed(seed))) for seed in seeds]
    assert len(set(first)) == 4
