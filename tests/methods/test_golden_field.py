"""Losses and gradients of FastGen, rCM, StyleGAN-T and SiD on small functions, by the methods that follow them.

They drop the trace of noise that TRELLIS leaves in data, hence 1e-5 where a path is diffused here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import golden_io
import pytest
import torch
from steps import dense, seeded
from torch import Tensor, nn

from mdtbench.flow.guidance import combine
from mdtbench.flow.layout import DenseLayout
from mdtbench.flow.path import conditional_velocity
from mdtbench.methods import METHODS, Distillation, Features, Step
from mdtbench.methods.dmd2 import CRITIC, Judged, matching_push
from mdtbench.methods.ladd import HEADS, TEACHER, Hinge, Logistic
from mdtbench.methods.meanflow import ByPower
from mdtbench.methods.residual import ResidualL2, ResidualRms
from mdtbench.methods.tcm import FIRST, Above

(FIELD, ARRAYS), (SID, MORE) = (golden_io.load("method_losses", name) for name in ("field", "sid"))
ARRAYS |= MORE
CASES: Mapping[str, Mapping[str, float]] = FIELD["cases"] | SID["cases"]
STRENGTH = 2.0  # guidance scale 3
ROUNDING = 1e-9
TRACE = 5e-5  # of noise, see above


def array(name: str) -> Tensor:
    return torch.from_numpy(ARRAYS[name])


LAYOUT = dense(*ARRAYS["x_0"].shape)
D = ARRAYS["x_0"][0].size
X_0, NOISE, T, T_END = (array(name) for name in ("x_0", "noise", "t", "t_end"))


class Net(nn.Module):
    """W tanh(U x + t a + (t - t_end) b) + c."""

    def __init__(self, name: str):
        super().__init__()
        for key in "UWabc":
            setattr(self, key, nn.Parameter(array(f"{name}.{key}").clone()))

    def forward(self, x: Tensor, t: Tensor, t_end: Tensor | None = None) -> Tensor:
        length = t if t_end is None else t - t_end
        times = t[:, None] * self.a + length[:, None] * self.b
        return (torch.tanh(x.flatten(1) @ self.U.T + times) @ self.W.T + self.c).view_as(x)


class Given:
    """Where jumps end, in place of a draw."""

    def draw(self, step: Step) -> Tensor:
        return T_END


@pytest.fixture
def student() -> Net:
    return Net("student")


def attached_teacher(x: Tensor, t: Tensor, cfg_strength: float) -> Tensor:
    assert cfg_strength == STRENGTH
    return combine(Net("teacher")(x, t), Net("negative")(x, t), cfg_strength)


@torch.no_grad()
def teacher(x: Tensor, t: Tensor, cfg_strength: float) -> Tensor:
    return attached_teacher(x, t, cfg_strength)


def step_of(student: Net, t: Tensor = T, index: int = 20, total: int = 1) -> Step:
    time = LAYOUT.expand(t)
    return Step(
        index=index,
        total=total,
        x_0=X_0,
        noise=NOISE,
        t=t,
        t_min=0.0,
        x_t=(1 - time) * X_0 + time * NOISE,
        layout=LAYOUT,
        student=student,
        frozen_student=student,
        teacher=teacher,
        attached_teacher=attached_teacher,
        generator=seeded(1),
        networks={FIRST: Net("first").requires_grad_(False)},
    )


def made(name: str, **changes) -> Distillation:
    return METHODS.get(name).value(cfg_strength=STRENGTH, **changes)


def agrees(case: str, value: Tensor, student: nn.Module, scale: float = 1.0, within: float = ROUNDING) -> None:
    """Gradients are `scale` times the reference's, and so is the value unless it is a surrogate's."""
    for key in "WUb":
        if f"{case}/grad.{key}" in ARRAYS:
            got = torch.autograd.grad(value, getattr(student, key), retain_graph=True)[0]
            expected = scale * array(f"{case}/grad.{key}")
            assert (got - expected).abs().max() < within * expected.abs().max(), key


@pytest.mark.parametrize("stage", [3, 7])  # in earlier ones some t' are 0, where it takes the datum
def test_ect(stage: int, student: Net):
    value = made("ect", huber=0.0).loss(step_of(student, index=stage, total=8)).value
    agrees(f"ect_stage{stage}", value, student)
    assert value.item() == pytest.approx(CASES[f"ect_stage{stage}"]["loss"], rel=1e-6)  # minus its 1e-8 / (t - t')


def test_tcm(student: Net):
    """Its boundary is 1e-8 above the time itself."""
    t = torch.where(torch.arange(4) == 0, 0.5, T)
    method = made("tcm", huber=0.0, times=Above(0.5, 0.25), apart=CASES["tcm"]["apart"])
    value = method.loss(step_of(student, t)).value
    agrees("tcm", value, student, within=1e-6)
    assert value.item() == pytest.approx(CASES["tcm"]["loss"], rel=1e-6)


def test_meanflow(student: Net):
    """Its constant is of a sum over elements, ours of their mean."""
    constant = CASES["meanflow_l2"]["constant"] / D
    method = made("meanflow", ends=Given(), adaptation=ByPower(1.0, constant))
    value = method.loss(step_of(student)).value
    agrees("meanflow_l2", value, student)
    assert value.item() == pytest.approx(CASES["meanflow_l2"]["loss"], rel=1e-9)


@pytest.mark.parametrize(("case", "warmup"), [("meanflow_opt_grad", 0.0), ("meanflow_opt_grad_warmup", 0.5)])
def test_ayf(case: str, warmup: float, student: Net):
    """FastGen's own gradient with a dimension-free tangent; it sums elements, and scales a tangent by 1 / sqrt(D)."""
    method = made("ayf", ends=Given(), warmup=warmup, scaling=ResidualRms(CASES[case]["constant"]))
    value = method.loss(step_of(student, index=4, total=20)).value
    agrees(case, value, student, scale=D**-0.5)
    assert value.item() == pytest.approx(CASES[case]["loss"], rel=1e-9)


