"""`mdtbench run` from end to end: rows, tables, resume after every kind of interruption, other meshes, a plug-in."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import trimesh
from command import COMMAND, Result, run_process
from PIL import Image

from mdtbench.harness.train import loop
from mdtbench.methods import METHODS
from mdtbench.metrics import METRICS
from mdtbench.results.asset_values import read_asset_values
from mdtbench.results.grid import GAP, PAD
from mdtbench.results.rows import (
    BOTH,
    COST_METRICS,
    LATENCY_METRIC,
    STRUCTURE,
    STRUCTURE_THEN_TEACHER,
    TEACHER_THEN_SLAT,
    Row,
    read_rows,
)
from mdtbench.results.students import read_students

README = Path(__file__).parents[2] / "README.md"
CASES = Path(__file__).parents[1] / "cases"
SETTINGS = (
    "train.steps=8",
    "train.batch=4",
    "train.parts=2",
    "data.train=16",
    "data.test=3",
    "evaluate.seeds=[0,1]",
    "evaluate.samplers=['euler']",
)
N_ASSETS = 2
GENERATED = {
    ("none", ""): (1, 2),
    ("teacher", ""): (25,),
    ("cm", ""): (1, 2),
    ("mine", ""): (1, 2),
}
COLUMNS = {name for name in METRICS.names() if METRICS.get(name).value.level == "structure"}
OF_PAIRS = {"coverage"}  # needs more pairs of samples of one picture than two assets have
PATIENCE_S = 240.0  # until a process that is to be interrupted has come that far, on a busy machine
# A checkpoint after every step, in the processes that import the plug-in: then a kill finds one.
OFTEN = "\n\nfrom mdtbench.harness.train import loop\n\nloop.CHECKPOINT_EVERY_S = 0.0\n"
BROKEN = """
from dataclasses import dataclass

from mdtbench.flow.samplers import Renoise
from mdtbench.methods import METHODS, Distillation


@METHODS.register("broken", version=1, source="test")
@dataclass(frozen=True, kw_only=True)
class Broken(Distillation):
    lr: float = 1e-3

    def loss(self, step):
        raise ValueError("no such luck")

    def sampler(self, n_steps):
        return Renoise(n_steps, self.rescale_t)

    def cost(self):
        return 1
