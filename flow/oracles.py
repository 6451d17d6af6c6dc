"""Teachers whose flow is known exactly: Gaussian data and mixtures of Gaussians.

On the path x_t = (1 - t) x_0 + t z the marginal of Gaussian data N(mu, Sigma) is N((1 - t) mu, C_t) with
C_t = (1 - t)^2 Sigma + t^2 I, all functions of Sigma commute, and the flow map is affine. All tensors are
[B, D]; float64 is expected.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .guidance import Velocity


@dataclass(frozen=True)
class GaussianOracle:
    """Data N(mean, cov). mean: [D], cov: [D, D] symmetric positive definite."""

    mean: Tensor
    cov: Tensor

    def velocity(self, x: Tensor, t: Tensor) -> Tensor:
        """Marginal velocity: -mu + (t I - (1 - t) Sigma) C_t^-1 (x - (1 - t) mu)."""
        eig, basis, time = self._modes(t)
        gain = (time - (1 - time) * eig) / _marginal_variance(eig, time)
        return -self.mean + (self._centred(x, time) @ basis * gain) @ basis.T

    def flow_map(self, x: Tensor, t: Tensor, t_end: Tensor) -> Tensor:
        """X_{t -> t_end}(x): where the teacher's trajectory through (x, t) is at t_end."""
        eig, basis, time = self._modes(t)
        end = t_end[:, None]
        gain = (_marginal_variance(eig, end) / _marginal_variance(eig, time)).sqrt()
        return (1 - end) * self.mean + (self._centred(x, time) @ basis * gain) @ basis.T

    def student(self, x: Tensor, t: Tensor) -> Tensor:
        """phi*(x, t) = (x - X_{t -> 0}(x)) / t, the average velocity that a perfect student predicts; -x at t = 0."""
        return average_velocity(self.flow_map, x, t, torch.zeros_like(t))

    def guided(self, neg_mean: Tensor, cfg_strength: float) -> GaussianOracle:
        """The exact data distribution of guidance against N(neg_mean, the same cov)."""
        return GaussianOracle(self.mean + cfg_strength * (self.mean - neg_mean), self.cov)

    def _modes(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        eig, basis = torch.linalg.eigh(self.cov)
        return eig, basis, t[:, None]

    def _centred(self, x: Tensor, time: Tensor) -> Tensor:
        return x - (1 - time) * self.mean


@dataclass(frozen=True)
class MixtureOracle:
    """Data sum_k weights_k N(means_k, variances_k I). weights: [K], means: [K, D], variances: [K]."""

    weights: Tensor
    means: Tensor
    variances: Tensor

    def velocity(self, x: Tensor, t: Tensor) -> Tensor:
        """Responsibility-weighted mean of the components' Gaussian velocities."""
        time = t[:, None]
        variance = _marginal_variance(self.variances, time)  # [B, K]
        offset = x[:, None] - (1 - time)[..., None] * self.means  # [B, K, D]
        log_density = -offset.square().sum(2) / (2 * variance) - variance.log() * x.shape[1] / 2
        share = torch.softmax(self.weights.log() + log_density, dim=1)
        gain = (time - (1 - time) * self.variances) / variance
        component = -self.means + gain[..., None] * offset
        return (share[..., None] * component).sum(1)

    def cdf(self, x: Tensor, t: Tensor) -> Tensor:
        """F_t of the marginal at time t, for D = 1. x: [B, 1] -> [B, 1]."""
        time = t[:, None]
        scale = _marginal_variance(self.variances, time).sqrt()
        score = (x - (1 - time) * self.means[:, 0]) / scale
        return (self.weights * torch.special.ndtr(score)).sum(1, keepdim=True)

    def flow_map(self, x: Tensor, t: Tensor, t_end: Tensor) -> Tensor:
        """X_{t -> t_end} = F_{t_end}^-1 o F_t for D = 1: in one dimension a flow keeps quantiles.

        Raises:
            ValueError: D > 1 (no closed form; integrate `velocity`).
        """
        if x.shape[1] != 1:
            raise ValueError(f"the mixture's flow map is closed for D = 1 only (got D = {x.shape[1]})")
        level = self.cdf(x, t)
        reach = self.means.abs().max() + 12 * self.variances.max().sqrt() + 12
        low, high = torch.full_like(x, -float(reach)), torch.full_like(x, float(reach))
        for _ in range(80):  # bisection to the last bit of float64
            middle = (low + high) / 2
            below = self.cdf(middle, t_end) < level
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return (low + high) / 2

    def student(self, x: Tensor, t: Tensor) -> Tensor:
        """phi*(x, t) for D = 1."""
        return average_velocity(self.flow_map, x, t, torch.zeros_like(t))


def average_velocity(flow_map, x: Tensor, t: Tensor, t_end: Tensor) -> Tensor:
    """(x - X_{t -> t_end}(x)) / (t - t_end): the fixed point of a distillation towards t_end; -x at t = t_end = 0."""
    span = (t - t_end)[:, None]
    safe = torch.where(span == 0, torch.ones_like(span), span)
    return torch.where(span == 0, -x, (x - flow_map(x, t, t_end)) / safe)


def integrate(velocity: Velocity, x: Tensor, t: float, t_end: float, steps: int = 400) -> Tensor:
    """Classical Runge-Kutta of order 4 from t to t_end."""
    h = (t_end - t) / steps
    for i in range(steps):
        now = t + i * h

        def at(point: Tensor, offset: float, now: float = now) -> Tensor:
            return velocity(point, torch.full((len(point),), now + offset * h, dtype=point.dtype))

        k1 = at(x, 0)
        k2 = at(x + h / 2 * k1, 0.5)
        k3 = at(x + h / 2 * k2, 0.5)
        k4 = at(x + h * k3, 1)
        x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return x


def gaussian_w2(mean_a: Tensor, cov_a: Tensor, mean_b: Tensor, cov_b: Tensor) -> Tensor:
    """2-Wasserstein distance between two Gaussians. Scalar."""
    root = matrix_sqrt(cov_b)
    cross = torch.linalg.eigvalsh(root @ cov_a @ root).clamp(min=0).sqrt().sum()
    square = (mean_a - mean_b).square().sum() + cov_a.trace() + cov_b.trace() - 2 * cross
    return square.clamp(min=0).sqrt()


def matrix_sqrt(matrix: Tensor) -> Tensor:
    """Square root of a symmetric positive semi-definite matrix."""
    eig, basis = torch.linalg.eigh(matrix)
    return (basis * eig.clamp(min=0).sqrt()) @ basis.T


def _marginal_variance(variance: Tensor, time: Tensor) -> Tensor:
    return (1 - time) ** 2 * variance + time**2
