"""Teachers whose flow is known exactly: Gaussian data, mixtures of Gaussians, products and translations of them.

On the path x_t = (1 - t) x_0 + t z the marginal of Gaussian data N(mu, Sigma) is N((1 - t) mu, C_t) with
C_t = (1 - t)^2 Sigma + t^2 I, all functions of Sigma commute, and the flow map is affine. All tensors are
[B, D]; float64 is expected where a number is compared, float32 does for training.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .guidance import Velocity

# X_{t -> t_end}(x) = flow_map(x, t, t_end); x: [B, D], times: [B].
FlowMap = Callable[[Tensor, Tensor, Tensor], Tensor]


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

    def components(self) -> ComponentOracle:
        """The same data as a mixture of one."""
        eig, basis = torch.linalg.eigh(self.cov)
        return ComponentOracle(torch.ones(1).to(eig), (self.mean @ basis)[None], eig[None], basis)

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
        return self.components().velocity(x, t)

    def components(self) -> ComponentOracle:
        """The same data with a covariance per component and axis."""
        dim = self.means.shape[1]
        return ComponentOracle(
            self.weights, self.means, self.variances[:, None].expand(-1, dim), torch.eye(dim).to(self.means)
        )

    def cdf(self, x: Tensor, t: Tensor) -> Tensor:
        """F_t of the marginal at time t, for D = 1. x: [B, 1] -> [B, 1]."""
        return self._axis.cdf(x, t)

    def flow_map(self, x: Tensor, t: Tensor, t_end: Tensor) -> Tensor:
        """X_{t -> t_end} for D = 1.

        Raises:
            ValueError: D > 1 (no closed form; integrate `velocity`).
        """
        return self._axis.flow_map(x, t, t_end)

    def student(self, x: Tensor, t: Tensor) -> Tensor:
        """phi*(x, t) for D = 1."""
        return average_velocity(self.flow_map, x, t, torch.zeros_like(t))

    @property
    def _axis(self) -> ProductOracle:
        if self.means.shape[1] != 1:
            raise ValueError(f"the mixture's flow map is closed for D = 1 only (got D = {self.means.shape[1]})")
        return ProductOracle(self.weights[None], self.means.T, self.variances[None], torch.eye(1).to(self.means))


@dataclass(frozen=True)
class ProductOracle:
    """Independent 1-D mixtures along D orthogonal axes: several modes, and still an exact flow map.

    weights, means, variances: [D, K], of the K components of each axis. basis: [D, D], its columns are the axes.
    """

    weights: Tensor
    means: Tensor
    variances: Tensor
    basis: Tensor

    def components(self) -> ComponentOracle:
        """The same data as a mixture in D dimensions: a component per possible combination of the axes' components."""
        weights = torch.cartesian_prod(*self.weights).prod(1)
        means, variances = torch.cartesian_prod(*self.means), torch.cartesian_prod(*self.variances)
        possible = weights > 0
        return ComponentOracle(weights[possible], means[possible], variances[possible], self.basis)

    def cdf(self, x: Tensor, t: Tensor) -> Tensor:
        """F_t of each axis at its own coordinate of x: [B, D]."""
        return self._level(x @ self.basis, t[:, None, None])

    def flow_map(self, x: Tensor, t: Tensor, t_end: Tensor) -> Tensor:
        """X_{t -> t_end} = F_{t_end}^-1 o F_t on each axis: in one dimension a flow keeps quantiles."""
        level, end = self.cdf(x, t), t_end[:, None, None]
        reach = self.means.abs().max() + 12 * self.variances.max().sqrt() + 12
        low, high = torch.full_like(x, -float(reach)), torch.full_like(x, float(reach))
        for _ in range(80):  # bisection to the last bit of float64
            middle = (low + high) / 2
            below = self._level(middle, end) < level
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return (low + high) / 2 @ self.basis.T

    def _level(self, y: Tensor, time: Tensor) -> Tensor:
        scale = _marginal_variance(self.variances, time).sqrt()
        return (self.weights * torch.special.ndtr((y[..., None] - (1 - time) * self.means) / scale)).sum(2)


@dataclass(frozen=True)
class ComponentOracle:
    """Data sum_k weights_k N(basis means_k, basis diag(variances_k) basis^T): all oracles above in one form.

    weights: [..., K], means, variances: [..., K, D] in the coordinates of the basis [..., D, D], whose columns are
    orthonormal. Leading dimensions hold several distributions, evaluated at once at x: [..., B, D], t: [..., B].
    """

    weights: Tensor
    means: Tensor
    variances: Tensor
    basis: Tensor

    def velocity(self, x: Tensor, t: Tensor) -> Tensor:
        """Responsibility-weighted mean of the components' Gaussian velocities."""
        time = t[..., None, None]
        means, variances = self.means[..., None, :, :], self.variances[..., None, :, :]
        variance = _marginal_variance(variances, time)  # [..., B, K, D]
        offset = (x @ self.basis)[..., None, :] - (1 - time) * means
        log_density = (offset.square() / variance + variance.log()).sum(-1) / -2
        share = torch.softmax(log_density + self.weights.log()[..., None, :], dim=-1)
        component = (time - (1 - time) * variances) / variance * offset - means
        return (share[..., None] * component).sum(-2) @ self.basis.mT

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Independent draws of the data: [count, D]. For one distribution."""
        mode = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        noise = torch.randn(count, self.means.shape[1], generator=generator, dtype=self.means.dtype)
        return (self.means[mode] + self.variances[mode].sqrt() * noise) @ self.basis.T


def translated(velocity: Velocity, x: Tensor, t: Tensor, shift: Tensor) -> Tensor:
    """The velocity of data that is moved by `shift`. x, shift: [..., B, D], t: [..., B].

    Guidance between two translations of one distribution is a third, by (1 + s) shift - s neg_shift, for every (x, t),
    where `velocity` is affine in x along shift - neg_shift: for any Gaussian, and for a product whose factor along that
    direction is Gaussian. For other data the guided velocity is the marginal velocity of no translation.
    """
    return velocity(x - (1 - t)[..., None] * shift, t) - shift


def average_velocity(flow_map: FlowMap, x: Tensor, t: Tensor, t_end: Tensor) -> Tensor:
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


def sliced_w2(a: Tensor, b: Tensor, directions: int) -> Tensor:
    """Sliced 2-Wasserstein distance of two samples of equal size in the plane: [n, 2] each. Scalar.

    The root of the mean, over equally spaced directions, of the exact squared distance of the projections.
    """
    angle = torch.arange(directions, dtype=a.dtype) * (torch.pi / directions)
    across = torch.stack([angle.cos(), angle.sin()])
    return ((a @ across).sort(0).values - (b @ across).sort(0).values).square().mean().sqrt()
