"""The second time of a flow network: without effect at first, then an input like any other."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from small_stage import CHANNELS, COND, SIDE, objects, small_pipeline, small_structure_pipeline
from torch import Tensor, nn

from mdtbench.base.errors import UsageError
from mdtbench.flow.layout import Layout
from mdtbench.trellis.end_time import NAME, TakesEndTime, add_end_time, has_end_time

STAGES = ("structure", "slat")


class Bound:
    """A copy of a stage's flow under a condition, on data of the stage."""

    def __init__(self, stage: str):
        self.pipeline = small_structure_pipeline() if stage == "structure" else small_pipeline()
        self.network = copy.deepcopy(self.pipeline.flow)
        generator = torch.Generator().manual_seed(1)
        if stage == "structure":
            self.layout: Layout = self.pipeline.layout(2)  # type: ignore[arg-type]
        else:
            self.layout = objects().drawn(2, np.random.default_rng(1)).layout
        self.x = self.layout.randn([generator])
        self.cond = torch.randn(2, 5, COND, generator=generator)

    def __call__(self, *times: Tensor) -> Tensor:
        return self.pipeline.bind(self.network, self.cond, self.layout)(self.x, *times)


@pytest.fixture(params=STAGES)
def bound(request: pytest.FixtureRequest) -> Bound:
    return Bound(request.param)


T, END = torch.tensor([0.9, 0.4]), torch.tensor([0.5, 0.1])


def test_it_has_no_effect_at_first(bound: Bound):
    before = bound(T)
    add_end_time(bound.network)
    assert torch.equal(bound(T), before)
    assert torch.equal(bound(T, END), before)


def test_what_it_learns_depends_on_the_length_of_the_jump(bound: Bound):
    add_end_time(bound.network)
    last = bound.network.get_submodule(NAME).mlp[-1]  # type: ignore[union-attr]
    nn.init.normal_(last.weight, generator=torch.Generator().manual_seed(2))
    outputs = [bound(T), bound(T, 0 * T), bound(T, END), bound(T, T)]
    assert torch.equal(outputs[0], outputs[1])  # the data, when nothing else is said
    for i, one in enumerate(outputs[1:]):
        for other in outputs[i + 2 :]:
            assert (one - other).abs().max() > 1e-3
    # Its gradient is that of the difference t - t_end, by finite differences.
    end = END.clone().requires_grad_(True)
    [slope] = torch.autograd.grad(bound(T, end).double().sum(), end)
    with torch.no_grad():
        up, down = (bound(T, END + h).double().sum() for h in (1e-5, -1e-5))
    assert (up - down) / 2e-5 == pytest.approx(slope.sum().item(), rel=0.05)


def test_its_weights_are_seeded_and_the_global_generator_is_left_alone(bound: Bound):
    torch.manual_seed(3)
    expected = torch.rand(1)
    made = []
    for seed in (1, 1, 2):
        network = copy.deepcopy(bound.pipeline.flow)
        torch.manual_seed(3)
        add_end_time(network, seed)
        assert torch.equal(torch.rand(1), expected)
        made.append(network.state_dict()[f"{NAME}.mlp.0.weight"])
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])


def test_it_is_known_by_the_names_of_its_tensors(bound: Bound):
    assert not has_end_time(bound.network.state_dict())
    add_end_time(bound.network)
    assert has_end_time(bound.network.state_dict())
    assert isinstance(bound.network, TakesEndTime)


def test_a_network_that_cannot_have_one_is_a_usage_error():
    with pytest.raises(UsageError, match=r"A Linear takes no second time.*leave out the method"):
        add_end_time(nn.Linear(CHANNELS, SIDE))