def judged_sample(student: Net) -> tuple[Tensor, Judged, Tensor]:
    """The student's sample, what the critic says of the reference's point, and the teacher's velocity there."""
    ones = torch.ones_like(T)
    sample = array("z") - student(array("z"), ones)
    t, critic = array("t_critic"), Net("critic")
    velocity = critic(array("x_d"), t)
    error = velocity - conditional_velocity(sample.detach(), array("noise_critic"))
    return sample, Judged(array("x_d"), t, velocity, error), teacher(array("x_d"), t, STRENGTH)


def test_dmd2(student: Net):
    """FastGen rounds the weights to float32."""
    sample, at, v = judged_sample(student)
    assert (sample - array("sample")).abs().max() < 1e-12
    push = matching_push(sample, at, v, LAYOUT)
    agrees("dmd2", (push * sample).mean(), student, within=1e-6)
    assert (0.5 * push.square().mean()).item() == pytest.approx(CASES["dmd2"]["loss"], rel=1e-6)


@pytest.mark.parametrize("case", SID["cases"])
def test_sid(case: str, student: Net):
    """It rounds the weights to float32, and does not add 1e-6 to what they divide by."""
    sample, at, _ = judged_sample(student)
    step = replace(step_of(student), networks={CRITIC: Net("critic")})
    push, apart = made("sid", alpha=CASES[case]["alpha"]).push(step, sample, at)  # type: ignore[attr-defined]
    assert not push.requires_grad
    assert not apart.requires_grad
    agrees(case, (push * sample).mean(), student, scale=1 / D, within=5e-6)


def test_critic_of_dmd2(student: Net):
    critic = Net("critic")
    sample, at, _ = judged_sample(student)
    error = critic(at.x_t, at.t) - conditional_velocity(sample.detach(), array("noise_critic"))
    value = error.square().mean()
    got = torch.autograd.grad(value, critic.W)[0]
    expected = array("dmd2_critic/grad.W")
    assert (got - expected).abs().max() < TRACE * expected.abs().max()
    assert value.item() == pytest.approx(CASES["dmd2_critic"]["loss"], rel=TRACE)
    assert torch.equal(at.error, error)


@dataclass(frozen=True)
class Scripted(DenseLayout):
    """A layout whose fresh noise is given."""

    draws: list[Tensor] = field(default_factory=list)

    def randn(self, generators: Sequence[torch.Generator]) -> Tensor:
        return self.draws.pop(0)


