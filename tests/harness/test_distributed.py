"""Parts of a batch and processes that share it: the result is that of one process with the whole batch."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from itertools import chain
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from mdtbench.base.errors import UsageError
from mdtbench.flow.layout import DenseLayout, SparseLayout
from mdtbench.harness import train as train_module
from mdtbench.harness.distributed import Ranks, buckets, joined, together
from mdtbench.harness.parts import CutDraws, parts_of
from mdtbench.harness.task import Batch

sys.path.insert(0, str(Path(__file__).parent))

import ranks_worker
from ranks_worker import NAMES, TRAIN, train_all


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


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    train_all(folder)
    return folder


def in_two_processes(folder: Path) -> None:
    """As `torchrun --nproc-per-node 2` does, without the seconds that its agent takes to start."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = []
    for rank in range(2):
        place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
        env = os.environ | place | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, ranks_worker.__file__, str(folder)]
        running.append(subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True))
    try:
        for process in running:
            _, errors = process.communicate(timeout=300)
            assert process.returncode == 0, errors
    finally:
        for process in running:
            process.kill()


def check_equal(folder: Path, expected: Path) -> None:
    """Same losses and gradient norms to 1e-5, same weights.

    Weights are compared by the root mean square of their difference: Adam divides a gradient by its own size, so the
    few elements whose gradient is rounding noise may take another step (of up to 4e-4). Students move by 3e-4.
    """
    for name in NAMES:
        for a, b in zip(log(folder / name), log(expected / name), strict=True):
            assert a == pytest.approx(b, rel=1e-5, abs=1e-7)
        found, wanted = (load_file(each / name / "student.safetensors") for each in (folder, expected))
        difference = torch.cat([(found[key] - wanted[key]).flatten() for key in wanted])
        assert difference.square().mean().sqrt() < 1e-6, name


def log(folder: Path) -> list[dict[str, float]]:
    lines = (folder / "log.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key != "step_s"} for line in lines]


def test_accumulated_parts_give_what_the_whole_batch_gives(alone: Path, tmp_path: Path):
    train_all(tmp_path, TRAIN.model_copy(update={"accumulate": 3}))
    check_equal(tmp_path, alone)


def test_two_processes_give_what_one_gives_with_twice_the_batch(alone: Path, tmp_path: Path):
    in_two_processes(tmp_path)
    check_equal(tmp_path, alone)


def test_methods_differ_and_students_moved(alone: Path):
    """Without this the comparisons above could hold between things that never changed."""
    start = ranks_worker.task().student().state_dict()
    moved = [load_file(alone / name / "student.safetensors") for name in NAMES]
    for i, weights in enumerate([start, *moved]):
        for other in moved[i:]:
            assert (weights["out_layer.weight"] - other["out_layer.weight"]).square().mean().sqrt() > 1e-5


@pytest.mark.parametrize(("rank", "rows"), [(0, [[0], [1, 2]]), (1, [[3], [4, 5]])])
def test_every_process_computes_the_parts_of_its_rank(rank: int, rows: list[list[int]]):
    class Drawn:
        def draw(self, seed: int, index: int) -> Batch:
            return dense(6)

    train = TRAIN.model_copy(update={"accumulate": 2})
    found = train_module._own_parts(Drawn(), train, 0, 0, Ranks(rank, 2))  # type: ignore[arg-type]
    assert [part.batch.u.tolist() for part in found] == [dense(6).u[row].tolist() for row in rows]
