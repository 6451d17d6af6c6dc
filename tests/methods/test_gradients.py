"""Every method's gradient against its closed form, with residuals computed here (T8b, T12, T13)."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from steps import (
    F64,
    T_MIN,
    LeakyStep,
    Mlp,
    bind,
    dense,
    gradient,
    loss_and_gradient,
    make_step,
    method,
    pulled_back,
    ragged,
    seeded,
    times,
    twin,
    worst,
)
from torch import Tensor, nn

from mdtbench.flow.layout import Layout
from mdtbench.flow.oracles import GaussianOracle
from mdtbench.flow.times import LogitNormal
from mdtbench.methods import Step
from mdtbench.methods.mdt import OwnDraws, PaperGradient, ReleasedGradient, SharedDraws
from mdtbench.methods.reduction import PerSample
from mdtbench.methods.scm import TANGENT_SCALINGS

DELTA, BOUND, SIGMA_MIN = 0.01, 0.1, 1e-5
LAYOUTS = [dense(1, 6), dense(4, 3, 2), ragged((3, 5, 1), 2)]


def problem(layout: Layout, seed: int = 1, shift: float = 0.3) -> tuple[Mlp, nn.Module, Step]:
    """A random student, a target near it, a random teacher. The last of several samples is nearer to 0 than DELTA."""
    channels = layout.randn([seeded(0)]).shape[-1]
    t = times(layout.batch_size, seed + 3)
    t[1:][-1:] = 0.4 * DELTA
    student, teacher = Mlp(channels, seed), Mlp(channels, seed + 2)
    target = twin(student, seed + 1, shift)
    step = make_step(layout, t, bind(student, layout), bind(teacher, layout), frozen=bind(target, layout))
    return student, target, step


def weights(layout: Layout, x: Tensor) -> tuple[Tensor, Tensor]:
    """[per-element weight of a mean over samples of means over elements, D of each row], broadcast to x."""
    count = layout.expand(layout.count(x))
    return 1 / (count * layout.batch_size), count


def rms_of(layout: Layout, x: Tensor) -> Tensor:
    return layout.expand((layout.sum(x**2) / layout.count(x)).sqrt())


def difference(step: Step, phi: Tensor, x: Tensor, t: Tensor, v: Tensor) -> Tensor:
    """(phi(x, t) - phi(x - h v, t - h)) / h with the target's weights behind; h is DELTA, or t where that is less."""
    h = t.clamp(max=DELTA)
    time = step.layout.expand(h)
    return (phi - step.frozen_student(x - time * v, t - h)) / time


def exact_derivative(target: nn.Module, step: Step, v: Tensor) -> tuple[Tensor, Tensor]:
    """phi and dphi/dt of the target by double backward, not the forward mode that the methods use."""
    velocity, ones = bind(target, step.layout), torch.ones_like(step.t)
    return torch.autograd.functional.jvp(velocity, (step.x_t, step.t), (v, ones))


def l2_of(layout: Layout, x: Tensor) -> Tensor:
    return layout.expand(layout.sum(x**2).sqrt())


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("label", ["vm", "vm:paper", "vm:cont", "vm:official"])
def test_vm(label: str, layout: Layout):
    student, target, step = problem(layout)
    made = method(label, reduction=PerSample())
    loss, got = loss_and_gradient(made, step, student)
    x, t, v = step.x_t, step.t, step.teacher(step.x_t, step.t, 0.0)
    phi, time = step.student(x, t), layout.expand(t)
    d = exact_derivative(target, step, v)[1] if label == "vm:cont" else difference(step, phi, x, t, v)
    r = (phi + time * d - v).detach()
    push = {
        "vm": r / (rms_of(layout, r) + BOUND),
        "vm:paper": r,
        "vm:cont": r,
        "vm:official": (phi + time * d / (l2_of(layout, d) + BOUND) - v).detach(),
    }[label]
    expected = pulled_back(phi, 2 * push * weights(layout, x)[0], student)
    assert worst(got, expected) < 1e-10 * got.abs().max()  # observed 3e-16
    for name, value in (("rms_residual", r), ("rms_phi", phi), ("rms_dphi", d)):
        mean_rms = (layout.sum(value**2) / layout.count(value)).sqrt().mean()
        assert worst(loss.diagnostics[name], mean_rms) < 1e-12 * max(1, mean_rms)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("fade", [0.02, 0.3, 1.0])
