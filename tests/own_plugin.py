"""A plug-in with a method and metrics of both levels, in one file."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mdtbench.flow.layout import per_sample_mean
from mdtbench.flow.samplers import Renoise, Sampler
from mdtbench.methods import METHODS, Distillation, Loss, Step
from mdtbench.metrics import METRICS, Comparison, Metric, Score, Seen
from mdtbench.metrics.contract import known_mean


@METHODS.register("own", version=1, source="a test")
@dataclass(frozen=True, kw_only=True)
class Own(Distillation):
    """L = |phi - v|^2 with v the guided teacher."""

    def loss(self, step: Step) -> Loss:
        error = step.student(step.x_t, step.t) - step.teacher(step.x_t, step.t, self.cfg_strength)
        return Loss(per_sample_mean(step.layout, error.square()), {})

    def sampler(self, n_steps: int) -> Sampler:
        return Renoise(n_steps, self.rescale_t)

    def cost(self) -> float:
        return 5


class Cells(Metric):
    """Occupied cells of a structure."""

    name, version, unit, higher_is_better, level = "cells", 1, "cells", True, "structure"
    made = truth = ("occupancy",)
    controls = ("truth",)

    def score(self, made: Seen, against: Comparison) -> Score:
        return known_mean(made["occupancy"].sum((1, 2, 3)))


class Brightness(Metric):
    """Mean grey level of the pictures of 3D Gaussians."""

    name, version, unit, higher_is_better, level = "brightness", 1, "", True, "assets"
    made = truth = ("gaussians",)

    def score(self, made: Seen, against: Comparison) -> Score:
        return known_mean(np.asarray(made["gaussians"][:], np.float64).mean((1, 2, 3, 4)))


METRICS.register("cells", version=1, source="a test")(Cells())
METRICS.register("brightness", version=1, source="a test")(Brightness())
