"""Students with two times and with networks beside them: the same bits together, alone and after an interruption."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from mdtbench.flow.layout import per_sample_mean
from mdtbench.flow.samplers import Euler, FlowMap, Sampler
from mdtbench.harness.generate.made import sampled, with_weights
from mdtbench.harness.oracle.picture_family import Pictures
from mdtbench.harness.oracle.plane import Plane
from mdtbench.harness.train.loop import Student, student_file, train_together
from mdtbench.harness.train.task import StageTask
from mdtbench.methods import STUDENT, Distillation, Loss, Network, Step
from mdtbench.trellis.end_time import NAME, add_end_time

sys.path.insert(0, str(Path(__file__).parent))

from test_loop import SEED, TRAIN, differing, interrupted, log_of, of_method, student, tensors

LABELS = ("meanflow", "ayf", "dmd2", "ladd", "tcm", "rcm", "sid")


def everything(made: Student) -> dict[str, Tensor]:
    return tensors(made) | {key: value.detach().clone() for key, value in made.networks.state().items()}


@pytest.fixture(scope="module")
def together(task: StageTask, tmp_path_factory: pytest.TempPathFactory) -> dict:
    folder = tmp_path_factory.mktemp("together")
    made = {name: student(name, task, folder) for name in ("vm", *LABELS)}
    assert train_together(list(made.values()), task, TRAIN, SEED) == {}
    return made


@pytest.mark.parametrize("name", LABELS)
def test_lockstep_equals_solo_bit_for_bit(name: str, together: dict, task: StageTask, tmp_path: Path):
    alone = student(name, task, tmp_path)
    assert train_together([alone], task, TRAIN, SEED) == {}
    assert differing(everything(together[name]), everything(alone)) == []
    assert log_of(together[name]) == log_of(alone)


@pytest.mark.parametrize("name", LABELS)
def test_an_interrupted_training_goes_on_bit_for_bit(
    name: str, together: dict, task: StageTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    interrupted([name], task, tmp_path, monkeypatch)
    again = student(name, task, tmp_path)
    assert again.learner.done == 2
    assert train_together([again], task, TRAIN, SEED) == {}
    assert differing(everything(again), everything(together[name])) == []


def test_a_student_with_two_times_is_found_again_and_told_where_it_jumps(together: dict, task: StageTask):
    file = student_file(together["meanflow"].folder)
    assert any(name.startswith(NAME) for name in load_file(file))
    network = with_weights(task.pipeline.flow, file)
    samples = task.data.drawn(2, np.random.Generator(np.random.PCG64(1)))
    cond = task.pipeline.condition(samples.images)
    made = {}
    for sampler in (FlowMap(2), Euler(2), FlowMap(1), Euler(1)):
        made[sampler], nfe = sampled(task.pipeline, network, sampler, cond, samples.layout, [1, 2])
        assert nfe == sampler.steps
    assert torch.equal(made[FlowMap(1)], made[Euler(1)])
    assert not torch.equal(made[FlowMap(2)], made[Euler(2)])
    # The teacher, with which latencies are measured, has one time and is stepped as by Euler.
    stepped = [sampled(task.pipeline, task.pipeline.flow, s, cond, samples.layout, [1, 2])[0] for s in made]
    assert torch.equal(stepped[0], stepped[1])


@pytest.mark.parametrize("family", [Plane.of(["gaussian", "modes"], 0.0, 8), Pictures.of()], ids=["plane", "pictures"])
def test_networks_of_known_laws_take_a_second_time_too(family: Plane | Pictures):
    generator = torch.Generator().manual_seed(1)
    x, classes = family.draw(3, generator)
    t, end = torch.rand(2, len(x), generator=generator)
    network = family.student(1)
    before = network(x, t, classes)
    add_end_time(network)
    assert torch.equal(network(x, t, classes), before)
    with torch.no_grad():
        for weight in network.get_submodule(NAME).parameters():
            weight.add_(0.3)
    # A last layer of zeros hides everything in front of it.
    for parameter in network.parameters():
        parameter.data.add_(0.01 * torch.randn(parameter.shape, generator=generator))
    assert torch.equal(network(x, t, classes), network(x, t, classes, 0 * t))
    assert not torch.equal(network(x, t, classes), network(x, t, classes, end * t))


# ------------------------------------------------------------------------------------------------------ named networks


def head(begin: nn.Module) -> nn.Module:
    return nn.Linear(begin.in_channels, 1)  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True)
class Surrounded(Distillation):
    """A student with every kind of network beside it, all of which learn the teacher's velocity or its mean."""

    lr: float = 1e-3
    seen: list[tuple[str, ...]] = field(default_factory=list)

    def networks(self) -> Mapping[str, Network]:
        return {
            "slow": Network(rate=0.5, period=2, average=0.9),
            "frozen": Network(rate=0),
            "anew": Network(weights=False),
            "head": Network(head=head),
        }

    def student_period(self) -> int:
        return 3

    def loss(self, step: Step) -> Loss:
        self.seen.append(tuple(step.networks) + tuple(f"average of {name}" for name in step.averages))
        aim = step.teacher(step.x_t, step.t, 0.0)
        flows = [step.student, *(step.networks[name] for name in ("slow", "frozen", "anew"))]
        value = sum(per_sample_mean(step.layout, (flow(step.x_t, step.t) - 2 * aim).square()) for flow in flows)
        rows = step.x_t if step.x_t.ndim == 2 else step.x_t.movedim(1, -1)
        return Loss(value + (step.networks["head"](rows) - 1).square().mean())  # type: ignore[operator]

    def sampler(self, n_steps: int) -> Sampler:
        return Euler(n_steps)

    def cost(self) -> float:
        return 20


