"""The Python interface: the words of the command line, data frames, styled tables, the notebook."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from report_run import write_run

import mdtbench
from mdtbench.base.errors import MissingError, UsageError
from mdtbench.base.files import write_json, write_text
from mdtbench.calls import arguments
from mdtbench.results.rows import read_rows

NOTEBOOK = Path(__file__).parents[1] / "docs" / "notebook.ipynb"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = write_run(tmp_path_factory.mktemp("run"))
    write_json(run / "manifest.json", {"run_id": read_rows(run / "rows.jsonl")[0].run_id})
    log = [{"step": step, "loss": 1.0 / (step + 1)} for step in range(3)]
    write_text(run / "students" / "cm-seed0-ab" / "log.jsonl", "".join(json.dumps(line) + "\n" for line in log))
    return run


def test_options_are_the_words_of_the_command_line():
    options = {
        "preset": "smoke",
        "methods": ["vm", "mdt"],
        "seeds": (0, 1),
        "set": {"train.steps": 3, "world": "tiny", "sweep.lr": [1e-3]},
        "plugin": ["a.py", "b.py"],
        "dry_run": True,
        "overwrite": False,
        "limit": None,
        "out": Path("runs/x"),
    }
    words = "--preset smoke --methods vm,mdt --seeds 0,1 --set train.steps=3 --set world=tiny --set sweep.lr=[0.001]"
    more = "--plugin a.py --plugin b.py --dry-run --out runs/x"
    assert arguments(options) == f"{words} {more}".split()


def test_a_dry_run_returns_nothing_and_prints_the_plan(capsys: pytest.CaptureFixture[str]):
    assert mdtbench.run(preset="oracle", dry_run=True) is None
    assert "students to train" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"stepz": 3}, "No such option: --stepz"),
        ({"limit": "few"}, "'--limit'"),
        ({"preset": "smok"}, "Did you mean 'smoke'?"),
        ({"preset": "smoke", "set": {"train.stepz": 3}}, "Did you mean 'train.steps'?"),
    ],
)
def test_errors_are_those_of_the_command(options: dict, says: str):
    with pytest.raises(UsageError, match=says.replace("?", r"\?")):
        mdtbench.run(**options)


def test_a_run_is_data_frames(folder: Path):
    run = mdtbench.load(folder)
    rows = read_rows(folder / "rows.jsonl")
    assert len(run.rows) == len(rows)
    assert run.rows["value"].dropna().tolist() == [row.value for row in rows if row.value is not None]
    assert set(run.rows["status"]) <= {"ok", "failed", "lost"}
    assert run.manifest == json.loads((folder / "manifest.json").read_text())
    assert {"asset", "metric", "value"} <= set(run.assets)
    assert {"step", "loss"} <= set(run.curves)


def test_tables_are_numbers_or_what_is_printed(folder: Path):
    run = mdtbench.load(folder)
    number, text = run.frame(2), run.table(2).data
    assert number.index.equals(text.index)
    metric = next(name for name in number if name.startswith("FD"))
    for value, printed in zip(number[metric], text[metric], strict=True):
        assert (value != value) == (printed[:1] not in "-0123456789" or printed == "-")
        if value == value:
            assert abs(float(printed.split()[0]) - value) <= 0.5 * 10 ** -len(printed.split()[0].partition(".")[2])
    html = run.table("table_2").to_html()
    assert "Table 2" in html
    assert f"{metric} ↓" in html
    assert html.count("font-weight: bold") == 1  # one rule, for all best cells
    with pytest.raises(UsageError, match=r"Available: .*table_2"):
        run.table(7)


def test_what_is_no_run_says_so(tmp_path: Path):
    with pytest.raises(MissingError, match="no finished run"):
        mdtbench.load(tmp_path)
    with pytest.raises(AttributeError, match="evalaute"):
        mdtbench.evalaute  # noqa: B018


def test_version_and_module():
    assert mdtbench.__version__ == version("mdtbench")
    done = subprocess.run([sys.executable, "-m", "mdtbench", "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"mdtbench {version('mdtbench')}\n")


def test_the_import_is_light():
    code = "import sys, mdtbench; print(sorted({'torch', 'pandas', 'typer', 'timm'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path):
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    written = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = {cell.source: cell.outputs for cell in notebook.cells if cell.cell_type == "code"}
    assert list(outputs) == written
    styled = next(out for source, out in outputs.items() if source.strip() == "run.table(2)")
    assert "Table 2" in styled[0]["data"]["text/html"]
    assert (tmp_path / "runs" / "notebook" / "rows.jsonl").is_file()
