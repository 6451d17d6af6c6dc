"""MDT: velocity matching plus velocity distillation (VM + VD), the full method of MDT-dist."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Protocol

import torch
from torch import Tensor

from ..flow.layout import Layout
from ..flow.path import diffuse
from ..flow.samplers import Sampler
from ..flow.times import TimeDensity
from . import vm
from .contract import METHODS, Distillation, Loss, Step
from .reduction import REDUCTIONS, PerSample, Reduction, reduced_mean
from .residual import (
    DERIVATIVES,
    SCALINGS,
    BackwardDifference,
    DerivativeRule,
    Pushed,
    ResidualRms,
    Scaling,
    pushed,
)
from .sampling import SAMPLINGS, ByRenoising, Sampling
from .vm import matching_cost, matching_loss


class Renoising(Protocol):
    """Where the student's own sample is compared with the teacher."""

    def draw(self, step: Step, times: TimeDensity) -> tuple[Tensor, Tensor]:
        """A time [B] and a noise, in the layout of the batch."""
        ...


@dataclass(frozen=True)
class OwnDraws:
    """A fresh time of the training density and fresh noise (MDT-dist, Algorithm 1)."""

    def draw(self, step: Step, times: TimeDensity) -> tuple[Tensor, Tensor]:
        u = torch.rand(step.t.shape, generator=step.generator, dtype=step.t.dtype).to(step.t.device)
        return times.times(u, step.t_min), step.layout.randn([step.generator])


@dataclass(frozen=True)
class SharedDraws:
    """The time and the noise of the VM term (the released MDT-dist)."""

    def draw(self, step: Step, times: TimeDensity) -> tuple[Tensor, Tensor]:
        del times
        return step.t, step.noise


class Surrogate(Protocol):
    def __call__(self, phi: Tensor, push: Tensor, t: Tensor, layout: Layout, reduction: Reduction) -> Tensor:
        """A scalar whose gradient is that of VD.

        Args:
            phi: phi(z', 1) of the generator, with gradient.
            push: r' at the sample, scaled, without gradient.
        """
        ...


@dataclass(frozen=True)
class PaperGradient:
    """(1 - t) r'^T dphi(z', 1): Eq. 14. The factor is dx'_t / dx'."""

    def __call__(self, phi: Tensor, push: Tensor, t: Tensor, layout: Layout, reduction: Reduction) -> Tensor:
        return reduced_mean(layout, layout.expand(1 - t) * push * phi, reduction)


@dataclass(frozen=True)
class ReleasedGradient:
    """2 r'^T dphi(z', 1), and the value |r'|^2: the released MDT-dist."""

    def __call__(self, phi: Tensor, push: Tensor, t: Tensor, layout: Layout, reduction: Reduction) -> Tensor:
        del t
        return reduced_mean(layout, (push + phi - phi.detach()).square(), reduction)


RENOISINGS: Mapping[str, Renoising] = MappingProxyType({"own": OwnDraws(), "shared": SharedDraws()})
SURROGATES: Mapping[str, Surrogate] = MappingProxyType({"paper": PaperGradient(), "released": ReleasedGradient()})
VARIANTS = vm.VARIANTS | {
    "lambda1": {"lambda_vd": 1.0},  # collapses, docs/modes.md
    "paper": vm.VARIANTS["paper"] | {"lambda_vd": 1.0},
    "cont": vm.VARIANTS["cont"] | {"lambda_vd": 1.0},
    "official": vm.RELEASED
    | {"lambda_vd": 1.0, "vd_cfg_strength": 100.0, "vd_draws": SharedDraws(), "vd_gradient": ReleasedGradient()},
}


