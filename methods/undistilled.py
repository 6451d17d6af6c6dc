"""The teacher itself: at the students' step counts (`none`), and as the reference (`teacher`)."""

from __future__ import annotations

from dataclasses import dataclass

from ..flow.samplers import Euler, Sampler
from .contract import METHODS, Method

TRELLIS_SOURCE = "microsoft/TRELLIS, FlowEulerGuidanceIntervalSampler"


@METHODS.register("none", version=1, source=TRELLIS_SOURCE, variants={"": {"guided": False}, "cfg": {"guided": True}})
@dataclass(frozen=True, kw_only=True)
class Undistilled(Method):
    """The teacher at few steps: without guidance (the students' cost), or as it is meant to be sampled (twice that)."""

    guided: bool = False

    def sampler(self, n_steps: int) -> Sampler:
        strength = self.cfg_strength if self.guided else 0.0
        return Euler(n_steps, self.rescale_t, strength, self.cfg_interval)


@METHODS.register("teacher", version=1, source=TRELLIS_SOURCE)
@dataclass(frozen=True, kw_only=True)
class Teacher(Method):
    """The reference row: guided, at its full step count, whatever count the students use."""

    steps: int = 25

    def sampler(self, n_steps: int) -> Sampler:
        del n_steps
        return Euler(self.steps, self.rescale_t, self.cfg_strength, self.cfg_interval)
