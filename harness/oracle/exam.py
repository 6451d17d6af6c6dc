"""All scores of one velocity: at one number of steps, by the method's own sampler and by others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from ...flow.guidance import GuidedVelocity
from ...flow.samplers import Euler, Sampler, sampler_of
from ...methods import Method
from .family import Exam


def answer(
    paper: Exam, velocity: GuidedVelocity, method: Method, steps: int, others: Sequence[str]
) -> list[dict[str, Any]]:
    """All scores of one velocity at one number of steps: by its method's own sampler and by the `others`.

    Returns:
        Records of problem, metric, value, sampler (own or extra), steps and note. Where samples are not finite there is
        no value, and an error.
    """
    return [
        record for sampler, own in samplers(method, steps, others) for record in _graded(paper, velocity, sampler, own)
    ]


def samplers(method: Method, steps: int, others: Sequence[str]) -> list[tuple[Sampler, bool]]:
    """The method's own sampler (True), then those of `others` with another name; at one step all are one."""
    own = method.sampler(steps)
    names = [name for name in others if name != own.name] if own.steps > 1 else []
    return [(own, True), *((sampler_of(name, steps, method.rescale_t), False) for name in names)]


def metrics_of(paper: Exam, sampler: Sampler) -> list[str]:
    """Those that samples of a sampler have a value of."""
    fresh = sampler.computation().fresh_noise
    return [name for name, measure in paper.family.measures.items() if not (fresh and measure.mapped)]


def _graded(paper: Exam, velocity: GuidedVelocity, sampler: Sampler, own: bool) -> Iterator[dict[str, Any]]:
    samples = paper.sample(velocity, sampler)
    lost = int((~torch.isfinite(samples).all(1)).sum())
    guided = isinstance(sampler, Euler) and sampler.cfg_strength != 0
    common = {
        "sampler": sampler.name,
        "own_sampler": own,
        "extra_sampler": not own,
        "steps": sampler.steps,
        "note": sampler.note() if own else "",
    }
    names = paper.family.names
    if lost:
        empty = dict.fromkeys(metrics_of(paper, sampler))
        scores: Sequence[dict[str, Any]] = [empty] * len(names)
        common["error"] = f"{lost} of {len(samples)} samples are not finite"
    else:
        scores = paper.scores(samples, mapped=not sampler.computation().fresh_noise)
    for name, values in zip(names, scores, strict=True):
        nfe = sampler.steps * (2 if guided and paper.family.strength(name) else 1)
        for metric, value in values.items():
            yield common | {"problem": name, "metric": metric, "value": value, "nfe": nfe}
