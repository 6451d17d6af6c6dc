"""`mdtbench compare`: exit codes, formats, shipped baselines, and that it needs no torch."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mdtbench.harness.cli import compare as compare_command
from mdtbench.results.asset_values import AssetValue, read_asset_values, write_asset_values
from mdtbench.results.rows import Row, read_rows, write_rows

_SPEC = importlib.util.spec_from_file_location("results_make", Path(__file__).parents[1] / "results" / "make.py")
make = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(make)

WITHOUT_TORCH = """
import sys
sys.argv = ["mdtbench", "compare", sys.argv[1], sys.argv[1]]
from mdtbench.harness.cli.app import main
try:
    main()
finally:
    assert "torch" not in sys.modules, "torch was imported"
"""


def worse(rows: list[Row]) -> list[Row]:
    """The same run with the FD of one method a hundred higher."""
    change = [row.method == "mdt" and row.metric == "FD_tiny2d" for row in rows]
    return [
        row.model_copy(update={"value": row.value + 100}) if c else row for row, c in zip(rows, change, strict=True)
    ]


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Folders `good` and `bad` of runs."""
    write_rows(tmp_path / "good" / "rows.jsonl", make.run())
    write_rows(tmp_path / "bad" / "rows.jsonl", worse(make.run()))
    return tmp_path


