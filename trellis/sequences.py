"""Rows of a batch that attend to each other in sequences of different lengths, padded as little as needed.

N rows, S sequences of one group, L slots of each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

SHORT = 16  # sequences up to this length share a group: more groups would cost more than their padding


@dataclass(frozen=True, eq=False)
class Group:
    """S sequences, each padded to L slots.

    Attributes:
        mask: [S, 1, 1, L], true where a slot holds a row; None if all do.
    """

    count: int
    length: int
    mask: Tensor | None

    def to(self, device: torch.device | str) -> Group:
        return self if self.mask is None else replace(self, mask=self.mask.to(device))


@dataclass(frozen=True, eq=False)
class Blocks:
    """Sequences one after another without padding, as kernels for ragged attention take them. None is empty.

    Attributes:
        bounds: [S + 1] int32: where each begins, and where the last ends.
        lengths: of the sequences.
    """

    bounds: Tensor
    lengths: tuple[int, ...]

    @cached_property
    def longest(self) -> int:
        return max(self.lengths)


def equal_blocks(count: int, length: int, device: torch.device) -> Blocks:
    """So many sequences of one length."""
    bounds = torch.arange(0, (count + 1) * length, length, dtype=torch.int32, device=device)
    return Blocks(bounds, (length,) * count)


@dataclass(frozen=True, eq=False)
class Sequences:
    """Where each of N rows lies in a padded buffer: the slots of one group after those of another.

    Attributes:
        slots: [N] int64; None if the rows as they come are the buffer.
        groups: sequences of similar length.
        lengths: of all sequences, in the order of the buffer.
        bounds: `Blocks.bounds` of those that are not empty, in the same order.
    """

    slots: Tensor | None
    groups: tuple[Group, ...]
    lengths: tuple[int, ...]
    bounds: Tensor

    @cached_property
    def order(self) -> Tensor | None:
        """[N]: the rows, sequence after sequence, without padding; None if they come so."""
        if self.slots is None:
            return None
        order = self.slots.argsort()
        return None if torch.equal(order, torch.arange(len(order), device=order.device)) else order

    @cached_property
    def blocks(self) -> Blocks:
        """Of the rows in `order`."""
        return Blocks(self.bounds, tuple(length for length in self.lengths if length))

    def to(self, device: torch.device | str) -> Sequences:
        """The same for rows on `device`."""
        slots = None if self.slots is None else self.slots.to(device)
        groups = tuple(group.to(device) for group in self.groups)
        return Sequences(slots, groups, self.lengths, self.bounds.to(device))

    def pack(self, x: Tensor) -> list[Tensor]:
        """Rows [N, ...] as one tensor [S, L, ...] per group, zero in empty slots."""
        sizes = [group.count * group.length for group in self.groups]
        if self.slots is not None:
            # A copy to distinct slots: its derivative is a plain read, quicker than that of a gather with repetitions.
            x = x.new_zeros(sum(sizes), *x.shape[1:]).index_copy(0, self.slots, x)
        parts = zip(x.split(sizes), self.groups, strict=True)
        return [part.unflatten(0, (group.count, group.length)) for part, group in parts]

    def unpack(self, parts: Sequence[Tensor]) -> Tensor:
        """Inverse of `pack`."""
        buffer = torch.cat([part.flatten(0, 1) for part in parts]) if len(parts) > 1 else parts[0].flatten(0, 1)
        return buffer if self.slots is None else buffer.index_select(0, self.slots)


def one_group(owner: Tensor, lengths: Tensor) -> Sequences:
    """All sequences padded to the longest, in their order; empty ones keep their place.

    Args:
        owner: [N] int64, the sequence of each row.
        lengths: [S] int64, the rows of each sequence.
    """
    return _sequences(owner, lengths, [torch.arange(len(lengths), device=lengths.device)])


def grouped(owner: Tensor, lengths: Tensor) -> Sequences:
    """As `one_group`, in groups whose lengths differ by less than a factor of two."""
    if not len(lengths):
        return one_group(owner, lengths)
    magnitude = (lengths.clamp(min=SHORT) - 1).double().log2().floor()
    return _sequences(owner, lengths, [(magnitude == m).nonzero()[:, 0] for m in magnitude.unique()])


def _sequences(owner: Tensor, lengths: Tensor, members: list[Tensor]) -> Sequences:
    start = torch.zeros_like(lengths)  # of each sequence in the buffer
    groups, size = [], 0
    for ids in members:
        group = _group(lengths[ids])
        start[ids] = size + torch.arange(group.count, device=ids.device) * group.length
        groups.append(group)
        size += group.count * group.length
    slots = start[owner] + _rank(owner, lengths)
    as_they_come = size == len(slots) and torch.equal(slots, torch.arange(size, device=slots.device))
    in_order = torch.cat([lengths[ids] for ids in members])
    bounds = F.pad(in_order[in_order > 0].cumsum(0), (1, 0)).int()
    return Sequences(None if as_they_come else slots, tuple(groups), tuple(in_order.tolist()), bounds)


def _group(lengths: Tensor) -> Group:
    longest, shortest = (int(lengths.max()), int(lengths.min())) if len(lengths) else (0, 0)
    if longest == shortest:
        return Group(len(lengths), longest, None)
    # Of an empty sequence one slot stays open: a softmax over nothing is not a number.
    filled = torch.arange(longest, device=lengths.device) < lengths.clamp(min=1)[:, None]
    return Group(len(lengths), longest, filled[:, None, None])


def _rank(owner: Tensor, lengths: Tensor) -> Tensor:
    """Place of each row among the rows of its sequence: [N]."""
    order = owner.argsort(stable=True)
    first = (lengths.cumsum(0) - lengths)[owner[order]]
    place = torch.arange(len(owner), device=owner.device) - first
    return torch.empty_like(place).index_copy_(0, order, place)
