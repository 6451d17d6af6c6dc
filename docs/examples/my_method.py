"""A distillation method of your own: one step of the student learns where several steps of the teacher lead.

mdtbench run --plugin my_method.py --methods mine,mine:four,vm
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from mdtbench.flow.layout import per_sample_mean, rms
from mdtbench.flow.samplers import Renoise, Sampler
from mdtbench.methods import METHODS, Distillation, Loss, Step


@METHODS.register("mine", version=1, source="example of the documentation", variants={"four": {"legs": 4}})
@dataclass(frozen=True, kw_only=True)
class Mine(Distillation):
    """L = |phi(x_t, t) - (x_t - x_0') / t|^2, x_0' being the end of the teacher's Euler steps from x_t at time t.

    Attributes:
        legs: how many steps. `--set methods.mine.legs=3` changes it.
    """

    lr: float = 3e-4
    legs: int = 2

    def loss(self, step: Step) -> Loss:
        times = [step.t, *(step.t * (1 - k / self.legs) for k in range(1, self.legs + 1))]
        x = step.x_t
        for t, t_next in pairwise(times):
            v = step.teacher(x, t, self.cfg_strength)  # without gradient
            x = x - step.layout.expand(t - t_next) * v
        aim = (step.x_t - x) / step.layout.expand(step.t)
        error = step.student(step.x_t, step.t) - aim
        value = per_sample_mean(step.layout, error.square())
        return Loss(value, {"rms_error": rms(step.layout, error.detach()).mean()})

    def sampler(self, n_steps: int) -> Sampler:
        return Renoise(n_steps, self.rescale_t)

    def cost(self) -> float:
        return 2 * self.legs + 3  # teacher with and without condition, student, its backward pass (2)
