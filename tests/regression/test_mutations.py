"""A run of the tool on a tiny subset, held against one of the code as it is, finds faults and nothing else.

Runs are smaller than `smoke` so that all of them take a few minutes; the same on `smoke`: mutations.py.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from mutations import MUTATIONS, REGRESSION, Trial, copy_package

pytestmark = pytest.mark.slow
OPTIONS = (
    *("--preset", "smoke", "--stages", "structure", "--methods", "mdt,cm", "--set", "evaluate.steps=[1]"),
    *("--set", "data.train=32", "--set", "data.test=6", "--set", "train.steps=8", "--set", "train.batch=8"),
    # So few steps say little of VD: with these its sign moves numbers by 9 tolerances, with the defaults by 1.2.
    *("--set", "methods.mdt.lr=1e-3", "--set", "methods.mdt.lambda_vd=8.0"),
)


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Trial:
    out = tmp_path_factory.mktemp("regression")
    return Trial(copy_package(out / "package"), out, OPTIONS)


@pytest.fixture(scope="module")
def baseline(trial: Trial) -> Path:
    return trial.baseline()


def test_every_fault_makes_the_check_exit_with_3(trial: Trial, baseline: Path) -> None:
    found = {checked.name: checked.code for checked in trial.faults(baseline)}
    assert found == {mutation.name: REGRESSION for mutation in MUTATIONS}


def test_unchanged_code_raises_no_alarm(trial: Trial, baseline: Path) -> None:
    # The baseline has a worker process per core, this one: the same numbers to the bit.
    [checked] = trial.repetitions(baseline, 1)
    assert checked.code == 0
    assert "0 worse, 0 better" in checked.summary
