"""What all methods of a training step share."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...flow.layout import Layout


@dataclass(frozen=True)
class Batch:
    """The samples of a step, or a part of them.

    Attributes:
        x_0, noise: data and standard normal noise, in `layout`.
        u: [B] uniform in [0, 1); a method's time density makes times of it.
        cond: condition of the networks, computed once, and so where they are; all else is drawn on the CPU.
        share: of the whole batch's samples.
    """

    x_0: Tensor
    noise: Tensor
    u: Tensor
    cond: Tensor
    layout: Layout
    share: float = 1.0

    def to(self, device: torch.device) -> Batch:
        """The same on `device`."""
        moved = {name: there(getattr(self, name), device) for name in ("x_0", "noise", "u", "cond")}
        return replace(self, **moved, layout=self.layout.to(device))


def there(tensor: Tensor, device: torch.device) -> Tensor:
    """`tensor` on `device`; on its way to a GPU through pinned memory, so that nothing waits for the copy."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
