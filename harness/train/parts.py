"""A batch cut into parts, for gradient accumulation and for several processes. The parts see what the whole would.

Batch, times and a method's private draws are made for the whole batch and cut, so that the sum of the parts'
gradients, each weighted by its share of the samples, is the whole batch's up to rounding. That holds for losses that
are means over samples; a mean over voxels (`reduction=per_voxel`) weighs samples by the other samples of their part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ...base.errors import UsageError
from ...flow.layout import Rows
from .task import Batch

# For every leading size that a tensor of a part can have: the whole batch's size, and the part's rows of it, which are
# on the CPU as the draws are.
Cut = Mapping[int, tuple[int, Rows]]


@dataclass(frozen=True)
class Part:
    """Some samples of a batch. share: of the whole batch's samples; cut: empty when it is the whole batch."""

    batch: Batch
    share: float
    cut: Cut


def parts_of(batch: Batch, count: int, chosen: range) -> list[Part]:
    """Cut a batch in `count` parts of nearly equal size and return those with the indices `chosen`.

    Raises:
        UsageError: more parts than samples.
    """
    total = batch.layout.batch_size
    if count > total:
        raise UsageError(
            f"A batch of {total} cannot be cut in {count} parts (train.accumulate). "
            "Raise train.batch or lower train.accumulate."
        )
    if count == 1:
        return [Part(batch, 1.0, {})]
    return [_part(batch, total * i // count, total * (i + 1) // count) for i in chosen]


def _part(batch: Batch, start: int, stop: int) -> Part:
    total, samples = batch.layout.batch_size, slice(start, stop)
    layout, rows = batch.layout.part(start, stop)
    x_0, noise = batch.x_0[rows], batch.noise[rows]
    cut = {len(x_0): (len(batch.x_0), rows), stop - start: (total, samples)}
    return Part(Batch(x_0, noise, batch.u[samples], batch.cond[samples], layout), (stop - start) / total, cut)


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


class CutDraws(TorchFunctionMode):
    """While active, a draw from `generator` with one row per sample (or voxel) of a part is made for the whole batch.

    So the parts of a batch get different draws, the same as the whole batch would, without any method knowing of
    parts. Draws of other sizes are common to all parts, as they are to all samples of a whole batch.
    Seen are `torch.rand`, `torch.randn` and `torch.randint` with a `generator`, hence also a layout's `randn`.
    """

    def __init__(self, generator: torch.Generator, cut: Cut):
        super().__init__()
        self._generator = generator
        self._cut = cut

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func not in (torch.rand, torch.randn, torch.randint) or kwargs.get("generator") is not self._generator:
            return func(*args, **kwargs)
        size, call = _sized(func, args, kwargs)
        if not size or size[0] not in self._cut:
            return func(*args, **kwargs)
        total, rows = self._cut[size[0]]
        return call((total, *size[1:]))[rows]


def _sized(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[int, ...], Any]:
    """The size that is asked for, and the same call for any size."""
    rest = {key: value for key, value in kwargs.items() if key != "size"}
    if "size" in kwargs:
        return tuple(kwargs["size"]), lambda size: func(*args, size, **rest)
    if args and not isinstance(args[-1], int):  # a tuple comes last, after the bounds of randint
        return tuple(args[-1]), lambda size: func(*args[:-1], size, **rest)
    return args, lambda size: func(*size, **rest)
