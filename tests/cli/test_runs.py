"""Runs as data on the command line: list, show, import, parquet, several runs, completion."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pandas as pd
import pytest
from plans import planned, resolved

from mdtbench.base.files import write_json
from mdtbench.flow.samplers import SAMPLERS
from mdtbench.harness.bench.lockstep import BENCHMARKS
from mdtbench.harness.cli import completion
from mdtbench.harness.driver.export import FORMATS, NONE
from mdtbench.harness.driver.planning import STAGE_WORDS, RunOptions, make_plan
from mdtbench.harness.driver.run import manifest
from mdtbench.harness.engine.trackers import TRACKERS
from mdtbench.harness.plan.plan import Plan
from mdtbench.harness.pretrain import STAGES
from mdtbench.harness.settings.config import PRESETS, Budget
from mdtbench.methods import METHODS
from mdtbench.results.frames import to_rows
from mdtbench.results.rows import Row, read_rows, write_rows
from mdtbench.results.schema import row_schema


def row(method: str = "cm", value: float = 1.0, **changes) -> Row:
    at = {"run_id": "r", "status": "ok", "method": method, "method_version": 1, "train_seed": 0, "steps": 1, "nfe": 1}
    at |= {"seed": 0, "split": "test", "metric": "FD_tiny2d", "metric_version": 1, "value": value, "n_ok": 8}
    at |= {"n_total": 8, "higher_is_better": False, "config_sha": "c", "torch": "2", "device": "cpu"}
    return Row.model_validate(at | {"created_utc": "2026-11-21T12:00:00+00:00"} | changes)


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two runs under runs/, one of them unfinished."""
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "runs" / "first" / "rows.jsonl", [row(), row("floor", seed=None, train_seed=None)])
    write_rows(tmp_path / "runs" / "second" / "rows.jsonl", [row("mdt", 2.0, run_id="s")])
    return tmp_path / "runs"


def begun(folder: Path, *words: str, **changes) -> str:
    """The manifest that a run writes first, of a plan with changed options; the run's id. words: after `run`."""
    command = ("mdtbench", "run", "--preset", "smoke", *words) if words else ()
    plan = make_plan(RunOptions(**{"preset": "smoke", "train_seeds": (0, 2), "command": command, **changes}), Path("c"))
    return write_manifest(folder, plan)


def write_manifest(folder: Path, plan: Plan) -> str:
    """The manifest that a run of the plan writes first; the run's id."""
    folder.mkdir(parents=True)
    write_json(folder / "manifest.json", manifest(plan) | {"started_s": 1.0})
    return plan.run_id


def test_list_runs_is_a_table_of_what_there_is(mdtbench: Callable, runs: Path):
    begun(runs / "third", "--seeds", "0,2")
    done = mdtbench("list", "runs")
    assert (done.code, done.err) == (0, "")
    lines = {line.split()[0]: line for line in done.out.splitlines()}
    assert set(lines) == {"name", "first", "second", "third"}
    assert "unfinished, resumable" in lines["third"]
    assert re.search(r"run +smoke +cm,pcm,scm,vm,mdt +0,2 +0,1,2", lines["third"])
    assert "rows only" in lines["second"]
    assert mdtbench("list", "runs", "--in", runs).out == done.out
    assert mdtbench("list", "methods", "--in", runs).code == 2
    assert mdtbench("list", "runs", "--in", runs / "first").code == 4
    assert "Did you mean 'runs'?" in mdtbench("list", "runz").err


WORDS = ("--methods", "mdt,cm", "--set", "evaluate.seeds=[4, 5]", "--export", "glb", "--ranks", "2")


@pytest.mark.parametrize(
    ("words", "printed"),
    [
        (WORDS, (*WORDS, "--out", "runs/third")),  # by default the folder is named by the run's key
        ((*WORDS, "--out", "runs/third"), (*WORDS, "--out", "runs/third")),
        (("--out=runs/third", *WORDS), ("--out=runs/third", *WORDS)),
        (("--out", "elsewhere", *WORDS), (*WORDS, "--out", "runs/third")),  # it was moved
        (("--out=elsewhere", *WORDS), (*WORDS, "--out", "runs/third")),
    ],
)
def test_show_prints_the_words_that_began_a_run_and_lead_to_its_folder(
    mdtbench: Callable, runs: Path, words: tuple[str, ...], printed: tuple[str, ...]
):
    run_id = begun(runs / "third", *words)
    page = mdtbench("show", "third").out
    assert run_id in page
    command = re.search(r"resume: (.*)", page)[1]
    assert shlex.split(command) == ["mdtbench", "run", "--preset", "smoke", *printed]
    assert json.loads(mdtbench("show", "third", "-f", "json").out)["command"] == command


def test_a_run_of_an_earlier_version_has_no_command(mdtbench: Callable, runs: Path):
    begun(runs / "third")
    for page in (mdtbench("show", "third").out, mdtbench("show", "first").out):
        assert "no command is recorded" in page
        assert "resume: " not in page
    assert json.loads(mdtbench("show", "third", "-f", "json").out)["command"] is None


