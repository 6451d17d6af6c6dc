"""Latent adversarial distillation (LADD): heads on the teacher's features tell samples of the student from data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from ..flow.path import diffuse
from ..flow.samplers import Euler, Renoise, Sampler
from ..flow.times import UNIFORM, LogitNormal, TimeDensity
from .contract import METHODS, STUDENT, Distillation, Features, Loss, Network, Step, StoredPairs
from .jumps import student_sample
from .pcm import ShiftedUniform
from .reduction import REDUCTIONS, PerSample, Reduction, reduced_mean

TEACHER, HEADS = "tapped teacher", "heads"
EVERY_BLOCK = 1_000


class Objective(Protocol):
    """What heads and student learn from scores, of every token for itself; a higher one is more like data."""

    def of_heads(self, real: Tensor, fake: Tensor) -> Tensor: ...

    def of_student(self, fake: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Hinge:
    """Heads: max(0, 1 - real) + max(0, 1 + fake). Student: -fake. As StyleGAN-T, ADD and LADD."""

    def of_heads(self, real: Tensor, fake: Tensor) -> Tensor:
        return (1 - real).relu() + (1 + fake).relu()

    def of_student(self, fake: Tensor) -> Tensor:
        return -fake


@dataclass(frozen=True)
class Logistic:
    """The non-saturating loss: log(1 + exp(-real)) + log(1 + exp(fake)); log(1 + exp(-fake)). As DMD2 and FastGen."""

    def of_heads(self, real: Tensor, fake: Tensor) -> Tensor:
        return F.softplus(-real) + F.softplus(fake)

    def of_student(self, fake: Tensor) -> Tensor:
        return F.softplus(-fake)


OBJECTIVES: Mapping[str, Objective] = MappingProxyType({"hinge": Hinge(), "logistic": Logistic()})

VARIANTS = {
    "": {},
    "two": {"jumps": 2},
    "four": {"jumps": 4},
    # 0.7 of the student's inputs are noise. DEVIATION(LADD): without a warm-up near the data; learning rates as here.
    "paper": {"times": LogitNormal(1.0, 1.0), "jumps": 4, "first": 0.6, "taps": EVERY_BLOCK},
    # Wan 2.1 1.3B of NVlabs/FastGen.
    # DEVIATION(FastGen): heads of one layer, in all steps; taps 15, 22 and 29 of 30 there; without its R1 term.
    "fastgen": {
        "times": ShiftedUniform(5.0),
        "jumps": 4,
        "taps": 3,
        "objective": Logistic(),
        "period": 2,
        "lr": 2e-6,
        "head_rate": 2.0,
    },
}


@METHODS.register("ladd", version=1, source="Sauer et al., LADD, arXiv:2403.12015, Sec. 3", variants=VARIANTS)
@dataclass(frozen=True, kw_only=True)
class AdversarialDistillation(Distillation):
    """Heads D learn max(0, 1 - D(x_t)) + max(0, 1 + D(x'_t)) of all tokens of datum and sample, both diffused to t.

    They do in all steps; the student learns -D(x'_t) in every `period`-th.

    Attributes:
        times: density of t; more noise makes the heads look at the whole, less at detail.
        taps: the most blocks of the teacher whose features are judged, evenly spread over its depth, a head for each.
        width: of the heads' hidden layer.
        head_rate: learning rate of the heads, as a multiple of the student's.
        period: steps from one update of the student to the next.
        jumps: steps of the sampler that the student is made for, as in `dmd2`. first: share of the samples that begin
            at noise whatever is drawn for the others.
        objective: what is made of the scores.
        pairs: how many samples of the teacher stand for data, stored as those of `kd`; 0: none, they are data.
        epochs: over these. teacher_steps: guided Euler steps that make each.
        reduction: how samples of different size weigh.
    """

    lr: float = 3e-4
    # DEVIATION(LADD): mean 1, with which hardly a one-step sample of preset `modes` gets sharp enough to be valid.
    times: TimeDensity = field(
        default=LogitNormal(0.0, 1.0), metadata={"choices": {"logit_normal": LogitNormal(0.0, 1.0), "uniform": UNIFORM}}
    )
    taps: int = 4
    width: int = 256
    head_rate: float = 30.0
    period: int = 4
    jumps: int = 1
    first: float = 0.0
    objective: Objective = field(default=Hinge(), metadata={"choices": OBJECTIVES})
    # DEVIATION(LADD): data, where there are samples of the guided teacher. They cost its many steps.
    pairs: int = 0
    epochs: int = 40
    teacher_steps: int = 25
    reduction: Reduction = field(default=PerSample(), metadata={"choices": REDUCTIONS})

    def __post_init__(self) -> None:
        if self.taps < 1:
            raise ValueError(f"taps must be at least 1 (got {self.taps}): heads read nothing else")
        if not 0 <= self.first < 1:
            raise ValueError(f"first is a share, from 0 to below 1 (got {self.first})")

    def networks(self) -> Mapping[str, Network]:
        return adversaries(self.taps, self.width, self.head_rate)

    def student_period(self) -> int:
        return self.period

    def loss(self, step: Step) -> Loss:
        moves = self.updates(STUDENT, step.index)
        with torch.set_grad_enabled(moves):
            sample = student_sample(step, self.jumps, self.rescale_t, self.first)
        found = contest(step, sample, step.t, self.objective, self.reduction)
        value = found.of_heads if found.of_student is None else found.of_heads + found.of_student
        return Loss(value, found.diagnostics)

    def stored_pairs(self) -> StoredPairs | None:
        solver = Euler(self.teacher_steps, self.rescale_t, self.cfg_strength, self.cfg_interval)
        return StoredPairs(self.pairs, self.epochs, solver, watched=False) if self.pairs else None

    def sampler(self, n_steps: int) -> Sampler:
        return Renoise(n_steps, self.rescale_t, self.jumps)

    def cost(self) -> float:
        sampled, tapped, moved = 1, 2, 2 + 2  # student; sample and datum; back through the taps and the student
        return sampled + tapped + moved / self.period


def adversaries(taps: int, width: int, rate: float) -> Mapping[str, Network]:
    """The teacher, tapped, and its heads, which learn at `rate` times the student's."""

    def heads(network: nn.Module) -> nn.Module:
        blocks: nn.ModuleList = network.blocks  # type: ignore[assignment]
        return Heads(int(network.model_channels), min(taps, len(blocks)), width)  # type: ignore[arg-type]

    return {TEACHER: Network(rate=0, taps=taps), HEADS: Network(rate, head=heads)}


class Heads(nn.Module):
    """Scores of all tokens behind each tap, by a hidden layer that is told the time as well.

    DEVIATION(LADD): tokens are judged one by one, and no pooled condition is read: the teacher's blocks have shown the
    tokens to each other and the condition to all.
    """

    def __init__(self, channels: int, taps: int, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(channels, elementwise_affine=False)
        self.hidden = nn.ModuleList(nn.Linear(channels, width) for _ in range(taps))
        self.time = nn.ModuleList(nn.Linear(1, width, bias=False) for _ in range(taps))
        self.score = nn.ModuleList(nn.Linear(width, 1) for _ in range(taps))

    def forward(self, features: Sequence[Features], t: Tensor) -> list[Tensor]:
        """Of features behind each tap at times t [B]: [B, tokens, 1], [B, 1] or [N, 1] each."""
        parts = zip(features, self.hidden, self.time, self.score, strict=True)
        return [
            score(F.leaky_relu(hidden(self.norm(one.values)) + time(one.layout.expand(t)), 0.2))
            for one, hidden, time, score in parts
        ]


@dataclass(frozen=True)
class Contest:
    """What heads and student have to learn in a step.

    Attributes:
        of_heads: with a gradient in the heads alone. of_student: in the sample alone; None where that has none.
    """

    of_heads: Tensor
    of_student: Tensor | None
    diagnostics: dict[str, Tensor]


def contest(step: Step, sample: Tensor, t: Tensor, objective: Objective, reduction: Reduction) -> Contest:
    """Sample and datum, each diffused with noise of its own to times t [B], as the heads of `adversaries` see them."""
    layout, tapped, heads = step.layout, step.networks[TEACHER], step.networks[HEADS]
    with torch.no_grad():
        real = tapped(diffuse(step.x_0, layout.randn([step.generator]), t, layout), t)
    with torch.set_grad_enabled(sample.requires_grad):
        fake = tapped(diffuse(sample, layout.randn([step.generator]), t, layout), t)
    still = [replace(one, values=one.values.detach()) for one in fake]
    reals, fakes = heads(real, t), heads(still, t)

    def mean(values: Sequence[Tensor]) -> Tensor:
        means = [reduced_mean(one.layout, each, reduction) for one, each in zip(fake, values, strict=True)]
        return torch.stack(means).mean()

    of_heads = mean([objective.of_heads(*pair) for pair in zip(reals, fakes, strict=True)])
    diagnostics = {"score_real": mean(reals).detach(), "score_fake": mean(fakes).detach()}
    if not sample.requires_grad:
        return Contest(of_heads, None, diagnostics)
    weights = {name: weight.detach() for name, weight in heads.named_parameters()}  # type: ignore[attr-defined]
    fooled = functional_call(heads, weights, (fake, t))  # type: ignore[arg-type]
    return Contest(of_heads, mean([objective.of_student(one) for one in fooled]), diagnostics)
