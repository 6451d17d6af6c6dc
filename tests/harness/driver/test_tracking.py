"""`mdtbench run --track` from end to end: what three trackers hold is what the run's own files say, value by value."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from inprocess import InProcess, in_process
from tracked import FLOAT32, Tracked, curves_of, of_mlflow, of_tensorboard, of_wandb, pixels, same

from mdtbench.base.files import read_json
from mdtbench.harness.driver.planning import RunOptions, make_plan
from mdtbench.harness.driver.run import GRID, Options, run
from mdtbench.harness.engine.tracking import scalars_of
from mdtbench.harness.oracle import load_oracle_config, plan_oracle, run_oracle
from mdtbench.results.merge import flat
from mdtbench.results.rows import COST_METRICS, Row, read_rows

SETTINGS = (
    "train.steps=12", "train.batch=2", "data.train=3", "data.test=2", "sweep.lr=[1e-4,2e-3]", "sweep.assets=2",
    "evaluate.seeds=[0,1]", "evaluate.steps=[1,2]", "methods.teacher.steps=2",
)  # fmt: skip
COMMAND = ("run", "--preset", "smoke", "--stages", "structure", "--methods", "vm", "--device", "cpu", "--workers", "1")
KINDS = ("tensorboard", "wandb", "mlflow")
ORACLE = (
    'oracle.problems=["gaussian"]', "oracle.width=8", "train.steps=200", "train.batch=8", "evaluate.samples=16",
    "evaluate.steps=[1]",
)  # fmt: skip
# The run of ORACLE, which is killed after step 25, when step 20 is tracked and a checkpoint is there.
KILLED = f"""
import os, signal, sys, threading
from pathlib import Path
from inprocess import InProcess
from mdtbench.harness.engine import tracking
from mdtbench.harness.oracle import load_oracle_config, plan_oracle, run_oracle
from mdtbench.harness.train import loop

loop.CHECKPOINT_EVERY_S, tracking.EVERY_S = 0.0, 0.01
seen, taken, read = threading.Event(), [], tracking._Follower._read

def reading(follower, track):
    read(follower, track)
    if follower._step == 20:
        seen.set()

def tick():
    taken.append(1)
    if len(taken) > 25:
        assert seen.wait(120)
        os.kill(os.getpid(), signal.SIGKILL)