"""


@dataclass(frozen=True)
class Base:
    """The uninterrupted run that all others are compared with."""

    folder: Path
    out: Path
    plugin: Path
    result: Result
    rows: list[Row]

    def args(self, out: Path, *more: str, methods: str = "cm,mine") -> list[str]:
        """The command line of this run, to another folder."""
        changes = [word for setting in SETTINGS for word in ("--set", setting)]
        places = ["--out", str(out), "--cache", str(self.folder / "cache"), "--plugin", str(self.plugin)]
        what = ["--stages", "structure", "--methods", methods, "--limit", str(N_ASSETS)]
        return ["run", "--preset", "smoke", *what, *changes, *places, *more]


def _example() -> str:
    """The method in the README."""
    blocks = [part.split("```")[0] for part in README.read_text(encoding="utf-8").split("```python\n")[1:]]
    return next(block for block in blocks if "METHODS.register" in block)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    folder = tmp_path_factory.mktemp("base")
    plugin = folder / "my_method.py"
    plugin.write_text(_example() + OFTEN)  # the README's own example
    unfinished = Base(folder, folder / "run", plugin, Result(0, "", ""), [])
    result = run_process(*unfinished.args(unfinished.out, "--workers", "2", "--set", "evaluate.batch=8"))
    assert result.code == 0, result.err
    return Base(folder, unfinished.out, plugin, result, read_rows(unfinished.out / "rows.jsonl"))


@pytest.fixture
def here(mdtbench: Callable, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Result]]:
    """The command line in this process, which forgets the plug-ins."""
    known = set(sys.modules)
    monkeypatch.setattr(METHODS, "_entries", dict(METHODS._entries))
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY_S", loop.CHECKPOINT_EVERY_S)
    yield mdtbench
    for name in {"my_method", "broken_method"} - known:
        sys.modules.pop(name, None)


def place(row: Row) -> tuple:
    """What a row measures."""
    return row.method, row.variant, row.train_seed, row.sampler, row.steps, row.seed, row.metric


def values(rows: Sequence[Row]) -> dict[tuple, tuple]:
    """All that must not change from one run to the same run again."""
    return {place(row): (row.value, row.stderr, row.n_ok, row.nfe) for row in rows if row.metric not in COST_METRICS}


def students(out: Path) -> dict[str, int]:
    """Time of writing of every trained student."""
    return {path.parent.name: path.stat().st_mtime_ns for path in out.glob("students/*/student.safetensors")}


def entries(out: Path, kind: str) -> list[Path]:
    return sorted(out.glob(f"store/*/{kind}/*/*.npz"))


def test_every_cell_has_one_row_per_metric(base: Base):
    places = [place(row) for row in base.rows]
    assert len(set(places)) == len(places)
    for (method, variant), steps in GENERATED.items():
        rows = [row for row in base.rows if (row.method, row.variant) == (method, variant)]
        found: dict[tuple, set[str]] = {}
        for row in rows:
            found.setdefault((row.steps, row.seed), set()).add(row.metric)
        assert set(found) == {(n, seed) for n in steps for seed in (0, 1)}
        against_itself = {"IoU_teacher", "MSE_teacher"} if method == "teacher" else set()
        assert all(metrics == {*COLUMNS, LATENCY_METRIC} - OF_PAIRS - against_itself for metrics in found.values())
    assert {row.method for row in base.rows} == {key[0] for key in GENERATED} | {
        "floor", "reconstruction", "shuffled", "truth"
    }  # fmt: skip


def test_students_have_rows_with_another_sampler_where_it_is_another(base: Base, here: Callable):
    found = {(r.method, r.sampler, r.own_sampler, r.extra_sampler, r.steps) for r in base.rows}
    of_students = {one for one in found if one[0] in ("cm", "mine")}
    own = {(method, "renoise", True, False, steps) for method in ("cm", "mine") for steps in (1, 2)}
    assert of_students == own | {(method, "euler", False, True, 2) for method in ("cm", "mine")}
    assert {one[1:4] for one in found if one[0] in ("none", "teacher")} == {("euler", True, False)}
    assert "\n  CM, euler " in here("report", base.out, "--all").out


def test_what_each_student_got_is_kept_and_printed(base: Base, here: Callable):
    found = {student.method: student for student in read_students(base.out)}
    assert set(found) == {"cm", "mine"}
    assert (found["cm"].steps, found["cm"].batch, found["cm"].forwards, found["cm"].skipped) == (8, 4, 6, 0)
    assert all(student.seconds and student.seconds > 0 for student in found.values())
    tables = here("report", base.out, "--all").out
    assert "Training budget" in tables
    assert "Learning rates" not in tables


def test_rows_tell_where_they_come_from(base: Base):
    assert {row.status for row in base.rows} == {"ok"}
    assert len({(row.run_id, row.config_sha, row.weights_sha, row.reference_sha) for row in base.rows}) == 1
    assert {row.n_total for row in base.rows if row.metric != LATENCY_METRIC} == {N_ASSETS}
    passes = {(row.method, row.variant, row.steps): row.nfe for row in base.rows if row.seed is not None}
    assert passes == {(*key, n): n for key, steps in GENERATED.items() for n in steps}  # the world has no guidance
    assert {row.train_seed for row in base.rows if row.method in ("cm", "mine")} == {0}
    assert all(row.value and row.value > 0 for row in base.rows if row.metric == LATENCY_METRIC)


def test_tables_are_printed_and_progress_is_not_among_them(base: Base):
    out, err = base.result.out, base.result.err
    assert re.search(r"CM +1 +1 ", out)
    assert "All tables: mdtbench report" in out
    assert f"{N_ASSETS}/{N_ASSETS} assets measured" in out
    assert out.endswith(f"Rows, picture grid and manifest: {base.out}\n")
    for phase in ("prepare toys-test: ", "prepare toys-train: ", "latents of toys-train: ", "distil: ", "structures: "):
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
    rows, side = 2 + 2 + 1 + 6, 112
    labels = width - N_ASSETS * (side + GAP) + GAP - PAD
    assert 2 * PAD < labels < 4 * side
    top = height - rows * (side + GAP) + GAP - PAD
    assert 2 * PAD < top < 4 * PAD


def test_the_manifest_has_the_provenance(base: Base):
    manifest = json.loads((base.out / "manifest.json").read_text())
    assert manifest["run_id"] == base.rows[0].run_id
    assert manifest["preset"] == "smoke"
    assert manifest["command"][:2] == ["mdtbench", "run"]
    assert {"--plugin", str(base.plugin), "--workers"} < set(manifest["command"])
    assert manifest["config"]["train"]["steps"] == 8
    assert manifest["config"]["evaluate"]["seeds"] == [0, 1]
    assert set(manifest["methods"]) == {"cm", "mine", "none", "teacher"}
    assert manifest["test"]["limit"] == N_ASSETS
    assert manifest["world_sha256"] == base.rows[0].weights_sha
    assert {"torch", "numpy", "mdtbench"} <= set(manifest["versions"])
    assert manifest["finished_s"] > manifest["started_s"]
    assert manifest["peak_memory_gb"] > 0.1
    assert (base.out / "failures.csv").read_text() == "where,id,reason\n"


def test_students_leave_a_log_and_no_checkpoint(base: Base):
    folders = sorted((base.out / "students").iterdir())
    assert [folder.name.rsplit("-", 1)[0] for folder in folders] == ["structure-cm-seed0", "structure-mine-seed0"]
    for folder in folders:
        kept = ["log.jsonl", "student-ema0.0.safetensors", "student.safetensors", "training.json"]
        assert sorted(path.name for path in folder.iterdir()) == kept
        steps = [json.loads(line)["step"] for line in (folder / "log.jsonl").read_text().splitlines()]
        assert steps == [0, 7]


def test_the_command_that_show_prints_trains_nothing_and_measures_the_same(base: Base, here: Callable):
    before = students(base.out)
    page = here("show", base.out).out
    [command] = [line.partition("made by: ")[2] for line in page.splitlines() if "made by: " in line]
    again = here(*shlex.split(command)[1:])
    assert again.code == 0
    assert students(base.out) == before
    assert again.err == ""  # no phase had anything to do
    assert [(place(row), row.value) for row in read_rows(base.out / "rows.jsonl")] == [
        (place(row), row.value)
        for row in base.rows  # times as well: they are results that are kept
    ]


def test_a_folder_of_another_configuration_is_refused_and_the_keys_are_named(base: Base, here: Callable):
    before = (base.out / "manifest.json").read_bytes()
    for more in ([], ["--dry-run"]):
        done = here(*base.args(base.out, "--set", "train.steps=9", *more))
        assert (done.code, done.out) == (2, "")
        assert "config.train.steps: 8 there, 9 here" in done.err
        assert "--overwrite" in done.err
    assert (base.out / "manifest.json").read_bytes() == before


def test_overwriting_keeps_what_is_the_same_and_a_method_that_raises_is_a_failed_row(base: Base, here: Callable):
    out = Path(shutil.copytree(base.out, base.folder / "overwritten"))
    plugin = base.folder / "broken_method.py"
    plugin.write_text(BROKEN)
    more = ["--plugin", str(plugin), "--set", "evaluate.steps=[1]", "--overwrite", "--workers", "1"]
    done = here(*base.args(out, *more, methods="cm,broken"))
    assert done.code == 2
    assert "mdtbench: 1 student failed by the method's code." in done.err
    [told] = [line for line in done.err.splitlines() if line.startswith("mdtbench: broken failed: ")]
    assert f"ValueError: no such luck (step 0, {plugin}:14, " in told
    assert "distil: " in done.err.split(told)[1]  # at once: the others were still training
    assert students(out).keys() == students(base.out).keys()
    rows = read_rows(out / "rows.jsonl")
    assert values([row for row in rows if row.method == "cm"]).items() <= values(base.rows).items()
    failed = [row for row in rows if row.method == "broken"]
    assert {row.metric for row in failed} >= COLUMNS
    assert {(row.status, row.value, row.n_ok) for row in failed} == {("failed", None, 0)}
    assert all("no such luck" in row.error and "broken_method.py:" in row.error for row in failed)
    again = here(*base.args(out, *more[:-3], methods="cm,broken"))
    assert again.code == 2
    assert "known from an earlier call" in again.out
    alone = here(*base.args(base.folder / "alone", *more[:-3], methods="broken"))
    assert (alone.code, alone.out) == (2, "")
    assert "mdtbench: No student is left, all 1 failed by their method's code: ValueError: no such luck" in alone.err
    assert not (base.folder / "alone" / "rows.jsonl").exists()


def test_damaged_results_are_made_again(base: Base, here: Callable):
    out = Path(shutil.copytree(base.out, base.folder / "damaged"))
    for kind in ("structures", "scores"):
        path = entries(out, kind)[0]
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    again = here(*base.args(out, "--workers", "1"))
    assert again.code == 0
    assert "It is begun anew now." in again.err
    assert len(list((out / "store" / "quarantine").glob("*.npz"))) == 2
    assert values(read_rows(out / "rows.jsonl")) == values(base.rows)


@contextlib.contextmanager
def started(args: list[str]) -> Iterator[subprocess.Popen[str]]:
    """The command in a process group of its own, all of which has to be gone in the end."""
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    with subprocess.Popen([*COMMAND, *args], **options) as process:
        try:
            yield process
            wait_until(lambda: not is_alive(process.pid))
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def interrupt(
    args: list[str],
    is_far_enough: Callable[[], bool],
    how: signal.Signals,
    parent_only: bool = False,
    meanwhile: Callable[[], None] = lambda: None,
) -> Result:
    """Signal the command's group, or its first process alone, as soon as it has come that far."""
    with started(args) as process:
        wait_until(lambda: process.poll() is not None or is_far_enough())
        os.killpg(process.pid, signal.SIGSTOP)  # it gets no further meanwhile
        meanwhile()
        (os.kill if parent_only else os.killpg)(process.pid, how)
        os.killpg(process.pid, signal.SIGCONT)
        out, err = process.communicate(timeout=PATIENCE_S)
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


