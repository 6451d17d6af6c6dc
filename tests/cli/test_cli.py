"""The command line's surface: what it prints, its exit codes, and that a mistake costs one line and no computing."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command import run_process

from mdtbench.base.errors import MissingError, RunError
from mdtbench.harness.cli.app import VERBS, verb
from mdtbench.harness.cli.report import print_run
from mdtbench.harness.engine.files import load_arrays, save_arrays, save_tensors
from mdtbench.harness.inputs.world import world_folder
from mdtbench.methods import METHODS
from mdtbench.results.frames import rows_frame
from mdtbench.results.report import RunResults
from mdtbench.results.rows import SCHEMA_VERSION, Row

WITHOUT_TORCH = """
import sys
sys.argv = ["mdtbench", *{args!r}]
from mdtbench.harness.cli.app import main
code = 0
try:
    main()
except SystemExit as error:
    code = error.code or 0
assert "torch" not in sys.modules, "torch was imported"
sys.exit(code)
"""


def one_line(text: str) -> str:
    """The message of an error, which is one line and names the tool."""
    assert text.startswith("mdtbench: ")
    assert text.endswith("\n")
    assert text.count("\n") == 1
    return text.removeprefix("mdtbench: ").rstrip()


def without_torch(*args: str) -> subprocess.CompletedProcess[str]:
    """Run the command line, and fail if it imported torch."""
    code = WITHOUT_TORCH.format(args=args)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)


def test_help_lists_the_verbs_without_importing_torch():
    done = without_torch("--help")
    assert done.returncode == 0, done.stderr
    for name in ("run", "report", "list", "pretrain", "bench", "doctor"):
        assert f" {name} " in done.stdout


def commands() -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every verb with its words, those of a group too."""
    for name in VERBS:
        command = verb(name)
        assert command.help.replace("\n", " ").startswith(VERBS[name][1])  # which `--help` of all verbs prints
        group = getattr(command, "commands", {})
        yield from (((name, below), one) for below, one in group.items())
        if not group:
            yield (name,), command


@pytest.mark.parametrize(("words", "command"), list(commands()), ids=str)
def test_help_describes_every_option_and_eats_no_word(
    mdtbench: Callable, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], command: Any
):
    """What looks like markup, such as [slat], would be left out; on a narrow terminal nothing is cut short."""
    monkeypatch.setenv("TERMINAL_WIDTH", "80")
    monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", 80)
    narrow = mdtbench(*words, "--help")
    assert (narrow.code, "…" in narrow.out) == (0, False)
    assert max(map(len, narrow.out.splitlines())) <= 80
    monkeypatch.setenv("TERMINAL_WIDTH", "400")
    monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", 400)
    done = mdtbench(*words, "--help")
    assert done.code == 0
    printed = " ".join(done.out.split())
    assert " ".join(command.help.split()) in printed
    for parameter in command.params:
        assert parameter.help, parameter.name
        assert " ".join(parameter.help.split()) in printed
        assert all(name in printed for name in parameter.opts if name.startswith("-"))


def test_a_misspelt_method_is_a_usage_error_in_a_process_of_its_own():
    done = run_process("run", "--methods", "mtd")
    assert done.code == 2
    assert done.out == ""
    message = one_line(done.err)
    assert "Unknown method 'mtd'. Did you mean 'mdt'?" in message
    assert "mdtbench.methods" in message


@pytest.mark.parametrize(
    ("args", "parts"),
    [
        (["--set", "train.stps=3"], ["Unknown key 'train.stps'", "Did you mean 'train.steps'?"]),
        (["--set", "train.steps"], ["key=value"]),
        (["--set", "train.steps=-1"], ["train.steps", "(got -1)"]),
        (["--preset", "smoek"], ["Unknown preset 'smoek'", "Did you mean 'smoke'?"]),
        (["--seeds", "0,x"], ["--seeds", "'0,x'"]),
        (["--seeds", ","], ["--seeds", "at least one"]),
        (["--seeds", "-1", "--dry-run"], ["--seeds takes whole numbers from 0 on", "(got '-1')"]),
        (["--seeds", "0,-2"], ["--seeds takes whole numbers from 0 on", "(got '0,-2')"]),
        (["--steps", "0"], ["--steps", "(got 0)"]),
        (["--set", "world=tyni"], ["Unknown world 'tyni'", "Did you mean 'tiny'?"]),
        (["--set", "methods.vm.dleta=1"], ["Did you mean 'delta'?"]),
        (["--samplers", "euller"], ["Unknown sampler 'euller'", "Did you mean 'euler'?"]),
        (["--stages", "strcture"], ["Unknown value of --stages 'strcture'", "Did you mean 'structure'?"]),
        (["--export", "pgn"], ["Unknown export format 'pgn'", "Did you mean 'png'?"]),
        (["--stages", "structure", "--export", "glb"], ["--export writes whole assets"]),
        (["--device", "gpu"], ["Unknown value of --device 'gpu'. Did you mean 'cuda'?"]),
        (["--set", "protocol=tiny-v2"], ["Unknown protocol 'tiny-v2'", "Did you mean 'tiny-v3'?"]),
        (["--ranks", "2"], ["2 processes cannot share 1 part of a batch", "set train.parts to 2 or 4"]),
        (["--preset", "oracle", "--ranks", "2"], ["--ranks has no meaning"]),
        (["--preset", "oracle", "--methods", "vn"], ["Unknown method 'vn'", "Did you mean 'vm'?"]),
        (["--preset", "oracle", "--limit", "3"], ["--limit has no meaning"]),
        (["--preset", "oracle", "--set", "oracle.width2=3"], ["Did you mean 'oracle.width'?"]),
        (["--budget", "step"], ["train.budget", "'steps', 'forwards' or 'seconds'", "(got 'step')"]),
    ],
)
def test_a_usage_error_is_one_line_and_exit_code_2(mdtbench: Callable, args: list[str], parts: list[str]):
    done = mdtbench("run", *args)
    assert (done.code, done.out) == (2, "")
    message = one_line(done.err)
    for part in parts:
        assert part in message


