"""Samplers: TRELLIS' numbers, and what a perfect student makes of them (T17)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import golden_io
import numpy as np
import pytest
import torch
from steps import F64, dense, gaussian, method, randn, seeded, worst
from torch import Tensor

from mdtbench.base.errors import UsageError
from mdtbench.flow.guidance import Guided, Velocity
from mdtbench.flow.layout import DenseLayout, Layout, SparseLayout
from mdtbench.flow.oracles import GaussianOracle, average_velocity, gaussian_w2
from mdtbench.flow.samplers import SAMPLERS, Euler, Phase, Renoise, Sampler, sampler_of

PERFECT = (1, 2, 4)


@dataclass(frozen=True)
class Scripted(DenseLayout):
    """A layout whose fresh noise is given, so that an affine sampler can be fed a basis."""

    draws: list[Tensor] = field(default_factory=list)

    def randn(self, generators: Sequence[torch.Generator]) -> Tensor:
        return self.draws.pop(0)


def unguided(velocity: Velocity) -> Callable[[Tensor, Tensor, float], Tensor]:
    def call(x: Tensor, t: Tensor, cfg_strength: float) -> Tensor:
        assert cfg_strength == 0
        return velocity(x, t)

    return call


def law(sampler: Sampler, velocity: Velocity, dim: int, n_noises: int) -> tuple[Tensor, Tensor]:
    """Exact mean and covariance of an affine sampler's output: its response to each axis of each noise."""
    rows = 1 + n_noises * dim
    inputs = [torch.zeros(rows, dim, dtype=F64) for _ in range(n_noises)]
    for k, noise in enumerate(inputs):
        noise[1 + k * dim : 1 + (k + 1) * dim] = torch.eye(dim, dtype=F64)
    layout = Scripted((rows, dim), F64, draws=inputs[1:])
    out = sampler.sample(unguided(velocity), inputs[0], layout, [])
    assert layout.draws == []
    factor = out[1:] - out[0]
    return out[0], factor.T @ factor


@pytest.mark.parametrize("steps", PERFECT)
@pytest.mark.parametrize("rescale_t", [1.0, 3.0])
def test_renoising_a_perfect_student_gives_the_data(steps: int, rescale_t: float):
    oracle = gaussian(5, 1)
    mean, cov = law(Renoise(steps, rescale_t), oracle.student, 5, steps)
    assert gaussian_w2(mean, cov, oracle.mean, oracle.cov) < 1e-6  # observed 6e-8


@pytest.mark.parametrize("phases", PERFECT)
@pytest.mark.parametrize("rescale_t", [1.0, 3.0])
def test_phases_of_a_perfect_student_give_the_data(phases: int, rescale_t: float):
    oracle = gaussian(5, 3)
    pcm = method("pcm", phases=phases, rescale_t=rescale_t)

    def student(x: Tensor, t: Tensor) -> Tensor:
        return average_velocity(oracle.flow_map, x, t, pcm.lower_edge(t))

    mean, cov = law(pcm.sampler(phases), student, 5, 1)
    assert gaussian_w2(mean, cov, oracle.mean, oracle.cov) < 1e-6  # observed 6e-8


def test_phased_student_on_other_edges_misses_the_data():
    """The edges of training must be the sampler's times: uniform edges under rescaled times are wrong."""
    oracle, pcm = gaussian(5, 3), method("pcm", phases=2, rescale_t=1.0)

    def student(x: Tensor, t: Tensor) -> Tensor:
        return average_velocity(oracle.flow_map, x, t, pcm.lower_edge(t))

    mean, cov = law(Phase(2, 2, 3.0), student, 5, 1)
    assert gaussian_w2(mean, cov, oracle.mean, oracle.cov) > 0.1


@pytest.mark.parametrize(("steps", "std"), [(2, math.sqrt(2)), (4, 1.662), (25, 1.937)])
def test_euler_is_biased_for_a_perfect_student(steps: int, std: float):
    """Standard normal data: the noise that a partial step keeps is fully correlated with the data it predicts."""
    oracle = GaussianOracle(torch.zeros(3, dtype=F64), torch.eye(3, dtype=F64))
    mean, cov = law(Euler(steps), oracle.student, 3, 1)
    tolerance = 1e-9 if steps == 2 else 5e-4  # the others are known to three decimals
    assert worst(cov.diagonal().sqrt(), std) < tolerance
    assert worst(mean, 0) == 0


def test_all_samplers_agree_on_one_step():
    oracle, z, layout = gaussian(4, 5), randn(6, 4, seed=6), dense(6, 4)
    samplers = (Euler(1), Renoise(1), Phase(1, 1), Euler(1, 3.0), Renoise(1, 3.0), Phase(1, 2, 3.0))
    outputs = [s.sample(unguided(oracle.student), z, layout, [seeded(1)]) for s in samplers]
    assert all(worst(out, z - oracle.student(z, torch.ones(6, dtype=F64))) == 0 for out in outputs)


