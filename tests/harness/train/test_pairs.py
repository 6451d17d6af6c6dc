"""Training on stored pairs: an epoch has every pair once, some are never learned from, and training ends by itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from mdtbench.flow.samplers import Euler
from mdtbench.harness.oracle.family import LawTask
from mdtbench.harness.oracle.plane import Plane
from mdtbench.harness.settings.config import Train
from mdtbench.harness.train.loop import Student, student_file, train_together
from mdtbench.harness.train.pairs import PATIENCE, SEED, HeldOut, PairedTask, ends_of, watching
from mdtbench.methods import StoredPairs
from tests.steps import method

BATCHES = 20
TRAIN = Train(steps=60, batch=16, lr=1e-2, warmup=1, ema=0.5)
KD: dict[str, Any] = {"pairs": BATCHES * TRAIN.batch, "epochs": 3, "teacher_steps": 8}


PLANE = Plane.of(("gaussian",), 0.0, 8)


def paired() -> PairedTask:
    task = LawTask(PLANE, TRAIN.batch, 0)
    return PairedTask(task, [ends_of(task, Euler(8), index) for index in range(BATCHES)])


def test_pairs_are_noises_and_where_the_solver_takes_them():
    task = paired()
    batch, drawn = task.pairs(3), task.task.draw(SEED, 3)
    assert torch.equal(batch.noise, drawn.noise)
    assert torch.equal(batch.cond, drawn.cond)
    teacher = task.teacher(batch)
    assert torch.equal(batch.x_0, Euler(8).sample(teacher, batch.noise, batch.layout, []))
    assert not torch.equal(batch.x_0, drawn.x_0)


def test_an_epoch_has_every_batch_that_is_learned_from_once():
    task = paired()
    assert task.learned == 19
    known = {float(task.pairs(index).noise[0, 0]): index for index in range(BATCHES)}
    epochs = [[known[float(task.draw(5, 19 * e + i).noise[0, 0])] for i in range(19)] for e in (0, 1)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(19))
    assert epochs[0] != epochs[1]
    assert [known[float(batch.noise[0, 0])] for batch in task.held_out()] == [19]


def test_kd_learns_the_ends_of_its_batch():
    """With the network that leads every noise to its end, the loss is zero; with the teacher's one step it is not."""
    task = paired()
    batch = task.pairs(0)
    made = method("kd", **KD)
    assert made.stored_pairs() == StoredPairs(320, 3, Euler(8))
    assert made.cost() == 3
    assert method("kd").stored_pairs() is None
    watch = HeldOut(made, PairedTask(task.task, [batch.x_0, batch.x_0]), 1)
    step = watch._step(lambda x, t, c: batch.noise - batch.x_0, batch)
    assert made.loss(step).value == 0
    step = watch._step(lambda x, t, c: PLANE.teacher(c)(x, t, 0.0), batch)
    assert made.loss(step).value > 0.1


@dataclass
class Falling:
    """A loss with given values."""

    values: list[float]

    def loss(self, step: object) -> Any:
        del step
        return type("Loss", (), {"value": torch.tensor(self.values.pop(0))})


@pytest.mark.parametrize(
    ("values", "ends"),
    [
        ([5.0, 4.0, 3.0, 2.0, 1.0, 0.5], None),
        ([5.0, 4.0, 4.0, 4.0, 4.0, 4.0], 6),  # four looks after the second without a better one
        ([5.0, 6.0, 6.0, 6.0, 4.9, 6.0, 6.0, 6.0, 6.0, 6.0], 9),
        ([5.0, 4.9999, 4.9998, 4.9997, 4.9996], 5),  # less than a thousandth is no gain
    ],
)
def test_training_ends_when_held_out_pairs_are_met_no_better(values: list[float], ends: int | None):
    watch = HeldOut(Falling(list(values)), paired(), 1)  # type: ignore[arg-type]
    seen = 0
    while not watch.over and seen < len(values):
        watch.observe(lambda x, t, c: x)
        seen += 1
    assert (seen if watch.over else None) == ends
    again = HeldOut(Falling([]), paired(), 1)  # type: ignore[arg-type]
    again.restore(watch.state())
    assert again.over == watch.over
    assert PATIENCE == 4


def student(folder: Path, task: PairedTask, steps: int) -> Student:
    made = method("kd", **KD)
    return Student("kd", made, task.student(), TRAIN, steps, folder, 0, HeldOut(made, task, 5))


def test_a_student_of_pairs_beats_its_teachers_one_step_and_may_end_early(tmp_path: Path):
    task = paired()
    trained = student(tmp_path / "a", task, 3 * task.learned)
    assert train_together([trained], task, TRAIN, 0) == {}
    assert student_file(tmp_path / "a").exists()
    errors = trained.held_out.state() if trained.held_out else torch.zeros(0)
    assert len(errors) == 3 * task.learned // 5
    assert errors[-1] < 0.8 * errors[0]
    short = student(tmp_path / "b", task, 1000)
    assert short.held_out is not None
    short.held_out.restore(torch.tensor([1e-9]))  # never to be met again
    assert train_together([short], task, TRAIN, 0) == {}
    assert short.learner.done == 5 * PATIENCE
    assert student_file(tmp_path / "b").exists()


def test_what_is_watched_survives_an_interruption(tmp_path: Path):
    task = paired()
    before = student(tmp_path, task, 100)
    assert before.held_out is not None
    before.held_out.restore(torch.tensor([3.0, 2.0]))
    before.save()
    after = student(tmp_path, task, 100)
    assert after.held_out is not None
    assert after.held_out.state().tolist() == [3.0, 2.0]


def test_a_method_with_heads_learns_from_pairs_to_the_last_step(tmp_path: Path):
    """Its loss is no error on held-out pairs, and nobody asks for it; that of `kd` is, on pairs."""
    task, train = paired(), TRAIN.model_copy(update={"steps": 3})
    made = method("ladd", **KD)
    assert watching(made, task, 40) is None
    assert watching(method("kd"), task, 40) is watching(method("kd", **KD), task.task, 40) is None
    watch = watching(method("kd", **KD), task, 40)
    assert watch is not None
    assert watch.every == 2
    student = Student("ladd", made, task.student(), train, train.steps, tmp_path, 0, watching(made, task, 3))
    assert train_together([student], task, train, 0) == {}
    assert student.learner.done == 3