@pytest.mark.parametrize(("label", "scaling"), [("scm", "rms"), ("scm", "l2"), ("scm", "none"), ("scm:fd", "rms")])
def test_scm(label: str, scaling: str, fade: float, layout: Layout):
    student, target, step = problem(layout)
    made = method(label, scaling=TANGENT_SCALINGS[scaling], warmup=0.5)
    _, got = loss_and_gradient(made, replace(step, index=int(50 * fade), total=100), student)
    x, t, v = step.x_t, step.t, step.teacher(step.x_t, step.t, 0.0)
    phi, dphi = exact_derivative(target, step, v)
    if label == "scm:fd":
        dphi = difference(step, phi, x, t, v).detach()
    time = layout.expand(t)
    n = (time**2 + (1 - time) ** 2).sqrt()
    tangent = fade * (1 - time) * n * (phi + time * dphi - v) + (1 - fade) * (1 - time) ** 2 / n * (phi - v)
    size = {"rms": rms_of(layout, tangent) + BOUND, "l2": l2_of(layout, tangent) + BOUND, "none": 1.0}[scaling]
    push = 2 * n * tangent / size * weights(layout, x)[0]
    assert worst(got, pulled_back(step.student(x, t), push, student)) < 1e-10 * got.abs().max()  # observed 1e-16


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("label", ["cm", "cm:official", "cm:weighted"])
def test_cm(label: str, layout: Layout):
    student, _, step = problem(layout)
    _, got = loss_and_gradient(method(label, reduction=PerSample()), step, student)
    x, t, v = step.x_t, step.t, step.teacher(step.x_t, step.t, 0.0)
    time, h = layout.expand(t), layout.expand(t.clamp(max=DELTA))  # t' stops at 0
    earlier = x - h * v
    phi = step.student(x, t)
    behind = step.frozen_student(earlier, t - t.clamp(max=DELTA))
    gap = (x - time * phi) - (earlier - (time - h) * behind)
    weight, count = weights(layout, x)
    constant = 0.00054 * count.sqrt()
    push = {
        "cm": -time * gap / (layout.expand(layout.sum(gap**2)) + constant**2).sqrt() / layout.batch_size,
        "cm:official": -2 * time * gap * weight,
        # 2 r_CM: what velocity matching has, up to phi - phi'.
        "cm:weighted": 2 * ((time * phi - (time - h) * behind) / h - v) * weight,
    }[label]
    assert worst(got, pulled_back(phi, push, student)) < 1e-10 * got.abs().max()  # observed 1e-14


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("rescale_t", "edge"), [(1.0, 0.5), (3.0, 0.75)])
@pytest.mark.parametrize("label", ["pcm", "pcm:weighted"])
def test_pcm(label: str, rescale_t: float, edge: float, layout: Layout):
    student, _, step = problem(layout)
    t = step.t.clone()
    t[0] = edge + 0.3 * DELTA  # t' stops at the edge
    step = replace(step, t=t)
    _, got = loss_and_gradient(method(label, phases=2, rescale_t=rescale_t), step, student)
    x, v = step.x_t, step.teacher(step.x_t, step.t, 0.0)
    lower = torch.where(t > edge, edge, 0.0).to(F64)
    t_earlier = torch.maximum(t - DELTA, lower)
    earlier = x - layout.expand(t - t_earlier) * v
    phi, span = step.student(x, t), layout.expand(t - lower)
    behind = earlier - layout.expand(t_earlier - lower) * step.frozen_student(earlier, t_earlier)
    gap = x - span * phi - behind
    push = {
        "pcm": -span * gap / (gap**2 + 1e-6).sqrt(),
        "pcm:weighted": -2 * span * gap / (span.clamp(min=DELTA) * layout.expand(t - t_earlier)),
    }[label]
    push = push * weights(layout, x)[0]
    assert worst(got, pulled_back(phi, push, student)) < 1e-10 * got.abs().max()  # observed 3e-17


