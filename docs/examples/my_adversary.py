"""A method with feature taps: a head tells samples of the student from data by what the teacher's blocks make of them.

mdtbench run --plugin my_adversary.py --methods rival,vm
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from mdtbench.flow.path import diffuse
from mdtbench.flow.samplers import Renoise, Sampler
from mdtbench.methods import METHODS, STUDENT, Distillation, Loss, Network, Step

TEACHER, HEAD = "teacher", "head"


def linear_head(network: nn.Module) -> nn.Module:
    """A score for every token. network: the one that is tapped, which knows its width."""
    return nn.Linear(int(network.model_channels), 1)  # type: ignore[arg-type]


@METHODS.register("rival", version=1, source="after Sauer et al., LADD, arXiv:2403.12015")
@dataclass(frozen=True, kw_only=True)
class Rival(Distillation):
    """The head learns max(0, 1 - D(data)) + max(0, 1 + D(sample)), the student -D(sample); both diffused to t.

    Attributes:
        tap: the block whose features are judged; 0 is the first.
    """

    lr: float = 1e-4
    tap: int = 0

    def networks(self) -> Mapping[str, Network]:
        return {TEACHER: Network(rate=0, taps=(self.tap,)), HEAD: Network(rate=10, head=linear_head)}

    def student_period(self) -> int:
        return 2  # the head moves in every step

    def loss(self, step: Step) -> Loss:
        layout, moves = step.layout, self.updates(STUDENT, step.index)
        noise = layout.randn([step.generator])
        with torch.set_grad_enabled(moves):
            sample = noise - step.student(noise, torch.ones_like(step.t))
        x_t = diffuse(sample, layout.randn([step.generator]), step.t, layout)
        fake, real = self.scores(step, x_t.detach()), self.scores(step, step.x_t)
        value = ((1 + fake).relu() + (1 - real).relu()).mean()
        if moves:
            value = value - self.scores(step, x_t, learns=False).mean()
        return Loss(value, {"score_apart": (real - fake).detach().mean()})

    def scores(self, step: Step, x: Tensor, learns: bool = True) -> Tensor:
        """Of each sample [B]: the mean over its tokens, few or many. learns: whether the head does from it."""
        [features] = step.networks[TEACHER](x, step.t)
        head = step.networks[HEAD]
        weights = {name: p if learns else p.detach() for name, p in head.named_parameters()}
        tokens = functional_call(head, weights, features.values)
        return features.layout.sum(tokens) / features.layout.count(tokens)

    def sampler(self, n_steps: int) -> Sampler:
        return Renoise(n_steps, self.rescale_t)

    def cost(self) -> float:
        return 1 + 2 + (1 + 2 + 2) / 2  # sample, two taps; every second time a tap, back through it and the student
