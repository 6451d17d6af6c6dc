"""Small networks, random Gaussians and training steps for the tests of `flow` and `methods`. All float64."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from mdtbench.flow.guidance import Velocity
from mdtbench.flow.layout import DenseLayout, Layout, SparseLayout
from mdtbench.flow.oracles import GaussianOracle
from mdtbench.flow.path import diffuse
from mdtbench.harness.train.taps import indices_of
from mdtbench.methods import METHODS, Distillation, Features, Loss, Network, Step

F64 = torch.float64
# Earliest time of the tests: one backward difference of 0.01 above the path's sigma_min, as in training.
T_MIN = 0.01001
# Those that learn from their own target.
DISTILLATIONS = ("ayf", "cm", "ect", "lmd", "mdt", "meanflow", "pcm", "scm", "shortcut", "tcm", "vm")
CONTROLS = ("gd", "kd")
MATCHING = ("dmd2", "ladd", "rcm", "sid")  # those that learn from a critic or from heads
# Every method in every variant that differs from its default.
LABELS = tuple(
    f"{name}:{variant}" if variant else name
    for name in (*DISTILLATIONS, *MATCHING, *CONTROLS)
    for variant, parameters in (METHODS.get(name).variants or {"": {}}).items()
    if parameters or not variant
)
# Those whose target is the student itself, through `Step.target` or `Step.target_derivative`.
TARGETED = tuple(label for label in LABELS if label.partition(":")[0] in DISTILLATIONS)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=seeded(seed), dtype=F64)


def rand(*shape: int, seed: int) -> Tensor:
    return torch.rand(shape, generator=seeded(seed), dtype=F64)


def worst(a: Tensor, b: Tensor | float) -> float:
    """Largest absolute difference; NaN and inf are never small."""
    difference = (a - b).abs().max().item()
    return difference if difference == difference else float("inf")


def gaussian(dim: int, seed: int) -> GaussianOracle:
    """Random mean, random covariance with eigenvalues in about [0.2, 3]."""
    basis, _ = torch.linalg.qr(randn(dim, dim, seed=seed))
    eig = 0.2 + 2.8 * rand(dim, seed=seed + 1)
    return GaussianOracle(randn(dim, seed=seed + 2), (basis * eig) @ basis.T)


def dense(*shape: int) -> DenseLayout:
    return DenseLayout(shape, F64)


def ragged(lengths: tuple[int, ...], channels: int) -> SparseLayout:
    sample = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    return SparseLayout(sample, len(lengths), channels, F64)


class Mlp(nn.Module):
    """phi(x, t) of the last axis and the time alone, so that it means the same in every layout.

    With two times phi(x, t, t_end), t_end being 0 when it is not given.
    """

    def __init__(self, channels: int, seed: int, width: int = 16, size: float = 1.0, two_times: bool = False):
        super().__init__()
        self.two_times = two_times
        self.first = nn.Linear(channels + 1, width, dtype=F64)
        self.last = nn.Linear(width, channels, dtype=F64)
        if two_times:
            self.end = nn.Parameter(torch.empty(width, dtype=F64))
        generator = seeded(seed)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.normal_(generator=generator).mul_(size / parameter.shape[-1] ** 0.5)

    def forward(self, x: Tensor, time: Tensor, end: Tensor | None = None) -> Tensor:
        """time, end: t and t_end of each row, broadcastable to x[..., :1]."""
        hidden = self.first(torch.cat([x, time.expand_as(x[..., :1])], -1))
        if self.two_times:
            hidden = hidden + (time if end is None else time - end) * self.end
        return self.last(torch.tanh(hidden))


class Tower(nn.Module):
    """A network with blocks to tap, whose features mean the same in every layout."""

    def __init__(self, channels: int, seed: int, depth: int = 3, width: int = 8):
        super().__init__()
        self.model_channels = width
        self.first = nn.Linear(channels + 1, width, dtype=F64)
        self.blocks = nn.ModuleList(nn.Linear(width, width, dtype=F64) for _ in range(depth))
        generator = seeded(seed)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.normal_(generator=generator).mul_(1.5 / parameter.shape[-1] ** 0.5)

    def forward(self, x: Tensor, time: Tensor) -> list[Tensor]:
        """Behind every block; time: as of Mlp."""
        h, found = self.first(torch.cat([x, time.expand_as(x[..., :1])], -1)), []
        for block in self.blocks:
            h = h + torch.tanh(block(h))
            found.append(h)
        return found


def tap(network: Tower, layout: Layout, taps: Sequence[int] | int) -> Callable[..., tuple[Features, ...]]:
    """What `Step.networks` has of a tapped network."""

    def features(x: Tensor, t: Tensor) -> tuple[Features, ...]:
        found = network(x, layout.expand(t))
        return tuple(Features(found[i], laid_out(found[i], layout)) for i in indices_of(network, taps))

    return features


def laid_out(values: Tensor, layout: Layout) -> Layout:
    if isinstance(layout, SparseLayout):
        return replace(layout, channels=values.shape[1])
    return DenseLayout(tuple(values.shape), values.dtype)


def student_for(label: str, channels: int, seed: int) -> Mlp:
    """A small student with as many times as the method asks for."""
    return Mlp(channels, seed, two_times=method(label).two_times)


def bind(network: nn.Module, layout: Layout) -> Callable[..., Tensor]:
    return lambda x, *times: network(x, *(layout.expand(t) for t in times))


def unguided(velocity: Velocity) -> Callable[[Tensor, Tensor, float], Tensor]:
    """A teacher without guidance, as a step holds it: no gradient."""

    @torch.no_grad()
    def teacher(x: Tensor, t: Tensor, cfg_strength: float) -> Tensor:
        assert cfg_strength == 0
        return velocity(x, t)

    return teacher


def make_step(
    layout: Layout,
    t: Tensor,
    student: Velocity,
    teacher: Velocity,
    *,
    frozen: Velocity | None = None,
    seed: int = 0,
    index: int = 20,  # at which all networks move
    total: int = 1,
    x_t: Tensor | None = None,
    kind: type[Step] = Step,
) -> Step:
    """A step at given times; by default the target is the student and warm-ups are over."""
    generator = seeded(seed)
    x_0, noise = layout.randn([generator]), layout.randn([generator])
    return kind(
        index=index,
        total=total,
        x_0=x_0,
        noise=noise,
        t=t,
        t_min=T_MIN,
        x_t=diffuse(x_0, noise, t, layout) if x_t is None else x_t,
        layout=layout,
        student=student,
        frozen_student=frozen or student,
        teacher=unguided(teacher),
        attached_teacher=lambda x, t, cfg_strength: teacher(x, t),
        generator=seeded(seed + 1),
    )


class LeakyStep(Step):
    """A step whose target forgets to stop the gradient."""

    def target(self, x: Tensor, t: Tensor, *t_end: Tensor) -> Tensor:
        return self.frozen_student(x, t, *t_end)

    def target_derivative(self, x: Tensor, t: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        return torch.func.jvp(self.frozen_student, (x, t), (v, torch.ones_like(t)))

    def target_end_derivative(self, x: Tensor, t: Tensor, t_end: Tensor) -> tuple[Tensor, Tensor]:
        return torch.func.jvp(lambda end: self.frozen_student(x, t, end), (t_end,), (torch.ones_like(t),))


def method(label: str, **parameters) -> Distillation:
    """`name` or `name:variant` without guidance, unless `parameters` say otherwise."""
    name, _, variant = label.partition(":")
    entry = METHODS.get(name)
    changed = dict(entry.variants[variant]) if variant else {}
    unguided = {key: 0.0 for key in changed if key.endswith("cfg_strength")}
    made = entry.value(**{"cfg_strength": 0.0, **changed, **unguided, **parameters})
    assert isinstance(made, Distillation)
    return made


def networks_of(made: Distillation, step: Step) -> dict[str, nn.Module]:
    """Small networks in the place of those that the method has beside its student."""
    kinds, channels = made.networks(), step.x_t.shape[-1]

    def built(kind: Network, seed: int) -> nn.Module:
        tower = Tower(channels, seed)
        if kind.head:
            return kind.head(tower)
        return tower if kind.taps else Mlp(channels, seed)

    with torch.random.fork_rng():
        torch.manual_seed(32)
        found = {name: built(kind, 33 + i) for i, (name, kind) in enumerate(kinds.items())}
    return {name: net.to(step.x_t.dtype).requires_grad_(kinds[name].rate > 0) for name, net in found.items()}


def with_networks(made: Distillation, step: Step, networks: dict[str, nn.Module] | None = None) -> Step:
    """The step with all that the method has beside its student; by default made anew, always the same."""
    networks = networks_of(made, step) if networks is None else networks
    kinds = made.networks()

    def bound_as(kind: Network, network: nn.Module) -> Callable[..., Any]:
        if kind.head:
            return network
        return tap(network, step.layout, kind.taps) if isinstance(network, Tower) else bind(network, step.layout)

    bound = {name: bound_as(kinds[name], one) for name, one in networks.items()}
    return replace(step, auxiliary=made.auxiliary(), networks=bound, averages=bound)


def loss_of(made: Distillation, step: Step) -> Loss:
    """The loss, with fresh networks where the method has some."""
    return made.loss(with_networks(made, step))


def times(batch: int, seed: int) -> Tensor:
    """[B] uniform in [T_MIN, 1]."""
    return T_MIN + (1 - T_MIN) * rand(batch, seed=seed)


def gradient(value: Tensor, network: nn.Module) -> Tensor:
    """d value / d parameters, in one vector; parameters that value does not use count as zero."""
    parts = torch.autograd.grad(value, list(network.parameters()), retain_graph=True, allow_unused=True)
    pairs = zip(parts, network.parameters(), strict=True)
    return torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in pairs])


def pulled_back(phi: Tensor, push: Tensor, network: nn.Module) -> Tensor:
    """push^T dphi / d parameters: what every closed form below is made of."""
    return gradient((push.detach() * phi).sum(), network)


def loss_and_gradient(made: Distillation, step: Step, network: nn.Module) -> tuple[Loss, Tensor]:
    loss = loss_of(made, step)
    return loss, gradient(loss.value, network)


def twin(network: nn.Module, seed: int, size: float) -> nn.Module:
    """A copy with slightly different weights."""
    other = copy.deepcopy(network)
    generator = seeded(seed)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(size * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    return other


class Correction(nn.Module):
    """A linear head (W x + t u + b), zero at first: the directions in which a fixed point is tested."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(channels, channels, dtype=F64))
        self.slope = nn.Parameter(torch.zeros(channels, dtype=F64))
        self.bias = nn.Parameter(torch.zeros(channels, dtype=F64))

    def around(self, velocity: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda x, t, *t_end: velocity(x, t, *t_end) + x @ self.weight + t[:, None] * self.slope + self.bias