@pytest.fixture(scope="module")
def patched_up(base: Base) -> tuple[Path, list[str]]:
    """The base run with one process, one asset at a time, killed while it trains, when it has trained and while it
    generates, interrupted as from the keyboard while it measures, then finished. With what was found on the way."""
    out = base.folder / "patched"
    args = base.args(out, "--workers", "1", "--set", "evaluate.batch=1")
    found: list[str] = []

    def note(done: Result, kind: str) -> None:
        some = 0 < len(entries(out, kind)) < len(entries(base.out, kind))
        found.append(f"{done.code}, {len(students(out))} students, some {kind}: {some}")

    def second() -> None:
        refused = run_process(*args)
        found.append(
            f"{refused.code}, {refused.err.replace(str(out), 'OUT').partition(' since')[0].rstrip('0123456789')}"
        )

    checkpoint = "students/structure-cm*/checkpoint.safetensors"
    note(interrupt(args, lambda: bool(list(out.glob(checkpoint))), signal.SIGKILL), "structures")
    note(interrupt(args, lambda: len(students(out)) == 2, signal.SIGKILL), "looks")
    note(interrupt(args, lambda: bool(entries(out, "structures")), signal.SIGKILL, parent_only=True), "structures")
    trained = students(out)
    stopped = interrupt(args, lambda: bool(entries(out, "looks")), signal.SIGINT, meanwhile=second)
    found.append(f"{stopped.code}, {stopped.out!r}, {stopped.err.splitlines()[-1]}")
    found.append(f"rows: {(out / 'rows.jsonl').exists()}")
    finished = run_process(*args)
    assert finished.code == 0, finished.err
    found.append(f"trained again: {students(out) != trained}")
    return out, found


