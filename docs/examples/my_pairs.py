"""A method that learns from stored pairs of noise and the teacher's end: straight lines between them (reflow).

mdtbench run --plugin my_pairs.py --methods lines,kd --set methods.kd.pairs=1024
"""

from __future__ import annotations

from dataclasses import dataclass

from mdtbench.flow.layout import per_sample_mean, rms
from mdtbench.flow.samplers import Euler, Sampler
from mdtbench.methods import METHODS, Distillation, Loss, Step, StoredPairs


@METHODS.register("lines", version=1, source="Liu et al., Rectified Flow, arXiv:2209.03003")
@dataclass(frozen=True, kw_only=True)
class Lines(Distillation):
    """L = |phi(x_t, t) - (noise - end)|^2 on the line from a noise to where the teacher takes it.

    Attributes:
        pairs: how many are made, once for all trainings. epochs: most passes over them.
    """

    lr: float = 3e-4
    pairs: int = 1024
    epochs: int = 10
    teacher_steps: int = 25  # filled with the world's own

    def stored_pairs(self) -> StoredPairs:
        solver = Euler(self.teacher_steps, self.rescale_t, self.cfg_strength, self.cfg_interval)
        return StoredPairs(self.pairs, self.epochs, solver)

    def loss(self, step: Step) -> Loss:
        error = step.student(step.x_t, step.t) - (step.noise - step.x_0)  # x_0 is the end of the noise
        value = per_sample_mean(step.layout, error.square())
        return Loss(value, {"rms_error": rms(step.layout, error.detach()).mean()})

    def sampler(self, n_steps: int) -> Sampler:
        return Euler(n_steps, self.rescale_t)

    def cost(self) -> float:
        return 3  # student and its backward pass