@pytest.mark.parametrize("layout", LAYOUTS)
def test_gd(layout: Layout):
    """The strength of the guidance arrives at the teacher."""
    student, _, step = problem(layout)
    guided = replace(step, teacher=lambda x, t, s: s * x)
    _, got = loss_and_gradient(method("gd", cfg_strength=3.0), guided, student)
    phi = step.student(step.x_t, step.t)
    push = 2 * (phi - 3 * step.x_t) * weights(layout, phi)[0]
    assert worst(got, pulled_back(phi, push, student)) < 1e-10 * got.abs().max()  # observed 1e-16


@pytest.mark.parametrize("layout", LAYOUTS)
def test_kd(layout: Layout):
    """25 Euler steps of the sampler's times, guided inside the interval."""
    student, _, step = problem(layout)

    def teacher(x: Tensor, t: Tensor, strength: float) -> Tensor:
        return step.teacher(x, t, 0.0) + strength * x

    made = method("kd", cfg_strength=2.0, rescale_t=3.0, cfg_interval=(0.5, 1.0))
    _, got = loss_and_gradient(made, replace(step, teacher=teacher), student)
    x, edges = step.noise, [3 * (1 - i / 25) / (1 + 2 * (1 - i / 25)) for i in range(26)]
    for now, after in pairwise(edges):
        x = x - (now - after) * teacher(x, torch.full_like(step.t, now), 2.0 if now >= 0.5 else 0.0)
    phi = step.student(step.noise, torch.ones_like(step.t))
    push = 2 * (phi - step.noise + x) * weights(layout, x)[0]
    assert worst(got, pulled_back(phi, push, student)) < 1e-10 * got.abs().max()  # observed 1e-15