@pytest.mark.slow
def test_a_killed_run_leaves_whole_results_only(patched_up: tuple[Path, list[str]]):
    _, found = patched_up
    assert found[0] == f"{-signal.SIGKILL}, 0 students, some structures: False"
    assert found[1] == f"{-signal.SIGKILL}, 2 students, some looks: False"
    assert found[2] == f"{-signal.SIGKILL}, 2 students, some structures: True"


@pytest.mark.slow
def test_a_second_driver_is_refused_while_the_first_is_at_work(patched_up: tuple[Path, list[str]]):
    assert patched_up[1][3].startswith("2, mdtbench: OUT is being written by process ")


@pytest.mark.slow
def test_an_interrupt_says_how_to_go_on(patched_up: tuple[Path, list[str]]):
    out, found = patched_up
    assert found[4] == f"130, '', mdtbench: interrupted; the same command continues from {out}."
    assert found[5:] == ["rows: False", "trained again: False"]


@pytest.mark.slow
def test_interruptions_processes_and_batches_change_no_value(base: Base, patched_up: tuple[Path, list[str]]):
    """Exactly: all values of the run with two processes, except times."""
    out, _ = patched_up
    assert values(read_rows(out / "rows.jsonl")) == values(base.rows)
    for name in students(base.out):
        for file in ("student.safetensors", "student-ema0.0.safetensors"):
            assert (out / "students" / name / file).read_bytes() == (base.out / "students" / name / file).read_bytes()