def test_the_same_run_exits_with_0_and_without_torch(runs: Path):
    command = [sys.executable, "-c", WITHOUT_TORCH, str(runs / "good")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "0 worse, 0 better, 27 same, 0 not comparable (10 of seconds: not judged)"


def test_a_regression_exits_with_3_and_is_listed(runs: Path, mdtbench: Callable):
    done = mdtbench("compare", runs / "bad", runs / "good" / "rows.jsonl")
    assert (done.code, done.err) == (3, "")
    lines = done.out.splitlines()
    assert lines[-1].startswith("2 worse, 0 better, 25 same, 0 not comparable")
    assert sum("VM+VD" in line for line in lines[lines.index("Worse") : lines.index("")]) == 2
    assert mdtbench("compare", runs / "good", runs / "bad").code == 0  # better
    assert mdtbench("compare", runs / "bad", runs / "good", "--metrics", "ULIP_tiny").code == 0
    assert mdtbench("compare", runs / "bad", runs / "good", "--methods", "cm,vm").code == 0


def test_methods_of_one_run_are_judged_by_its_verdicts(runs: Path, mdtbench: Callable):
    done = mdtbench("compare", runs / "good", runs / "good", "--methods", "cm=mdt")
    assert done.code == 0  # a question, no check
    assert done.out.startswith(f"CM against VM+VD in {runs / 'good'}\n")
    heads = done.out.splitlines()[1].split("  ")
    assert [head.strip() for head in heads if head.strip()][-3:] == ["Smallest", "CM", "VM+VD"]
    assert "Difference: CM minus VM+VD, ±" in done.out
    assert mdtbench("compare", runs / "good", "--methods", "cm=mdt").out == done.out  # one run needs no baseline
    assert "as in the report's verdicts" in " ".join(done.out.split())
    assert done.out.splitlines()[-1].startswith("4 worse, 0 better, 0 same")  # no controls, which say nothing here
    both = mdtbench("compare", runs / "good", runs / "good", "--methods", "cm=mdt,vm")
    assert "beyond its tolerance" in " ".join(both.out.split())  # not all are pairs: as any two runs


@pytest.mark.parametrize("width", [60, 80, 100, 140])
def test_the_terminal_is_as_wide_as_it_is(runs: Path, mdtbench: Callable, monkeypatch: pytest.MonkeyPatch, width: int):
    monkeypatch.setenv("COLUMNS", str(width))
    done = mdtbench("compare", runs / "good", runs / "good", "--methods", "cm=mdt")
    table = done.out[: done.out.index("Difference: CM minus VM+VD")]
    assert max(map(len, table.splitlines())) <= width
    assert "…" not in table
    assert "-4.0 ± 0.0" in table


def test_json_holds_every_number(runs: Path, mdtbench: Callable):
    done = mdtbench("compare", runs / "bad", runs / "good", "--format", "json")
    found = json.loads(done.out)
    assert (done.code, found["regression"], found["schema_version"]) == (3, True, 1)
    found = [one for one in found["comparison"]["differences"] if one["verdict"] == "worse"]
    assert [one["steps"] for one in found] == [1, 2]
    assert [one["difference"] for one in found] == [100.0, 100.0]
    assert found[0]["pairing"] == "seeds"


def test_markdown_shows_the_verdicts(runs: Path, mdtbench: Callable):
    done = mdtbench("compare", runs / "bad", runs / "good", "-f", "markdown")
    assert done.code == 3
    assert "| *Worse* |" in done.out
    assert done.out.splitlines()[-1].startswith("2 worse")


def test_a_file_of_tolerances_is_used(runs: Path, mdtbench: Callable):
    path = runs / "t.toml"
    path.write_text("FD_tiny2d = { absolute = 101 }\n")
    done = mdtbench("compare", runs / "bad", runs / "good", "--tolerance", path)
    assert done.code == 0
    assert "Tolerances of" in done.out
    path.rename(runs / "good" / "tolerances.toml")  # brought along by the baseline
    assert mdtbench("compare", runs / "bad", runs / "good").code == 0


def test_baselines_are_saved_and_found_by_name(runs: Path, mdtbench: Callable, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(compare_command, "BASELINES", runs / "baselines")
    done = mdtbench("compare", runs / "good", "--save", runs / "baselines" / "smoke-cpu")
    assert (done.code, done.err) == (0, "")
    assert read_rows(runs / "baselines" / "smoke-cpu" / "rows.jsonl") == make.run()
    assert mdtbench("compare", runs / "good", "smoke-cpu").code == 0
    assert mdtbench("compare", runs / "bad", "smoke-cpu").code == 3
    done = mdtbench("compare", runs / "bad", "smoke-cup")
    assert done.code == 2
    assert "Unknown baseline 'smoke-cup'. Did you mean 'smoke-cpu'?" in done.err


def test_a_run_with_failures_is_no_baseline(runs: Path, mdtbench: Callable):
    write_rows(runs / "failed" / "rows.jsonl", [make.row(value=None)])
    done = mdtbench("compare", runs / "failed", "--save", runs / "b")
    assert done.code == 2
    assert not (runs / "b").exists()


def test_a_check_that_compares_nothing_does_not_pass(runs: Path, mdtbench: Callable):
    other = [row.model_copy(update={"weights_sha": "f" * 64}) for row in make.run()]
    write_rows(runs / "other" / "rows.jsonl", other)
    done = mdtbench("compare", runs / "other", runs / "good")
    assert done.code == 2
    assert "Nothing can be compared (other networks" in done.err


@pytest.mark.parametrize(
    ("args", "code", "part"),
    [
        (["good"], 2, "needs one of: a BASELINE, --methods mine=vm"),
        (["good", "good", "--save", "x"], 2, "needs one of: a BASELINE"),
        (["good", "--methods", "cm"], 2, "needs one of: a BASELINE"),
        (["good", "no/such"], 4, "There is no run at no/such"),
        (["good", "good", "--format", "txet"], 2, "Did you mean 'text'?"),
        (["good", "good", "--metrics", "FD_tiny2"], 2, "Did you mean 'FD_tiny2d'?"),
        (["good", "good", "--tolerance", "t.toml"], 4, "Missing file t.toml"),
    ],
)
def test_mistakes_are_one_line(
    runs: Path, mdtbench: Callable, monkeypatch: pytest.MonkeyPatch, args: list[str], code: int, part: str
):
    monkeypatch.chdir(runs)
    done = mdtbench("compare", *args)
    assert (done.code, done.err.count("\n")) == (code, 1)
    assert part in done.err


def one_seed(folder: Path, shift: float) -> list[AssetValue]:
    """A run of one seed and its assets; each up by `shift`, though they differ by far more."""
    scores = {name: 10.0 * index + shift * (1 + index / 100) for index, name in enumerate("abcdef")}
    mean = sum(scores.values()) / 6
    write_rows(folder / "rows.jsonl", [make.row(metric="ULIP_tiny", value=mean, stderr=7.6, higher_is_better=True)])
    values = [make.asset(name, {"ULIP_tiny": score}) for name, score in scores.items()]
    write_asset_values(folder, values)
    return values


def test_assets_are_paired_and_kept_in_baselines(tmp_path: Path, mdtbench: Callable, monkeypatch: pytest.MonkeyPatch):
    one_seed(tmp_path / "good", 0.0)
    one_seed(tmp_path / "bad", -1.0)
    good, bad, kept = tmp_path / "good", tmp_path / "bad", tmp_path / "kept"
    done = mdtbench("compare", bad, good)
    assert (done.code, done.err) == (3, "")
    assert "of the differences of the same assets" in done.out
    done = mdtbench("compare", good, "--save", kept)
    assert done.out.splitlines()[1].startswith("6 values of assets at")
    assert read_asset_values(kept) == read_asset_values(good)
    assert mdtbench("compare", bad, kept).code == 3
    monkeypatch.setattr(compare_command, "LARGEST_ASSETS", 1000)
    done = mdtbench("compare", good, "--save", kept)
    assert "Values of assets left out" in done.out
    assert read_asset_values(kept) == []  # those saved before do not stay
    assert mdtbench("compare", bad, kept).code == 0  # without them the assets' differences hide it
    (good / "assets.jsonl").write_text("{}\n")
    done = mdtbench("compare", bad, good)
    assert (done.code, done.err.count("\n")) == (4, 1)
    assert "assets.jsonl line 1 is not an asset's values" in done.err


def test_assets_of_several_seeds_are_not_read(runs: Path, mdtbench: Callable):
    teacher = [row for row in make.run() if row.method in ("cm", "mdt")]  # three seeds each
    write_rows(runs / "good" / "rows.jsonl", teacher)
    (runs / "good" / "assets.jsonl").write_text("{}\n")
    assert mdtbench("compare", runs / "good", runs / "good").code == 0


def test_the_shipped_baseline_of_smoke_is_whole_and_brings_its_tolerances(mdtbench: Callable):
    done = mdtbench("compare", "smoke-x86_64", "smoke-x86_64", "--any-change")
    assert done.code == 0
    assert "199 same, 0 not comparable" in done.out  # five methods, both stages, two numbers of steps, controls
    assert "smoke-x86_64/tolerances.toml" in done.out.replace("\n", "").replace(" ", "")
