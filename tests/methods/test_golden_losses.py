"""The released MDT-dist's numbers: times, targets, losses, gradients of `vm:official`, `mdt:official`, `cm:official`.

Its distillation term with the consistency form is absent: it ascends, and no method here offers it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import golden_io
import numpy as np
import pytest
import torch
from steps import loss_of, seeded
from torch import Tensor, nn

from mdtbench.flow.guidance import combine
from mdtbench.flow.layout import DenseLayout, Layout, SparseLayout
from mdtbench.flow.path import SIGMA_MIN, diffuse, jump
from mdtbench.flow.times import LogitNormal, Uniform
from mdtbench.methods import METHODS, Distillation, Step
from mdtbench.methods.cm import ConsistencyDistillation
from mdtbench.methods.mdt import VelocityMatchingDistillation
from mdtbench.methods.pcm import PhasedConsistencyDistillation, Straddling
from mdtbench.methods.residual import BackwardDifference, DerivativeL2, ForwardMode, Unscaled, pushed
from mdtbench.methods.vm import VelocityMatching
from mdtbench.trellis import create
from mdtbench.trellis.adapter import bind, bind_sparse
from mdtbench.trellis.sparse import Voxels

RULES = {"discrete": BackwardDifference(), "continuous": ForwardMode()}
DENSE, SPARSE = ("mdt_dense", "mdt_dense_p2"), ("mdt_sparse_cm", "mdt_sparse_repaired")


@dataclass(frozen=True)
class ScriptedDense(DenseLayout):
    """A layout whose fresh noise is given."""

    draws: list[Tensor] = field(default_factory=list)

    def randn(self, generators: Sequence[torch.Generator]) -> Tensor:
        return self.draws.pop(0)


@dataclass(frozen=True)
class ScriptedSparse(SparseLayout):
    draws: list[Tensor] = field(default_factory=list)

    def randn(self, generators: Sequence[torch.Generator]) -> Tensor:
        return self.draws.pop(0)


@dataclass(frozen=True)
class Fixture:
    sidecar: dict
    arrays: dict[str, np.ndarray]
    student: nn.Module
    teacher: nn.Module

    def __getitem__(self, name: str) -> Tensor:
        return torch.from_numpy(self.arrays[name])

    @cached_property
    def voxels(self) -> Voxels:
        return Voxels.of(self["coords"], len(self["t"]))

    def layout(self) -> Layout:
        """With the noise of the student's own sample as its next draw."""
        x, draws = self["x_0"], [self["noise_fake"]]
        if "coords" not in self.arrays:
            return ScriptedDense(tuple(x.shape), draws=draws)
        return ScriptedSparse(self["coords"][:, 0].long(), len(self["t"]), x.shape[1], draws=draws)

    def bound(self, network: nn.Module, cond: Tensor):
        if "coords" in self.arrays:
            return bind_sparse(network, cond, self.voxels)
        return bind(network, cond)

    def step(self, with_teacher: bool = True) -> Step:
        layout, t, noise, cond = self.layout(), self["t"], self["noise"], self["cond"]
        student = self.bound(self.student, cond)
        positive, negative = self.bound(self.teacher, cond), self.bound(self.teacher, torch.zeros_like(cond))

        @torch.no_grad()
        def teacher(x: Tensor, t: Tensor, cfg_strength: float) -> Tensor:
            return combine(positive(x, t), negative(x, t), cfg_strength)

        def path(x: Tensor, t: Tensor, cfg_strength: float) -> Tensor:
            """Without a teacher the release takes the path's own velocity through (x_0, noise); x is on it."""
            time = layout.expand(t)
            x_0 = (x - (SIGMA_MIN + (1 - SIGMA_MIN) * time) * noise) / (1 - time)
            return (1 - SIGMA_MIN) * noise - x_0

        return Step(
            index=1,
            total=1,
            x_0=self["x_0"],
            noise=noise,
            t=t,
            t_min=0.01001,
            x_t=diffuse(self["x_0"], noise, t, layout),
            layout=layout,
            student=student,
            frozen_student=student,
            teacher=teacher if with_teacher else path,
            attached_teacher=teacher,
            generator=seeded(0),
        )


def network_of(sidecar: dict, role: str) -> nn.Module:
    name, args = sidecar["constructor"]["denoiser"], sidecar["constructor"]["args"]
    network = create(name, args)
    golden_io.fill_w1(network, sidecar["weights"][role]["salt"])
    return network.eval().requires_grad_(role == "student")


