"""Estimates from what `mdtbench bench gpu` wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from plans import planned

from mdtbench.base.errors import UsageError
from mdtbench.harness.driver.cost import costs, plan_summary
from mdtbench.harness.plan.measured import read_measured

LINES: list[dict[str, Any]] = [
    {"check": "environment", "device": "NVIDIA H200"},
    {"check": "attention", "what": "sdpa"},
    {"check": "encoder", "how": "as in a run", "seconds_per_sample": 0.002},
    {"check": "encoder", "how": "float32", "seconds_per_sample": 0.02},
    {"check": "structure_steps", "stage": "structure", "method": "cm", "seconds_per_sample": 0.09},
    {"check": "structure_steps", "stage": "structure", "method": "cm", "seconds_per_sample": 0.08},
    {"check": "slat_steps", "stage": "slat", "method": "cm", "error": "too large"},
    {"check": "passes", "stage": "structure", "seconds_per_sample": 0.01},
    {"check": "passes", "stage": "slat", "seconds_per_sample": 0.015},
    {"check": "passes", "stage": "structure, compiled", "seconds_per_sample": 0.001},
]


def written(path: Path, lines: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_seconds_of_a_training_step_are_those_that_were_measured(tmp_path: Path):
    found = read_measured(written(tmp_path / "gpu.jsonl", LINES))
    assert found.step("structure", "cm", 6) == pytest.approx(0.002 + 0.08)  # the faster of two ways
    assert found.step("slat", "cm", 6) == pytest.approx(0.002 + 6 * 0.015)  # by passes, as it was not measured
    assert found.name == "NVIDIA H200"


def test_a_plan_reckons_with_them(tmp_path: Path):
    path = written(tmp_path / "gpu.jsonl", LINES)
    plan = planned(f"estimate.measured={path}", "sweep.methods=['vm']", preset="paper", methods=("cm",))
    cost = costs(plan)[-1]
    assert cost.machine.name == "NVIDIA H200 (measured)"
    assert cost.training == pytest.approx(256 * (6000 * 0.082 + 4000 * 0.092) / 3600)
    assert "NVIDIA H200 (measured)" in plan_summary(plan, 1, [])


@pytest.mark.parametrize("lines", [LINES[1:], LINES[:-2], [{"check": "environment"}], [{"device": "x"}]])
def test_a_file_without_what_is_needed_is_a_usage_error(lines: list[dict[str, Any]], tmp_path: Path):
    with pytest.raises(UsageError, match=r"estimate.measured: .*gpu.jsonl.* `mdtbench bench gpu --out FILE`"):
        read_measured(written(tmp_path / "gpu.jsonl", lines))


def test_a_file_that_is_not_there_is_a_usage_error(tmp_path: Path):
    with pytest.raises(UsageError, match="cannot be read"):
        read_measured(tmp_path / "none.jsonl")