def test_the_oracle_preset_ends_in_one_screen_and_has_a_table_per_problem(mdtbench: Callable, tmp_path: Path):
    small = ["--set", 'oracle.problems=["gaussian","modes"]', "--set", "oracle.width=8", "--set", "train.steps=3"]
    small += ["--set", "evaluate.samples=64", "--methods", "vm,cm", "--seeds", "0", "--steps", "1,2"]
    done = mdtbench("run", "--preset", "oracle", *small, "--out", tmp_path / "o", "--workers", "1")
    assert done.code == 0, done.err
    assert "gaussian" in done.out
    assert "modes" in done.out
    tables = mdtbench("report", tmp_path / "o", "--all").out
    assert "Exact answers: gaussian" in tables
    assert "Exact answers: modes" in tables
    assert (tmp_path / "o" / "figures" / "vm.png").exists()
    again = mdtbench("report", tmp_path / "o", "--format", "markdown")
    assert again.code == 0
    assert "transport" in again.out


def test_an_unreadable_preset_is_a_usage_error(mdtbench: Callable, tmp_path: Path):
    preset = tmp_path / "broken.toml"
    preset.write_text("[train\nsteps = 3")
    done = mdtbench("run", "--preset", preset)
    assert (done.code, done.out) == (2, "")
    assert "broken.toml" in one_line(done.err)


@pytest.mark.parametrize("args", [["train"], ["run", "--methds", "vm"], ["run", "--limit", "1"], ["list", "x", "y"]])
def test_an_unknown_verb_or_option_is_a_usage_error(mdtbench: Callable, args: list[str]):
    done = mdtbench(*args)
    assert (done.code, done.out) == (2, "")
    assert "Usage:" in done.err


def test_missing_and_empty_asset_folders_are_missing_files(mdtbench: Callable, tmp_path: Path):
    for folder in (tmp_path / "none", tmp_path / "empty"):
        if folder.name == "empty":
            folder.mkdir()
        done = mdtbench("run", "--assets", folder, "--out", tmp_path / "run")
        assert (done.code, done.out) == (4, "")
        assert folder.name in one_line(done.err)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("surely_no_module.py", None, 4),
        ("surely_no_module.py", "import nothing_of_this_name\n", 2),
        ("surely_no_module.py", "def broken(:\n", 2),
        ("surely_no_module.py", "x = 1\ny = undefined\n", 2),
        (
            "surely_no_module.py",
            "from mdtbench.methods import METHODS as m\nm.register('vm', version=1, source='')(1)",
            2,
        ),
        ("random.py", "", 2),  # would import the standard library's
        ("plug_in.txt", "", 4),
    ],
)
def test_a_plug_in_that_cannot_be_imported_is_one_line(
    mdtbench: Callable, tmp_path: Path, name: str, content: str | None, code: int
):
    path = tmp_path / name
    if content is not None:
        path.write_text(content)
    done = mdtbench("run", "--plugin", path, "--dry-run")
    assert (done.code, done.out) == (code, "")
    message = one_line(done.err)
    assert name in message
    if content and "\n" in content and "broken" not in message:
        lines = content.rstrip("\n").count("\n") + 1  # the mistake is in the last
        assert f"{path}:{lines}." in message


