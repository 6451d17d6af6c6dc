"""One optimiser step and everything that must survive an interruption."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

BETAS = (0.9, 0.99)


@dataclass(frozen=True)
class Recipe:
    """How a network is optimised.

    Attributes:
        steps: optimiser steps in all.
        lr: peak learning rate of AdamW.
        warmup: steps over which the rate rises linearly; after them it falls to 0 along a cosine.
        clip: largest gradient norm.
        ema: decay of the averaged weights that are kept in the end.
        weight_decay: of AdamW.
    """

    steps: int
    lr: float
    warmup: int = 10
    clip: float = 1.0
    ema: float = 0.99
    weight_decay: float = 0.0

    def rate(self, index: int) -> float:
        """Learning rate of step `index`."""
        if index < self.warmup:
            return self.lr * (index + 1) / self.warmup
        progress = (index - self.warmup) / max(1, self.steps - self.warmup)
        return self.lr * 0.5 * (1 + math.cos(math.pi * progress))


class Learner:
    """AdamW, clipping, schedule and moving average for one module. All of its state is tensors.

    Attributes:
        done: steps taken.
        average: the moving average of the weights, by parameter name.
        skipped: steps left out because the loss or the gradient was not finite; `skipped_in_a_row` up to now.
    """

    def __init__(self, module: nn.Module, recipe: Recipe):
        self.module = module
        self.recipe = recipe
        self.done = 0
        self.skipped = self.skipped_in_a_row = 0
        self.parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self.average = {name: p.detach().clone() for name, p in self.parameters.items()}
        self.optimiser = torch.optim.AdamW(
            self.parameters.values(), lr=recipe.lr, betas=BETAS, weight_decay=recipe.weight_decay
        )

    def step(self, loss: Tensor) -> float:
        """Backpropagate `loss` and update. Returns the gradient norm before clipping."""
        for group in self.optimiser.param_groups:
            group["lr"] = self.recipe.rate(self.done)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = float(nn.utils.clip_grad_norm_(self.parameters.values(), self.recipe.clip))
        if math.isfinite(norm) and bool(torch.isfinite(loss)):
            self.optimiser.step()
            blend(self.average, self.parameters, self.recipe.ema)
            self.skipped_in_a_row = 0
        else:
            self.skipped += 1
            self.skipped_in_a_row += 1
        self.done += 1
        return norm

    def state(self) -> dict[str, Tensor]:
        """Everything needed to go on bit for bit."""
        counts = {"done": self.done, "skipped": self.skipped, "skipped_in_a_row": self.skipped_in_a_row}
        state = {name: torch.tensor(count) for name, count in counts.items()}
        for name, parameter in self.parameters.items():
            state[f"weight/{name}"] = parameter.detach()
            state[f"average/{name}"] = self.average[name]
            for key, value in self.optimiser.state.get(parameter, {}).items():
                state[f"adam.{key}/{name}"] = value
        return state

    @torch.no_grad()
    def restore(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of `state`."""
        self.done = int(state["done"])
        self.skipped = int(state["skipped"])
        self.skipped_in_a_row = int(state["skipped_in_a_row"])
        for key, value in state.items():
            kind, _, name = key.partition("/")
            if kind == "weight":
                self.parameters[name].copy_(value)
            elif kind == "average":
                self.average[name].copy_(value)
            elif kind.startswith("adam."):
                self.optimiser.state[self.parameters[name]][kind.removeprefix("adam.")] = value.clone()

    @torch.no_grad()
    def settle(self) -> nn.Module:
        """Put the averaged weights into the module and return it in evaluation mode."""
        for name, parameter in self.parameters.items():
            parameter.copy_(self.average[name])
        return self.module.eval()


@torch.no_grad()
def blend(average: Mapping[str, Tensor], values: Mapping[str, Tensor], decay: float) -> None:
    """average <- decay * average + (1 - decay) * values, in place."""
    for name, value in values.items():
        average[name].lerp_(value.detach(), 1 - decay)
