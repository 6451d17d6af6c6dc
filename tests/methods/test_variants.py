"""Variants by name: their parameters to the letter, their text, what they refuse."""

from __future__ import annotations

import dataclasses
import warnings
from types import ModuleType

import pytest
import torch
from steps import F64, LABELS, dense, method, ragged, randn, seeded, worst

from mdtbench import methods
from mdtbench.flow.layout import DenseLayout
from mdtbench.flow.samplers import Euler, Phase, Renoise
from mdtbench.flow.times import LogitNormal, Uniform, rescale
from mdtbench.methods import METHODS, Distillation, distances, mdt, pcm, reduction, residual
from mdtbench.methods.residual import DerivativeL2, ForwardMode, ResidualL2, ResidualRms, Unscaled

NAMES = {
    name: value
    for module in vars(methods).values()
    if isinstance(module, ModuleType)
    for name, value in vars(module).items()
}
NAMES |= {"Uniform": Uniform, "LogitNormal": LogitNormal}


def built(label: str, **changed) -> Distillation:
    """As a run builds it with the strength 3, the interval and the time warp 3 of its backbone."""
    name, _, variant = label.partition(":")
    entry = METHODS.get(name)
    backbone = {"cfg_strength": 3.0, "cfg_interval": (0.5, 1.0), "rescale_t": 3.0}
    return entry.value(**{**backbone, **entry.variants.get(variant, {}), **changed})


@pytest.mark.parametrize("label", LABELS)
def test_a_methods_text_is_the_method(label: str):
    """Students are found again by their method's text: it names every parameter, exactly."""
    made = method(label)
    again = eval(repr(made), {**NAMES, type(made).__name__: type(made)})
    assert again == made
    assert hash(again) == hash(made)
    assert repr(dataclasses.replace(made, lr=0.5)) != repr(made)


@pytest.mark.parametrize("label", LABELS)
def test_choices_hold_the_default(label: str):
    for field in dataclasses.fields(method(label)):
        if dataclasses.is_dataclass(field.default):
            assert field.default in field.metadata["choices"].values()


@pytest.mark.parametrize("name", ["cm", "pcm", "scm", "vm", "mdt"])
def test_sane_is_the_default(name: str):
    assert built(f"{name}:sane") == built(name)


@pytest.mark.parametrize("label", LABELS)
def test_only_released_code_is_guided_at_all_times(label: str):
    assert built(label).cfg_interval == ((0.0, 1.0) if label.endswith(":official") else (0.5, 1.0))


@pytest.mark.parametrize("name", ["vm", "mdt"])
def test_official_is_the_release(name: str):
    made = built(f"{name}:official")
    assert (made.lr, made.cfg_strength, made.delta, made.target_decay) == (4e-8, 40.0, 0.01, 0.0)
    assert made.times == LogitNormal(1.0, 1.0)
    assert made.scaling == DerivativeL2(constant=0.1, ref_dim=None)
    assert made.derivative == residual.BackwardDifference()
    assert made.reduction == reduction.PerVoxel()
    assert made.sampler(2) == Euler(2, 1.0, 0.0)
    assert built(f"{name}:official", student_cfg=3.0).sampler(4) == Euler(4, 1.0, 3.0)
    if name == "mdt":
        assert (made.vd_cfg_strength, made.lambda_vm, made.lambda_vd) == (100.0, 1.0, 1.0)
        assert (made.vd_draws, made.vd_gradient) == (mdt.SharedDraws(), mdt.ReleasedGradient())


@pytest.mark.parametrize("name", ["vm", "mdt"])
def test_other_variants_of_velocity_matching(name: str):
    default, paper, cont, resid = (built(label) for label in (name, f"{name}:paper", f"{name}:cont", f"{name}:resid"))
    assert default.scaling == ResidualRms(0.1)
    weight = {"lambda_vd": 1.0} if name == "mdt" else {}  # without a bound it is the paper's
    assert paper == dataclasses.replace(default, scaling=Unscaled(), **weight)
    assert cont == dataclasses.replace(paper, derivative=ForwardMode())
    assert resid == dataclasses.replace(default, times=LogitNormal(1.0, 1.0))
    for made in (default, paper, cont, resid):
        assert made.sampler(2) == Renoise(2, 3.0)
        assert getattr(made, "vd_cfg_strength", None) is None  # one strength


def test_a_bounded_vd_has_a_small_weight():
    assert built("mdt").lambda_vd == 0.3
    assert built("mdt:lambda1") == dataclasses.replace(built("mdt"), lambda_vd=1.0)


