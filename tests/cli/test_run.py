"""`mdtbench run` from end to end: rows, tables, resume after every kind of interruption, other meshes, a plug-in."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import trimesh
from command import COMMAND, Result, run_process
from PIL import Image

from mdtbench.harness import train
from mdtbench.methods import METHODS
from mdtbench.metrics import METRICS
from mdtbench.results.grid import GAP, PAD
from mdtbench.results.rows import (
    BOTH,
    LATENCY_METRIC,
    STRUCTURE,
    STRUCTURE_THEN_TEACHER,
    TEACHER_THEN_SLAT,
    Row,
    read_rows,
)
from mdtbench.results.students import read_students

README = Path(__file__).parents[2] / "README.md"
SETTINGS = (
    "train.steps=8",
    "train.batch=4",
    "data.train=16",
    "data.test=3",
    "evaluate.seeds=[0,1]",
    "evaluate.samplers=['euler']",
)
N_ASSETS = 2
GENERATED = {
    ("none", ""): (1, 2),
    ("none", "cfg"): (1, 2),
    ("teacher", ""): (25,),
    ("cm", ""): (1, 2),
    ("mine", ""): (1, 2),
}
PATIENCE_S = 240.0  # until a process that is to be interrupted has come that far, on a busy machine
# A checkpoint after every step, in the processes that import the plug-in: then a kill finds one.
OFTEN = "\n\nfrom mdtbench.harness import train\n\ntrain.CHECKPOINT_EVERY_S = 0.0\n"


@dataclass(frozen=True)
class Base:
    """The uninterrupted run that all others are compared with."""

    folder: Path
    out: Path
    plugin: Path
    result: Result
    rows: list[Row]

    def args(self, out: Path, *more: str) -> list[str]:
        """The command line of this run, to another folder."""
        changes = [word for setting in SETTINGS for word in ("--set", setting)]
        places = ["--out", str(out), "--cache", str(self.folder / "cache"), "--plugin", str(self.plugin)]
        what = ["--stages", "structure", "--methods", "cm,mine", "--limit", str(N_ASSETS)]
        return ["run", "--preset", "smoke", *what, *changes, *places, *more]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    folder = tmp_path_factory.mktemp("base")
    plugin = folder / "my_method.py"
    plugin.write_text(README.read_text().split("```python\n")[1].split("```")[0] + OFTEN)  # the README's own example
    unfinished = Base(folder, folder / "run", plugin, Result(0, "", ""), [])
    result = run_process(*unfinished.args(unfinished.out, "--workers", "2", "--set", "evaluate.batch=8"))
    assert result.code == 0, result.err
    return Base(folder, unfinished.out, plugin, result, read_rows(unfinished.out / "rows.jsonl"))


def place(row: Row) -> tuple:
    """What a row measures."""
    return row.method, row.variant, row.train_seed, row.sampler, row.steps, row.seed, row.metric


def values(rows: Sequence[Row]) -> dict[tuple, tuple]:
    """All that must not change from one run to the same run again."""
    return {place(row): (row.value, row.stderr, row.n_ok, row.nfe) for row in rows if row.metric != LATENCY_METRIC}


def students(out: Path) -> dict[str, int]:
    """Time of writing of every trained student."""
    return {str(path): path.stat().st_mtime_ns for path in out.glob("students/*/student.safetensors")}


def test_every_cell_has_one_row_per_metric(base: Base):
    places = [place(row) for row in base.rows]
    assert len(set(places)) == len(places)
    for (method, variant), steps in GENERATED.items():
        found = {(r.steps, r.seed): set() for r in base.rows if (r.method, r.variant) == (method, variant)}
        assert set(found) == {(n, seed) for n in steps for seed in (0, 1)}
        for row in base.rows:
            if (row.method, row.variant) == (method, variant):
                found[row.steps, row.seed].add(row.metric)
        against_itself = {"IoU_teacher", "MSE_teacher"} if method == "teacher" else set()
        assert all(metrics == {*METRICS.names(), LATENCY_METRIC} - against_itself for metrics in found.values())
    assert {row.method for row in base.rows} == {key[0] for key in GENERATED} | {
        "floor", "reconstruction", "shuffled", "truth"
    }  # fmt: skip


def test_students_have_rows_with_another_sampler_where_it_is_another(base: Base):
    found = {(r.method, r.sampler, r.own_sampler, r.steps) for r in base.rows if r.method in ("cm", "mine")}
    own = {(method, "renoise", True, steps) for method in ("cm", "mine") for steps in (1, 2)}
    assert found == own | {(method, "euler", False, 2) for method in ("cm", "mine")}
    assert {r.sampler for r in base.rows if r.method in ("none", "teacher")} == {"euler"}
    assert "\n  CM, euler " in base.result.out


def test_what_each_student_got_is_kept_and_printed(base: Base):
    found = {student.method: student for student in read_students(base.out)}
    assert set(found) == {"cm", "mine"}
    assert (found["cm"].steps, found["cm"].batch, found["cm"].forwards, found["cm"].skipped) == (8, 4, 6, 0)
    assert all(student.seconds and student.seconds > 0 for student in found.values())
    assert "Training budget" in base.result.out
    assert "Learning rates" not in base.result.out


def test_rows_tell_where_they_come_from(base: Base):
    assert {row.status for row in base.rows} == {"ok"}
    assert len({(row.run_id, row.config_sha, row.weights_sha, row.reference_sha) for row in base.rows}) == 1
    assert {row.n_total for row in base.rows} == {N_ASSETS}
    passes = {(row.method, row.variant, row.steps): row.nfe for row in base.rows if row.seed is not None}
    assert passes == {
        ("none", "", 1): 1,
        ("none", "", 2): 2,
        ("none", "cfg", 1): 2,
        ("none", "cfg", 2): 4,
        ("teacher", "", 25): 50,
        ("cm", "", 1): 1,
        ("cm", "", 2): 2,
        ("mine", "", 1): 1,
        ("mine", "", 2): 2,
    }
    assert {row.train_seed for row in base.rows if row.method in ("cm", "mine")} == {0}
    assert all(row.value and row.value > 0 for row in base.rows if row.metric == LATENCY_METRIC)


def test_both_tables_are_printed_and_progress_is_not_among_them(base: Base):
    out, err = base.result.out, base.result.err
    assert "Table 2. Distillation methods" in out
    assert "Table 3. Ablation" in out
    assert f"/{N_ASSETS} assets measured" in out
    assert out.endswith(f"Rows, picture grid and manifest: {base.out}\n")
    for phase in ("prepare toys-test: ", "prepare toys-train: ", "encode toys: ", "distil: ", "generate: "):
        assert phase in err
        assert phase not in out


def test_a_plug_in_file_gets_its_row(base: Base):
    """And it is the file that the README shows."""
    assert "mine" not in METHODS.names()
    assert [line for line in base.result.out.splitlines() if line.split()[:3] == ["mine", "1", "1"]]


def test_the_picture_grid_has_a_row_per_method_and_a_column_per_asset(base: Base):
    with Image.open(base.out / "grid.png") as picture:
        width, height = picture.size
    # condition, truth; undistilled; teacher; students at 1 and 2 steps, and once more with Euler's 2
    rows, side = 2 + 4 + 1 + 6, 112
    labels = width - N_ASSETS * (side + GAP) + GAP - PAD
    assert 2 * PAD < labels < 4 * side
    top = height - rows * (side + GAP) + GAP - PAD
    assert 2 * PAD < top < 4 * PAD


def test_the_manifest_has_the_provenance(base: Base):
    manifest = json.loads((base.out / "manifest.json").read_text())
    assert manifest["run_id"] == base.rows[0].run_id
    assert manifest["config"]["train"]["steps"] == 8
    assert manifest["config"]["evaluate"]["seeds"] == [0, 1]
    assert set(manifest["methods"]) == {"cm", "mine", "none", "none:cfg", "teacher"}
    assert manifest["test"]["limit"] == N_ASSETS
    assert manifest["world_sha256"] == base.rows[0].weights_sha
    assert {"torch", "numpy", "mdtbench"} <= set(manifest["versions"])
    assert manifest["finished_s"] > manifest["started_s"]
    assert manifest["peak_memory_gb"] > 0.1
    assert (base.out / "failures.csv").read_text() == "id,reason\n"


def test_students_leave_a_log_and_no_checkpoint(base: Base):
    folders = sorted((base.out / "students").iterdir())
    assert [folder.name.rsplit("-", 1)[0] for folder in folders] == ["cm-seed0", "mine-seed0"]
    for folder in folders:
        assert sorted(path.name for path in folder.iterdir()) == ["log.jsonl", "student.safetensors", "training.json"]
        steps = [json.loads(line)["step"] for line in (folder / "log.jsonl").read_text().splitlines()]
        assert steps == [0, 7]


def test_the_same_command_again_trains_nothing_and_measures_the_same(
    base: Base, mdtbench: Callable, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(METHODS, "_entries", dict(METHODS._entries))  # the plug-in comes into this process
    monkeypatch.setattr(train, "CHECKPOINT_EVERY_S", train.CHECKPOINT_EVERY_S)
    before = students(base.out)
    again = mdtbench(*base.args(base.out, "--workers", "1"))
    assert again.code == 0
    assert students(base.out) == before
    sys.modules.pop(base.plugin.stem)
    assert again.err == ""  # no phase had anything to do
    rows = read_rows(base.out / "rows.jsonl")
    assert values(rows) == values(base.rows)
    assert [place(row) for row in rows] == [place(row) for row in base.rows]


def interrupt(
    args: list[str], is_far_enough: Callable[[], bool], how: signal.Signals, parent_only: bool = False
) -> Result:
    """Start the command in a process group of its own; signal the group, or its first process alone, as soon as it
    has come that far. All processes of the group must then end."""
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as in jobs that a shell runs in the background
        signal.signal(signal.SIGINT, signal.default_int_handler)  # else the command would inherit that and ignore us
    with subprocess.Popen([*COMMAND, *args], **options) as process:
        try:
            wait_until(lambda: process.poll() is not None or is_far_enough())
            (os.kill if parent_only else os.killpg)(process.pid, how)
            out, err = process.communicate(timeout=PATIENCE_S)
            wait_until(lambda: not is_alive(process.pid))
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        return Result(process.returncode, out, err)


def wait_until(is_true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not is_true():
        assert time.monotonic() < deadline, "too slow"
        time.sleep(0.01)


def is_alive(group: int) -> bool:
    """Whether a process group has a process that is more than a zombie."""
    states = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, process_group = path.read_text().rpartition(")")[2].split()[:3]
            states += [state] if process_group == str(group) else []
    return any(state not in "ZX" for state in states)


def shapes(out: Path) -> list[Path]:
    return sorted(out.glob("shapes/*/*.npz"))


@pytest.fixture(scope="module")
def patched_up(base: Base) -> tuple[Path, list[str]]:
    """The base run with one process, one asset at a time, killed while it trains and again while it generates,
    then interrupted as from the keyboard, then finished. With what was found on the way."""
    out = base.folder / "patched"
    args = base.args(out, "--workers", "1", "--set", "evaluate.batch=1")
    found = []
    killed = interrupt(args, lambda: bool(list(out.glob("students/cm*/checkpoint.safetensors"))), signal.SIGKILL)
    found += [f"{killed.code}, {len(students(out))} students, {len(shapes(out))} shapes"]
    killed = interrupt(args, lambda: len(shapes(out)) >= 2, signal.SIGKILL, parent_only=True)
    found += [f"{killed.code}, {len(students(out))} students, some shapes: {2 <= len(shapes(out)) < 18}"]
    trained, n_before = students(out), len(shapes(out))
    stopped = interrupt(args, lambda: len(shapes(out)) > n_before, signal.SIGINT)
    found += [f"{stopped.code}, {stopped.out!r}, {stopped.err.splitlines()[-1]}"]
    found += [f"rows: {(out / 'rows.jsonl').exists()}"]
    finished = run_process(*args)
    assert finished.code == 0, finished.err
    found += [f"trained again: {students(out) != trained}"]
    return out, found


def test_a_killed_run_leaves_whole_results_only(patched_up: tuple[Path, list[str]]):
    _, found = patched_up
    assert found[0] == f"{-signal.SIGKILL}, 0 students, 0 shapes"
    assert found[1] == f"{-signal.SIGKILL}, 2 students, some shapes: True"


def test_an_interrupt_says_how_to_go_on(patched_up: tuple[Path, list[str]]):
    out, found = patched_up
    assert found[2] == f"130, '', mdtbench: interrupted; the same command goes on from {out}."
    assert found[3:] == ["rows: False", "trained again: False"]


def test_interruptions_processes_and_batches_change_no_value(base: Base, patched_up: tuple[Path, list[str]]):
    """Exactly: all values of the run with two processes, except times."""
    rows = read_rows(patched_up[0] / "rows.jsonl")
    assert values(rows) == values(base.rows)
    for path in students(base.out):
        twin = patched_up[0] / Path(path).relative_to(base.out)
        assert twin.read_bytes() == Path(path).read_bytes()


@pytest.fixture
def meshes(tmp_path: Path) -> Path:
    """Three good meshes in three formats and one file that is none."""
    folder = tmp_path / "my meshes"
    (folder / "round").mkdir(parents=True)
    trimesh.creation.box((1, 2, 3)).export(folder / "box.glb")
    trimesh.creation.icosphere(subdivisions=1).export(folder / "round" / "sphere.obj")
    trimesh.creation.cylinder(radius=1, height=3, sections=8).export(folder / "round" / "cylinder.ply")
    (folder / 'broken, "not" a mesh.glb').write_bytes(b"not a mesh")
    return folder


def test_meshes_of_ones_own_are_measured_and_a_broken_one_is_counted(meshes: Path, tmp_path: Path, mdtbench: Callable):
    out = tmp_path / "run"
    changes = ["--set", "evaluate.seeds=[0]", "--set", "evaluate.steps=[1]"]
    places = ["--out", out, "--cache", tmp_path / "cache", "--workers", "1"]
    done = mdtbench("run", "--preset", "smoke", "--methods", "", "--assets", meshes, *changes, *places)
    assert done.code == 0, done.err
    rows = read_rows(out / "rows.jsonl")
    n_ok = min(row.n_ok for row in rows if row.seed is not None)  # 3 unless an untrained network makes nothing
    assert f"{n_ok}/4 assets measured" in done.out
    assert [row.n_ok for row in rows if row.method == "truth"] == [3, 3]  # of structures, of whole assets
    assert {row.n_total for row in rows if row.stage == STRUCTURE} == {4}
    lines = [line for line in done.out.splitlines() if line.startswith('  broken, "not" a mesh: ')]
    assert len(lines) == 1
    with (out / "failures.csv").open(newline="") as stream:
        failures = list(csv.DictReader(stream))
    assert [failure["id"] for failure in failures] == ['broken, "not" a mesh']
    assert failures[0]["reason"]
    assert failures[0]["reason"] in lines[0]


def test_whole_assets_are_made_measured_and_written(tmp_path: Path, mdtbench: Callable):
    """Both stages of the shipped world, from the command line to files that other programs open."""
    out = tmp_path / "run"
    small = ("data.train=8", "train.steps=2", "train.batch=2", "evaluate.seeds=[0]", "evaluate.steps=[1]")
    changes = [word for setting in (*small, "evaluate.apart=[0]") for word in ("--set", setting)]
    places = ["--out", out, "--cache", tmp_path / "cache", "--workers", "1"]
    done = mdtbench("run", "--preset", "smoke", "--methods", "vm", "--limit", "2", *changes, "--export", "glb", *places)
    assert done.code == 0, done.err
    assert "Table 1" in done.out
    rows = [row for row in read_rows(out / "rows.jsonl") if row.stage != STRUCTURE]
    places_of_vm = {row.stage for row in rows if row.method == "vm"}
    assert places_of_vm == {BOTH, STRUCTURE_THEN_TEACHER, TEACHER_THEN_SLAT}
    fds = {row.method: row.value for row in rows if row.metric == "FD_tiny_mesh" and row.stage == BOTH}
    assert fds["reconstruction"] < min(fds["none"], fds["vm"])
    written = sorted((out / "export" / "teacher-25x2").glob("*.glb"))
    assert len(written) == 2
    assert all(len(trimesh.load_mesh(path).faces) > 100 for path in written)
    with Image.open(out / "grid.png") as grid:
        assert np.asarray(grid.convert("RGB")).std(axis=-1).max() > 50  # some of it is in colour


def test_a_folder_of_broken_meshes_is_a_missing_asset(tmp_path: Path, mdtbench: Callable):
    folder = tmp_path / "meshes"
    folder.mkdir()
    for name in ("a", "b"):
        (folder / f"{name}.obj").write_text("f 1 2 3\n")
    out = tmp_path / "run"
    done = mdtbench(
        "run", "--preset", "smoke", "--assets", folder, "--out", out, "--cache", tmp_path / "c", "--workers", "1"
    )
    assert (done.code, done.out) == (4, "")
    last = done.err.splitlines()[-1]
    assert last.startswith("mdtbench: 0 of 2 test assets can be used")
    assert str(out / "failures.csv") in last
    assert not (out / "rows.jsonl").exists()
