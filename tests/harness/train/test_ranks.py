"""Processes that share a batch: however many they are, students get the same bits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from safetensors.torch import load_file

from mdtbench.base.errors import RunError, UsageError
from mdtbench.base.seeds import seed_of
from mdtbench.harness.train import loop
from mdtbench.harness.train.loop import student_file, train_together
from mdtbench.harness.train.ranks import Ranks, buckets, joined, together
from mdtbench.harness.train.task import StageTask

sys.path.insert(0, str(Path(__file__).parent))

import ranks_worker
from ranks_worker import NAMES, SIZES, STAGES, TRAIN


def test_a_process_of_its_own_exchanges_nothing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with together() as ranks:
        assert ranks == joined() == Ranks(0, 1)
        kept = torch.ones(2)
        ranks.add([kept])
        assert kept.tolist() == [1, 1]
        assert ranks.any(True)
        assert not ranks.any(False)
        ranks.wait()


def test_buckets_keep_the_order_and_hold_one_dtype_each():
    sizes = [3, 2, 9, 1, 1]
    tensors = [torch.zeros(size) for size in sizes] + [torch.zeros(1, dtype=torch.float64)]
    found = list(buckets(tensors, limit=5))
    assert [[tensor.numel() for tensor in bucket] for bucket in found] == [[3, 2], [9], [1, 1], [1]]
    assert all(tensor is other for tensor, other in zip(chain(*found), tensors, strict=True))
    assert list(buckets([])) == []


@pytest.mark.parametrize(("size", "parts", "share"), [(1, 3, 3), (1, 1, 1), (2, 2, 1), (2, 8, 4), (4, 4, 1)])
def test_parts_are_shared_by_powers_of_two(size: int, parts: int, share: int):
    assert Ranks(0, size).share(parts) == share


@pytest.mark.parametrize(("size", "parts"), [(2, 1), (2, 3), (2, 6), (3, 4), (4, 2)])
def test_a_sum_that_would_depend_on_the_processes_is_a_usage_error(size: int, parts: int):
    with pytest.raises(UsageError, match=rf"set train.parts to {size} or {2 * size}"):
        Ranks(0, size).share(parts)


def test_two_processes_need_two_parts_of_a_batch(structure_task: StageTask, tmp_path: Path):
    train = TRAIN.model_copy(update={"parts": 1})
    students = ranks_worker.students(structure_task, tmp_path, train)
    with pytest.raises(UsageError, match=r"2 processes cannot share 1 part of a batch.* set train.parts to 2 or 4"):
        train_together(students, structure_task, train, 0, Ranks(0, 2))


@pytest.mark.parametrize(("rank", "rows"), [(0, [[0], [1]]), (1, [[2], [3, 4]])])
def test_every_process_computes_the_parts_of_its_rank(rank: int, rows: list[list[int]], structure_task: StageTask):
    task = ranks_worker.of_batch(structure_task)
    found = [task.draw(0, 0, part) for part in loop.own_parts(TRAIN, Ranks(rank, 2))]
    x_0 = task.draw(0, 0).x_0
    assert all(torch.equal(part.x_0, x_0[row]) for part, row in zip(found, rows, strict=True))


class SaidByFirst(Ranks):
    """The second of two processes; the first has said `answers`, one list after the other."""

    answers: ClassVar[list[list[int]]] = []

    def of_first(self, numbers: Sequence[int]) -> list[int]:
        return self.answers.pop(0)


def test_processes_train_the_students_of_the_first(structure_task: StageTask, tmp_path: Path):
    students = ranks_worker.students(structure_task, tmp_path)
    SaidByFirst.answers = [[1, seed_of("mdt")]]
    with pytest.raises(RunError, match="given different students"):
        train_together(students, structure_task, TRAIN, 0, SaidByFirst(1, 2))


def test_a_checkpoint_that_comes_late_is_waited_for(
    structure_task: StageTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """As over a network: it is there for the first process, and then for this one."""
    first, second = (ranks_worker.students(structure_task, tmp_path, names=["cm"])[0] for _ in range(2))
    first.learner.step(sum(p.square().sum() for p in first.network.parameters()))  # type: ignore[arg-type]
    slept: list[float] = []
    monkeypatch.setattr(loop.time, "sleep", lambda s: slept.append(s) or (first.save() if len(slept) == 3 else None))
    second.go_on_from(1)
    assert (second.learner.done, len(slept)) == (1, 3)
    assert all(torch.equal(a, b) for a, b in zip(second.network.parameters(), first.network.parameters(), strict=True))
    monkeypatch.setattr(loop, "LATE_S", 2)
    with pytest.raises(RunError, match=r"checkpoint.safetensors is of step 1 here, and of step 4 where the first"):
        second.go_on_from(4)


@pytest.fixture(scope="module")
def by_size(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Folders of the same students, trained by 1, 2 and 4 processes."""
    folder = tmp_path_factory.mktemp("ranks")
    paths = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run(
        [sys.executable, ranks_worker.__file__, str(folder)], env=env, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return {size: folder / str(size) for size in SIZES}


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("stage", STAGES)
def test_the_number_of_processes_changes_no_bit(stage: str, size: int, by_size: dict[int, Path]):
    for name in NAMES:
        expected, found = (by_size[each] / stage / name for each in (1, size))
        assert log(found) == log(expected)
        wanted, made = load_file(student_file(expected)), load_file(student_file(found))
        assert set(made) == set(wanted)
        assert [key for key in wanted if not torch.equal(made[key], wanted[key])] == []


@pytest.mark.parametrize("stage", STAGES)
def test_methods_differ_and_students_moved(stage: str, by_size: dict[int, Path]):
    """Without this the comparison above could hold between things that never changed."""
    start = ranks_worker.small_task(stage).student().state_dict()
    moved = [load_file(student_file(by_size[1] / stage / name)) for name in NAMES]
    for i, weights in enumerate([start, *moved]):
        for other in moved[i:]:
            assert (weights["out_layer.weight"] - other["out_layer.weight"]).square().mean().sqrt() > 1e-5


def test_a_fault_in_one_process_is_one_in_all(by_size: dict[int, Path]):
    """Else the others would go on, and wait for it."""
    first, second = (json.loads((by_size[2] / f"failures-{rank}.json").read_text()) for rank in range(2))
    assert [name for name, _ in first] == [name for name, _ in second] == ["broken", "vm"]
    assert all(failure["lost"] for _, failure in (*first, *second))
    assert "another process" in first[0][1]["reason"]
    assert "MemoryError" in second[0][1]["reason"]


def log(folder: Path) -> list[dict[str, float]]:
    lines = (folder / "log.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key != "step_s"} for line in lines]
