"""The family of problems in the plane, whose flow map from noise is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ...base.seeds import seed_of
from ...flow.guidance import Guided
from ...flow.oracles import sliced_w2
from .family import Measure
from .plane_bank import Bank, BankStudent
from .plane_figure import panel
from .plane_problems import CLASSES, DIM, PROBLEMS, Problem

TRANSPORT, SLICED_W2 = "transport_rmse", "SW2"
MEASURES: Mapping[str, Measure] = MappingProxyType({SLICED_W2: Measure(False), TRANSPORT: Measure(False, mapped=True)})
DIRECTIONS = 32  # of the projections, equally spaced over the half circle


@dataclass(frozen=True)
class Plane:
    """Some of `PROBLEMS`. cfg_strength: of those that are guided. width: of each student's network."""

    problems: tuple[Problem, ...]
    bank: Bank
    cfg_strength: float
    width: int

    @staticmethod
    def of(names: Sequence[str], cfg_strength: float, width: int) -> Plane:
        problems = tuple(PROBLEMS[name](name) for name in names)
        return Plane(problems, Bank(problems), cfg_strength, width)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(problem.name for problem in self.problems)

    @property
    def measures(self) -> Mapping[str, Measure]:
        return MEASURES

    @property
    def dim(self) -> int:
        return DIM

    @property
    def identity(self) -> Sequence[Any]:
        return [self.width]

    def strength(self, name: str) -> float:
        guided = next(problem.guided for problem in self.problems if problem.name == name)
        return self.cfg_strength if guided else 0.0

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        drawn = [_data(problem, count, generator) for problem in self.problems]
        x_0, classes = zip(*drawn, strict=True)
        return torch.cat(x_0), torch.cat(classes)

    def questions(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The same for every problem."""
        noise = torch.randn(count, DIM, generator=generator)
        classes = torch.randint(CLASSES, (count,), generator=generator)
        return noise.repeat(len(self.problems), 1), classes.repeat(len(self.problems))

    def ends(self, noise: Tensor, classes: Tensor) -> Tensor:
        """In float64, in closed form or integrated."""
        parts = zip(self.problems, self.bank.split(noise.double()), self.bank.split(classes), strict=True)
        return torch.cat([problem.ends(z, labels, self.cfg_strength) for problem, z, labels in parts])

    def student(self, seed: int) -> nn.Module:
        return BankStudent(self.bank, self.width, seed)

    def teacher(self, classes: Tensor) -> Guided:
        return self.bank.teacher(classes)

    def scores(self, samples: Tensor, classes: Tensor, ends: Tensor | None) -> list[dict[str, float]]:
        made = self.bank.split(samples.double())
        answers = self._data("answers", classes)
        found = [{SLICED_W2: float(sliced_w2(a, b, DIRECTIONS))} for a, b in zip(made, answers, strict=True)]
        if ends is not None:
            errors = (made - self.bank.split(ends)).square().sum(2).mean(1).sqrt().tolist()
            found = [one | {TRANSPORT: error} for one, error in zip(found, errors, strict=True)]
        return found

    def floor(self, classes: Tensor) -> list[dict[str, float]]:
        """A second set of exact data against the one that samples are compared with."""
        return self.scores(self._data("others", classes).flatten(0, 1), classes, None)

    def panels(self, samples: Tensor, classes: Tensor, ends: Tensor) -> list[NDArray[np.uint8]]:
        sets = (self._data("answers", classes), self.bank.split(ends), self.bank.split(samples.double()))
        return [panel(*(part.numpy() for part in parts)) for parts in zip(*sets, strict=True)]

    def _data(self, name: str, classes: Tensor) -> Tensor:
        """Independent exact guided data that no noise led to: [P, n, D] float64."""
        generator = torch.Generator().manual_seed(seed_of("oracle", name))
        labels = self.bank.split(classes)
        drawn = zip(self.problems, labels, strict=True)
        return torch.stack([problem.answers(own, self.cfg_strength, generator) for problem, own in drawn])


def _data(problem: Problem, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    classes = torch.randint(CLASSES, (count,), generator=generator)
    return (problem.base.sample(count, generator) + problem.shifts[classes]).float(), classes
