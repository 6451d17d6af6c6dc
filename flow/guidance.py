"""Classifier-free guidance, and velocities that know how often their network ran."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

# v = network(x, t) with everything else (condition, layout) bound. x: a batch, t: [B] in [0, 1].
Velocity = Callable[[Tensor, Tensor], Tensor]


class GuidedVelocity(Protocol):
    def __call__(self, x: Tensor, t: Tensor, cfg_strength: float) -> Tensor: ...


class GuidedFlowMap(Protocol):
    """phi(x, t, t_end) of a student with two times: the average velocity of the trajectory from t down to t_end."""

    def __call__(self, x: Tensor, t: Tensor, cfg_strength: float, t_end: Tensor) -> Tensor: ...


def combine(v_cond: Tensor, v_neg: Tensor, cfg_strength: float | Tensor) -> Tensor:
    """`(1 + s) v_cond - s v_neg`, TRELLIS' form: s = 0 is no guidance. Others call g = 1 + s the scale."""
    return (1 + cfg_strength) * v_cond - cfg_strength * v_neg


class Guided:
    """A guided velocity that evaluates the negative condition only when guidance is on.

    Args:
        cond: velocity under the condition; of a student with two times it takes the end of the jump as a third one.
        pair: (v_cond, v_neg) in one batched network call.

    Attributes:
        nfe: network forward passes per sample so far; a guided evaluation counts two.
    """

    def __init__(self, cond: Callable[..., Tensor], pair: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]):
        self._cond = cond
        self._pair = pair
        self.nfe = 0

    def pair(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """(v_cond, v_neg), whatever the guidance; counts two passes."""
        self.nfe += 2
        return self._pair(x, t)

    def __call__(self, x: Tensor, t: Tensor, cfg_strength: float, t_end: Tensor | None = None) -> Tensor:
        """Raises ValueError for guidance with two times: guidance is distilled into such students."""
        if cfg_strength == 0:
            self.nfe += 1
            return self._cond(x, t) if t_end is None else self._cond(x, t, t_end)
        if t_end is not None:
            raise ValueError(f"a student with two times takes no guidance (got {cfg_strength}) - sample it with 0")
        return combine(*self.pair(x, t), cfg_strength)


class SharedTeacher:
    """A guided teacher for all methods of one batch: its raw pair at the batch's (x_t, t) is computed once.

    The pair, not the guided sum, is kept: it serves every guidance strength.
    """

    def __init__(self, guided: Guided, x_t: Tensor, t: Tensor):
        self._guided = guided
        self._point = (x_t, t)
        self._kept: tuple[Tensor, Tensor] | None = None

    @torch.no_grad()
    def __call__(self, x: Tensor, t: Tensor, cfg_strength: float | Tensor) -> Tensor:
        """cfg_strength: of all samples, or expanded to the rows of x."""
        return combine(*self._pair(x, t), cfg_strength)

    def attached(self, x: Tensor, t: Tensor, cfg_strength: float | Tensor) -> Tensor:
        """With the gradient to x, and with nothing kept."""
        return combine(*self._guided.pair(x, t), cfg_strength)

    def _pair(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        if x is not self._point[0] or t is not self._point[1]:
            return self._guided.pair(x, t)
        if self._kept is None:
            self._kept = self._guided.pair(x, t)
        return self._kept
