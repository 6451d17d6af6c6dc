"""Students with two times: trained together as alone, goes on after an interruption, found again by its sampler."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mdtbench.flow.samplers import Euler, FlowMap
from mdtbench.harness.generate.made import sampled, with_weights
from mdtbench.harness.oracle.picture_family import Pictures
from mdtbench.harness.oracle.plane import Plane
from mdtbench.harness.train.loop import student_file, train_together
from mdtbench.harness.train.task import StageTask
from mdtbench.trellis.end_time import NAME, add_end_time

sys.path.insert(0, str(Path(__file__).parent))

from test_loop import SEED, TRAIN, differing, interrupted, log_of, student, tensors

LABELS = ("meanflow", "ayf")


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
    assert differing(tensors(together[name]), tensors(alone)) == []
    assert log_of(together[name]) == log_of(alone)


@pytest.mark.parametrize("name", LABELS)
def test_an_interrupted_training_goes_on_bit_for_bit(
    name: str, together: dict, task: StageTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    interrupted([name], task, tmp_path, monkeypatch)
    again = student(name, task, tmp_path)
    assert again.learner.done == 2
    assert train_together([again], task, TRAIN, SEED) == {}
    assert differing(tensors(again), tensors(together[name])) == []


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
