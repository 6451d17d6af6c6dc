"""`--track`: each step once, whatever ends a run, in three trackers; what fails is said and spoils nothing."""

from __future__ import annotations

import importlib.util
import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import wandb
from PIL import Image
from tracked import FLOAT32, Tracked, of_mlflow, of_tensorboard, of_wandb, same

from mdtbench.base.errors import RunError, UsageError
from mdtbench.harness.engine import trackers, tracking
from mdtbench.harness.engine.logs import write_log
from mdtbench.harness.engine.trackers import TRACKERS, Address, Track, trackers_of
from mdtbench.harness.engine.tracking import Board, Training, scalars_of
from mdtbench.results.rows import Row

RUN_ID = "0123456789ab"
GROUP, WHOLE = f"{RUN_ID}-0000", f"run-{RUN_ID}"
KINDS = tuple(TRACKERS)
SETTINGS = {"method": "vm:official", "train": {"lr": 2e-3, "ema": [0.5, 0.9]}, "guided": True, "steps": 7, "none": None}
SPELLED = {"method": "vm:official", "train.lr": 2e-3, "train.ema": "[0.5, 0.9]", "guided": True, "steps": 7}
PRECISION = {"tensorboard": FLOAT32, "wandb": 0.0, "mlflow": 0.0}


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nobody is logged in, nothing is sent; MLflow writes plain files to TMP/store."""
    for name in [name for name in os.environ if name.startswith(("WANDB_", "MLFLOW_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "store").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setattr(tracking, "EVERY_S", 0.01)
    yield
    wandb.teardown()  # it remembers the environment


@pytest.fixture
def read(tmp_path: Path) -> Callable[[str], dict[str, Tracked]]:
    """All tracks of a kind, by name."""

    def of(kind: str) -> dict[str, Tracked]:
        readers = {"tensorboard": lambda: of_tensorboard(tmp_path), "wandb": lambda: of_wandb(tmp_path)}
        return readers.get(kind, lambda: of_mlflow((tmp_path / "store").as_uri()))()

    return of


def entries(*steps: int) -> list[dict[str, float]]:
    """A log, with a value that no format should cut short and one that is not finite."""
    return [{"step": step, "loss": 1 / (3 + step), "vd@0": math.nan if step == 10 else step / 7} for step in steps]


def curves(*steps: int) -> dict[str, list[tuple[int, float]]]:
    """As tracked; MLflow takes no @ in a name."""
    found = entries(*steps)
    return {to: [(int(e["step"]), e[name]) for e in found] for name, to in (("loss", "loss"), ("vd@0", "vd-0"))}


def training(root: Path, name: str = "vm-seed0") -> Training:
    return Training(name, root / name / "log.jsonl", root / name / "ended", SETTINGS)


def row(**values: Any) -> Row:
    known = {
        "run_id": RUN_ID, "status": "ok", "method": "vm", "method_version": 1, "split": "test", "metric": "FD",
        "metric_version": 1, "value": 1.5, "n_ok": 2, "n_total": 2, "higher_is_better": False, "config_sha": "",
        "torch": "", "device": "cpu", "created_utc": "2026-01-01T00:00:00",
    }  # fmt: skip
    return Row(**{**known, **values})


def plain(value: object) -> str:
    """MLflow keeps texts, TensorBoard numbers."""
    return {"True": "1"}.get(str(value), str(value).removesuffix(".0"))


def track(kind: str, root: Path, name: str) -> Track:
    return Track((kind,), Address(root, GROUP, name, WHOLE))


def until(is_true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not is_true():
        assert time.monotonic() < deadline, "too slow"
        time.sleep(0.02)


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_was_killed_and_resumed_tracks_every_step_once(
    kind: str, tmp_path: Path, read: Callable[[str], Mapping[str, Tracked]]
):
    """Killed: the log has more than the checkpoint, so that the resumed training logs steps that were tracked."""
    one, grid = training(tmp_path), tmp_path / "grid.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)).save(grid)
    killed = Board((kind,), tmp_path, RUN_ID)
    killed.settings(SETTINGS)
    killed.follow([one])
    write_log(one.log, entries(0, 10, 20))
    until(lambda: killed._followed[one.name]._step == 20)
    killed.stop()  # its tracks are never closed
    wandb.teardown()  # the process that it has for them ends with a killed one
    with tracking.tracking((kind,), tmp_path, RUN_ID) as board:
        board.settings(SETTINGS)
        board.follow([one])
        write_log(one.log, entries(0, 10))
        until(lambda: board._followed[one.name]._step == 10)
        write_log(one.log, entries(0, 10, 20, 30))
        one.ended.touch()
        board.picture("grid", grid)
        board.rows([row(steps=1, stderr=0.25, train_seed=0), row(steps=4, value=0.1, train_seed=0)])
    with tracking.tracking((kind,), tmp_path, RUN_ID) as board:  # once more, now that all is there
        board.settings(SETTINGS)
        board.follow([one])
        board.picture("grid", grid)
        board.rows([row(steps=1, stderr=0.25, train_seed=0), row(steps=4, value=0.1, train_seed=0)])
    found = read(kind)
    assert set(found) == {WHOLE, one.name}
    assert same(found[one.name].curves, curves(0, 10, 20, 30), PRECISION[kind])
    name = "FD/structure/vm/train0"
    assert same(
        found[WHOLE].curves, {name: [(1, 1.5), (4, 0.1)], f"{name} stderr": [(1, 0.25)]}, PRECISION[kind]
    )  # fmt: skip
    assert np.array_equal(found[WHOLE].pictures["grid"], np.asarray(Image.open(grid)))
    for track in found.values():
        expected = SPELLED | {"run_id": RUN_ID}
        assert {key: plain(track.settings[key]) for key in expected} == {k: plain(one) for k, one in expected.items()}
        assert len(track.settings["git_commit"]) in (4, 40)  # null where the code is no checkout


@pytest.mark.parametrize("kind", ["tensorboard", "mlflow"])
def test_curves_are_seen_while_a_training_runs(kind: str, tmp_path: Path, read: Callable[[str], Mapping[str, Tracked]]):
    one = training(tmp_path)

    def seen(*steps: int) -> bool:
        now = read(kind)
        return one.name in now and same(now[one.name].curves, curves(*steps), FLOAT32)

    with tracking.tracking((kind,), tmp_path, RUN_ID) as board:
        board.follow([one])
        write_log(one.log, entries(0))
        until(lambda: seen(0))
        write_log(one.log, entries(0, 10, 20))
        until(lambda: seen(0, 10, 20))
    assert not [thread for thread in threading.enumerate() if thread._target == board._watch]  # type: ignore[attr-defined]


def test_a_tensorboard_that_is_open_goes_on(tmp_path: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def written(*steps: int) -> None:
        made = track("tensorboard", tmp_path, "a")
        for step in steps:
            made.scalars(step, {"loss": float(step)})
        made.close()

    written(0, 10)
    folder = tmp_path / "tensorboard" / "a"
    reader, [first] = EventAccumulator(str(folder)), list(folder.iterdir())
    assert [one.step for one in reader.Reload().Scalars("loss")] == [0, 10]
    until(lambda: int(time.time()) > int(first.stat().st_ctime))  # files are named by the second
    written(0, 10, 20)
    assert [one.step for one in reader.Reload().Scalars("loss")] == [0, 10, 20]
    written(0, 10, 20)
    assert len(list(folder.iterdir())) == 2  # nothing new, no file


def test_a_picture_that_changes_is_a_step_of_its_own(tmp_path: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for colour in ("red", "red", "blue"):
        Image.new("RGB", (3, 2), colour).save(tmp_path / "grid.png")
        made = track("tensorboard", tmp_path, "a")
        made.picture("grid", tmp_path / "grid.png")
        made.close()
    reader = EventAccumulator(str(tmp_path / "tensorboard" / "a")).Reload()
    assert [one.step for one in reader.Images("grid")] == [0, 1]


def test_without_trackers_nothing_is_done(tmp_path: Path):
    before = threading.active_count()
    with tracking.tracking((), tmp_path, RUN_ID) as board:
        board.settings(SETTINGS)
        board.follow([training(tmp_path)])
        write_log(training(tmp_path).log, entries(0))
        board.picture("grid", tmp_path / "absent.png")
        board.rows([row()])
        assert threading.active_count() == before
    assert [path.name for path in tmp_path.iterdir()] == ["vm-seed0"]


class Full:
    """A tracker that takes settings and nothing else."""

    def __init__(self, address: Address):
        del address

    def hyperparameters(self, values: Mapping[str, Any]) -> None:
        del values

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        raise OSError("no room for it")

    def flush(self) -> None:
        """Nothing is kept."""

    def close(self) -> None:
        """Nothing is open."""


def test_a_tracker_that_fails_ends_no_training_and_is_told_of_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(trackers.TRACKERS, "full", Full)
    one, done = training(tmp_path), []

    def tracked(end: BaseException | None) -> None:
        with tracking.tracking(("full",), tmp_path, RUN_ID) as board:
            board.follow([one])
            write_log(one.log, entries(0))
            until(lambda: not board._thread.is_alive())
            done.append(end)
            if end:
                raise end

    with pytest.raises(RunError, match=r"Tracking with full failed \(OSError: no room for it\)"):
        tracked(None)
    with pytest.raises(KeyboardInterrupt):  # not hidden by the other failure
        tracked(KeyboardInterrupt())
    assert len(done) == 2


def test_wandb_is_offline_for_who_is_not_logged_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: Callable[[str], Mapping[str, Tracked]]
):
    monkeypatch.delenv("WANDB_MODE")
    made = track("wandb", tmp_path, WHOLE)
    made.scalars(0, {"loss": 2.0})
    made.close()
    assert read("wandb")[WHOLE].curves == {"loss": [(0, 2.0)]}


def test_wandb_does_what_its_mode_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    made = track("wandb", tmp_path, WHOLE)
    made.scalars(0, {"loss": 2.0})
    made.close()
    assert not (tmp_path / "wandb").exists()


def test_mlflow_has_a_store_of_its_own_where_no_other_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from mlflow import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE")
    monkeypatch.chdir(tmp_path)
    grid = tmp_path / "grid.png"
    Image.new("RGB", (3, 2)).save(grid)
    for name in (WHOLE, "vm-seed0"):
        made = track("mlflow", tmp_path / "run", name)
        made.hyperparameters({f"key{i}": i for i in range(150)})  # more than it takes at once
        for step in range(0, 6000, 5):
            made.scalars(step, {"loss": float(step)})
        made.picture("figures/grid", grid)
        made.close()
    uri = f"sqlite:///{tmp_path / 'run' / 'mlflow' / 'mlflow.db'}"
    found, client = of_mlflow(uri), MlflowClient(tracking_uri=uri)
    assert found["vm-seed0"].curves == {"loss": [(step, float(step)) for step in range(0, 6000, 5)]}
    assert found["vm-seed0"].settings == {f"key{i}": str(i) for i in range(150)}
    assert found["vm-seed0"].pictures["figures/grid"].shape == (2, 3, 3)
    assert {path.name for path in tmp_path.iterdir()} <= {"run", "grid.png", "home"}  # no ./mlruns
    [experiment] = client.search_experiments(filter_string="name = 'mdtbench'")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert set(runs) == {WHOLE, "vm-seed0"}
    assert runs["vm-seed0"].data.tags["mlflow.parentRunId"] == runs[WHOLE].info.run_id
    assert {run.info.status for run in runs.values()} == {"FINISHED"}


def test_rows_are_named_by_what_they_measure():
    rows = [
        row(steps=2, train_seed=0, seed=3, value=1.0, stderr=0.5),
        row(steps=2, train_seed=0, seed=3, value=2.0, sampler="euler", own_sampler=False, extra_sampler=True),
        row(steps=2, train_seed=0, seed=3, value=3.0, variant="official", sampler="renoise"),
        row(steps=1, train_seed=1, seed=3, value=4.0, stage="structure+teacher"),
        row(method="floor", value=5.0),
        row(steps=4, status="failed", error="no", value=None),
    ]
    assert scalars_of(rows) == {
        0: {"FD/structure/floor": 5.0},
        1: {"FD/structure+teacher/vm/train1-gen3": 4.0},
        2: {
            "FD/structure/vm/train0-gen3": 1.0,
            "FD/structure/vm/train0-gen3 stderr": 0.5,
            "FD/structure/vm euler/train0-gen3": 2.0,
            "FD/structure/vm:official/train0-gen3": 3.0,
        },
    }


def test_unknown_trackers_and_absent_libraries_are_told_at_once(monkeypatch: pytest.MonkeyPatch):
    assert trackers_of(["wandb", "mlflow", "wandb"]) == ("wandb", "mlflow")
    with pytest.raises(UsageError, match=r"Unknown tracker 'wandbb'. Did you mean 'wandb'\? Available: mlflow, tens"):
        trackers_of(["wandbb"])
    for found in (None, importlib.util.spec_from_loader("mlflow", None)):  # not there; a folder of that name
        monkeypatch.setattr(trackers, "find_spec", lambda name, found=found: found)
        with pytest.raises(UsageError, match=r"pip install 'mdtbench\[tracking\]'"):
            trackers_of(["mlflow"])
