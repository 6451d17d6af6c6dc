"""All problems of the plane at once: their exact velocities, and their students.

Networks this small cost more to call than to compute, so that all problems train in one call: a batch holds as many
samples of each problem, one problem after the other, and a student is a bank of networks, one per problem, that share
no weight. What couples them is the clipped norm of their gradient and the step that is skipped when it is not finite.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn

from ...flow.guidance import Guided
from ...flow.oracles import ComponentOracle, translated
from .plane_problems import CLASSES, DIM, Problem

FEATURES = DIM + 2 + CLASSES  # x, t, cos(pi t), class


class Bank:
    """The exact velocities of P problems, evaluated at once in float32. Every batch holds P equal parts."""

    def __init__(self, problems: Sequence[Problem]):
        self.size = len(problems)
        self._base = _stacked([p.base for p in problems])
        self._shifts = torch.stack([p.shifts for p in problems]).float()  # [P, CLASSES, D]

    def teacher(self, classes: Tensor) -> Guided:
        """The guided teacher, without a network. classes: [P B]."""
        return Guided(partial(self.velocity, classes=classes), partial(self._pair, classes))

    def velocity(self, x: Tensor, t: Tensor, classes: Tensor) -> Tensor:
        """Marginal velocity of each sample's class. x: [P B, D], t, classes: [P B]."""
        parts = self.split(classes)
        shift = self._shifts.gather(1, parts[..., None].expand(-1, -1, DIM))
        return translated(self._base.velocity, self.split(x), self.split(t), shift).flatten(0, 1)

    def _pair(self, classes: Tensor, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        negative = self._base.velocity(self.split(x), self.split(t)).flatten(0, 1)
        return self.velocity(x, t, classes), negative

    def split(self, x: Tensor) -> Tensor:
        """[P B, ...] -> [P, B, ...]."""
        return x.unflatten(0, (self.size, -1))


class EndTimes(nn.Module):
    """What the length t - t_end [P, B] of a jump adds to each first layer [P, B, width]; zero at first."""

    def __init__(self, size: int, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(size, 2, width))

    def forward(self, length: Tensor) -> Tensor:
        return torch.stack([length, torch.cos(math.pi * length)], 2) @ self.weight


class BankStudent(nn.Module):
    """phi(x, t, class) = teacher's conditional velocity + networks that are zero at first, one per problem.

    So distillation starts at the teacher, as a copy of its weights would. With `add_end_time` the networks are told
    where a jump ends as well.
    """

    def __init__(self, bank: Bank, width: int, seed: int):
        super().__init__()
        self._bank = bank
        self.end_time: EndTimes | None = None
        self.model_channels = width
        self.blocks = nn.ModuleList([nn.SiLU(), nn.SiLU()])  # without weights; each returns [P B, width]
        sizes = (FEATURES, width, width, DIM)
        self.weights = nn.ParameterList(torch.zeros(bank.size, a, b) for a, b in pairwise(sizes))
        self.biases = nn.ParameterList(torch.zeros(bank.size, 1, b) for b in sizes[1:])
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter, fan_in in [(self.weights[i], sizes[i]) for i in (0, 1)] + [(self.biases[0], FEATURES)]:
                parameter.uniform_(-1, 1, generator=generator).div_(math.sqrt(fan_in))

    def add_end_time(self) -> None:
        self.end_time = EndTimes(self._bank.size, self.biases[0].shape[-1])

    def forward(self, x: Tensor, t: Tensor, classes: Tensor, t_end: Tensor | None = None) -> Tensor:
        """x: [P B, D], t, t_end: [P B] in [0, 1], classes: [P B]."""
        time, label = t[:, None], nn.functional.one_hot(classes, CLASSES).to(x.dtype)
        hidden = self._bank.split(torch.cat([x, time, torch.cos(math.pi * time), label], 1))
        layers = list(zip(self.weights, self.biases, strict=True))
        for i, (weight, bias) in enumerate(layers[:-1]):
            hidden = torch.baddbmm(bias, hidden, weight)
            if i == 0 and self.end_time is not None:
                hidden = hidden + self.end_time(self._bank.split(t if t_end is None else t - t_end))
            hidden = self._bank.split(self.blocks[i](hidden.flatten(0, 1)))
        weight, bias = layers[-1]
        return self._bank.velocity(x, t, classes) + torch.baddbmm(bias, hidden, weight).flatten(0, 1)


def _stacked(oracles: Sequence[ComponentOracle]) -> ComponentOracle:
    """Several mixtures as one batched one, in float32; short ones are filled up with components of weight 0."""
    most = max(len(oracle.weights) for oracle in oracles)

    def filled(parts: Sequence[Tensor], value: float) -> Tensor:
        padded = [torch.cat([p, torch.full_like(p[:1], value).expand(most - len(p), *p.shape[1:])]) for p in parts]
        return torch.stack(padded).float()

    return ComponentOracle(
        filled([o.weights for o in oracles], 0.0),
        filled([o.means for o in oracles], 0.0),
        filled([o.variances for o in oracles], 1.0),
        torch.stack([o.basis for o in oracles]).float(),
    )
