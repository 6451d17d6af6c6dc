"""A second time for a flow network: besides where a jump begins, where it ends."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, runtime_checkable

import torch
from torch import nn

from ..base.errors import UsageError

NAME = "end_time"  # of the part of a network that embeds the end


@runtime_checkable
class TakesEndTime(Protocol):
    """A network that can be told where a jump ends: network(x, t, cond, t_end)."""

    def add_end_time(self) -> None:
        """Make the part `end_time`, by which the output depends on t_end, so that it has no effect at first."""
        ...


def add_end_time(network: nn.Module, seed: int = 0) -> None:
    """Give a network its second time. seed: of what it draws; torch's global generator is left as it was.

    Raises:
        UsageError: it cannot have one.
    """
    if not isinstance(network, TakesEndTime):
        raise UsageError(
            f"A {type(network).__name__} takes no second time, and this method needs one. Give it `add_end_time` as in "
            "docs/adding_a_backbone.md, or leave out the method."
        )
    like = next(network.parameters())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network.add_end_time()
    network.get_submodule(NAME).to(like.device)


def has_end_time(names: Iterable[str]) -> bool:
    """Whether tensors of these names are of a network with a second time."""
    return any(name.startswith(f"{NAME}.") for name in names)
