"""A method of the tests, whose networks return features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from mdtbench.flow.samplers import Euler, Sampler
from mdtbench.methods import Distillation, Loss, Network, Step


def head(network: nn.Module) -> nn.Module:
    return nn.Linear(int(network.model_channels), 1)  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True)
class Tapping(Distillation):
    """The teacher's features, those of a copy that learns and those of its average, all read by one head."""

    lr: float = 1e-3
    taps: tuple[int, ...] = (0,)

    def networks(self) -> Mapping[str, Network]:
        return {
            "teacher": Network(rate=0, taps=self.taps),
            "critic": Network(average=0.9, taps=self.taps),
            "head": Network(head=head),
        }

    def loss(self, step: Step) -> Loss:
        x = step.x_t - step.student(step.x_t, step.t)
        [real], [fake], [average] = (
            made(x, step.t) for made in (step.networks["teacher"], step.networks["critic"], step.averages["critic"])
        )
        scores = [step.networks["head"](one.values) for one in (real, fake, average)]
        return Loss(sum(real.layout.sum((1 + i - one).square()).mean() for i, one in enumerate(scores)))  # type: ignore[arg-type]

    def sampler(self, n_steps: int) -> Sampler:
        return Euler(n_steps)

    def cost(self) -> float:
        return 12