def test_show_tells_differences_from_the_preset(mdtbench: Callable, runs: Path):
    begun(runs / "third", methods=("cm",), changes=("train.steps=30", "methods.cm.delta=0.05"), stages="structure")
    page = mdtbench("show", runs / "third").out
    assert "train.steps = 30  (preset: 20)" in page
    assert "methods.cm.delta = 0.05  (preset: not set)" in page
    assert "slat = structure alone  (preset: both stages)" in page
    assert "cm v1: ConsistencyDistillation(" in page
    facts = json.loads(mdtbench("show", "third", "--format", "json").out)
    assert facts["changes"]["train.steps"] == {"preset": 20, "run": 30}
    assert (facts["state"], facts["setting"]) == ("unfinished", "smoke*")


def test_a_preset_of_ones_own_is_named_and_one_that_is_gone_is_told(mdtbench: Callable, runs: Path):
    shutil.copy(Path(str(PRESETS)) / "smoke.toml", "mine.toml")
    begun(runs / "third", preset="mine.toml")
    assert "preset: mine.toml\n" in mdtbench("show", "third").out
    Path("mine.toml").unlink()
    assert "not known: Unknown preset 'mine.toml'" in mdtbench("show", "third").out


def test_parameters_are_those_of_each_stage(mdtbench: Callable, runs: Path):
    """Where the world's guidance differs between the stages."""
    plan = planned(methods=("gd",))
    slat = replace(plan.world.samplers["slat"], cfg_strength=1.0)
    world = replace(plan.world, samplers={**plan.world.samplers, "slat": slat})
    write_manifest(runs / "third", resolved(plan, ("gd",), world=world))
    page = " ".join(mdtbench("show", "third").out.split())
    assert re.search(r"gd v1: structure: \w+\(cfg_strength=2\.0, .*; slat: \w+\(cfg_strength=1\.0, ", page)


def test_show_of_a_finished_run_and_of_what_failed(mdtbench: Callable, runs: Path):
    rows = [row(), row(seed=1, status="failed", value=None, error="loss is not finite", n_ok=0)]
    write_rows(runs / "first" / "rows.jsonl", rows)
    (runs / "first" / "failures.csv").write_text("where,id,reason\ntest,chair,no faces\n")
    for args in (["first"], ["runs/first"], ["run", "first"], [runs / "first"]):
        page = mdtbench("show", *args)
        assert page.code == 0
        assert "cm FD_tiny2d (structure): loss is not finite" in page.out
        assert "asset test chair: no faces" in page.out
        assert re.search(r"structure +2 +1/2 +FD_tiny2d", page.out)


def test_show_of_an_unknown_word_names_what_there_is(mdtbench: Callable, runs: Path):
    wrong = mdtbench("show", "frist")
    assert wrong.code == 2
    assert "Did you mean 'first'? Available: first, protocol, run, schema, second." in " ".join(wrong.err.split())
    assert "Did you mean 'protocol'?" in mdtbench("show", "protocl").err
    assert mdtbench("show", "run", "frist").code == 4
    assert mdtbench("show", "run").code == 4
    assert mdtbench("show", "first", "second").code == 2
    assert mdtbench("show", "first", "-f", "jsn").code == 2


def test_show_schema_and_protocol(mdtbench: Callable):
    assert json.loads(mdtbench("show", "schema").out) == row_schema()
    assert "trellis-v1" in mdtbench("show", "protocol").out


def test_report_takes_several_runs_in_every_format(mdtbench: Callable, runs: Path):
    pair = ("runs/first", "runs/second")
    for form in ("rich", "md", "latex", "json", "csv"):
        printed = mdtbench("report", *pair, "-f", form)
        assert (printed.code, printed.err) == (0, "")
        assert "VM+VD" in printed.out
        assert "CM" in printed.out
    lines = list(csv.DictReader(io.StringIO(mdtbench("report", *pair, "-f", "csv").out)))
    assert {(line["method"], line["value"]) for line in lines if line["source"] == "run"} >= {
        ("cm", "1.0"),
        ("mdt", "2.0"),
    }
    write_rows(runs / "second" / "rows.jsonl", [row("mdt", 2.0, run_id="s", n_total=9)])
    refused = mdtbench("report", *pair)
    assert (refused.code, refused.out) == (2, "")
    assert "runs/first and runs/second cannot be in one table" in refused.err


def test_report_writes_pages_of_several_runs(mdtbench: Callable, runs: Path):
    pair = ("runs/first", "runs/second")
    done = mdtbench("report", *pair, "-f", "html", "--out", "pages")
    assert (done.code, done.out) == (0, f"{Path('pages/index.html')}\n")
    text = Path("pages/index.html").read_text(encoding="utf-8")
    assert "Rows of 2 runs" in text
    assert "VM+VD" in text
    assert mdtbench("report", *pair, "-f", "html").code == 2
    assert mdtbench("report", "runs/first", "--out", "x.txt").code == 2


