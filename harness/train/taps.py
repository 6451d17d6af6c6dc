"""Hidden features of a flow network, read between its blocks: one file for all networks and both stages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...base.errors import UsageError
from ...flow.layout import DenseLayout, SparseLayout
from ...methods import Features


def tapped(
    network: nn.Module, taps: Sequence[int], velocity: Callable[..., Tensor]
) -> Callable[..., tuple[Features, ...]]:
    """What the blocks `taps` of `network` return while `velocity` runs it, in the order of `taps`.

    Gradients flow to the input, and to the weights where these are trained.

    Args:
        velocity: calls `network` once, bound to a batch: (x, t) of B samples to a velocity.
    Cost: 1 pass; the blocks behind the last tap run as well.
    """
    blocks = blocks_of(network, taps)

    def features(x: Tensor, t: Tensor, *t_end: Tensor) -> tuple[Features, ...]:
        found: dict[int, Features] = {}

        def keep(n: int) -> Callable[..., None]:
            def hook(_: nn.Module, given: tuple[Any, ...], made: Tensor) -> None:
                found[n] = _laid_out(made.to(x.dtype), given, len(t))

            return hook

        hooks = [block.register_forward_hook(keep(n)) for n, block in blocks.items()]
        try:
            velocity(x, t, *t_end)
        finally:
            for hook in hooks:
                hook.remove()
        return tuple(found[n] for n in taps)

    return features


def indices_of(network: nn.Module, taps: Sequence[int] | int) -> tuple[int, ...]:
    """The blocks that `Network.taps` means: these, or so many of all. Raises UsageError where there are none."""
    if not isinstance(taps, int):
        return tuple(taps)
    depth = len(list(getattr(network, "blocks", ())))
    if taps and not depth:
        raise UsageError(f"A {type(network).__name__} has no `blocks` to tap. Choose a method without Network.taps.")
    count = min(taps, depth)
    return tuple((i + 1) * depth // count - 1 for i in range(count))


def blocks_of(network: nn.Module, taps: Sequence[int]) -> dict[int, nn.Module]:
    """The blocks at these indices. Raises UsageError where there are no such blocks."""
    blocks = list(getattr(network, "blocks", ()))
    wrong = [n for n in taps if not 0 <= n < len(blocks)]
    if wrong:
        allowed = f"Allowed: 0 to {len(blocks) - 1}" if blocks else "It has no blocks"
        raise UsageError(f"A {type(network).__name__} has no block {wrong[0]} to tap. {allowed}. Correct Network.taps.")
    return {n: blocks[n] for n in taps}


def _laid_out(made: Tensor, given: tuple[Any, ...], batch_size: int) -> Features:
    """What a block returned; rows of ragged samples are known from the tokens that it was given as its last input."""
    if made.ndim == 2 and len(given) > 3:
        sample = given[3].spread(torch.arange(batch_size, device=made.device)[:, None])[:, 0]
        return Features(made, SparseLayout(sample, batch_size, made.shape[1], made.dtype))
    return Features(made, DenseLayout(tuple(made.shape), made.dtype, made.device))
