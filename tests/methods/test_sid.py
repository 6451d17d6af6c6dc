"""SiD: its push by hand, where it ends, which way it leads, and that it stays in the sample."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from steps import (
    F64,
    T_MIN,
    Correction,
    Mlp,
    bind,
    dense,
    gaussian,
    gradient,
    make_step,
    method,
    networks_of,
    ragged,
    rand,
    seeded,
    times,
    with_networks,
    worst,
)
from torch import Tensor, nn

from mdtbench.flow.layout import Layout
from mdtbench.flow.oracles import GaussianOracle
from mdtbench.methods import STUDENT, Step
from mdtbench.methods.dmd2 import CRITIC
from mdtbench.methods.sid import ScoreIdentity

SIGMA_MIN = 1e-5
ALPHAS = [0.0, 1.0, 1.2]


def sid(**changes: Any) -> ScoreIdentity:
    built = method("sid", **changes)
    assert isinstance(built, ScoreIdentity)
    return built


def problem(layout: Layout, index: int = 0) -> tuple[nn.Module, nn.Module, nn.Module, Step]:
    """Student, critic, teacher and a step."""
    student, teacher, t = Mlp(2, 1), Mlp(2, 2), times(layout.batch_size, 4)
    step = make_step(layout, t, bind(student, layout), bind(teacher, layout), index=index)
    networks = networks_of(sid(), step)
    return student, networks[CRITIC], teacher, with_networks(sid(), step, networks)


@pytest.mark.parametrize("layout", [dense(4, 3, 2), ragged((3, 5, 1), 2)], ids=["dense", "sparse"])
@pytest.mark.parametrize("alpha", ALPHAS)
def test_the_student_learns_the_identity(alpha: float, layout: Layout):
    student, critic, teacher, step = problem(layout)
    got = gradient(sid(alpha=alpha).loss(step).value, student)
    generator = seeded(1)
    z, ones = layout.randn([generator]), torch.ones_like(step.t)
    t = T_MIN + (1 - T_MIN) * torch.rand(step.t.shape, generator=generator, dtype=F64)
    noise, time = layout.randn([generator]), layout.expand(t)
    sample = z - bind(student, layout)(z, ones)
    x_t = (1 - time) * sample + (SIGMA_MIN + (1 - SIGMA_MIN) * time) * noise
    real, fake = (x_t - time * bind(net, layout)(x_t, t) for net in (teacher, critic))
    count = layout.expand(layout.count(z))
    scale = layout.expand(layout.sum((sample - real).abs())).detach() / count + 1e-6
    each = ((1 - alpha) * (real - fake) ** 2 + (real - fake) * (fake - sample)) / scale / count
    expected = gradient(each.sum() / layout.batch_size, student)
    assert worst(got, expected) < 1e-10 * got.abs().max()  # observed 1e-15


def test_a_student_of_the_data_s_law_is_not_pushed():
    """Whatever noise it makes a sample of: as soon as the critic is exact, the scores and their slopes are equal."""
    oracle, layout = gaussian(4, 1), dense(64, 4)
    network = Correction(4)
    step = make_step(layout, rand(64, seed=2), network.around(oracle.student), oracle.velocity, index=0)
    fair = replace(step, networks={CRITIC: oracle.velocity})
    assert worst(gradient(sid().loss(fair).value, network), 0) == 0
    behind = replace(step, networks={CRITIC: GaussianOracle(oracle.mean + 1, oracle.cov).velocity})
    assert gradient(sid().loss(behind).value, network).norm() > 0.1


@pytest.mark.parametrize("alpha", [1.0, 1.2])
@pytest.mark.parametrize(("mean", "std"), [(1.3, 1.1), (-2.0, 1.1), (-0.4, 1.5), (-0.4, 0.6)])
def test_a_step_leads_to_the_data(mean: float, std: float, alpha: float):
    """Generator N(mean, std^2) with the exact critic, data N(-0.4, 1.1^2): what is wrong gets less so."""
    data = GaussianOracle(torch.tensor([-0.4], dtype=F64), torch.tensor([[1.21]], dtype=F64))
    layout = dense(20_000, 1)
    m, s = torch.tensor(mean, dtype=F64, requires_grad=True), torch.tensor(std, dtype=F64, requires_grad=True)
    law = GaussianOracle(m.detach()[None], s.detach()[None, None] ** 2)

    def student(x: Tensor, t: Tensor) -> Tensor:
        return x - (m + s * x)  # so that a jump from x makes m + s x

    step = make_step(layout, torch.rand(20_000, dtype=F64), student, data.velocity, index=0)
    sid(alpha=alpha).loss(replace(step, networks={CRITIC: law.velocity})).value.backward()
    assert m.grad is not None
    assert s.grad is not None
    wrong, right = (m.grad, mean > -0.4) if std == 1.1 else (s.grad, std > 1.1)
    assert (wrong > 0) == right
    assert wrong.abs() > 0.02


def test_the_push_leaves_teacher_and_critic_alone():
    """The critic learns the velocity of the samples, as in `dmd2`, and the teacher nothing."""
    for index in (0, 1):
        student, critic, teacher, step = problem(dense(4, 3, 2), index)
        sid().loss(step).value.backward()
        assert all(p.grad is None for p in teacher.parameters())
        assert all((p.grad is not None) == sid().updates(STUDENT, index) for p in student.parameters())
        got = torch.cat([p.grad.flatten() for p in critic.parameters() if p.grad is not None])
        other = problem(dense(4, 3, 2), index)
        assert torch.equal(got, gradient(method("dmd2").loss(other[3]).value, other[1]))


def test_guidance_is_that_of_the_teacher_that_is_followed():
    asked: list[float] = []
    _, _, _, step = problem(dense(4, 3, 2))

    def teacher(x: Tensor, t: Tensor, strength: float) -> Tensor:
        asked.append(strength)
        return x * t[:, None, None]

    sid(cfg_strength=3.0).loss(replace(step, attached_teacher=teacher))
    assert asked == [3.0]


def test_what_the_documentation_s_tables_are_of():
    assert (sid().alpha, sid().critic_rate, sid().period) == (0.5, 3.0, 2)
    assert (method("dmd2").critic_rate, method("rcm").critic_rate) == (3.0, 3.0)  # type: ignore[attr-defined]
