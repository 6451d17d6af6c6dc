"""What a student of the oracle problems is asked: the same noise, and the same exact answers, for all of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ...base.seeds import seed_of
from ...flow.guidance import GuidedVelocity
from ...flow.layout import DenseLayout
from ...flow.oracles import sliced_w2
from ...flow.samplers import Euler, Sampler, sampler_of
from ...methods import Method
from .problems import CLASSES, DIM, Problem, problem
from .task import Bank

TRANSPORT, SLICED_W2 = "transport_rmse", "SW2"
DIRECTIONS = 32  # of the projections, equally spaced over the half circle


@dataclass(frozen=True)
class Exam:
    """P problems with n points of noise each.

    Attributes:
        noise: [P n, D] float32, the same for every problem; classes: [P n].
        ends: [P, n, D] float64, where the exact guided flow takes the noise.
        answers, others: [P, n, D] float64, two independent sets of exact guided data that no noise led to.
    """

    problems: tuple[Problem, ...]
    bank: Bank
    noise: Tensor
    classes: Tensor
    ends: Tensor
    answers: Tensor
    others: Tensor

    def sample(self, velocity: GuidedVelocity, sampler: Sampler) -> Tensor:
        """Samples of all problems: [P, n, D] float64. Fresh noise is the same for every student."""
        layout = DenseLayout(tuple(self.noise.shape))
        generator = torch.Generator().manual_seed(seed_of("oracle fresh noise"))
        return self.bank.split(sampler.sample(velocity, self.noise, layout, [generator]).double())

    def scores(self, samples: Tensor, mapped: bool) -> list[dict[str, float]]:
        """Of each problem, by metric. mapped: each sample is where its own noise was taken to, without fresh noise."""
        found = [{SLICED_W2: float(sliced_w2(a, b, DIRECTIONS))} for a, b in zip(samples, self.answers, strict=True)]
        if mapped:
            errors = (samples - self.ends).square().sum(2).mean(1).sqrt().tolist()
            found = [one | {TRANSPORT: error} for one, error in zip(found, errors, strict=True)]
        return found


@lru_cache(maxsize=1)
def exam(names: tuple[str, ...], cfg_strength: float, samples: int) -> Exam:
    """The exam of some problems; the flow map without a closed form is integrated here, once per process."""
    problems = tuple(problem(name) for name in names)
    generator = torch.Generator().manual_seed(seed_of("oracle noise"))
    noise = torch.randn(samples, DIM, generator=generator)
    classes = torch.randint(CLASSES, (samples,), generator=generator)
    return Exam(
        problems,
        Bank(problems),
        noise.repeat(len(problems), 1),
        classes.repeat(len(problems)),
        torch.stack([p.ends(noise.double(), classes, cfg_strength) for p in problems]),
        _data("answers", problems, classes, cfg_strength),
        _data("others", problems, classes, cfg_strength),
    )


def answer(
    paper: Exam, velocity: GuidedVelocity, method: Method, steps: int, others: Sequence[str]
) -> list[dict[str, Any]]:
    """All scores of one velocity at one number of steps: by its method's own sampler and by the `others`.

    Returns:
        Records of problem, metric, value, sampler (own or extra), steps and note.
    """
    return [
        record for sampler, own in samplers(method, steps, others) for record in _graded(paper, velocity, sampler, own)
    ]


def samplers(method: Method, steps: int, others: Sequence[str]) -> list[tuple[Sampler, bool]]:
    """The method's own sampler (True), then those of `others` with another name; at one step all are one."""
    own = method.sampler(steps)
    names = [name for name in others if name != own.name] if own.steps > 1 else []
    return [(own, True), *((sampler_of(name, steps, method.rescale_t), False) for name in names)]


def _graded(paper: Exam, velocity: GuidedVelocity, sampler: Sampler, own: bool) -> Iterator[dict[str, Any]]:
    scores = paper.scores(paper.sample(velocity, sampler), mapped=not sampler.computation().fresh_noise)
    guided = isinstance(sampler, Euler) and sampler.cfg_strength != 0
    for one, values in zip(paper.problems, scores, strict=True):
        for metric, value in values.items():
            yield {
                "problem": one.name,
                "metric": metric,
                "value": value,
                "sampler": sampler.name,
                "own_sampler": own,
                "extra_sampler": not own,
                "steps": sampler.steps,
                "nfe": sampler.steps * (2 if guided and one.guided else 1),
                "note": sampler.note() if own else "",
            }


def _data(name: str, problems: Sequence[Problem], classes: Tensor, cfg_strength: float) -> Tensor:
    generator = torch.Generator().manual_seed(seed_of("oracle", name))
    return torch.stack([p.answers(classes, cfg_strength, generator) for p in problems])
