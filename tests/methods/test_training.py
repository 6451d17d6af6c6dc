"""A short training on three modes in the plane: one step of the student nears the exact flow map (T24, shortened)."""

from __future__ import annotations

import copy
import functools
import math

import pytest
import torch
from steps import T_MIN, method, seeded, unguided
from torch import Tensor, nn

from mdtbench.flow.layout import DenseLayout
from mdtbench.flow.oracles import MixtureOracle, integrate
from mdtbench.flow.path import diffuse
from mdtbench.flow.times import Uniform
from mdtbench.methods import Distillation, Step
from mdtbench.methods.residual import DerivativeL2

STEPS, BATCH = 500, 128
ANGLES = torch.tensor([0.0, 2.0, 4.2])
MODES = MixtureOracle(
    torch.tensor([0.4, 0.35, 0.25]),
    1.5 * torch.stack([ANGLES.cos(), ANGLES.sin()], 1),
    torch.tensor([0.15, 0.25, 0.2]),
)


@pytest.fixture(autouse=True)
def one_thread():
    """Networks this small only lose by more threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Student(nn.Module):
    """The teacher's velocity plus a network that is zero at first: distillation starts at the teacher."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(1)
            self.net = nn.Sequential(nn.Linear(4, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 2))
        nn.init.zeros_(self.net[-1].weight)
        nn.init.zeros_(self.net[-1].bias)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        time = t[:, None]
        return MODES.velocity(x, t) + self.net(torch.cat([x, time, torch.cos(math.pi * time)], 1))


def draw(generator: torch.Generator, layout: DenseLayout) -> Tensor:
    mode = torch.multinomial(MODES.weights, layout.batch_size, replacement=True, generator=generator)
    return MODES.means[mode] + MODES.variances[mode].sqrt()[:, None] * layout.randn([generator])


def train(made: Distillation) -> nn.Module:
    student, layout, generator = Student(), DenseLayout((BATCH, 2)), seeded(2)
    target = copy.deepcopy(student) if made.target_decay else student
    optimiser = torch.optim.Adam(student.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS)
    for index in range(STEPS):
        x_0, noise = draw(generator, layout), layout.randn([generator])
        t = Uniform().times(torch.rand(BATCH, generator=generator), T_MIN)
        step = Step(
            index=index,
            total=STEPS,
            x_0=x_0,
            noise=noise,
            t=t,
            t_min=T_MIN,
            x_t=diffuse(x_0, noise, t, layout),
            layout=layout,
            student=student,
            frozen_student=target,
            teacher=unguided(MODES.velocity),
            attached_teacher=unguided(MODES.velocity),
            generator=generator,
        )
        optimiser.zero_grad()
        made.loss(step).value.backward()
        nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if made.target_decay:
            for kept, new in zip(target.parameters(), student.parameters(), strict=True):
                kept.data.lerp_(new.data, 1 - made.target_decay)
    return student


@functools.cache
def noise_and_ends() -> tuple[Tensor, Tensor]:
    z = torch.randn(1000, 2, generator=seeded(3))
    return z, integrate(MODES.velocity, z, 1.0, 0.0, steps=100)


@torch.no_grad()
def transport_rmse(student: nn.Module) -> float:
    """Root mean square distance of one step from the end of the teacher's trajectory."""
    z, ends = noise_and_ends()
    return (z - student(z, torch.ones(len(z))) - ends).square().sum(1).mean().sqrt().item()


def test_one_step_of_the_teacher_is_far_off():
    assert transport_rmse(Student()) > 1.5  # observed 1.63


@pytest.mark.parametrize("label", ["vm", "vm:paper", "cm", "cm:weighted", "scm", "mdt:paper"])
def test_one_step_of_the_student_transports(label: str):
    """A fifth of the steps of the full training, which reaches 0.16 to 0.31: hence 0.5 and not 0.35."""
    changed = {"warmup": 0.2} if label == "scm" else {}
    # observed 0.36 to 0.37; cm and vm, whose push is bounded, 0.44 and 0.41
    assert transport_rmse(train(method(label, **changed))) < 0.5


@pytest.mark.parametrize(
    ("label", "changed", "least"),
    [
        ("vm", {"scaling": DerivativeL2()}, 0.75),  # observed 0.85
        ("mdt:official", {"times": Uniform()}, 0.75),  # observed 0.90
        ("vm", {"scaling": DerivativeL2(ref_dim=32768)}, 1.4),  # as at full size; observed 1.63, the teacher's
        ("gd", {}, 1.4),  # observed 1.63
    ],
    ids=["vm-derivative-norm", "mdt-official", "vm-norm-of-full-size", "gd"],
)
def test_norm_of_the_release_hardly_transports(label: str, changed: dict, least: float):
    """The same training with dphi/dt divided by its norm ends far from the flow map; at full size it is `gd`."""
    assert transport_rmse(train(method(label, **changed))) > least