@pytest.mark.slow
def test_ranks_end_with_a_killed_parent_and_change_no_bit(base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # where the processes find their job
    out = base.folder / "ranks"
    args = [*base.args(out, "--workers", "1", "--set", "evaluate.steps=[1]", methods="cm"), "--ranks", "2"]

    def far() -> bool:
        return is_named(tmp_path) and any(out.glob("students/structure-cm*/checkpoint.safetensors"))

    assert interrupt(args, far, signal.SIGKILL, parent_only=True).code == -signal.SIGKILL
    wait_until(lambda: not is_named(tmp_path))
    done = run_process(*args)
    assert done.code == 0, done.err
    [name] = students(out)
    for file in ("student.safetensors", "student-ema0.0.safetensors"):
        assert (out / "students" / name / file).read_bytes() == (base.out / "students" / name / file).read_bytes()


def is_named(folder: Path) -> bool:
    """Whether a process has a path below the folder among its words."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if any(word.startswith(os.fsencode(folder)) for word in path.read_bytes().split(b"\0")):
                return True
    return False


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


@pytest.mark.slow
def test_whole_assets_are_made_of_meshes_of_ones_own_and_a_broken_one_is_counted(
    meshes: Path, tmp_path: Path, mdtbench: Callable
):
    """Both stages of the shipped world, from the command line to files that other programs open."""
    out = tmp_path / "run"
    shutil.copy(CASES / "01-float-colours-above-one" / "over.glb", meshes / "box.glb")  # a box with a note
    small = ("data.train=8", "train.steps=2", "train.batch=2", "slat.steps=2", "slat.batch=2", "evaluate.whole=2")
    small = (*small, "evaluate.seeds=[0]", "evaluate.steps=[1]", "evaluate.apart=[0]")
    changes = [word for setting in small for word in ("--set", setting)]
    places = ["--out", out, "--cache", tmp_path / "cache", "--workers", "1"]
    done = mdtbench(
        "run", "--preset", "smoke", "--methods", "vm", "--assets", meshes, *changes, "--export", "glb", *places
    )
    assert done.code == 0, done.err
    assert "All tables: mdtbench report" in done.out
    rows = read_rows(out / "rows.jsonl")
    assert {row.stage for row in rows if row.method == "vm"} == {
        STRUCTURE, BOTH, STRUCTURE_THEN_TEACHER, TEACHER_THEN_SLAT
    }  # fmt: skip
    fds = {row.method: row.value for row in rows if row.metric == "FD_tiny_mesh" and row.stage == BOTH}
    assert fds["reconstruction"] < min(fds["none"], fds["vm"])
    measured = [row for row in rows if row.metric not in COST_METRICS]
    assert {row.n_ok for row in measured if row.method == "truth" and row.stage == STRUCTURE} == {3}
    assert {row.n_total for row in measured if row.stage == STRUCTURE} == {4}
    lines = [line for line in done.out.splitlines() if line.startswith('  broken, "not" a mesh: ')]
    assert len(lines) == 1
    with (out / "failures.csv").open(newline="") as stream:
        [failure] = [one for one in csv.DictReader(stream) if one["where"] == "test"]
    assert failure["id"] == 'broken, "not" a mesh'
    assert lines[0].endswith(f": {failure['reason']}")
    note = "some of its colours lie outside [0, 1] (up to 1.003) and are clipped"
    assert "1 test asset with notes:\n" + f"  box: {note}\n" in done.out
    values = read_asset_values(out)
    assert {(one.asset, one.note) for one in values if one.method == "vm" and one.note} == {("box", note)}
    assert {row.note for row in measured if row.method == "truth"} == {
        "1 of 3 test assets has notes (assets.jsonl)", "1 of 2 test assets has notes (assets.jsonl)"
    }  # fmt: skip
    written = sorted((out / "export" / "teacher-25x2").rglob("*.glb"))
    assert len(written) == 2
    assert all(len(trimesh.load_mesh(path).faces) > 100 for path in written)
    with Image.open(out / "grid.png") as grid:
        assert np.asarray(grid.convert("RGB")).std(axis=-1).max() > 50  # some of it is in colour


def test_a_folder_of_broken_meshes_is_a_missing_asset(tmp_path: Path, mdtbench: Callable):
    folder = tmp_path / "meshes"
    folder.mkdir()
    for name in ("a", "b"):
        (folder / f"{name}.obj").write_text("f 1 2 3\n")
    places = ["--out", tmp_path / "run", "--cache", tmp_path / "c", "--workers", "1"]
    done = mdtbench("run", "--preset", "smoke", "--assets", folder, *places)
    assert (done.code, done.out) == (4, "")
    assert done.err.splitlines()[-1].startswith("mdtbench: 0 of 2 test assets can be used")
    assert "First reason: " in done.err
    assert not (tmp_path / "run" / "rows.jsonl").exists()