@METHODS.register("mdt", version=2, source="MDT-dist, arXiv:2509.04406, Eq. 10-15", variants=VARIANTS)
@dataclass(frozen=True, kw_only=True)
class VelocityMatchingDistillation(Distillation):
    """L = lambda_vm L_VM + lambda_vd L_VD.

    VD makes a sample x' = z' - phi(z', 1), re-noises it to x'_t, and pushes it along the residual there:
    grad = E[(1 - t) r'^T dphi(z', 1)] (Eq. 14).

    Attributes:
        delta, derivative, scaling, reduction, sampling, student_cfg: as in `vm`, for both terms.
        lambda_vm: weight of VM; 0 leaves VD without an anchor.
        lambda_vd: weight of VD. Well above 0.3 a bounded VD drives samples away from the data.
        vd_cfg_strength: guidance strength of VD's teacher; None: that of VM.
        vd_draws: time and noise of VD.
        vd_gradient: the weight of r' in VD's gradient.
    """

    lr: float = 4e-4
    delta: float = 0.01
    derivative: DerivativeRule = field(default=BackwardDifference(), metadata={"choices": DERIVATIVES})
    # DEVIATION(paper Eq. 10 and 14): r and r' are bounded as in `vm`.
    scaling: Scaling = field(default=ResidualRms(), metadata={"choices": SCALINGS})
    reduction: Reduction = field(default=PerSample(), metadata={"choices": REDUCTIONS})
    sampling: Sampling = field(default=ByRenoising(), metadata={"choices": SAMPLINGS})
    student_cfg: float = 0.0
    lambda_vm: float = 1.0
    # DEVIATION(paper and release, 1): bounded, VD does not fade where r' is small; at 1 it collapses, docs/modes.md.
    lambda_vd: float = 0.3
    # DEVIATION(release, 40 and 100): two strengths are two data distributions, without a common fixed point.
    vd_cfg_strength: float | None = None
    # DEVIATION(release): it reuses VM's time and noise; here as in the paper.
    vd_draws: Renoising = field(default=OwnDraws(), metadata={"choices": RENOISINGS})
    # DEVIATION(release): 2 r' in place of (1 - t) r'; here as in the paper.
    vd_gradient: Surrogate = field(default=PaperGradient(), metadata={"choices": SURROGATES})

    def __post_init__(self) -> None:
        self.sampler(1)  # refuses a student_cfg that the sampler has no use for
        if self.lambda_vm == 0:
            warnings.warn(
                "mdt with lambda_vm = 0 is unanchored: VD has no gradient wherever VM is solved, and may drift or "
                "diverge - give lambda_vm a positive value, e.g. 1",
                stacklevel=2,
            )

    def loss(self, step: Step) -> Loss:
        matching, distillation = self.losses(step)
        return Loss(matching.value + distillation.value, {**matching.diagnostics, **distillation.diagnostics})

    def losses(self, step: Step) -> Iterator[Loss]:
        """VM, then VD: at full size the graphs of both together do not fit a GPU."""
        matching = matching_loss(step, self)
        yield Loss(self.lambda_vm * matching.value, matching.diagnostics)
        distillation = self.distillation(step)
        yield Loss(self.lambda_vd * distillation.value, distillation.diagnostics)

    def distillation(self, step: Step) -> Loss:
        """The VD term. Its value is a surrogate; only the generator phi(z', 1) is differentiated."""
        layout = step.layout
        start = layout.randn([step.generator])
        phi = step.student(start, torch.ones_like(step.t))
        t, at = self._own_residual(step, start - phi)
        return Loss(self.vd_gradient(phi, at.push, t, layout, self.reduction), at.diagnostics(layout, "_own"))

    @torch.no_grad()
    def _own_residual(self, step: Step, sample: Tensor) -> tuple[Tensor, Pushed]:
        """A time, and the residual at the student's own sample, diffused to it; all constant."""
        t, noise = self.vd_draws.draw(step, self.times)
        x_t = diffuse(sample, noise, t, step.layout)
        v = step.teacher(x_t, t, self.cfg_strength if self.vd_cfg_strength is None else self.vd_cfg_strength)
        return t, pushed(step, x_t, t, v, rule=self.derivative, scaling=self.scaling, delta=self.delta)

    def sampler(self, n_steps: int) -> Sampler:
        return self.sampling.sampler(n_steps, self.rescale_t, self.student_cfg)

    def cost(self) -> float:
        # VM, then on the student's own sample: teacher pair, student, phi and its derivative, backward.
        return matching_cost(self.derivative) + 2 + 1 + self.derivative.passes(known=False) + 2
