"""The shipped world, loaded once; one thread, as in the tool's worker processes."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_world import small_world

from mdtbench.harness.cli.app import main
from mdtbench.harness.inputs.world import World, load_world, world_folder
from mdtbench.trellis.pipeline import StructurePipeline


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Before the fixtures of a module: the rounding of a matrix product depends on the number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def mdtbench(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """The command line in this process: exit code, output, errors."""

    def call(*args: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["mdtbench", *args])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        return (int(ended.value.code or 0), *capsys.readouterr())

    return call


@pytest.fixture(scope="session")
def tiny_folder() -> Path:
    return world_folder("tiny")


@pytest.fixture(scope="session")
def tiny_world(tiny_folder: Path) -> World:
    return load_world(tiny_folder)


@pytest.fixture(scope="session")
def small_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A world of small random networks."""
    return small_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="session")
def pipeline(tiny_world: World) -> StructurePipeline:
    """The shipped pipeline with noise on the teacher's weights, so that no test leans on how well it was trained."""
    flow = copy.deepcopy(tiny_world.structure.flow)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    return replace(tiny_world.structure, flow=flow)
