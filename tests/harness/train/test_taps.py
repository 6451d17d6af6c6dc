"""Features of a network's blocks: the right ones, whose samples they are, and where gradients go."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from small_stage import small_task
from torch import Tensor, nn
from torch.nn import functional as F

from mdtbench.base.errors import UsageError
from mdtbench.harness.oracle.family import LawTask
from mdtbench.harness.oracle.picture_family import Pictures
from mdtbench.harness.oracle.plane import Plane
from mdtbench.harness.settings.config import Precision
from mdtbench.harness.train.batch import Batch
from mdtbench.harness.train.loop import train_together
from mdtbench.harness.train.taps import indices_of, tapped
from mdtbench.harness.train.task import HALF, StageTask, Task, lowered
from mdtbench.methods import Features
from mdtbench.trellis.structure_flow import to_patches

sys.path.insert(0, str(Path(__file__).parent))

from tapping import Tapping
from test_loop import SEED, TRAIN, differing, log_of, of_method, stop_before_the_last, tensors

TASKS: dict[str, Callable[[], Task]] = {
    "structure": lambda: small_task("structure"),
    "slat": lambda: small_task("slat"),
    "oracle": lambda: LawTask(Plane.of(["gaussian", "modes"], 0.0, 8), 3, 1),
    "modes": lambda: LawTask(Pictures.of(), 3, 1),
}


@pytest.fixture(params=TASKS)
def bound(request: pytest.FixtureRequest) -> tuple[nn.Module, Batch, Callable[..., Tensor]]:
    """A network in double precision whose last layer is not zero, a batch, and the network bound to it."""
    task = TASKS[request.param]()
    network, batch = task.student().requires_grad_(False), task.draw(SEED, 0)
    generator = torch.Generator().manual_seed(3)
    for parameter in network.parameters():
        parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return network, batch, task.bind(network, batch)


def features_of(network: nn.Module, batch: Batch, velocity: Callable[..., Tensor], x: Tensor) -> Features:
    [features] = tapped(network, (0,), velocity)(x, batch.u)
    return features


def test_a_tap_has_the_width_that_a_head_is_told_and_a_row_for_every_sample(bound):
    network, batch, velocity = bound
    features = features_of(network, batch, velocity, batch.noise)
    assert features.values.shape[-1] == network.model_channels
    assert features.layout.batch_size == batch.layout.batch_size
    assert features.layout.sum(features.values).shape == batch.u.shape
    assert features.layout.count(features.values).sum() == features.values.numel()
    assert features.layout.expand(batch.u).broadcast_to(features.values.shape).shape == features.values.shape


def test_features_of_a_sample_are_its_own(bound):
    """Of ragged samples too, whose tokens are fewer than their voxels: another x of one sample changes its alone."""
    network, batch, velocity = bound
    before = features_of(network, batch, velocity, batch.noise)
    for changed in range(batch.layout.batch_size):
        only = batch.layout.expand((torch.arange(batch.layout.batch_size) == changed).float())
        after = features_of(network, batch, velocity, batch.noise + only)
        moved = after.layout.sum((after.values - before.values).abs())
        others = moved[torch.arange(len(moved)) != changed]
        assert moved[changed] > 1e-3
        assert others.max() < 1e-3 * moved[changed]  # rounding of another order of sums


def test_gradients_flow_to_x_and_not_to_the_weights(bound):
    network, batch, velocity = bound
    generator = torch.Generator().manual_seed(5)
    x = batch.noise.clone().requires_grad_()
    features = features_of(network, batch, velocity, x)
    push = torch.randn(features.values.shape, generator=generator)
    (features.values * push).sum().backward()
    assert all(parameter.grad is None for parameter in network.parameters())
    assert x.grad is not None
    along, size = torch.randn(x.shape, generator=generator), 1e-2
    ends = [features_of(network, batch, velocity, batch.noise + s * size * along).values for s in (1, -1)]
    slope = ((ends[0] - ends[1]) * push).sum() / (2 * size)
    assert (x.grad * along).sum().item() == pytest.approx(slope.item(), rel=0.02)


def test_the_last_block_s_features_make_the_velocity():
    task = small_task("structure")
    network, batch = task.student(), task.draw(SEED, 0)
    velocity = task.bind(network, batch)
    last = len(network.blocks) - 1  # type: ignore[arg-type]
    [features] = tapped(network, (last,), velocity)(batch.noise, batch.u)
    normed = F.layer_norm(features.values, features.values.shape[-1:])
    made = network.get_submodule("out_layer")(normed)
    expected = to_patches(velocity(batch.noise, batch.u), network.patch_size)  # type: ignore[arg-type]
    torch.testing.assert_close(made, expected, rtol=0, atol=1e-5)


def test_taps_come_in_the_order_in_which_they_are_asked_for():
    task = TASKS["modes"]()
    network, batch = task.student(), task.draw(SEED, 0)
    there, back = (tapped(network, taps, task.bind(network, batch))(batch.noise, batch.u) for taps in ((0, 3), (3, 0)))
    assert torch.equal(there[0].values, back[1].values)
    assert torch.equal(there[1].values, back[0].values)
    assert not torch.equal(there[0].values, there[1].values)
    torch.testing.assert_close(
        network.get_submodule("last")(there[1].values), task.bind(network, batch)(batch.noise, batch.u)
    )


def test_nothing_is_left_on_the_network_whatever_happens():
    task = TASKS["modes"]()
    network, batch = task.student(), task.draw(SEED, 0)
    features = tapped(network, (0, 1), task.bind(network, batch))
    features(batch.noise, batch.u)
    with pytest.raises(RuntimeError):
        features(batch.noise[:, :3], batch.u)
    assert not any(block._forward_hooks for block in network.blocks)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("network", "taps", "told"),
    [
        (nn.Linear(1, 1), (0, 4), "no block 0 to tap. It has no blocks"),
        (None, (0, 4), "no block 4 to tap. Allowed: 0 to 3"),
        (None, (0, -1), "no block -1 to tap. Allowed: 0 to 3"),
    ],
)
def test_a_block_that_is_not_there_is_refused(network: nn.Module | None, taps: tuple[int, ...], told: str):
    with pytest.raises(UsageError, match=told):
        tapped(network or TASKS["modes"]().student(), taps, lambda x, t: x)


@pytest.mark.parametrize(
    ("depth", "count", "blocks"),
    [
        (1, 4, (0,)),
        (2, 4, (0, 1)),
        (4, 3, (0, 1, 3)),
        (4, 4, (0, 1, 2, 3)),
        (24, 4, (5, 11, 17, 23)),
        (5, 1, (4,)),
        (5, 99, (0, 1, 2, 3, 4)),
        (5, 0, ()),
    ],
)
def test_a_number_of_taps_is_spread_over_the_depth(depth: int, count: int, blocks: tuple[int, ...]):
    network = nn.Module()
    network.blocks = nn.ModuleList(nn.Identity() for _ in range(depth))
    assert indices_of(network, count) == blocks
    assert indices_of(network, (0, 7)) == (0, 7)  # refused later
    assert indices_of(nn.Linear(1, 1), ()) == indices_of(nn.Linear(1, 1), 0) == ()
    with pytest.raises(UsageError, match="A Linear has no `blocks` to tap"):
        indices_of(nn.Linear(1, 1), 2)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("stage", ["structure", "slat"])
def test_taps_in_half_precision(stage: str, precision: Precision):
    """As a training binds a network: blocks compute in half precision, features and gradients are float32's nearly."""
    task, found = TASKS[stage](), {}
    network, batch = task.student().requires_grad_(False), task.draw(SEED, 0)
    inside: list[torch.dtype] = []
    linear = network.get_submodule("blocks.0.mlp.mlp.0")
    hook = linear.register_forward_hook(lambda _, __, out: inside.append(out.dtype))
    for kind in ("float32", precision):
        x = batch.noise.clone().requires_grad_()
        [features] = tapped(network, (0,), lowered(task.bind(network, batch), kind))(x, batch.u)
        assert features.values.dtype == torch.float32
        assert features.layout.count(features.values).sum() == features.values.numel()
        push = torch.randn(features.values.shape, generator=torch.Generator().manual_seed(5))
        [slope] = torch.autograd.grad((features.values * push).sum(), x)
        assert slope.dtype == torch.float32
        found[kind] = (features.values.detach(), slope)
    hook.remove()
    assert inside == [torch.float32, HALF[precision]]
    for exact, rounded in zip(*found.values(), strict=True):
        assert 0 < (rounded - exact).norm() < 0.03 * exact.norm()