tracking._Follower._read, loop.tick = reading, tick
plan = plan_oracle(load_oracle_config("oracle", {ORACLE}), ["vm"], [0])
run_oracle(plan, Path(sys.argv[1]), InProcess(), ("tensorboard",))
"""


@dataclass(frozen=True)
class Done:
    """A finished run, and one of the same settings that nobody tracked. words: of its command."""

    out: Path
    untracked: Path
    words: tuple[str, ...]
    tracks: dict[str, dict[str, Tracked]]

    @property
    def rows(self) -> list[Row]:
        return read_rows(self.out / "rows.jsonl")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Done:
    """With a worker process, as usual, and a sweep; the other one in this process."""
    root = tmp_path_factory.mktemp("tracked")
    store = (root / "store").as_uri()
    offline = {"WANDB_MODE": "offline", "MLFLOW_TRACKING_URI": store, "MLFLOW_ALLOW_FILE_STORE": "true"}
    environment = {**os.environ, **offline, "MLFLOW_DISABLE_TELEMETRY": "true"}
    changes = [word for setting in SETTINGS for word in ("--set", setting)]
    words = (*COMMAND, *changes, "--cache", str(root / "cache"))
    tracked = (*words, "--out", str(root / "run"), "--track", ",".join(KINDS))
    command = [sys.executable, "-m", "mdtbench", *tracked]
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=500)
    assert ended.returncode == 0, ended.stderr
    options = RunOptions("smoke", ("vm",), stages="structure", changes=SETTINGS, device="cpu")
    run(make_plan(options, root / "cache"), Options(root / "untracked", root / "cache"), in_process()[0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
        tracks = {
            "tensorboard": of_tensorboard(root / "run"), "wandb": of_wandb(root / "run"), "mlflow": of_mlflow(store)
        }  # fmt: skip
    return Done(root / "run", root / "untracked", tracked, tracks)


def whole(tracks: dict[str, Tracked]) -> Tracked:
    """The track of the run as a whole."""
    [name] = [name for name in tracks if name.startswith("run-")]
    return tracks[name]


@pytest.mark.parametrize("kind", KINDS)
def test_every_student_has_the_curves_of_its_log(done: Done, kind: str):
    logs = {path.parent.name: curves_of(path) for path in done.out.glob("students/*/log.jsonl")}
    assert len(logs) == 2  # those of the sweep, of which the better is the line's own
    tracks = done.tracks[kind]
    assert {name for name in tracks if not name.startswith("run-")} == set(logs)
    for name, log in logs.items():
        assert [step for step, _ in log["loss"]] == [0, 10, 11]
        assert {"loss", "grad_norm", "skipped", "step_s"} < set(log)
        assert same(tracks[name].curves, log, FLOAT32 if kind == "tensorboard" else 0.0)
    rates = sorted(float(tracks[name].settings["parameters.lr"]) for name in logs)
    assert rates == pytest.approx([1e-4, 2e-3])
    for name in logs:
        found = {key: str(tracks[name].settings[key]) for key in ("method", "stage", "run_id")}
        assert found == {"method": "vm", "stage": "structure", "run_id": done.rows[0].run_id}


@pytest.mark.parametrize("kind", KINDS)
def test_the_run_has_its_rows_its_picture_and_its_settings(done: Done, kind: str):
    track, expected = whole(done.tracks[kind]), {}
    for steps, values in sorted(scalars_of(done.rows).items()):
        for name, value in values.items():
            expected.setdefault(name, []).append((steps, value))
    assert sum(len(points) for points in expected.values()) > len(done.rows)  # standard errors are beside values
    assert all(row.value is not None for row in done.rows)
    assert {steps for steps, _ in expected["FD_tiny2d/structure/vm/train0-gen1"]} == {1, 2}
    clean = {name.replace("+", "-"): points for name, points in expected.items()}
    assert same(track.curves, clean, FLOAT32 if kind == "tensorboard" else 0.0)
    assert np.array_equal(track.pictures["grid"], pixels(done.out / GRID))
    assert track.settings["run_id"] == done.rows[0].run_id
    assert track.settings["git_commit"] == (done.rows[0].git_commit or "null")
    assert float(track.settings["config.train.steps"]) == 12
    written = {key for key in flat(read_json(done.out / "manifest.json")) if key.startswith(("config.", "methods."))}
    assert written == {key for key in track.settings if key.startswith(("config.", "methods."))}
    assert "methods.vm.parameters" in written


def test_tracking_changes_no_number(done: Done):
    def values(rows: list[Row]) -> list[dict]:
        changing = {"created_utc"}
        return [row.model_dump(exclude=changing) for row in rows if row.metric not in COST_METRICS]

    assert values(done.rows) == values(read_rows(done.untracked / "rows.jsonl"))
    for path in done.out.glob("students/*/*.safetensors"):
        assert path.read_bytes() == (done.untracked / path.relative_to(done.out)).read_bytes()
    assert not {"tensorboard", "wandb", "mlflow", "track.json"} & {path.name for path in done.untracked.iterdir()}


def test_the_command_that_show_prints_tracks_as_well(done: Done, mdtbench: Callable):
    code, page, _ = mdtbench("show", str(done.out))
    [command] = [line.partition("made by: ")[2] for line in page.splitlines() if "made by: " in line]
    assert code == 0
    assert shlex.split(command)[1:] == list(done.words)


@pytest.mark.parametrize("verb", [("run",), ("pretrain",), ("evaluate", "assets")])
def test_an_unknown_tracker_is_told_before_anything_is_done(verb: tuple[str, ...], tmp_path: Path, mdtbench: Callable):
    code, text, error = mdtbench(*verb, "--track", "wandb,tensorbord", "--out", str(tmp_path / "out"))
    assert (code, text) == (2, "")
    assert "Unknown tracker 'tensorbord'. Did you mean 'tensorboard'? Available: mlflow, tensorboard, wandb." in error
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_is_killed_goes_on_with_its_curves(tmp_path: Path):
    """A process that is really killed while it trains; then the same run in another one to its end."""
    here = Path(__file__).parent
    path = os.pathsep.join([str(here.parents[1]), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    ended = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, timeout=300)
    assert ended.returncode == -signal.SIGKILL
    [checkpoint] = tmp_path.glob("students/*/checkpoint.safetensors")
    log = checkpoint.with_name("log.jsonl")
    before = of_tensorboard(tmp_path)[log.parent.name].curves
    assert [step for step, _ in before["loss"]] == [0, 10, 20]
    run_oracle(plan_oracle(load_oracle_config("oracle", ORACLE), ["vm"], [0]), tmp_path, InProcess(), ("tensorboard",))  # type: ignore[arg-type]
    found, expected = of_tensorboard(tmp_path)[log.parent.name].curves, curves_of(log)
    assert [step for step, _ in found["loss"]] == [*range(0, 200, 10), 199]
    assert {"figures/vm"} == set(whole(of_tensorboard(tmp_path)).pictures)
    found["step_s"] = expected["step_s"]  # of a step that was taken twice the first time is tracked
    assert same(found, expected, FLOAT32)
