"""The design's page shows the code as it is, and the code has no circles."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "architecture.md"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("architecture_picture", PAGE.with_name("architecture_picture.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_no_circle_of_files_or_folders(script):
    graph = script.import_graph()
    assert len(graph) > 150
    assert script.circle(graph) == []
    assert script.circle(script.rooms(graph)) == []


def test_a_circle_is_found(script):
    assert script.circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert script.circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_only_essential_arrows_are_drawn(script):
    assert script.essential({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == [("a", "b"), ("b", "c")]


def test_the_picture_is_that_of_the_code(script):
    text = PAGE.read_text(encoding="utf-8")
    assert script.drawn(text) == text, "Run `python docs/architecture_picture.py`."


def test_every_function_of_the_walk_exists():
    from mdtbench.harness.driver.measuring import Measuring
    from mdtbench.harness.driver.run import run
    from mdtbench.harness.generate.made import AssetsJob, StructuresJob
    from mdtbench.harness.measure.features import FeaturesJob
    from mdtbench.harness.measure.looks import AssetLooks
    from mdtbench.harness.measure.scores import ScoresJob
    from mdtbench.harness.plan.plan import resolve
    from mdtbench.results.tables import build

    walked = [resolve, run, Measuring.scores, StructuresJob.compute, AssetsJob.compute, AssetLooks.compute]
    walked += [FeaturesJob.compute, ScoresJob.compute, Measuring.measure, build]
    text = PAGE.read_text(encoding="utf-8")
    steps = [line for line in text.splitlines() if line[:2].rstrip(".").isdigit()]
    assert len(steps) == len(walked) == 10
    for step, function in zip(steps, walked, strict=True):
        assert f"{function.__qualname__}`" in step or f".{function.__name__}`" in step or "`driver.run`" in step
