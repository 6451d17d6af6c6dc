"""The sampler that a method's student is made for, as a parameter of the method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

from ..flow.samplers import Euler, Renoise, Sampler


class Sampling(Protocol):
    def sampler(self, steps: int, rescale_t: float, student_cfg: float) -> Sampler:
        """The sampler of `steps` steps.

        Raises:
            ValueError: guidance on the student, where the sampler has none.
        """
        ...


@dataclass(frozen=True)
class ByRenoising:
    """Multistep consistency sampling, unbiased for an exact flow map."""

    def sampler(self, steps: int, rescale_t: float, student_cfg: float) -> Sampler:
        if student_cfg != 0:
            raise ValueError(f"student_cfg needs sampling = euler (got student_cfg {student_cfg} with re-noising)")
        return Renoise(steps, rescale_t)


@dataclass(frozen=True)
class ByEuler:
    """TRELLIS' Euler sampler, as the released MDT-dist samples its students."""

    def sampler(self, steps: int, rescale_t: float, student_cfg: float) -> Sampler:
        return Euler(steps, rescale_t, student_cfg)


SAMPLINGS: Mapping[str, Sampling] = MappingProxyType({"renoise": ByRenoising(), "euler": ByEuler()})
