"""A distillation method of your own: guidance distillation with times weighed by t^power.

mdtbench run --plugin my_method.py --methods mine,mine:flat,vm
"""

from __future__ import annotations

from dataclasses import dataclass

from mdtbench.flow.layout import per_sample_mean, rms
from mdtbench.flow.samplers import Renoise, Sampler
from mdtbench.methods import METHODS, Distillation, Loss, Step


@METHODS.register("mine", version=1, source="example of the documentation", variants={"flat": {"power": 0.0}})
@dataclass(frozen=True, kw_only=True)
class Mine(Distillation):
    """L = t^power |phi - v|^2: phi the student, v the guided teacher. One big step starts at t = 1, where it counts.

    Attributes:
        power: 0 weighs all times alike. `--set methods.mine.power=2` changes it.
    """

    lr: float = 2e-4
    power: float = 1.0

    def loss(self, step: Step) -> Loss:
        v = step.teacher(step.x_t, step.t, self.cfg_strength)  # without gradient
        error = step.student(step.x_t, step.t) - v
        weight = step.layout.expand(step.t**self.power)
        value = per_sample_mean(step.layout, weight * error.square())
        return Loss(value, {"rms_error": rms(step.layout, error.detach()).mean()})

    def sampler(self, n_steps: int) -> Sampler:
        return Renoise(n_steps, self.rescale_t)

    def cost(self) -> float:
        return 5  # teacher with and without condition, student, its backward pass (2)