def test_a_changed_weight_file_is_found_before_anything_is_computed(mdtbench: Callable, tmp_path: Path):
    copied = Path(shutil.copytree(world_folder("tiny"), tmp_path / "world"))
    weights = copied / "ckpts" / "ss_flow.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    done = mdtbench("run", "--set", f"world={copied}", "--out", tmp_path / "run", "--cache", tmp_path / "cache")
    assert (done.code, done.out) == (4, "")
    assert "ss_flow.safetensors" in one_line(done.err)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["world"]


def test_a_dry_run_prints_the_plan_and_writes_nothing(
    mdtbench: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    done = mdtbench("run", "--preset", "smoke", "--methods", "vm,cm", "--dry-run", "--cache", tmp_path / "cache")
    assert (done.code, done.err) == (0, "")
    for text in ("protocol tiny-v3", "vm ", "cm ", "test assets: 32 of toys-test", "20 x 16", "(estimated)"):
        assert text in done.out
    assert "mdt " not in done.out
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_tells_of_samplers_budget_and_sweep(mdtbench: Callable, tmp_path: Path):
    places = ["--dry-run", "--cache", tmp_path / "cache"]
    plain = mdtbench("run", "--preset", "smoke", "--methods", "cm,mdt", *places)
    more = ["--samplers", "euler,renoise", "--steps", "1,2,4", "--budget", "forwards", "--set", "sweep.lr=[1e-4,1e-3]"]
    done = mdtbench("run", "--preset", "smoke", "--methods", "cm,mdt", *places, *more)
    assert (done.code, done.err) == (0, "")
    assert "cells: 21 of structures" in plain.out  # (cm, mdt, none) x 2, teacher; 3 generation seeds
    assert "cells: 42 of structures" in done.out  # 3 x 3, teacher; with Euler's at 2 and 4 of both students
    assert re.search(r"mdt +structure +9 x 16", done.out)  # 20 * 6 / 13
    assert "sweep of structure: 4 students" in done.out
    timed = mdtbench("run", "--preset", "smoke", "--methods", "cm", *places, "--budget", "seconds")
    assert "when the run has timed them" in timed.out
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_one_line_and_leaves_nothing(mdtbench: Callable, tmp_path: Path):
    blocker = tmp_path / "file"
    blocker.write_text("kept")
    done = mdtbench("run", "--preset", "smoke", "--out", blocker / "run", "--cache", tmp_path / "cache")
    assert (done.code, done.out) == (1, "")
    assert str(blocker) in one_line(done.err)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("file", "kept")]


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A mounted file system of 64 KB that has no byte left."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("mounting needs root on Linux")
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this machine does not let tests mount")
    try:
        with (folder / "filler").open("wb", buffering=0) as filler:
            filler.write(bytes(1 << 20))  # as much of it as fits
        assert shutil.disk_usage(folder).free == 0
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_one_line_and_leaves_no_half_file(mdtbench: Callable, full_disk: Path, tmp_path: Path):
    done = mdtbench("run", "--preset", "smoke", "--out", full_disk / "run", "--cache", tmp_path / "cache")
    assert (done.code, done.out) == (1, "")
    assert "No space left" in one_line(done.err)
    for write in (
        lambda path: save_arrays(path, {"a": np.arange(9000)}),
        lambda path: save_tensors(path, {"a": torch.ones(9000)}),
    ):
        with pytest.raises(RunError, match="No space left"):
            write(full_disk / "run" / "result")
    files = [path for path in full_disk.rglob("*") if path.is_file()]
    assert [path.name for path in files if path.stat().st_size] == ["filler"]  # beside the driver's empty lock


@pytest.mark.parametrize("keep", [0, 10, 400])
def test_a_damaged_array_file_is_a_missing_file(tmp_path: Path, keep: int):
    path = tmp_path / "arrays.npz"
    save_arrays(path, {"a": np.random.Generator(np.random.PCG64(0)).random(100)})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(MissingError, match=r"arrays\.npz is damaged"):
        load_arrays(path)


def test_an_array_file_with_a_changed_byte_is_a_missing_file(tmp_path: Path):
    path = tmp_path / "arrays.npz"
    save_arrays(path, {"a": np.zeros(1000)})
    data = bytearray(path.read_bytes())
    data[60:70] = b"\xff" * 10
    path.write_bytes(data)
    with pytest.raises(MissingError, match=r"arrays\.npz is damaged"):
        load_arrays(path)


def row(**values: object) -> dict:
    common = {
        "schema_version": 1, "run_id": "r", "status": "ok", "method": "vm", "method_version": 1, "train_seed": 0,
        "steps": 1, "nfe": 1, "cfg_strength": 2.0, "seed": 0, "split": "test", "metric": "IoU_truth",
        "metric_version": 1, "value": 0.25, "n_ok": 4, "n_total": 4, "higher_is_better": True, "config_sha": "c",
        "torch": "2", "device": "cpu", "created_utc": "2026-01-01T00:00:00+00:00",
    }  # fmt: skip
    return common | values