@pytest.fixture(scope="module")
def fixtures() -> dict[str, Fixture]:
    loaded = {}
    for name in (*DENSE, *SPARSE):
        sidecar, arrays = golden_io.load("mdt_losses", name)
        loaded[name] = Fixture(sidecar, arrays, network_of(sidecar, "student"), network_of(sidecar, "teacher"))
    return loaded


def runs(*names: str, consistency: bool) -> list[tuple[str, int]]:
    found = []
    for name in names:
        listed = golden_io.load("mdt_losses", name)[0]["runs"]
        found += [(name, i) for i, run in enumerate(listed) if (run["distill_type"] == "cm") == consistency]
    return found


def official(label: str, **changed) -> Distillation:
    return METHODS.get(label).value(**{**METHODS.get(label).variants["official"], **changed})


def close(got: Tensor, expected: Tensor, run: dict) -> None:
    """The sidecar's tolerance: 20 times the reference's own float32 error, relative to the largest value."""
    limit = max(2e-5, 20 * run["float32_vs_float64_rel"]) * expected.abs().max().item()
    assert (got - expected).abs().max() <= limit


def gradients(value: Tensor, network: nn.Module) -> list[Tensor]:
    return list(torch.autograd.grad(value, list(network.parameters()), retain_graph=True))


def norms_match(got: list[Tensor], expected: np.ndarray) -> None:
    """Within 0.5 %, as the sidecar asks; near-zero norms within 0.5 % of the largest."""
    norms = np.array([g.double().norm().item() for g in got])
    np.testing.assert_allclose(norms, expected, rtol=5e-3, atol=1e-5 * expected.max())


@pytest.mark.parametrize("name", [*DENSE, *SPARSE])
def test_networks_have_the_fixtures_weights(fixtures: dict[str, Fixture], name: str):
    weights = fixtures[name].sidecar["weights"]
    state = fixtures[name].student.state_dict()
    assert [key for key, _ in fixtures[name].student.named_parameters()] == fixtures[name].sidecar["param_order"]
    for key, values in weights["student"]["probe_first_values"].items():
        np.testing.assert_array_equal(state[key].flatten()[: len(values)], np.float32(values))
    assert golden_io.state_sha256(fixtures[name].teacher) == weights["teacher"]["sha256_of_state_dict_bytes"]


@pytest.mark.parametrize(("name", "index"), runs(*DENSE, *SPARSE, consistency=False))
def test_velocity_matching_and_distillation(fixtures: dict[str, Fixture], name: str, index: int):
    fixture = fixtures[name]
    run, key = fixture.sidecar["runs"][index], f"run{index:02d}"
    changed = {
        "derivative": RULES[run["distill_type"]],
        "scaling": DerivativeL2(0.1) if run["d_norm"] else Unscaled(),
        "cfg_strength": run["cfg_teacher_vm"],
    }
    vm = official("vm", **changed)
    mdt = official("mdt", **changed, vd_cfg_strength=run["cfg_teacher_vd"])
    assert isinstance(vm, VelocityMatching)
    assert isinstance(mdt, VelocityMatchingDistillation)
    step = fixture.step(with_teacher="no_teacher" not in run)

    phi = step.student(step.x_t, step.t)
    v = step.teacher(step.x_t, step.t, vm.cfg_strength)
    at = pushed(step, step.x_t, step.t, v, rule=vm.derivative, scaling=vm.scaling, delta=vm.delta, phi=phi.detach())
    close(phi.detach(), fixture[f"{key}_v_pred"], run)
    close(phi.detach() - at.push, fixture[f"{key}_v_tgt"], run)

    matching = vm.loss(step).value
    distillation = mdt.distillation(fixture.step(with_teacher="no_teacher" not in run)).value
    both = mdt.loss(fixture.step(with_teacher="no_teacher" not in run)).value
    for got, loss in ((matching, "loss_vm"), (distillation, "loss_vd"), (both, "loss")):
        assert got.item() == pytest.approx(run[loss], rel=1e-3)
    total = gradients(both, fixture.student)
    for got, row in zip(
        (total, gradients(matching, fixture.student), gradients(distillation, fixture.student)),
        fixture.arrays[f"{key}_grad_norms"],
        strict=True,
    ):
        norms_match(got, row)
    slopes = dict(zip((n for n, _ in fixture.student.named_parameters()), total, strict=True))
    for parameter, expected in zip(
        fixture.sidecar["grad_slice_names"], fixture.arrays[f"{key}_grad_slices"], strict=True
    ):
        got = slopes[parameter].flatten()[:6].numpy()
        assert np.abs(got - expected).max() <= 5e-3 * slopes[parameter].abs().max().item()


