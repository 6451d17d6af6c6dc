"""A method with a critic, which goes on from the students of another one: the second half of a training.

mdtbench run --plugin my_critic.py --methods sharper,vm
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mdtbench.flow.layout import per_sample_mean, rms
from mdtbench.flow.path import conditional_velocity, diffuse
from mdtbench.flow.samplers import Renoise, Sampler
from mdtbench.methods import METHODS, STUDENT, Begins, Distillation, Loss, Network, Step


@METHODS.register("sharper", version=1, source="example of the documentation")
@dataclass(frozen=True, kw_only=True)
class Sharper(Distillation):
    """The student's samples move by the teacher's velocity less the critic's; begun as a student of `vm`.

    A second copy of that student stays as it is: no sample may go far from where it was.

    Attributes:
        anchor: weight of the distance from the student's beginning.
    """

    lr: float = 1e-4
    anchor: float = 1.0

    def begins_as(self) -> Begins:
        return Begins("vm", share=0.5)  # of the budget, for both trainings together

    def networks(self) -> Mapping[str, Network]:
        return {"critic": Network(rate=2.0), "before": Network(rate=0)}

    def student_period(self) -> int:
        return 2  # the critic moves in every step

    def loss(self, step: Step) -> Loss:
        ones, layout = torch.ones_like(step.t), step.layout
        noise, again = (layout.randn([step.generator]) for _ in range(2))
        with torch.set_grad_enabled(self.updates(STUDENT, step.index)):
            sample = noise - step.student(noise, ones)
        still = sample.detach()
        x_t = diffuse(still, again, step.t, layout)
        told = step.networks["critic"](x_t, step.t)
        error = told - conditional_velocity(still, again)
        value = per_sample_mean(layout, error.square())
        if sample.requires_grad:
            push: Tensor = step.teacher(x_t, step.t, self.cfg_strength) - told.detach()
            apart = sample - (noise - step.networks["before"](noise, ones))
            value = value + per_sample_mean(layout, push * sample + self.anchor * apart.square())
        return Loss(value, {"rms_critic_error": rms(layout, error.detach()).mean()})

    def sampler(self, n_steps: int) -> Sampler:
        return Renoise(n_steps, self.rescale_t)

    def cost(self) -> float:
        return 1 + 3 + (2 + 2 + 1) / 2  # sample, critic; every second time teacher pair, backward, the copy
