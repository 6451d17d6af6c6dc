"""Training densities as quantile functions; the sampler's times."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from steps import F64, worst

from mdtbench.flow.times import LogitNormal, Uniform, rescale, sampling_times

U = torch.linspace(0.001, 0.999, 999, dtype=F64)


@pytest.mark.parametrize("density", [Uniform(), LogitNormal(), LogitNormal(-0.8, 1.6)])
def test_times_rise_with_u_inside_the_training_range(density):
    t = density.times(U, 0.01)
    assert (t.diff() > 0).all()
    assert t.min() > 0.01
    assert t.max() < 1


def test_logit_normal_median_and_quartile():
    median, upper = LogitNormal(1.0, 2.0).times(torch.tensor([0.5, 0.75], dtype=F64), 0.0).tolist()
    assert median == pytest.approx(1 / (1 + math.exp(-1)), abs=1e-15)
    assert upper == pytest.approx(1 / (1 + math.exp(-1 - 2 * 0.6744897501960817)), abs=1e-12)


def test_logit_normal_gives_one_step_sampling_almost_no_weight():
    """P(t > .95) = 2.6 %, P(t > .99) = 0.016 % under logit-normal (1, 1)."""
    t = LogitNormal().times((torch.arange(200_000, dtype=F64) + 0.5) / 200_000, 0.0)
    assert worst((t > 0.95).double().mean(), 0.026) < 5e-4  # two digits are stated; observed 0.0259
    assert worst((t > 0.99).double().mean(), 0.00016) < 1e-5


def test_float32_draws_stay_finite_at_the_ends():
    u = torch.tensor([0.0, 2**-24, 1 - 2**-24], dtype=torch.float32)
    for density in (Uniform(), LogitNormal()):
        t = density.times(u, 0.01)
        assert t.dtype == torch.float32
        assert ((t >= 0.01) & (t <= 1)).all()


def test_uniform_times_of_a_range():
    assert worst(Uniform().times(torch.tensor([0.0, 0.5, 1.0], dtype=F64), 0.2), torch.tensor([0.2, 0.6, 1.0])) < 1e-7


def test_sampling_times_of_trellis():
    assert sampling_times(1) == [1, 0]
    assert sampling_times(2) == [1, 0.5, 0]
    assert sampling_times(4) == [1, 0.75, 0.5, 0.25, 0]
    assert sampling_times(2, 3.0) == [1, 0.75, 0]
    assert sampling_times(1, 3.0) == [1, 0]
    with pytest.raises(ValueError, match="got 0"):
        sampling_times(0)


@pytest.mark.parametrize("steps", [1, 2, 5, 10, 12, 20, 25, 50])
@pytest.mark.parametrize("s", [1.0, 3.0, 5.0])
def test_sampling_times_are_those_of_trellis_to_the_last_bit(steps: int, s: float):
    """One bit decides whether a step on the edge of a guidance interval is guided: t = 0.4 of 10 steps is not."""
    tau = np.linspace(1, 0, steps + 1)
    assert sampling_times(steps, s) == (s * tau / (1 + (s - 1) * tau)).tolist()


@given(steps=st.integers(1, 50), s=st.floats(0.2, 10))
def test_sampling_times_fall_from_one_to_zero(steps: int, s: float):
    t = sampling_times(steps, s)
    assert (t[0], t[-1], len(t)) == (1, 0, steps + 1)
    assert all(a > b for a, b in itertools.pairwise(t))


@given(t=st.floats(0, 1), s=st.floats(0.2, 10))
def test_rescaling_is_undone_by_the_inverse_factor(t: float, s: float):
    assert rescale(rescale(t, s), 1 / s) == pytest.approx(t, abs=1e-12)
