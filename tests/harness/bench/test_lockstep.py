"""`mdtbench bench`: what is counted is what runs, and what is printed is what was measured."""

from __future__ import annotations

import json

import pytest
import torch
from silent import Silent
from torch import nn

from mdtbench.base.errors import RunError, UsageError
from mdtbench.harness.bench import lockstep
from mdtbench.harness.bench.lockstep import (
    BENCHMARKS,
    BenchOptions,
    LockstepFigures,
    PassCounter,
    Trial,
    bench,
    lockstep_json,
    lockstep_text,
)
from mdtbench.harness.train.loop import Failure

METHODS = ("cm", "pcm", "scm", "vm", "mdt")


def options(*methods: str, world: str = "tiny") -> BenchOptions:
    return BenchOptions(world, methods, batch=2, steps=1, repetitions=1)


@pytest.fixture
def network() -> nn.Linear:
    return nn.Linear(3, 3)


def counted(network: nn.Module, run) -> int:
    counter = PassCounter()
    with counter.watching([network]):
        run()
    return counter.samples


def test_a_forward_pass_counts_its_samples(network: nn.Linear):
    x = torch.ones(4, 3)
    assert counted(network, lambda: network(x)) == 4  # its gradient never comes back
    assert counted(network, lambda: (network(x), network(x[:1]))) == 5


def test_a_backward_pass_counts_two_and_only_where_it_happens(network: nn.Linear):
    x = torch.ones(4, 3)
    assert counted(network, lambda: network(x).sum().backward()) == 4 + 2 * 4
    # the first output is detached, as a stop-gradient does
    assert counted(network, lambda: (network(x).detach() * network(x)).sum().backward()) == 4 + 4 + 2 * 4


def test_forward_differentiation_counts_three(network: nn.Linear):
    x = torch.ones(4, 3)
    with torch.no_grad():
        assert counted(network, lambda: torch.func.jvp(network, (x,), (x,))) == 3 * 4


def test_the_counter_leaves_no_hooks(network: nn.Linear):
    counted(network, lambda: None)
    assert not network._forward_hooks


def test_lockstep_takes_31_passes_and_solo_39():
    """methods.md section 5, with guidance; each method takes what it says it does."""
    trial = Trial.of(options(*METHODS))
    alone = {who.label: trial.passes([who]) for who in trial.entrants}
    assert alone == {"cm": 6, "pcm": 6, "scm": 8, "vm": 6, "mdt": 13}
    assert alone == {who.label: who.distillation.cost() for who in trial.entrants}
    assert sum(alone.values()) == 39
    assert trial.passes(trial.entrants) == 31


def test_a_student_that_fails_is_an_error_with_its_reason(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(lockstep, "train_together", lambda *_, **__: {"0": Failure("loss is not finite")})
    trial = Trial.of(options("vm"))
    with pytest.raises(RunError, match="A student failed: loss is not finite"):
        trial.spend(trial.entrants)


FIGURES = LockstepFigures(
    BenchOptions("tiny", ("cm", "vm"), 32, 2, 3),
    forwards={"solo": 12.0, "lockstep": 10.0},
    forwards_alone={"cm": 6.0, "vm": 6.0},
    wall_s={"solo": [2.0, 4.0, 3.0], "lockstep": [1.5, 3.0, 2.5]},
    cpu_s={"solo": [1.0, 1.0, 1.0], "lockstep": [0.8, 0.9, 0.7]},
    ratio=[0.75, 0.75, 0.833],
    cpu_ratio=[0.8, 0.9, 0.7],
    peak_memory_mb={"loaded": 250.0, "solo": 500.0, "lockstep": 600.0},
)


def test_the_text_says_what_was_measured():
    text = lockstep_text(FIGURES)
    for part in ("cm, vm", "batch 32", "3 repetitions of 2 steps", "cm 6, vm 6", "250 MB"):
        assert part in text
    rows = [line.split() for line in text.splitlines()]
    assert any(row[-3:] == ["12", "10", "0.833"] for row in rows)
    assert any(row[-3:] == ["500", "600", "1.200"] for row in rows)
    [wall] = [line for line in text.splitlines() if line.startswith("wall time")]
    for part in ("3.00 (2.00 to 4.00)", "2.50 (1.50 to 3.00)", "0.750 (0.750 to 0.833)"):
        assert part in wall
    [cpu] = [line for line in text.splitlines() if line.startswith("processor time")]
    assert "0.800 (0.700 to 0.900)" in cpu


def test_the_json_holds_everything():
    found = json.loads(lockstep_json(FIGURES))
    assert found["benchmark"] == "lockstep"
    assert found["forwards"] == {"solo": 12, "lockstep": 10}
    assert found["wall_s"] == FIGURES.wall_s
    assert found["wall_s_median"] == {"solo": 3.0, "lockstep": 2.5}
    assert (found["ratio_median"], found["cpu_ratio_median"]) == (0.75, 0.8)
    assert found["options"]["batch"] == 32


def test_a_misspelt_benchmark_is_a_usage_error():
    with pytest.raises(UsageError, match=r"Unknown benchmark 'lokstep'\. Did you mean 'lockstep'\?"):
        bench("lokstep", options("vm"), False, Silent())
    assert list(BENCHMARKS) == ["fd", "lockstep", "memory", "render", "sparse"]


def test_a_method_that_does_not_train_is_a_usage_error():
    with pytest.raises(UsageError, match="'none' does not train"):
        bench("lockstep", options("vm", "none"), False, Silent())