def test_report_prints_every_format_without_importing_torch(mdtbench: Callable, tmp_path: Path):
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row(seed=seed)) + "\n" for seed in (0, 1)))
    done = without_torch("report", str(tmp_path))
    assert done.returncode == 0, done.stderr
    marks = {
        "rich": "All tables: mdtbench report",
        "markdown": "### Table 2. Distillation",
        "latex": r"\begin{table",
        "csv": "IoU_truth",
        "json": '"table_2"',
    }
    for name, mark in marks.items():
        printed = mdtbench("report", tmp_path, "--format", name)
        assert (printed.code, printed.err) == (0, "")
        assert mark in printed.out
        assert "0.25" in printed.out
    assert "Table 3. Ablation" not in done.stdout
    everything = mdtbench("report", tmp_path, "--all").out
    assert "Table 2. Distillation" in everything
    assert "Table 3. Ablation" in everything
    wrong = mdtbench("report", tmp_path, "--format", "markdwon")
    assert wrong.code == 2
    message = one_line(wrong.err)
    assert "Did you mean 'markdown'?" in message
    assert all(name in message for name in ("html", "parquet", "power", "rich", "latex", "csv", "json"))
    nothing = mdtbench("report", tmp_path / "no_run", "--format", "x")  # before anything is looked for
    assert (nothing.code, "Unknown format 'x'" in one_line(nothing.err)) == (2, True)


@pytest.mark.parametrize(("lines", "closing"), [(10, ""), (24, ""), (24, "one\ntwo\n" + 90 * "x" + "\n"), (50, "")])
def test_the_screen_of_a_run_is_as_high_as_the_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, lines: int, closing: str
):
    """No lower than 24 lines; what is below, wrapped as it will be, and the prompt have room."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("LINES", str(lines))
    cells = [{"method": f"m{i}", "seed": seed, "value": i + seed / 9} for i in range(60) for seed in (0, 1)]
    rows = [Row.model_validate(row(**cell) | {"schema_version": SCHEMA_VERSION}) for cell in cells]
    print_run(RunResults(rows_frame(rows)), [Path("runs/today")], closing=closing)
    printed = capsys.readouterr().out
    wrapped = sum(max(1, -(-len(line) // 80)) for line in printed.splitlines())
    assert wrapped == max(24, lines) - 1
    assert printed.endswith(closing)
    shown = len([line for line in printed.splitlines() if re.match(r"m\d+ ", line)])
    assert f"{60 - shown} more lines." in printed


def test_report_takes_the_newest_run(mdtbench: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for age, value in ((10, 0.125), (5, 0.375)):
        path = tmp_path / "runs" / f"r{value}" / "rows.jsonl"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(row(value=value)) + "\n")
        then = path.stat().st_mtime - age
        os.utime(path, (then, then))
    assert "0.375" in mdtbench("report", "-f", "csv").out


def test_report_without_rows_is_a_missing_file(mdtbench: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for args in ([tmp_path], [tmp_path / "none"], []):
        done = mdtbench("report", *args)
        assert (done.code, done.out) == (4, "")
        assert "mdtbench run" in one_line(done.err)


def test_list_names_what_is_installed(mdtbench: Callable):
    methods = mdtbench("list", "methods")
    assert methods.code == 0
    listed = [line.split() for line in methods.out.splitlines() if line and not line.startswith(" ")]
    assert [words[0] for words in listed] == ["method", *METHODS.names(), "cost:"]
    costs = {words[0]: words[1] for words in listed}
    assert (costs["cm"], costs["mdt"], costs["teacher"]) == ("6", "13", "-")
    assert max(map(len, methods.out.splitlines())) <= 140
    assert [line.split()[0] for line in mdtbench("list", "samplers").out.splitlines()] == [
        "euler",
        "renoise",
        "phase",
        "flow_map",
    ]
    assert "FD_tiny2d" in mdtbench("list", "metrics").out
    assert {"smoke", "tiny"} <= set(mdtbench("list", "presets").out.split())
    assert "tiny" in mdtbench("list", "worlds").out.split()
    wrong = mdtbench("list", "metods")
    assert wrong.code == 2
    assert "Did you mean 'methods'?" in one_line(wrong.err)


def test_pretrain_needs_a_preset_with_its_table(mdtbench: Callable, tmp_path: Path):
    done = mdtbench("pretrain", "--preset", "smoke", "--out", tmp_path / "w")
    assert (done.code, done.out) == (2, "")
    assert "[pretrain]" in one_line(done.err)
    wrong = mdtbench("pretrain", "--stages", "techer", "--out", tmp_path / "w")
    assert wrong.code == 2
    assert "Did you mean 'teacher'?" in one_line(wrong.err)
    assert list(tmp_path.iterdir()) == []