def test_report_writes_parquet(mdtbench: Callable, runs: Path):
    pytest.importorskip("pyarrow")

    def stored(path: Path) -> list[Row]:
        return to_rows(pd.read_parquet(path))

    assert mdtbench("report", "runs/first", "-f", "parquet").out == f"2 rows: {Path('runs/first/rows.parquet')}\n"
    assert stored(runs / "first" / "rows.parquet") == read_rows(runs / "first" / "rows.jsonl")
    assert mdtbench("report", "runs/first", "runs/second", "-f", "parquet", "--out", "all.parquet").code == 0
    assert [one.method for one in stored(Path("all.parquet"))] == ["cm", "floor", "mdt"]
    assert mdtbench("report", "runs/first", "runs/second", "-f", "parquet").code == 2


def test_import_makes_a_run_that_report_and_compare_take(mdtbench: Callable, runs: Path):
    Path("lgm.csv").write_text("metric,value,n\nFD_tiny2d,3,8\n")
    done = mdtbench("import", "lgm.csv", "--name", "LGM", "--like", "runs/first", "--out", "runs/lgm")
    assert done.out == f"Imported from lgm.csv, not measured here: {Path('runs/lgm')} (rows: 1)\n"
    shown = mdtbench("report", "runs/first", "runs/lgm", "-f", "md").out
    assert re.search(r"LGM.*\| 3\.0+ \| 8/8", shown)
    assert "imported from lgm.csv, not measured here" in shown
    assert re.search(r"lgm +imported +like first +LGM", mdtbench("list", "runs").out)
    assert "source: file lgm.csv" in mdtbench("show", "lgm").out
    compared = mdtbench("compare", "runs/lgm", "runs/first", "--methods", "LGM=cm", "--all")
    assert "FD_tiny2d" in compared.out
    assert mdtbench("import", "lgm.csv", "--name", "LGM", "--like", "runs/first", "--out", "runs/lgm").code == 0
    over = mdtbench("import", "lgm.csv", "--name", "LGM", "--like", "runs/first", "--out", "runs/first")
    assert (over.code, "not imported" in over.err) == (2, True)
    assert mdtbench("import", "lgm.csv", "--name", "a/b", "--like", "runs/first").code == 2


def completed(words: str, **env: str) -> list[str]:
    """What bash offers after the words."""
    line = {"_MDTBENCH_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split(" ")) - 1)}
    code = "import sys; sys.argv = ['mdtbench']; from mdtbench.harness.cli.app import main; main()"
    # In `finally`, as the command line ends the process: what it imported is the price of every key.
    code = f"try:\n {code}\nfinally:\n assert 'torch' not in sys.modules"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **line, **env}, capture_output=True, text=True, timeout=60
    )
    assert "AssertionError" not in done.stderr, done.stderr
    return done.stdout.split()


def test_the_shell_completes_values_without_torch(runs: Path):
    (runs / "first" / "manifest.json").write_text("{}")
    offers = {
        "run --methods cm,m": ["cm,mdt", "cm,meanflow"],
        "run --preset s": ["smoke"],
        "run --export glb,p": ["glb,ply", "glb,png"],
        "pretrain --track wandb,": ["wandb,mlflow", "wandb,tensorboard"],
        "evaluate made --protocol trellis-v1+su": ["trellis-v1+sub1250"],
        "show r": ["run", "runs/first"],
        "compare runs/first s": ["smoke-x86_64"],
    }
    assert {words: completed(f"mdtbench {words}") for words in offers} == offers


def test_completed_names_are_those_that_exist():
    assert list(completion.METHODS) == METHODS.names()
    assert set(completion.SAMPLERS) == set(SAMPLERS)
    assert set(completion.EXPORTS) == {*FORMATS, NONE}
    assert set(completion.TRACKERS) == set(TRACKERS)
    assert set(completion.STAGES) == set(STAGE_WORDS)
    assert set(completion.PRETRAINED) == set(STAGES)
    assert set(completion.BENCHMARKS) == {*BENCHMARKS, "gpu"}
    assert set(completion.BUDGETS) == set(get_args(Budget))
    assert completion.methods("cm,cm") == []  # what is there is not offered again
    assert completion.protocols("t") == ["tiny-v3", "trellis-v1"]
    assert "trellis-v1+smoke+as-is" in completion.protocols("trellis-v1+smoke+")
    assert "trellis-v1+smoke+smoke" not in completion.protocols("trellis-v1+smoke+")


@pytest.mark.parametrize(
    ("shell", "file"),
    [
        ("bash", ".bash_completions/mdtbench.sh"),
        ("zsh", ".zfunc/_mdtbench"),
        ("fish", ".config/fish/completions/mdtbench.fish"),
    ],
)
def test_completion_installs_in_a_home(tmp_path: Path, shell: str, file: str):
    env = os.environ | {"HOME": str(tmp_path), "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    code = "import sys; from mdtbench.harness.cli.app import main; sys.argv = ['mdtbench', *sys.argv[1:]]; main()"
    command = [sys.executable, "-c", code, "--install-completion", shell]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "_MDTBENCH_COMPLETE" in (tmp_path / file).read_text()