def weights(made: Student, name: str) -> dict[str, Tensor]:
    return {key: value.detach().clone() for key, value in made.networks.modules[name].state_dict().items()}


@pytest.fixture(scope="module")
def surrounded(task: StageTask, tmp_path_factory: pytest.TempPathFactory) -> Student:
    train = TRAIN.model_copy(update={"steps": 5})
    made = of_method(Surrounded(cfg_strength=1.0), task, tmp_path_factory.mktemp("surrounded") / "mine", train)
    assert train_together([made], task, train, SEED) == {}
    return made


def moments(made: Student, name: str) -> set[int]:
    """Updates that the optimiser of a network counted."""
    [(optimiser, _)] = made.networks.learners[name].optimisers
    return {int(state["step"]) for state in optimiser.state.values()}


def test_each_network_moves_in_its_own_period(surrounded: Student):
    assert {name: moments(surrounded, name) for name in ("slow", "anew", "head")} == {
        "slow": {3},  # steps 0, 2 and 4
        "anew": {5},
        "head": {5},
    }
    [(optimiser, _)] = surrounded.learner.optimisers
    assert {int(state["step"]) for state in optimiser.state.values()} == {2}  # steps 0 and 3
    assert surrounded.learner.done == 5
    method = surrounded.method
    assert [index for index in range(7) if method.updates(STUDENT, index)] == [0, 3, 6]


def test_a_rate_is_a_multiple_of_the_student_s(surrounded: Student):
    rates = {name: learner.recipe.lr for name, learner in surrounded.networks.learners.items()}
    assert rates == {"slow": 5e-4, "anew": 1e-3, "head": 1e-3}


def test_a_network_without_a_rate_stays_as_the_student_began(surrounded: Student, task: StageTask):
    assert differing(weights(surrounded, "frozen"), dict(task.student().state_dict())) == []
    assert not any(parameter.requires_grad for parameter in surrounded.networks.modules["frozen"].parameters())
    moved = weights(surrounded, "slow")
    assert len(differing(moved, weights(surrounded, "frozen"))) > len(moved) / 2