class Rows(nn.Module):
    """Heads that are products with a row each."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.ParameterList([nn.Parameter(array(f"heads.{i}").clone()) for i in (0, 1)])

    def forward(self, features: Sequence[Features], t: Tensor) -> list[Tensor]:
        return [one.values @ row.T for one, row in zip(features, self.rows, strict=True)]


def tapped_teacher(x: Tensor, t: Tensor) -> tuple[Features, ...]:
    net = Net("teacher").requires_grad_(False)
    hidden = torch.tanh(x.flatten(1) @ net.U.T + t[:, None] * net.a + t[:, None] * net.b)
    return tuple(Features(h, DenseLayout(tuple(h.shape), h.dtype)) for h in (hidden, hidden @ net.W.T + net.c))


def test_ladd(student: Net):
    """FastGen's two steps; its objective is the logistic one."""
    heads, renoised = Rows(), array("noise_renoised")  # one for datum and sample
    layout = Scripted(tuple(X_0.shape), X_0.dtype, draws=[array("z"), renoised, renoised])
    networks = {TEACHER: tapped_teacher, HEADS: heads}
    step = replace(step_of(student, array("t_renoised")), layout=layout, networks=networks)
    made = METHODS.get("ladd").value(cfg_strength=STRENGTH, objective=Logistic())
    value = made.loss(step).value
    assert layout.draws == []
    agrees("ladd", value, student, within=TRACE)
    for i, row in enumerate(heads.rows):
        [got] = torch.autograd.grad(value, row, retain_graph=True)
        expected = array(f"ladd_heads/grad.{i}")
        assert (got - expected).abs().max() < TRACE * expected.abs().max()
    assert value.item() == pytest.approx(CASES["ladd"]["loss"] + CASES["ladd_heads"]["loss"], rel=TRACE)


def test_hinge():
    """Of StyleGAN-T, whose scores are of tokens as well."""
    real, fake = (array(f"scores.{name}").requires_grad_() for name in ("real", "fake"))
    of_heads, of_student = Hinge().of_heads(real, fake).mean(), Hinge().of_student(fake).mean()
    assert of_heads.item() == pytest.approx(CASES["hinge_heads"]["loss"], rel=1e-12)
    assert of_student.item() == pytest.approx(CASES["hinge_student"]["loss"], rel=1e-12)
    for name, score in {"real": real, "fake": fake}.items():
        [got] = torch.autograd.grad(of_heads, score, retain_graph=True)
        assert (got - array(f"hinge_heads/grad.{name}")).abs().max() < 1e-15
    [got] = torch.autograd.grad(of_student, fake)
    assert (got - array("hinge_student/grad.fake")).abs().max() < 1e-15


def test_consistency_of_rcm(student: Net):
    """100 times a sum over elements, with the tangent's L2 norm; after its warm-up."""
    method = made("rcm", warmup=0.0, scaling=ResidualL2(0.1)).consistency()  # type: ignore[attr-defined]
    value = method.loss(step_of(student)).value
    agrees("rcm_scm", value, student, scale=1 / (100 * D), within=1e-7)  # its times are divided by 1000 and multiplied
    assert 100 * D * value.item() == pytest.approx(CASES["rcm_scm"]["loss"], rel=1e-9)


def test_matching_of_rcm(student: Net):
    """Twice a sum over elements; its mean distance has a floor in place of a constant. Its path has sine and cosine."""
    sample, at, v = judged_sample(student)
    push = matching_push(sample, at, v, LAYOUT)
    agrees("rcm_dmd", (push * sample).mean(), student, scale=1 / (2 * D), within=1e-5)
    assert push.square().flatten(1).sum(1).mean().item() == pytest.approx(CASES["rcm_dmd"]["loss"], rel=1e-5)


def test_the_derivative_holds_the_end_of_the_jump(student: Net):
    """FastGen's JVP over three inputs, the tangent of the last one zero."""
    step = step_of(student)
    v = teacher(step.x_t, T, STRENGTH)
    assert (v - array("v")).abs().max() < 1e-12
    _, dphi = step.towards(T_END).target_derivative(step.x_t, T, v)
    assert (dphi - array("jvp")).abs().max() < 1e-12