# ------------------------------------------------------------------------------------------------------- in a training


def test_a_training_with_taps_gives_the_same_bits_together_and_alone(task: StageTask, tmp_path: Path):
    made = {name: of_method(Tapping(cfg_strength=1.0), task, tmp_path / name) for name in ("alone", "again")}
    assert train_together([made["alone"]], task, TRAIN, SEED) == {}
    other = of_method(Tapping(cfg_strength=1.0, lr=1e-4), task, tmp_path / "beside", label="other")
    assert train_together([other, made["again"]], task, TRAIN, SEED) == {}
    states = [tensors(one) | one.networks.state() for one in made.values()]
    assert differing(*states) == []
    assert log_of(made["alone"]) == log_of(made["again"])
    teacher, critic = (made["again"].networks.modules[name].state_dict() for name in ("teacher", "critic"))
    assert differing(dict(teacher), dict(task.student().state_dict())) == []
    assert differing(dict(teacher), dict(critic)) != []


def test_a_training_with_taps_goes_on_after_an_interruption_bit_for_bit(
    task: StageTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The teacher's copy is made anew, the critic and its average come from the checkpoint."""
    whole = of_method(Tapping(cfg_strength=1.0), task, tmp_path / "whole")
    assert train_together([whole], task, TRAIN, SEED) == {}
    stop_before_the_last([of_method(Tapping(cfg_strength=1.0), task, tmp_path / "mine")], task, monkeypatch)
    again = of_method(Tapping(cfg_strength=1.0), task, tmp_path / "mine")
    assert again.learner.done == again.networks.learners["critic"].done == 2
    assert train_together([again], task, TRAIN, SEED) == {}
    states = [tensors(one) | one.networks.state() for one in (whole, again)]
    assert differing(*states) == []
    assert log_of(again) == log_of(whole)


def test_a_training_with_taps_in_half_precision_has_the_gradients_of_float32(task: StageTask, tmp_path: Path):
    found: dict[str, list[Tensor]] = {}
    for kind in ("float32", "bfloat16"):
        train = TRAIN.model_copy(update={"steps": 1, "precision": kind, "clip": 1e9})
        made = of_method(Tapping(cfg_strength=1.0), task, tmp_path / kind, train)
        assert train_together([made], task, train, SEED) == {}
        learners = (made.learner, made.networks.learners["critic"], made.networks.learners["head"])
        found[kind] = [torch.cat([g.flatten() for g in learner.gradients()]) for learner in learners]
    for exact, rounded in zip(*found.values(), strict=True):
        assert 0 < (rounded - exact).norm() < 0.05 * exact.norm()


def test_a_wrong_tap_is_refused_before_training(structure_task: StageTask, tmp_path: Path):
    with pytest.raises(UsageError, match="no block 7 to tap"):
        of_method(Tapping(cfg_strength=1.0, taps=(7,)), structure_task, tmp_path / "wrong")