def test_a_copy_drawn_anew_has_the_spread_of_the_teacher_s_tensors(task: StageTask, tmp_path: Path):
    made = of_method(Surrounded(cfg_strength=1.0), task, tmp_path / "new")
    drawn = weights(made, "anew")
    for name, one in task.student().named_parameters():
        if one.numel() > 1000:
            other = drawn[name]
            assert not torch.equal(one, other)
            assert other.std().item() == pytest.approx(one.std().item(), rel=0.15), name


def test_averages_are_of_the_network_s_own_updates(task: StageTask, tmp_path: Path):
    train = TRAIN.model_copy(update={"steps": 1, "warmup": 0})
    made = of_method(Surrounded(cfg_strength=1.0), task, tmp_path / "average", train)
    before = weights(made, "slow")
    assert train_together([made], task, train, SEED) == {}
    learner = made.networks.learners["slow"]
    for name, value in learner.average.items():
        torch.testing.assert_close(value, 0.9 * before[name] + 0.1 * weights(made, "slow")[name], rtol=0, atol=1e-6)
    assert set(made.method.seen) == {("slow", "frozen", "anew", "head", "average of slow")}  # type: ignore[attr-defined]


def test_starting_weights_follow_from_label_and_seed_alone(task: StageTask, tmp_path: Path):
    torch.manual_seed(1)
    one, again = (of_method(Surrounded(cfg_strength=1.0), task, tmp_path / name) for name in ("one", "two"))
    other = Student("other", one.method, task.student(), TRAIN, 3, tmp_path / "three", SEED)
    for name in ("anew", "head"):
        assert differing(weights(one, name), weights(again, name)) == []
        assert differing(weights(one, name), weights(other, name)) != []
    expected = torch.Generator().manual_seed(1)
    assert torch.equal(torch.rand(1), torch.rand(1, generator=expected))  # the global generator was left alone


def test_networks_go_on_after_an_interruption(task: StageTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    whole = student("dmd2", task, tmp_path / "whole")
    assert train_together([whole], task, TRAIN, SEED) == {}
    interrupted(["dmd2"], task, tmp_path, monkeypatch)
    saved = load_file(tmp_path / "dmd2" / "checkpoint.safetensors")
    assert any(key.startswith("networks/critic/optimiser.exp_avg/") for key in saved)
    again = student("dmd2", task, tmp_path)
    critic = again.networks.learners["critic"]
    assert critic.done == 2
    assert differing(weights(again, "critic"), dict(task.student().state_dict())) != []


@pytest.mark.parametrize(("name", "other"), [("dmd2", "critic"), ("ladd", "heads")])
def test_a_scaled_loss_is_scaled_back_for_every_network(
    name: str, other: str, structure_task: StageTask, tmp_path: Path
):
    """In float16: gradients of student and critic are those of float32, but for its rounding."""
    found: dict[str, list[Tensor]] = {}
    for precision in ("float32", "float16"):
        train = TRAIN.model_copy(update={"steps": 1, "precision": precision, "clip": 1e9})
        made = student(name, structure_task, tmp_path / precision, train)
        assert train_together([made], structure_task, train, SEED) == {}
        parts = (made.learner, made.networks.learners[other])
        found[precision] = [torch.cat([g.flatten() for g in learner.gradients()]) for learner in parts]
    for exact, rounded in zip(*found.values(), strict=True):
        assert (rounded - exact).norm() < 0.1 * exact.norm()


def test_an_overflow_of_a_critic_lowers_the_scale(structure_task: StageTask, tmp_path: Path):
    train = TRAIN.model_copy(update={"steps": 2, "precision": "float16"})
    made = student("dmd2", structure_task, tmp_path, train)
    assert made.learner.scale is not None
    before = made.learner.scale.value
    for learner in (made.learner, made.networks.learners["critic"]):
        for parameter in learner.parameters.values():
            parameter.grad = torch.zeros_like(parameter)
    next(iter(made.networks.learners["critic"].parameters.values())).grad.fill_(torch.inf)  # type: ignore[union-attr]
    made.apply({"loss": 1.0}, 0, 0.0)
    assert made.learner.scale.value == before / 2
    assert made.networks.learners["critic"].skipped == 1
    assert made.learner.skipped == 0
