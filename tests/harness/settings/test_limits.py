"""`--set limits.*`: what files may ask of the machine, for runs and evaluations, in every process."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from silent import Silent

from mdtbench.base.errors import UsageError
from mdtbench.base.limits import Limits, excess, limits, use_limits
from mdtbench.harness.cli.evaluating import read_settings
from mdtbench.harness.driver.planning import RunOptions, make_plan
from mdtbench.harness.engine.workers import workers
from mdtbench.harness.settings.config import load_config

CASES = Path(__file__).parents[2] / "cases" / "damaged"


@pytest.fixture(autouse=True)
def _back():
    yield
    use_limits(Limits())


def test_limits_are_keys_of_set():
    assert load_config("smoke", ["limits.pixels=100"]).limits == Limits(pixels=100)
    assert read_settings(["limits.faces=7"]).limits == Limits(faces=7)
    with pytest.raises(UsageError, match=r"Did you mean 'limits\.pixels'"):
        load_config("smoke", ["limits.pixel=100"])
    with pytest.raises(UsageError, match=r"limits\.pixels: .*greater than 0"):
        load_config("smoke", ["limits.pixels=0"])


def test_limits_are_in_use_and_change_no_key(tmp_path):
    plain = make_plan(RunOptions("smoke"), tmp_path)
    raised = make_plan(RunOptions("smoke", changes=("limits.pixels=100",)), tmp_path)
    assert limits().pixels == 100
    assert raised.key == plain.key


def test_workers_have_the_limits_of_their_command():
    with workers(1, Silent(), prepare=partial(use_limits, Limits(pixels=5))) as team:
        [told] = team.map(partial(excess, "pixels", what="it"), [6], "ask", 1)
    assert told.startswith("it has 6 pixels - 5 are allowed")


@pytest.mark.parametrize("name", ["preset-4301-digits.toml", "preset-nested.toml"])
def test_a_preset_beyond_the_limits_is_told(name):
    with pytest.raises(UsageError, match=r"cannot be read \(.*(digits|nested|levels).*\)"):
        load_config(str(CASES / name))


@pytest.mark.parametrize("value", ["9" * 4301, "[" * 5000, "[" * 200 + "]" * 200])
def test_a_value_beyond_the_limits_is_told(value):
    with pytest.raises(UsageError, match=r"digits|nested|levels") as caught:
        load_config("smoke", [f"data.seed={value}"])
    assert len(str(caught.value)) < 300
