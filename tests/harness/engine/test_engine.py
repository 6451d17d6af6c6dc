"""The engine with receipts: what is done, failed, lost, gone or late, whatever does the jobs."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_jobs import Add
from inprocess import InProcess
from silent import Silent

from mdtbench.base.errors import MissingError, RunError, UsageError
from mdtbench.harness.cli.status import status_text
from mdtbench.harness.cli.work import work_command
from mdtbench.harness.engine.engine import TRIES, Engine
from mdtbench.harness.engine.receipts import Receipts
from mdtbench.harness.engine.spec import from_spec, to_spec
from mdtbench.harness.engine.store import Slot
from mdtbench.harness.engine.work import write_setup
from mdtbench.harness.engine.workers import workers


def receipts_in(out: Path, notes: list[str] | None = None) -> Receipts:
    return Receipts(out, (notes if notes is not None else []).append)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture
def engine(out: Path) -> Engine:
    team: Any = InProcess()
    return Engine(team, team, None, out)


def tree(out: Path, **options: Any) -> Add:
    base = Add(out / "store", "base", "prepare")
    sides = tuple(Add(out / "store", name, "structures", (base,)) for name in ("left", "right"))
    return Add(out / "store", "top", "scores", sides, **options)


def test_a_job_that_is_done_leaves_a_receipt_and_waits_no_more(out: Path, engine: Engine):
    top = tree(out)
    engine.do([top])
    assert top.value() == 5
    found = list(receipts_in(out).all())
    assert sorted(one.status for one in found) == ["done"] * 4
    mine = receipts_in(out).get(top.key)
    assert mine is not None
    assert mine.made == top.digests(thorough=True)
    assert (mine.attempt, mine.units, mine.gpu_seconds, mine.error) == (0, 1, 0.0, "")
    assert [path.name for path in (out / "jobs").iterdir()] == ["setup.json"]


def test_a_jobs_own_failure_is_kept_and_ends_the_run(out: Path, engine: Engine):
    top = tree(out, trouble="fails")
    with pytest.raises(KeyError, match="top"):
        engine.do([top])
    found = receipts_in(out).get(top.key)
    assert found is not None
    assert (found.status, found.error, found.made) == ("failed", "KeyError: 'top'", {})
    assert len(top.attempts) == 1
    assert f"{top.key}: KeyError: 'top'" in status_text(out)


def test_what_the_machine_lost_is_tried_again(out: Path, engine: Engine):
    top = tree(out, trouble="memory")
    engine.do([top])
    assert (top.value(), len(top.attempts)) == (5, 2)
    [lost] = receipts_in(out).lost()
    assert (lost.key, lost.attempt, lost.error) == (top.key, 0, "MemoryError: too much")
    assert "in 1 lost attempt" in status_text(out)


def test_killed_processes_take_no_other_job_with_them(out: Path):
    """One is killed once and done again; one always, and what needs it is lost; the others know nothing of it."""
    store, reporter = out / "store", Silent()
    once, others = Add(store, "once", trouble="killed once"), [Add(store, f"other {i}") for i in range(6)]
    never = Add(store, "never", "prepare", trouble="killed")
    needs, more = Add(store, "needs", "structures", (never,)), Add(store, "more", "scores", (never, others[0]))
    with workers(2, reporter, ["engine_jobs"]) as team:
        lost = Engine(team, team, None, out).attempt([once, *others, needs, more])
    assert [job.value() for job in (once, *others)] == [1] * 7
    assert [len(job.attempts) for job in (once, never, needs, *others)] == [2, TRIES, 0, *[1] * 6]
    assert lost.keys() == {never.key, needs.key, more.key}
    assert lost[needs.key].startswith(f"{never.key} was lost 3 times, last on ")
    assert len(receipts_in(out).lost()) == 1 + TRIES
    assert sum("was lost on" in note for note in reporter.notes) == 1 + TRIES


def test_lost_for_good_is_an_error_for_who_needs_all(out: Path):
    with (
        pytest.raises(RunError, match=r"never|scores-\w+ was lost 3 times.* The same command continues"),
        workers(1, Silent(), ["engine_jobs"]) as team,
    ):
        Engine(team, team, None, out).do([Add(out / "store", "never", trouble="killed")])


def data_of(job: Add) -> Path:
    return Slot(job.root, "sums", job.places[0].digest).data


@pytest.mark.parametrize("seed", range(3))
def test_a_damaged_result_is_noticed_by_who_reads_it_and_made_again(out: Path, engine: Engine, seed: int):
    top = tree(out)
    engine.do(top.of)
    damaged = data_of(random.Random(seed).choice(top.of))
    content = bytearray(damaged.read_bytes())
    content[random.Random(seed).randrange(len(content))] ^= 1 + seed
    damaged.write_bytes(bytes(content))
    engine.do([top])
    assert top.value() == 5
    assert sorted(len(job.attempts) for job in top.of) == [1, 2]
    assert len(top.attempts) == 2
    assert len(list((out / "store" / "quarantine").iterdir())) == 2


def test_a_cache_that_is_emptied_meanwhile_costs_time_and_nothing_else(out: Path, engine: Engine):
    """As `mdtbench cache gc` may do: what was there when the jobs were planned is gone when one reads it."""
    top = tree(out)
    engine.do(top.of)
    for job in top.of:
        data_of(job).with_suffix(".json").unlink()
    data_of(top.of[0].of[0]).with_suffix(".json").unlink()
    late = replace(top, name="late")
    object.__setattr__(late, "of", tuple(Planned(**vars_of(job)) for job in top.of))
    engine.do([late])
    assert late.value() == 5
    assert [len(job.attempts) for job in (late, *top.of)] == [2, 2, 2]


def vars_of(job: Add) -> dict[str, Any]:
    return {name: getattr(job, name) for name in ("root", "name", "kind", "of")}


class Planned(Add):
    """Says that it is done when it is asked first."""

    @property
    def done(self) -> bool:
        if "asked" not in self.__dict__:
            self.__dict__["asked"] = True
            return True
        return super().done


def test_a_damaged_receipt_is_noticed_and_its_job_done_again(out: Path, engine: Engine):
    top, reporter = tree(out), Silent()
    engine.do([top])
    engine.team.reporter = reporter
    path = receipts_in(out).path(top.key)
    path.write_text(path.read_text()[:40])
    engine.do([top])
    assert len(top.attempts) == 2
    assert [len(job.attempts) for job in top.of] == [1, 1]
    assert f"Damaged receipt {path}: " in reporter.notes[0]
    assert receipts_in(out).get(top.key) is not None


def test_a_late_receipt_changes_nothing(out: Path, engine: Engine):
    top = tree(out)
    engine.do([top])
    receipts = receipts_in(out)
    first = receipts.get(top.key)
    assert first is not None
    second = first.model_copy(update={"attempt": 1, "host": "elsewhere"})
    receipts.put(second)
    receipts.put(first.model_copy(update={"made": {}}))
    assert receipts.get(top.key) == second


# ------------------------------------------------------------------------------------------------- jobs as plain data


def test_jobs_go_through_json_as_they_are(out: Path):
    top = tree(out, seconds=float("inf"))
    spec = json.loads(json.dumps(to_spec(top)))
    assert len(spec["objects"]) == 4  # what occurs twice is written once
    back = from_spec(spec)
    assert back == top
    assert back.key == top.key
    assert back.of[0].of[0] is back.of[1].of[0]
    values = {"a": (1, [2.5, None, True], {3, 4}), 5: Path("x"), "nan": [float("-inf")]}
    assert from_spec(json.loads(json.dumps(to_spec(values)))) == values
    array = np.arange(6, dtype=np.float16).reshape(2, 3)
    again = from_spec(json.loads(json.dumps(to_spec(array))))
    assert (again.dtype, again.tolist()) == (array.dtype, array.tolist())
    with pytest.raises(TypeError, match="cannot be found by its name"):
        to_spec(lambda: 0)
    with pytest.raises(TypeError, match="cannot be found by its name"):
        to_spec(sys)


def test_work_does_one_job_as_any_scheduler_may_ask(out: Path, capfd: pytest.CaptureFixture[str]):
    top = tree(out)
    with pytest.raises(MissingError, match=r"setup\.json"):
        work_command(out, [top.key])
    write_setup(out, [], None)
    for job in (top, *top.of, top.of[0].of[0]):
        receipts_in(out).job(job.key).write_text(json.dumps({**to_spec(job), "label": "sums", "units": 1, "gpus": 0}))
    with pytest.raises(UsageError, match=rf"{top.key} reads what {top.of[0].key} makes, which is not there"):
        work_command(out, [top.key])
    assert status_text(out).count("structures-") == 2
    work_command(out, [top.of[0].of[0].key, *(job.key for job in top.of), top.key])
    said = capfd.readouterr().out
    assert [line.split()[0] for line in said.splitlines()] == [j.key for j in (top.of[0].of[0], *top.of, top)]
    assert top.value() == 5
    work_command(out, [top.key])
    assert "was done on" in capfd.readouterr().out
    with pytest.raises(MissingError, match="Missing file"):
        work_command(out, ["scores-0"])


# ----------------------------------------------------------------------------------------------------------- SIGTERM


def test_sigterm_saves_a_checkpoint_from_which_the_same_command_goes_on(tmp_path: Path):
    out = tmp_path / "run"
    words = ["run", "--preset", "smoke", "--stages", "structure", "--limit", "2", "--methods", "cm", "--workers", "1"]
    words += ["--set", "train.steps=200000", "--out", str(out), "--cache", str(tmp_path / "cache")]
    run = subprocess.Popen([sys.executable, "-m", "mdtbench", *words], stderr=subprocess.PIPE, text=True)
    assert run.stderr is not None
    lines: list[str] = []
    for line in run.stderr:
        lines.append(line)
        if line.startswith("distil: ") and not line.startswith("distil: 0/"):
            run.terminate()
            break
    lines += run.stderr.readlines()
    assert run.wait(60) not in (0, None)
    [stop] = [line for line in lines if "SIGTERM: train-" in line]
    step = int(stop.partition("before step ")[2].split(",")[0])
    assert step > 0
    assert any(f"SIGTERM; the same command continues from {out}" in line for line in lines)
    from safetensors import safe_open

    [checkpoint] = out.rglob("checkpoint.safetensors")
    with safe_open(checkpoint, "pt") as file:
        assert int(file.get_tensor("done")) == step
    assert time.time() - checkpoint.stat().st_mtime < 60