def test_variants_of_consistency():
    official, ema = built("cm:official"), built("cm:ema")
    assert (official.distance, official.times) == (distances.SquaredError(), LogitNormal(1.0, 1.0))
    assert (official.delta, official.target_decay) == (0.01, 0.0)
    assert (ema.distance, ema.target_decay) == (distances.SampleHuber(), 0.95)
    assert built("cm:weighted").distance == built("pcm:weighted").distance == distances.WeightedSquaredError()
    assert (built("pcm:k1").phases, built("pcm").phases, built("pcm:k4").phases) == (1, 2, 4)
    assert built("pcm:official").sampler(4) == Phase(4, 4, 1.0)
    sd3 = built("pcm:sd3")
    assert (sd3.distance, sd3.cfg_strength, sd3.lr) == (distances.ElementHuber(1e-3), 3.0, 5e-6)
    assert sd3.sampler(4) == Phase(4, 4, 3.0)
    paper = built("scm:paper")
    assert (paper.scaling, paper.times, paper.warmup) == (ResidualL2(0.1), LogitNormal(-1.0, 1.4), 0.1)


def test_controls_are_sampled_as_what_they_are():
    assert METHODS.get("gd").value(cfg_strength=3.0, rescale_t=3.0).sampler(2) == Euler(2, 3.0, 0.0)
    kd = METHODS.get("kd").value(cfg_strength=3.0, rescale_t=3.0)
    assert (kd.sampler(1).note(), kd.sampler(1)) == ("", Phase(1, 1, 3.0))
    assert "out of its design" in kd.sampler(2).note()


# Forward passes of section 5 of the method notes: backward 2, JVP 3, the teacher's pair 2.
COSTS = {
    "cm": 6, "pcm": 6, "vm": 6, "vm:official": 6, "vm:cont": 8, "scm": 8, "scm:fd": 7, "scm:adaptive": 8,
    "ect": 6, "ayf": 8, "meanflow": 8, "lmd": 8, "shortcut": 7, "tcm": 7,
    "dmd2": 6, "dmd2:paper": 4.8, "dmd2:gan": 9, "ladd": 4, "ladd:paper": 4, "ladd:fastgen": 5,
    "rcm": 10, "rcm:paper": 7.9, "sid": 9.5, "sid:paper": 15,
    "mdt": 13, "mdt:official": 13, "mdt:cont": 16, "gd": 5, "kd": 53,
}  # fmt: skip


@pytest.mark.parametrize(("label", "passes"), COSTS.items())
def test_cost_of_a_step(label: str, passes: float):
    assert method(label).cost() == passes


def test_velocity_distillation_alone_is_warned_of():
    with pytest.warns(UserWarning, match="unanchored"):
        method("mdt", lambda_vm=0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        method("mdt")


@pytest.mark.parametrize("name", ["vm", "mdt"])
def test_guidance_on_the_student_needs_a_sampler_that_has_it(name: str):
    with pytest.raises(ValueError, match=r"student_cfg needs sampling = euler \(got student_cfg 3.0"):
        method(name, student_cfg=3.0)


@pytest.mark.parametrize("layout", [dense(3, 8), ragged((4, 1, 2), 2)], ids=["dense", "sparse"])
def test_derivative_norm_of_the_release(layout):
    """d / (||d||_2 + 0.1) over all of a sample's elements; at the size of another D when asked."""
    d = layout.randn([seeded(1)])
    size, count = layout.sum(d**2).sqrt(), layout.count(d)
    assert worst(DerivativeL2().derivative(d, layout), d / layout.expand(size + 0.1)) < 1e-15
    assert torch.equal(DerivativeL2().residual(d, layout), d)
    emulated = DerivativeL2(ref_dim=32768).derivative(d, layout)
    assert worst(emulated, d / layout.expand((32768 / count).sqrt() * size + 0.1)) < 1e-15
    # What a sample of D = 32768 keeps of its derivative's rms.
    large, big = DenseLayout((2, 32768), F64), randn(2, 32768, seed=2)
    kept = DerivativeL2().derivative(big, large).square().mean(1).sqrt() / big.square().mean(1).sqrt()
    assert worst(kept, 1 / 32768**0.5) < 1e-4


def test_raw_tangent_norm():
    layout, g = dense(3, 8), randn(3, 8, seed=3)
    assert worst(ResidualL2(0.1).residual(g, layout), g / (g.norm(dim=1, keepdim=True) + 0.1)) < 1e-15
    assert torch.equal(ResidualL2().derivative(g, layout), g)


def test_shifted_density_is_the_shifted_grid():
    u = torch.linspace(0, 1, 11, dtype=F64)
    got = pcm.ShiftedUniform(3.0).times(u, 0.0)
    assert worst(got, torch.tensor([rescale(x, 3.0) for x in u.tolist()], dtype=F64)) < 1e-15
    assert worst(pcm.ShiftedUniform(3.0).times(u, 0.2), 0.2 + 0.8 * got) < 1e-15