@pytest.mark.parametrize(("name", "index"), runs(*DENSE, *SPARSE, consistency=True))
def test_consistency(fixtures: dict[str, Fixture], name: str, index: int):
    """`multiphase` 1 is cm:official, 4 is pcm:official. The stored targets are data predictions."""
    fixture = fixtures[name]
    run, key, t = fixture.sidecar["runs"][index], f"run{index:02d}", fixture["t"]
    strength, layout = run["cfg_teacher_vm"], fixture.layout()
    if run["multiphase"] == 1:
        made = official("cm", cfg_strength=strength)
        assert isinstance(made, ConsistencyDistillation)
        t_earlier, edge = t - made.delta, torch.zeros_like(t)
    else:
        made = official("pcm", cfg_strength=strength, phases=run["multiphase"])
        assert isinstance(made, PhasedConsistencyDistillation)
        t_earlier, edge = made.pairing.pair(t, made.delta, made.edges(t))
    step = fixture.step()
    v = step.teacher(step.x_t, t, strength)
    x_earlier = jump(step.x_t, v, t, t_earlier, layout)
    aim = jump(x_earlier, step.target(x_earlier, t_earlier), t_earlier, edge, layout)
    close(aim, fixture[f"{key}_v_tgt"], run)
    close(jump(step.x_t, step.target(step.x_t, t), t, edge, layout), fixture[f"{key}_v_pred"], run)

    loss = loss_of(made, step).value
    assert loss.item() == pytest.approx(run["loss_vm"], rel=1e-3)
    norms_match(gradients(loss, fixture.student), fixture.arrays[f"{key}_grad_norms"][1])


def test_guidance_of_the_two_terms_is_not_mixed_up(fixtures: dict[str, Fixture]):
    """Strengths 40 and 100: with 40 for both, the value of the second term is far off."""
    fixture = fixtures["mdt_dense"]
    run = next(run for run in fixture.sidecar["runs"] if run["cfg_teacher_vd"] == 100)
    made = official("mdt")
    assert isinstance(made, VelocityMatchingDistillation)
    assert (made.cfg_strength, made.vd_cfg_strength) == (run["cfg_teacher_vm"], run["cfg_teacher_vd"])
    one = replace(made, vd_cfg_strength=None).distillation(fixture.step()).value.item()
    assert one < 0.5 * run["loss_vd"]


SCHEDULES = golden_io.load("mdt_losses", "mdt_schedules")


def schedule_runs(prefix: str) -> list[dict]:
    return [run for run in SCHEDULES[0]["runs"] if run["key"].startswith(prefix)]


@pytest.mark.parametrize("run", schedule_runs("sample_t"), ids=lambda run: run["key"])
def test_training_times(run: dict):
    name, args = run["t_schedule"]["name"], run["t_schedule"]["args"]
    density = LogitNormal(args["mean"], args["std"]) if name == "logitNormal" else Uniform()
    z, u = (torch.from_numpy(SCHEDULES[1][key]).double() for key in ("z_normal", "u_uniform"))
    # The continuous form has no earlier point, hence no room for one above the path's own minimum.
    t_min = SIGMA_MIN + (0.0 if run["distill_type"] == "continuous" else run["interval"])
    got = density.times(torch.special.ndtr(z) if name == "logitNormal" else u, t_min)
    np.testing.assert_allclose(got, SCHEDULES[1][run["key"]], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("run", schedule_runs("target_t"), ids=lambda run: run["key"])
def test_phase_edges(run: dict):
    """The edge of the earlier time; the continuous form's is that of t itself."""
    t = torch.from_numpy(SCHEDULES[1]["t_grid"])
    delta = 0.0 if run["distill_type"] == "continuous" else run["interval"]
    made = official("pcm", cfg_strength=0.0, phases=run["multiphase"])
    assert isinstance(made, PhasedConsistencyDistillation)
    t_earlier, edge = Straddling().pair(t, delta, made.edges(t))
    np.testing.assert_allclose(edge, SCHEDULES[1][run["key"]], rtol=1e-6, atol=1e-7)
    assert torch.equal(t_earlier, t - delta)
