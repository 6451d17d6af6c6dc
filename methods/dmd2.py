"""Distribution matching distillation (DMD2): the teacher's score against a critic's, and if asked an adversary."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..flow.guidance import Velocity
from ..flow.layout import Layout, rms
from ..flow.path import conditional_velocity, diffuse, jump
from ..flow.samplers import Renoise, Sampler
from ..flow.times import TimeDensity
from .contract import METHODS, STUDENT, Distillation, Loss, Network, Step
from .jumps import student_sample, uniform
from .ladd import Logistic, adversaries, contest
from .reduction import REDUCTIONS, PerSample, Reduction, reduced_mean

CRITIC = "critic"
VARIANTS = {
    "": {},
    "two": {"jumps": 2},
    "four": {"jumps": 4},
    # Its weight for ImageNet.
    # DEVIATION(DMD2): heads read the teacher's blocks, as in LADD; there one reads the critic's, which learns with it.
    "gan": {"gan": 3e-3},
    # DEVIATION(DMD2): without the adversarial term and the regression; its critic moves in every step, as here.
    "paper": {"period": 5, "critic_rate": 1.0, "lr": 2e-6},
}


@dataclass(frozen=True, kw_only=True)
class Criticised(Distillation, ABC):
    """A student beside a critic, a copy of the teacher that learns the velocity of the student's samples in every step.

    Attributes:
        period: steps from one update of the student to the next, so that the critic can keep up with it.
        critic_rate: learning rate of the critic, as a multiple of the student's.
        reduction: how samples of different size weigh.
    """

    lr: float = 3e-4
    # DEVIATION(DMD2, rCM): 5. A training of a few hundred steps would move the student in less than a hundred of them.
    period: int = 2
    # DEVIATION(DMD2, rCM): 1, with more steps of the critic for each of the student's.
    critic_rate: float = 3.0
    reduction: Reduction = field(default=PerSample(), metadata={"choices": REDUCTIONS})

    def networks(self) -> Mapping[str, Network]:
        return {CRITIC: Network(self.critic_rate)}

    def student_period(self) -> int:
        return self.period

    @abstractmethod
    def sample(self, step: Step) -> Tensor:
        """What the student makes, with its gradient in the last pass."""

    def push(self, step: Step, sample: Tensor, at: Judged) -> tuple[Tensor, Tensor]:
        """Where samples are pushed, and the teacher's velocity less the critic's at their points; no gradients."""
        v = step.teacher(at.x_t, at.t, self.cfg_strength)
        return matching_push(sample, at, v, step.layout), v - at.velocity

    def sampled(self, step: Step, moves: bool) -> Tensor:
        """The same, without a gradient where the student does not move."""
        with torch.set_grad_enabled(moves):
            return self.sample(step)

    def matched(self, step: Step, sample: Tensor, weight: float) -> Loss:
        """The critic's error on samples of the student, and `weight` times the push on these; none where it is 0."""
        layout = step.layout
        at = judged(step, sample, step.networks[CRITIC], self.times)
        value = reduced_mean(layout, at.error.square(), self.reduction)
        sizes = {"rms_critic_error": at.error}
        if weight:
            push, apart = self.push(step, sample, at)
            sizes |= {"rms_push": push, "rms_scores_apart": apart}
            # A surrogate: its gradient in the sample is the push.
            value = value + weight * reduced_mean(layout, push * sample, self.reduction)
        return Loss(value, {name: rms(layout, one.detach()).mean() for name, one in sizes.items()})


@dataclass(frozen=True, kw_only=True)
class Matching(Criticised, ABC):
    """A student that is pushed in every `period`-th step, and learns nothing else.

    Attributes:
        jumps: steps of the sampler that the student is made for. With more than one it begins at their times, from
            data that is diffused to them.
    """

    jumps: int = 1

    def loss(self, step: Step) -> Loss:
        moves = self.updates(STUDENT, step.index)
        return self.matched(step, self.sampled(step, moves), weight=float(moves))

    def sample(self, step: Step) -> Tensor:
        return student_sample(step, self.jumps, self.rescale_t)

    def sampler(self, n_steps: int) -> Sampler:
        return Renoise(n_steps, self.rescale_t, self.jumps)


@METHODS.register(
    "dmd2", version=1, source="Yin et al., DMD2, arXiv:2405.14867, Eq. 1, Sec. 4.2 and 4.3", variants=VARIANTS
)
@dataclass(frozen=True, kw_only=True)
class DistributionMatching(Matching):
    """The student's samples x' are pushed along (x0_F - x0_T) / mean|x' - x0_T|, in every `period`-th step.

    x0_T and x0_F are what teacher and critic predict as the data of x'_t, a sample diffused to a time t.

    Attributes:
        gan: weight of the adversarial term, which is that of `ladd` with the logistic objective; 0: there is none.
        taps, width, head_rate: as in `ladd`, of that term.
    """

    gan: float = 0.0
    taps: int = 4
    width: int = 256
    head_rate: float = 30.0

    def __post_init__(self) -> None:
        if self.taps < 1:
            raise ValueError(f"taps must be at least 1 (got {self.taps}): set gan = 0 to have no heads")

    def networks(self) -> Mapping[str, Network]:
        critic = super().networks()
        return {**critic, **adversaries(self.taps, self.width, self.head_rate)} if self.gan else critic

    def loss(self, step: Step) -> Loss:
        moves = self.updates(STUDENT, step.index)
        sample = self.sampled(step, moves)
        matched = self.matched(step, sample, weight=float(moves))
        if not self.gan:
            return matched
        found = contest(step, sample, step.t, Logistic(), self.reduction)
        value = matched.value + found.of_heads
        if found.of_student is not None:
            value = value + self.gan * found.of_student
        return Loss(value, matched.diagnostics | found.diagnostics)

    def cost(self) -> float:
        sampled, judged, matched = 1, 1 + 2, 2 + 2  # student; critic and backward; teacher pair and backward
        tapped, fooled = (2, 2) if self.gan else (0, 0)  # sample and datum; back through the tapped teacher
        return sampled + judged + tapped + (matched + fooled) / self.period


@dataclass(frozen=True)
class Judged:
    """A sample of the student, diffused, and what the critic says of it.

    Attributes:
        x_t, t: the diffused sample, without gradient, and its times [B].
        velocity: the critic's there, with its gradient. error: of it, against the sample's own path.
    """

    x_t: Tensor
    t: Tensor
    velocity: Tensor
    error: Tensor


def judged(step: Step, sample: Tensor, critic: Velocity, times: TimeDensity) -> Judged:
    """Diffuse a sample, which gets no gradient, to private times, and ask the critic for its velocity."""
    t = times.times(uniform(step), step.t_min)
    noise, still = step.layout.randn([step.generator]), sample.detach()
    x_t = diffuse(still, noise, t, step.layout)
    velocity = critic(x_t, t)
    return Judged(x_t, t, velocity, velocity - conditional_velocity(still, noise))


def matching_push(sample: Tensor, at: Judged, v: Tensor, layout: Layout) -> Tensor:
    """(x0_F - x0_T) / mean|x' - x0_T|, the mean over a sample's elements; no gradient.

    v: the teacher's velocity at (x_t, t).
    """
    zero = torch.zeros_like(at.t)
    real, fake = (jump(at.x_t, one.detach(), at.t, zero, layout) for one in (v, at.velocity))
    scale = layout.sum((sample.detach() - real).abs()) / layout.count(real)
    return (fake - real) / layout.expand(scale + 1e-6)
