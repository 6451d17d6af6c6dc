"""Muon in float32: torch's own rounds to bfloat16, which a CPU without such units takes ten times as long for."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

# Jordan et al., Muon (2024): a quintic whose iterates bring singular values near 1 in five steps.
QUINTIC, ITERATIONS = (3.4445, -4.7750, 2.0315), 5


class Muon(torch.optim.Optimizer):
    """Momentum whose matrices are orthogonalised, with updates as large as AdamW's (Liu et al., arXiv:2502.16982).

    The same as `torch.optim.Muon` with `adjust_lr_fn="match_rms_adamw"` and Nesterov's momentum, but for its precision,
    and matrices of one shape are taken together.

    Args:
        params: matrices.
    """

    def __init__(self, params: Sequence[nn.Parameter], lr: float, momentum: float, weight_decay: float = 0.0):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            alike: dict[torch.Size, list[nn.Parameter]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    alike[parameter.shape].append(parameter)
            for shape, parameters in alike.items():
                directions = torch.stack([self._direction(p, group["momentum"]) for p in parameters])
                size = 0.2 * max(shape) ** 0.5 * group["lr"]
                for parameter, update in zip(parameters, orthogonalised(directions), strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"]).sub_(update, alpha=size)

    def _direction(self, parameter: nn.Parameter, momentum: float) -> Tensor:
        """torch's Muon averages gradients, so this does: momentum b <- m b + (1 - m) g, then m b + (1 - m) g."""
        gradient = parameter.grad
        assert gradient is not None
        buffer = self.state[parameter].setdefault("momentum_buffer", torch.zeros_like(parameter))
        buffer.lerp_(gradient, 1 - momentum)
        return gradient.lerp(buffer, momentum)


def orthogonalised(matrices: Tensor) -> Tensor:
    """U V^T, nearly, of the U S V^T of each matrix. matrices: [n, rows, columns]."""
    wide = matrices.mT if matrices.shape[1] > matrices.shape[2] else matrices
    x = wide / wide.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    a, b, c = QUINTIC
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if wide is not matrices else x
