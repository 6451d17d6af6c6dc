"""Problems in the plane, those of preset `oracle`: data whose flow map is known, in closed or integrated form.

The classes of a problem are translations of one base distribution. A problem is guided only where guidance between
such classes is again a translation, so that its exact answer is known (`flow.oracles.translated`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ...flow.oracles import ComponentOracle, FlowMap, GaussianOracle, MixtureOracle, ProductOracle, integrate

RK4_STEPS = 50  # of the one map that has no closed form: its points are then right to 1e-5
CLASSES = 2
DIM = 2


@dataclass(frozen=True)
class Problem:
    """One exact benchmark, in float64.

    Attributes:
        base: distribution that the classes are translations of. base_map: its flow map.
        shift: [2], of the first class; the second is moved by as much the other way. The negative condition is the
            base itself. Zero where there is no guidance: all conditions are then one, and any strength has no effect.
    """

    name: str
    base: ComponentOracle
    base_map: FlowMap
    shift: Tensor

    @property
    def guided(self) -> bool:
        return bool(self.shift.any())

    @property
    def shifts(self) -> Tensor:
        """Translations of the classes: [CLASSES, 2]."""
        return torch.stack([self.shift, -self.shift])

    def ends(self, noise: Tensor, classes: Tensor, cfg_strength: float) -> Tensor:
        """Where the guided teacher's flow takes noise: [B, 2], classes [B] -> [B, 2]."""
        start = torch.ones(len(noise), dtype=noise.dtype)
        return self.base_map(noise, start, 0 * start) + (1 + cfg_strength) * self.shifts[classes]

    def answers(self, classes: Tensor, cfg_strength: float, generator: torch.Generator) -> Tensor:
        """Independent draws of the guided data, not through the flow map: [B, 2]."""
        return self.base.sample(len(classes), generator) + (1 + cfg_strength) * self.shifts[classes]


def _gaussian(name: str, step: tuple[float, float] = (0.0, 0.0)) -> Problem:
    turn = _rotation(0.5)
    data = GaussianOracle(_tensor([0.0, 0.0]), turn @ torch.diag(_tensor([2.2, 0.15])) @ turn.T)
    return Problem(name, data.components(), data.flow_map, _tensor(list(step)))


def _product(name: str, angle: float) -> Problem:
    """Three modes along one axis, two along the other."""
    weights = _tensor([[0.3, 0.4, 0.3], [0.6, 0.4, 0.0]])
    means = _tensor([[-2.0, 0.1, 1.9], [-0.9, 1.2, 0.0]])
    variances = _tensor([[0.12, 0.08, 0.15], [0.1, 0.15, 1.0]])
    data = ProductOracle(weights, means, variances, _rotation(angle))
    return Problem(name, data.components(), data.flow_map, _tensor([0.0, 0.0]))


def _guided_product(name: str, angle: float) -> Problem:
    """Three modes along one axis; along the other a Gaussian, for guidance to move."""
    weights = _tensor([[0.3, 0.4, 0.3], [1.0, 0.0, 0.0]])
    means = _tensor([[-2.0, 0.1, 1.9], [0.0, 0.0, 0.0]])
    variances = _tensor([[0.12, 0.08, 0.15], [0.3, 1.0, 1.0]])
    basis = _rotation(angle)
    data = ProductOracle(weights, means, variances, basis)
    return Problem(name, data.components(), data.flow_map, 0.4 * basis[:, 1])


def _modes(name: str) -> Problem:
    """Three modes that no rotation makes independent: the flow map is integrated."""
    angle = _tensor([0.0, 2.0, 4.2])
    means = 2.0 * torch.stack([angle.cos(), angle.sin()], 1)
    data = MixtureOracle(_tensor([0.35, 0.35, 0.3]), means, _tensor([0.3, 0.35, 0.25])).components()
    return Problem(name, data, partial(_integrated, data), _tensor([0.0, 0.0]))


def _integrated(data: ComponentOracle, x: Tensor, t: Tensor, t_end: Tensor) -> Tensor:
    return integrate(data.velocity, x, float(t[0]), float(t_end[0]), RK4_STEPS)


def _rotation(angle: float) -> Tensor:
    cos, sin = math.cos(angle), math.sin(angle)
    return _tensor([[cos, -sin], [sin, cos]])


def _tensor(values: list[float] | list[list[float]]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


PROBLEMS: dict[str, Callable[[str], Problem]] = {
    "gaussian": _gaussian,
    "gaussian-cfg": partial(_gaussian, step=(0.3, 0.4)),
    "product": partial(_product, angle=0.0),
    "product-cfg": partial(_guided_product, angle=0.0),
    "rotated": partial(_product, angle=0.6),
    "rotated-cfg": partial(_guided_product, angle=0.6),
    "modes": _modes,
}
