"""A finished run of another configuration is not written over by mistake."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from plans import NOWHERE, planned

from mdtbench.base.errors import UsageError
from mdtbench.base.files import write_json
from mdtbench.harness.driver.planning import RunOptions, make_plan
from mdtbench.harness.driver.run import MANIFEST, Options, check_folder, manifest, run
from mdtbench.harness.plan.plan import Plan


def finished(out: Path, plan: Plan, **more: Any) -> Path:
    write_json(out / MANIFEST, manifest(plan) | {"finished_s": 1.0} | more)
    return out


def refusal(plan: Plan, out: Path) -> str:
    with pytest.raises(UsageError) as raised:
        check_folder(plan, out, overwrite=False)
    return str(raised.value)


@pytest.mark.parametrize(
    ("other", "parts"),
    [
        ({"changes": ["train.steps=21"]}, ["config.train.steps: 20 there, 21 here"]),
        ({"changes": ["methods.vm.delta=0.5"]}, ["config.methods.vm.delta: none there, 0.5 here"]),
        ({"methods": ("cm", "gd")}, ["methods.vm.version: ", "there, none here", "methods.gd.version: none there"]),
        ({"train_seeds": (0, 1)}, ["train_seeds: [0] there, [0, 1] here"]),
        ({"limit": 3}, ["test.limit: None there, 3 here"]),
        ({"changes": ["data.test=13"]}, ["config.data.test: 32 there, 13 here", "test.sha256: "]),
        ({"changes": ["protocol.name=tiny-v3", "sweep.lr=[1e-4]"]}, ["config.sweep.lr: [] there, [0.0001] here"]),
        ({"stages": "structure"}, ["config.slat.clip: 1.0 there, none here"]),
    ],
)
def test_the_differences_are_named(tmp_path: Path, other: dict, parts: list[str]):
    text = refusal(planned(*other.pop("changes", []), **other), finished(tmp_path, planned()))
    for part in (*parts, "--out", "--overwrite"):
        assert part in text
    assert "config.pretrain" not in text


def test_what_does_not_matter_is_no_difference(tmp_path: Path):
    plan = planned("train.steps=21", "places.weights=elsewhere", "evaluate.batch=3", "estimate.asset_s=9")
    text = refusal(plan, finished(tmp_path, planned()))
    assert "config.train.steps" in text
    assert "places" not in text
    assert "estimate" not in text
    check_folder(planned("places.weights=elsewhere", "estimate.asset_s=9"), tmp_path, overwrite=False)


def test_other_code_is_a_difference_that_no_setting_names(tmp_path: Path):
    assert "other code or assets" in refusal(planned(), finished(tmp_path, planned(), key="another"))


def test_a_run_that_is_not_finished_may_be_changed(tmp_path: Path):
    after = planned("train.steps=21")
    for text in ("", "{", "[]"):  # none, cut short by a crash, nobody's
        (tmp_path / MANIFEST).write_text(text, encoding="utf-8")
        check_folder(after, tmp_path, overwrite=False)
    write_json(tmp_path / MANIFEST, manifest(planned()) | {"started_s": 1.0})
    check_folder(after, tmp_path, overwrite=False)
    check_folder(after, tmp_path / "absent", overwrite=False)


def test_overwrite_and_the_same_configuration_go_on(tmp_path: Path):
    out = finished(tmp_path, planned())
    check_folder(planned("train.steps=21"), out, overwrite=True)
    check_folder(planned("evaluate.batch=3"), out, overwrite=False)  # changes nothing on a CPU


def test_a_run_is_refused_before_anything_is_written(tmp_path: Path):
    out = finished(tmp_path / "out", planned())
    before = sorted(out.iterdir())
    engine: Any = None
    with pytest.raises(UsageError, match=r"config\.train\.steps"):
        run(planned("train.steps=21"), Options(out, NOWHERE), engine)
    assert sorted(out.iterdir()) == before


def test_a_dry_run_says_so_too(tmp_path: Path, mdtbench: Callable):
    given = RunOptions(preset="smoke", methods=("vm",), device="cpu")
    out = finished(tmp_path, make_plan(given, NOWHERE, ready=False))  # of the world as it is
    words = ("run", "--preset", "smoke", "--methods", "vm", "--dry-run", "--device", "cpu", "--out", str(out))
    assert mdtbench(*words)[0] == 0
    code, text, error = mdtbench(*words, "--set", "train.steps=21")
    assert (code, text) == (2, "")
    assert "config.train.steps: 20 there, 21 here" in error
    code, text, _ = mdtbench(*words, "--set", "train.steps=21", "--overwrite")
    assert (code, "21 x 16" in text) == (0, True)
