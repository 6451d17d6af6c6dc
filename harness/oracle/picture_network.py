"""The network of the pictures' teacher, and of its students."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .pictures import CLASSES, DIM

WIDTH = 128
EMBEDDING = 64
BLOCKS = 4
FREQUENCIES = 8  # of the time, from 1 up to HIGHEST
HIGHEST = 60.0


class Block(nn.Module):
    """h + MLP(norm(h) scaled and shifted by the embedding of time and class)."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH, elementwise_affine=False)
        self.modulation = nn.Linear(EMBEDDING, 2 * WIDTH)
        self.inner = nn.Linear(WIDTH, 2 * WIDTH)
        self.outer = nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.modulation(embedding).chunk(2, 1)
        return h + self.outer(nn.functional.silu(self.inner(self.norm(h) * (1 + scale) + shift)))


class PictureNet(nn.Module):
    """Velocity of a picture under its class: x [B, DIM], t [B] in [0, 1], classes [B] -> [B, DIM].

    With `add_end_time` the average velocity from t down to t_end [B], by default 0.
    """

    frequencies: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.model_channels = WIDTH
        self.register_buffer("frequencies", torch.logspace(0, math.log10(HIGHEST), FREQUENCIES), persistent=False)
        self.time = nn.Linear(2 * FREQUENCIES, EMBEDDING)
        self.end_time: nn.Linear | None = None
        self.label = nn.Embedding(CLASSES, EMBEDDING)
        self.first = nn.Linear(DIM, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(BLOCKS))
        self.last = nn.Linear(WIDTH, DIM)

    def add_end_time(self) -> None:
        """Take the end of a jump as a second time."""
        self.end_time = nn.Linear(2 * FREQUENCIES, EMBEDDING)
        nn.init.zeros_(self.end_time.weight)
        nn.init.zeros_(self.end_time.bias)

    def forward(self, x: Tensor, t: Tensor, classes: Tensor, t_end: Tensor | None = None) -> Tensor:
        hidden = self.time(self._waves(t)) + self.label(classes)
        if self.end_time is not None:
            hidden = hidden + self.end_time(self._waves(t if t_end is None else t - t_end))
        embedding = nn.functional.silu(hidden)
        h = self.first(x)
        for block in self.blocks:
            h = block(h, embedding)
        return self.last(h)

    def _waves(self, t: Tensor) -> Tensor:
        angles = t[:, None] * self.frequencies
        return torch.cat([angles.cos(), angles.sin()], 1)