def test_equal_computations_give_equal_bits_and_others_do_not():
    """What is said to be equal is generated once: Phase and Euler, and all that take one step without guidance."""
    oracle, z, layout = gaussian(4, 5), randn(6, 4, seed=6), dense(6, 4)
    guided = Guided(oracle.student, lambda x, t: (oracle.student(x, t), 0.5 * oracle.student(x, t)))
    samplers = [
        *(kind(steps, rescale_t=warp) for kind in (Euler, Renoise) for steps in (1, 2) for warp in (1.0, 3.0)),
        *(Phase(steps, 2, 3.0) for steps in (1, 2)),
        *(Euler(2, 3.0, 2.0, interval) for interval in ((0.0, 1.0), (0.5, 1.0), (0.9, 1.0))),
        Euler(2, 3.0, 2.0, (2.0, 3.0)),  # never guided
    ]
    outputs = [sampler.sample(guided, z, layout, [seeded(1)]) for sampler in samplers]
    for a, x in zip(samplers, outputs, strict=True):
        for b, y in zip(samplers, outputs, strict=True):
            assert (a.computation() == b.computation()) == torch.equal(x, y), (a, b)
    assert len({sampler.computation() for sampler in samplers}) == 7


def test_samplers_have_names():
    for name in SAMPLERS:
        made = sampler_of(name, 3, 2.0)
        assert (made.name, made.steps, made.computation().times[0]) == (name, 3, 1.0)
    with pytest.raises(UsageError, match="Did you mean 'euler'"):
        sampler_of("euller", 1, 1.0)


def test_renoise_uses_a_fresh_noise_per_step_and_none_after_the_last():
    velocity, z, layout = gaussian(2, 7).student, randn(3, 2, seed=8), dense(3, 2)
    used = seeded(9)
    got = Renoise(3).sample(unguided(velocity), z, layout, [used])
    by_hand, x = seeded(9), z
    for t, t_next in ((1.0, 2 / 3), (2 / 3, 1 / 3)):
        x_0 = x - t * velocity(x, torch.full((3,), t, dtype=F64))
        x = (1 - t_next) * x_0 + t_next * layout.randn([by_hand])
    assert worst(got, x - velocity(x, torch.full((3,), 1 / 3, dtype=F64)) / 3) < 1e-13  # observed 9e-16
    assert torch.equal(used.get_state(), by_hand.get_state())


def test_an_object_does_not_depend_on_the_others_of_its_batch():
    velocity, z = gaussian(2, 7).student, randn(3, 2, seed=8)
    together = Renoise(4).sample(unguided(velocity), z, dense(3, 2), [seeded(i) for i in range(3)])
    alone = Renoise(4).sample(unguided(velocity), z[1:2], dense(1, 2), [seeded(1)])
    assert worst(together[1:2], alone) < 1e-13  # observed 0; matrix products of another size


def test_phase_sampler_notes_a_use_outside_its_design():
    assert Phase(2, 2).note() == ""
    assert "2 phases" in Phase(1, 2).note()
    assert Euler(4).note() == Renoise(4).note() == ""


def wave(c: Tensor, layout: Layout) -> Velocity:
    """The fixtures' velocity: sin(x) + t c + 0.3 x cos(3 t), c per channel and shaped to broadcast against x."""

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        time = layout.expand(t)
        return torch.sin(x) + time * c + 0.3 * x * torch.cos(3 * time)

    return velocity


def layout_of(arrays: dict[str, np.ndarray]) -> Layout:
    noise = arrays["noise"]
    if "coords" not in arrays:
        return DenseLayout(noise.shape)
    return SparseLayout(torch.from_numpy(arrays["coords"][:, 0]).long(), len(arrays["cond"]), noise.shape[1])


def per_channel(cond: np.ndarray, layout: Layout) -> Tensor:
    """[B, C] or [1, C] against the batch."""
    c = torch.from_numpy(cond)
    return c[layout.sample] if isinstance(layout, SparseLayout) else c[:, :, None, None, None]


@pytest.mark.parametrize("name", ["samplers_dense", "samplers_cond_broadcast", "samplers_sparse"])
def test_euler_gives_the_numbers_of_trellis(name: str):
    """All runs of the fixture: plain, guided, guided in an interval. TRELLIS always evaluates both conditions."""
    sidecar, arrays = golden_io.load("samplers", name)
    noise, layout = torch.from_numpy(arrays["noise"]), layout_of(arrays)
    cond, neg = (wave(per_channel(arrays[key], layout), layout) for key in ("cond", "neg_cond"))
    for i, run in enumerate(sidecar["runs"]):
        guided = Guided(cond, lambda x, t: (cond(x, t), neg(x, t)))
        strength = run.get("cfg_strength", 0.0)
        sampler = Euler(run["steps"], run["rescale_t"], strength, tuple(run.get("cfg_interval", (0.0, 1.0))))
        got = sampler.sample(guided, noise, layout, [])
        tolerance = sidecar["tolerance"]
        np.testing.assert_allclose(
            got,
            arrays[f"run{i:03d}_samples"],
            rtol=tolerance["rtol"],
            atol=tolerance["atol"],
            err_msg=str(run),
        )
        assert run["steps"] <= guided.nfe <= 2 * run["steps"]


def test_fixture_tells_guided_from_unguided():
    """The fixture would catch a sampler that ignores guidance or its interval."""
    _, arrays = golden_io.load("samplers", "samplers_dense")
    runs = {(r["sampler"], r["steps"], r["rescale_t"]): f"run{i:03d}_samples" for i, r in enumerate(_["runs"])}
    plain, guided, interval = (
        arrays[runs[f"FlowEuler{kind}Sampler", 12, 1.0]] for kind in ("", "Cfg", "GuidanceInterval")
    )
    assert np.abs(plain - guided).max() > 0.1
    assert np.abs(interval - guided).max() > 0.1
