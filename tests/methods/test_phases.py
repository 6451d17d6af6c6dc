"""PCM's phases: no pair straddles an edge, and at the edge the target is the point itself (T20)."""

from __future__ import annotations

import pytest
import torch
from steps import (
    F64,
    T_MIN,
    Mlp,
    bind,
    dense,
    gaussian,
    loss_and_gradient,
    make_step,
    method,
    times,
    twin,
    worst,
)
from torch import Tensor

from mdtbench.flow.times import sampling_times

SETTINGS = [(1, 1.0), (2, 1.0), (4, 1.0), (2, 3.0), (4, 3.0)]


def awkward_times(phases: int, rescale_t: float, delta: float) -> Tensor:
    """Every edge exactly, one bit above, half a step above, one step above, and random times."""
    edges = torch.tensor(sampling_times(phases, rescale_t)[::-1], dtype=F64)
    inner = edges[1:-1]
    above = torch.nextafter(inner, torch.ones_like(inner))
    near = torch.cat([edges[1:], above, inner + delta / 2, inner + delta])
    return torch.cat([near, torch.tensor([T_MIN], dtype=F64), times(20, 1)])


@pytest.mark.parametrize(("phases", "rescale_t"), SETTINGS)
def test_no_pair_straddles_an_edge(phases: int, rescale_t: float):
    made = method("pcm", phases=phases, rescale_t=rescale_t)
    t = awkward_times(phases, rescale_t, made.delta)
    seen: list[Tensor] = []

    def frozen(x: Tensor, t: Tensor) -> Tensor:
        seen.append(t)
        return x

    layout, student = dense(len(t), 3), Mlp(3, 1)
    made.loss(make_step(layout, t, bind(student, layout), gaussian(3, 2).velocity, frozen=frozen))
    (t_earlier,) = seen
    edges = sampling_times(phases, rescale_t)
    for now, earlier in zip(t.tolist(), t_earlier.tolist(), strict=True):
        lower = max(edge for edge in edges if edge < now)
        assert lower <= earlier < now
        assert earlier == max(now - made.delta, lower)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_time_on_an_edge_belongs_to_the_phase_below(dtype: torch.dtype):
    made = method("pcm", phases=4, rescale_t=3.0)  # edges 0, .5, .75, .9, 1
    edges = torch.tensor(sampling_times(4, 3.0), dtype=dtype)  # 1, .9, .75, .5, 0
    assert torch.equal(made.lower_edge(edges), edges[[1, 2, 3, 4, 4]])
    above = torch.nextafter(edges[1:], torch.ones_like(edges[1:]))
    assert torch.equal(made.lower_edge(above), edges[1:])


@pytest.mark.parametrize(("phases", "rescale_t"), [(2, 1.0), (4, 3.0)])
def test_at_the_edge_the_target_is_the_point_itself(phases: int, rescale_t: float):
    """Within delta above an edge the target network does not matter, and gap = -(t - e) (phi - v)."""
    made = method("pcm", phases=phases, rescale_t=rescale_t)
    inner = torch.tensor(sampling_times(phases, rescale_t)[1:-1], dtype=F64)
    t = torch.cat([inner + 0.3 * made.delta, inner + 0.999 * made.delta])
    layout, student, oracle = dense(len(t), 3), Mlp(3, 1), gaussian(3, 2)
    other = twin(student, 5, 1.0)
    phi = bind(student, layout)
    results = [
        loss_and_gradient(made, make_step(layout, t, phi, oracle.velocity, frozen=bind(net, layout)), student)
        for net in (student, other)
    ]
    assert torch.equal(results[0][0].value, results[1][0].value)
    assert torch.equal(results[0][1], results[1][1])
    x = make_step(layout, t, phi, oracle.velocity).x_t
    gap = (t - made.lower_edge(t))[:, None] * (phi(x, t) - oracle.velocity(x, t))
    value = ((gap**2 + 1e-6).sqrt() - 1e-3).mean()
    assert worst(results[0][0].value, value) < 1e-15  # observed 1e-17


def test_one_phase_is_the_pair_of_cm():
    """K = 1: the same two points as cm, only the distance differs."""
    t, layout, student = times(8, 3), dense(8, 3), Mlp(3, 1)
    step = make_step(
        layout, t, bind(student, layout), gaussian(3, 2).velocity, frozen=bind(twin(student, 2, 0.3), layout)
    )
    gaps = [
        method(name, **extra).loss(step).diagnostics["rms_gap"] for name, extra in (("cm", {}), ("pcm", {"phases": 1}))
    ]
    assert worst(*gaps) < 1e-15