def draws(step: Step, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """z', t and z'' as the VD term draws them from a step of this seed."""
    generator = seeded(seed + 1)
    start = step.layout.randn([generator])
    u = torch.rand(step.t.shape, generator=generator, dtype=F64)
    return start, T_MIN + (1 - T_MIN) * u, step.layout.randn([generator])


def distillation_by_hand(step: Step, stop: bool) -> tuple[Tensor, Tensor]:
    """phi(z', 1) and (1 - t) bounded(r') / D / B; with stop = False the sample keeps its graph."""
    start, t, noise = draws(step)
    layout, time = step.layout, step.layout.expand(t)
    phi_start = step.student(start, torch.ones_like(t))
    sample = start - (phi_start.detach() if stop else phi_start)
    x = (1 - time) * sample + (SIGMA_MIN + (1 - SIGMA_MIN) * time) * noise
    with torch.set_grad_enabled(not stop):
        v, phi = step.teacher(x, t, 0.0), step.frozen_student(x, t)
        r = phi + time * difference(step, phi, x, t, v) - v
        return phi_start, (1 - time) * r / (rms_of(layout, r) + BOUND) * weights(layout, x)[0]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_velocity_distillation(layout: Layout):
    """grad = E[(1 - t) bounded(r')^T dphi(z', 1)] / D for the draws of the step (T12)."""
    student, _, step = problem(layout)
    got = gradient(method("mdt").distillation(step).value, student)
    phi_start, push = distillation_by_hand(step, stop=True)
    expected = pulled_back(phi_start, push, student)
    assert worst(got, expected) < 1e-12  # observed 3e-16
    # Without the stop at the sample the gradient is another one, so a lost detach would be seen.
    phi_start, push = distillation_by_hand(step, stop=False)
    assert worst(got, gradient((push * phi_start).sum(), student)) > 1e-4


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("draws_of", [OwnDraws(), SharedDraws()])
@pytest.mark.parametrize("gradient_of", [PaperGradient(), ReleasedGradient()])
def test_unscaled_velocity_distillation(draws_of, gradient_of, layout: Layout):
    """(1 - t) r'^T dphi / D [paper], 2 r'^T dphi / D [release]; the release takes VM's t and noise (T12)."""
    student, _, step = problem(layout)
    made = method("mdt:paper", vd_draws=draws_of, vd_gradient=gradient_of, times=LogitNormal())
    got = gradient(made.distillation(step).value, student)
    generator = seeded(1)
    start = layout.randn([generator])
    t, noise = step.t, step.noise
    if draws_of == OwnDraws():
        t = LogitNormal().times(torch.rand(t.shape, generator=generator, dtype=F64), T_MIN)
        noise = layout.randn([generator])
    time, phi_start = layout.expand(t), step.student(start, torch.ones_like(t))
    x = ((1 - time) * (start - phi_start) + (SIGMA_MIN + (1 - SIGMA_MIN) * time) * noise).detach()
    v, phi = step.teacher(x, t, 0.0), step.frozen_student(x, t)
    r = phi + time * difference(step, phi, x, t, v) - v
    factor = 1 - time if gradient_of == PaperGradient() else 2.0
    expected = pulled_back(phi_start, factor * r * weights(layout, x)[0], student)
    assert worst(got, expected) < 1e-12 * got.abs().max()  # observed 3e-16


def test_two_strengths_of_guidance_reach_their_terms():
    _, _, step = problem(dense(4, 5))
    asked: list[float] = []

    def teacher(x: Tensor, t: Tensor, strength: float) -> Tensor:
        asked.append(strength)
        return step.teacher(x, t, 0.0)

    for strength in (None, 7.0):
        method("mdt", cfg_strength=3.0, vd_cfg_strength=strength).loss(replace(step, teacher=teacher))
    assert asked == [3.0, 3.0, 3.0, 7.0]


def test_velocity_distillation_stops_gradients_by_itself():
    """Also in a step whose teacher and target forget to: only the generator phi(z', 1) is differentiated."""
    student, _, step = problem(dense(4, 5))
    online = LeakyStep(
        **{**vars(step), "frozen_student": step.student, "teacher": lambda x, t, s: step.student(x, t) ** 2}
    )
    got = gradient(method("mdt").distillation(online).value, student)
    phi_start, push = distillation_by_hand(online, stop=True)
    assert worst(got, pulled_back(phi_start, push, student)) < 1e-12  # observed 1e-16


def test_mdt_is_the_weighted_sum_of_vm_and_vd():
    student, _, step = problem(dense(4, 5))
    _, got = loss_and_gradient(method("mdt", lambda_vm=0.4, lambda_vd=0.7), step, student)
    step.generator.manual_seed(1)
    matching = gradient(method("vm").loss(step).value, student)
    distillation = gradient(method("mdt").distillation(step).value, student)
    assert worst(got, 0.4 * matching + 0.7 * distillation) < 1e-13  # observed 6e-17
    step.generator.manual_seed(1)
    _, without = loss_and_gradient(method("mdt", lambda_vd=0.0), step, student)
    assert worst(without, matching) < 1e-14


class Generator(nn.Module):
    """phi(z, 1) of the generator x = m + s z."""

    def __init__(self, m: float, s: float):
        super().__init__()
        self.m = nn.Parameter(torch.tensor(m, dtype=F64))
        self.s = nn.Parameter(torch.tensor(s, dtype=F64))

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        return z - self.m - self.s * z


@pytest.mark.parametrize(
    ("m", "s", "sign"),
    [(1.3, 1.1, (1, None)), (-1.5, 1.1, (-1, None)), (-0.4, 1.5, (None, 1)), (-0.4, 0.7, (None, -1))],
)
def test_velocity_distillation_descends_to_the_data(m: float, s: float, sign: tuple[int | None, int | None]):
    """Data N(-0.4, 1.1^2), generator N(m, s^2) with its exact flow map as the student's field (T13)."""
    data = GaussianOracle(torch.tensor([-0.4], dtype=F64), torch.tensor([[1.21]], dtype=F64))
    generated = GaussianOracle(torch.tensor([m], dtype=F64), torch.tensor([[s * s]], dtype=F64))
    generator, layout = Generator(m, s), dense(4000, 1)
    step = make_step(layout, times(4000, 5), generator, data.velocity, frozen=generated.student)
    got = gradient(method("mdt", delta=0.001).distillation(step).value, generator)
    for slope, expected in zip(got.tolist(), sign, strict=True):
        if expected is not None:
            assert slope * expected > 0.1  # observed 0.20 to 0.41; the draws' standard error is 0.007
