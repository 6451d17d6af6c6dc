"""Parts of a batch, for gradient accumulation and for several processes; and sums over them in a fixed order.

Which objects a batch holds follows from seed and step, however many parts there are. Noise, times and a method's
private draws are a part's own: a process draws, reads and encodes its parts alone. So the number of parts decides
numbers, and the number of processes that share them does not. Weighted by its share of the samples, the parts'
gradients add up to that of the parts as one batch, where the loss is a mean over samples; a mean over voxels
(`reduction=per_voxel`) weighs samples by the other samples of their part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from ...base.errors import UsageError
from .batch import Batch


@dataclass(frozen=True)
class Part:
    """One of `count` parts of a batch, of nearly equal size."""

    number: int = 0
    count: int = 1

    @property
    def words(self) -> tuple[int, ...]:
        """Of seeds of its own draws; a whole batch has none."""
        return () if self.count == 1 else (self.number, self.count)

    def samples(self, total: int) -> slice:
        """Its samples of a batch of `total`. Raises UsageError when there are more parts than samples."""
        if self.count > total:
            raise UsageError(
                f"A batch of {total} cannot be cut in {self.count} parts (train.parts). "
                "Raise train.batch or lower train.parts."
            )
        return slice(total * self.number // self.count, total * (self.number + 1) // self.count)


WHOLE = Part()


def share_of(samples: slice, total: int) -> float:
    """Of all samples."""
    return (samples.stop - samples.start) / total


def cut(batch: Batch, part: Part) -> Batch:
    """A part of a batch that was drawn whole."""
    if part.count == 1:
        return batch
    total = batch.layout.batch_size
    samples = part.samples(total)
    layout, rows = batch.layout.part(samples.start, samples.stop)
    drawn = {"x_0": batch.x_0[rows], "noise": batch.noise[rows], "u": batch.u[samples], "cond": batch.cond[samples]}
    return replace(batch, **drawn, layout=layout, share=share_of(samples, total))


class TreeSum:
    """Adds lists of tensors in a fixed binary tree over their order: (0 + 1) + (2 + 3), and so on.

    So 2^k neighbours that another process adds up for itself give the same bits. As many sums are in memory as the
    tree is deep.
    """

    def __init__(self) -> None:
        self._sums: list[tuple[int, list[Tensor]]] = []  # (height, sum of 2^height items), higher ones first

    def add(self, item: Sequence[Tensor]) -> None:
        """The tensors are kept, and changed."""
        height, total = 0, list(item)
        while self._sums and self._sums[-1][0] == height:
            _, before = self._sums.pop()
            total = [a.add_(b) for a, b in zip(before, total, strict=True)]
            height += 1
        self._sums.append((height, total))

    @property
    def value(self) -> list[Tensor]:
        """The sum of all; raises IndexError of none."""
        while len(self._sums) > 1:
            (_, last), (height, before) = self._sums.pop(), self._sums.pop()
            self._sums.append((height, [a.add_(b) for a, b in zip(before, last, strict=True)]))
        return self._sums[0][1]
