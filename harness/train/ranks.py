"""Several processes that train one student: each computes its part of every batch, and gradients are added up.

`Ranks` is what training knows of the others. Weights need no exchange: all processes start from the same ones and
make the same updates, since the sum of the gradients has the same bits everywhere.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from ...base.errors import UsageError
from ...base.text import counted
from ..engine.device import is_cpu
from .parts import TreeSum

BUCKET = 2**24  # elements that are exchanged at once: a message per tensor is slow, one for all doubles the memory
MEET = "MDTBENCH_MEET"  # names a file by which the processes find each other
PATIENCE = timedelta(minutes=10)  # to wait for another process: a lost one is an error, not a wait for ever


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together. One alone exchanges nothing."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes files."""
        return self.rank == 0

    def share(self, parts: int) -> int:
        """How many of a batch's parts this process computes.

        Raises:
            UsageError: the sum of all would depend on how many processes there are.
        """
        count, rest = divmod(parts, self.size)
        if self.size > 1 and (rest or count & (count - 1) or not count):
            raise UsageError(
                f"{self.size} processes cannot share {counted(parts, 'part')} of a batch: a power of two for each is "
                "needed, so that the number of processes changes no bit - "
                f"set train.parts to {self.size} or {2 * self.size}."
            )
        return count

    def add(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over processes, added as `parts.TreeSum` does.

        All must call it with tensors of equal shapes. An all-reduce of the library would add in an order of its own.
        """
        for bucket in buckets(tensors) if self.size > 1 else ():
            flat = torch.cat([tensor.flatten() for tensor in bucket])
            gathered, total = [torch.empty_like(flat) for _ in range(self.size)], TreeSum()
            dist.all_gather(gathered, flat)
            for one in gathered:
                total.add([one])
            flat = total.value[0]
            for tensor, part in zip(bucket, flat.split([tensor.numel() for tensor in bucket]), strict=True):
                tensor.copy_(part.view_as(tensor))

    def any(self, flag: bool) -> bool:
        """Whether any process says so."""
        if self.size == 1:
            return flag
        count = torch.tensor([int(flag)])  # both back-ends of `together` take CPU tensors
        self.add([count])
        return bool(count.item())

    def of_first(self, numbers: Sequence[int]) -> list[int]:
        """What the first process says, in all of them. All give as many numbers."""
        if self.size == 1:
            return list(numbers)
        said = torch.tensor(numbers, dtype=torch.int64)
        dist.broadcast(said, src=0)
        return said.tolist()

    def wait(self) -> None:
        """Until all processes are here."""
        if self.size > 1:
            dist.barrier()


def buckets(tensors: Iterable[Tensor], limit: int = BUCKET) -> Iterator[list[Tensor]]:
    """Neighbours of one dtype and device, of at most `limit` elements together unless one alone has more."""
    bucket: list[Tensor] = []
    for tensor in tensors:
        size = sum(each.numel() for each in bucket) + tensor.numel()
        if bucket and (size > limit or (tensor.dtype, tensor.device) != (bucket[0].dtype, bucket[0].device)):
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket


def joined() -> Ranks:
    """The processes of the group that this one has joined; itself alone when it has joined none."""
    return Ranks(dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else Ranks()


@contextmanager
def together(device: str = "cpu") -> Iterator[Ranks]:
    """Join the processes that `mdtbench run --ranks` started, if it did: it sets RANK, WORLD_SIZE and MEET.

    Args:
        device: of this process, settled already: NCCL meets the others on the current GPU.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Ranks()
        return
    backend = "gloo" if is_cpu(device) else "cpu:gloo,cuda:nccl"
    dist.init_process_group(
        backend,
        timeout=PATIENCE,
        init_method=f"file://{os.environ[MEET]}",
        rank=int(os.environ["RANK"]),
        world_size=int(os.environ["WORLD_SIZE"]),
    )
    try:
        yield joined()
    finally:
        dist.destroy_process_group()
