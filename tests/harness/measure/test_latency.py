"""Seconds: each way of sampling by turns, kept and found again, never of what was not made."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from inprocess import in_process
from small_world import opened, small_plan

from mdtbench.base.errors import AssetError
from mdtbench.flow.samplers import Euler, Phase, Renoise
from mdtbench.harness.driver.measuring import Measuring
from mdtbench.harness.inputs.world import World
from mdtbench.harness.measure import latency
from mdtbench.harness.measure.latency import DECODE, LatencyJob, way
from mdtbench.trellis.slat_pipeline import SlatPipeline

ONE, TWO = Euler(1), Euler(2)
FIRST, SECOND, SLAT = way("structure", ONE), way("structure", TWO), way("slat", ONE)
WAYS = {FIRST: ("structure", ONE), SECOND: ("structure", TWO), SLAT: ("slat", ONE)}


@pytest.fixture(scope="module")
def measuring(small_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Measuring:
    root = tmp_path_factory.mktemp("run")
    return opened(small_plan(small_folder, cache=root), root)


@pytest.fixture
def job(measuring: Measuring, tmp_path: Path) -> LatencyJob:
    plan, tests = measuring.plan, measuring.tests
    return LatencyJob(
        tmp_path, plan.world.folder, "cpu", "a machine", "networks", WAYS, TWO,  # type: ignore[arg-type]
        tests.subjects[0], plan.protocol.values, True,
    )  # fmt: skip


def test_ways_take_turns_and_the_first_turn_is_not_counted(job: LatencyJob, monkeypatch: pytest.MonkeyPatch):
    """The protocol has one turn of warm-up and three that count."""
    now, done = [0.0], []

    def work(name: str, seconds: float) -> None:
        now[0] += seconds * (1 + len(done) // 2)  # every turn is slower
        done.append(name)

    monkeypatch.setattr(latency, "clock", lambda device: now[0])
    monkeypatch.setattr(
        LatencyJob, "_todo", lambda self, world: {"a": lambda: work("a", 1.0), "b": lambda: work("b", 10.0)}
    )
    [found] = job.compute()
    assert "".join(done) == "abababab"
    assert {name: values.tolist() for name, values in found.items()} == {"a": [2, 3, 4], "b": [20, 30, 40]}
    job.places[0].put(found)
    assert job.read() == {"a": (3.0, 1.0), "b": (30.0, 10.0)}


def test_equal_computations_have_the_same_seconds():
    assert way("structure", Euler(2)) == way("structure", Phase(2, 4))  # another name
    assert way("structure", Euler(1)) == way("structure", Renoise(1))
    others = {
        way("structure", Euler(2)), way("structure", Euler(2, cfg_strength=1.0)), way("structure", Renoise(2)),
        way("structure", Euler(3)), way("slat", Euler(2)),
    }  # fmt: skip
    assert len(others) == 5


def test_seconds_are_measured_once(job: LatencyJob):
    engine, team = in_process()
    for _ in range(2):
        engine.do([replace(job)])
    assert team.given == {job.label: 1}
    seconds = job.read()
    assert set(seconds) == {FIRST, SECOND, SLAT, DECODE}
    assert all(median > 0 and spread >= 0 for median, spread in seconds.values())


def test_seconds_of_another_machine_or_other_ways_are_not_these(job: LatencyJob, measuring: Measuring):
    others = [
        replace(job, machine="another"),
        replace(job, networks_sha="others"),
        replace(job, reference=Euler(3)),
        replace(job, ways={FIRST: WAYS[FIRST]}, whole=False),
        replace(job, subject=measuring.tests.subjects[1]),
    ]
    assert len({one.places[0].digest for one in (job, *others)}) == 6


def test_the_encoding_of_the_picture_is_not_in_the_seconds(job: LatencyJob):
    """It is encoded once for each stage, whatever is repeated."""
    world, calls = latency.load_cached(job.world, "cpu"), []
    hooks = [
        stage.conditioner.register_forward_hook(lambda *_: calls.append(1)) for stage in (world.structure, world.whole)
    ]
    job.compute()
    for hook in hooks:
        hook.remove()
    assert len(calls) == 2


def test_without_a_second_stage_structures_alone_are_timed(job: LatencyJob):
    [found] = replace(job, ways={FIRST: WAYS[FIRST]}, whole=False).compute()
    assert found.keys() == {FIRST}


def test_of_an_empty_structure_there_is_no_second_stage_to_time(
    job: LatencyJob, measuring: Measuring, monkeypatch: pytest.MonkeyPatch
):
    world = latency.load_cached(job.world, "cpu")

    class Nothing(type(world.structure)):  # type: ignore[misc]
        def decode(self, latents: torch.Tensor) -> torch.Tensor:
            return super().decode(latents) & False

    empty = Nothing(**{name: getattr(world.structure, name) for name in world.structure.__dataclass_fields__})
    changed = World(world.file, empty, world.slat)
    monkeypatch.setattr(latency, "load_cached", lambda folder, device: changed)
    [found] = job.compute()
    assert found.keys() == {FIRST, SECOND}


def test_both_decoders_are_timed_at_every_turn(job: LatencyJob, monkeypatch: pytest.MonkeyPatch):
    calls: list[str] = []
    for name in ("gaussians", "meshes"):
        decode = getattr(SlatPipeline, name)
        monkeypatch.setattr(SlatPipeline, name, lambda *args, d=decode, n=name: calls.append(n) or d(*args))
    [found] = job.compute()
    assert calls.count("gaussians") == calls.count("meshes") > len(found[DECODE])  # once to see whether there is a mesh


def test_what_cannot_be_decoded_is_not_timed(job: LatencyJob, monkeypatch: pytest.MonkeyPatch):
    def bare(*_: object) -> None:
        raise AssetError("there is no surface")

    monkeypatch.setattr(SlatPipeline, "meshes", bare)
    [found] = job.compute()
    assert found.keys() == {FIRST, SECOND, SLAT}
    assert all(np.shape(values) == (3,) for values in found.values())
