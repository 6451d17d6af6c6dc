"""`mdtbench evaluate`: help, errors, and what a whole call prints and leaves; numbers are tested below."""

from __future__ import annotations

import importlib.util
import inspect
import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import inprocess
import pytest
from evaluations import small_evaluations, write_files

from mdtbench.harness.cli import evaluating as command
from mdtbench.harness.cli.evaluate import evaluate_command
from mdtbench.metrics import METRICS
from mdtbench.results.asset_values import read_asset_values
from mdtbench.results.rows import read_rows

PLUGIN = """
import numpy as np
from mdtbench.metrics import METRICS, Metric
from mdtbench.metrics.contract import known_mean

class Brightness(Metric):
    name, version, level, higher_is_better, made = "brightness", 1, "assets", True, ("mesh",)

    def score(self, made, against):
        return known_mean(np.array([one.mean() for one in made["mesh"]]))

METRICS.register("brightness", version=1, source="here")(Brightness())
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("files")
    write_files(root)
    return root


@pytest.fixture
def small(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., tuple]]:
    """Arguments of a whole call in this process, with small networks; it is in a folder of its own."""
    monkeypatch.setattr(command, "teams", inprocess.teams)
    monkeypatch.chdir(tmp_path)

    def words(*more: object) -> tuple:
        cache = ("--cache", files / "cache", "--set", "extractors=random", "--device", "cpu")
        return "evaluate", files / "made", "--name", "My system", "--reference", files / "truth", *cache, *more

    with small_evaluations(tmp_path):
        yield words


def test_a_whole_call_prints_its_table_and_says_where_everything_is(mdtbench, small, files):
    result = mdtbench(*small("--latency", 1.3, "--steps", 5))
    assert result.code == 0, result.err
    (out,) = Path("runs").iterdir()
    manifest = json.loads((out / "manifest.json").read_text())
    assert out.name == f"evaluate-My_system-{manifest['key'][:8]}"
    assert manifest["device"] == "cpu"
    assert result.out.endswith(f"Rows, failures and manifest: {out}\n")
    for text in ("My system", "Ground truth, shuffled pairs", "Floor", "FD_incep_mesh[random]", "1.30"):
        assert text in result.out
    assert result.out.startswith(mdtbench("report", out).out)
    before = (out / "rows.jsonl").read_bytes()
    again = mdtbench(*small("--latency", 1.3, "--steps", 5))
    assert (again.out, (out / "rows.jsonl").read_bytes()) == (result.out, before)


def test_a_dry_run_says_what_it_takes_and_computes_nothing(mdtbench, small, files):
    shutil.rmtree(files / "cache", ignore_errors=True)
    plan = mdtbench(*small("--dry-run", "--metrics", "FD_incep,ULIP_I", "--workers", 2))
    assert (plan.code, plan.err) == (0, "")
    assert "My system: 4 assets of 'truth', protocol trellis-v1+own-renderer" in plan.out
    assert "columns: FD_incep, ULIP_I\n" in plan.out
    numbers = dict(re.findall(r"^features (\w+) +(\d+) ", plan.out, re.MULTILINE))
    assert numbers == {"fd_incep": "32", "clip_bigg": "16", "ulip2": "8"}  # four views of both sides, of one; points
    assert re.search(r"In all: about \d+ (s|min) on cpu with 2 processes, \d+\.\d GB of memory", plan.out)
    assert not (files / "cache").exists()
    assert not list(Path().glob("runs/*"))
    assert "My system: about " in mdtbench(*small("--metrics", "FD_incep,ULIP_I", "--out", "few")).err
    assert {row.metric for row in read_rows(Path("few/rows.jsonl"))} == {"FD_incep[random]", "ULIP_I[random]"}
    again = mdtbench(*small("--dry-run", "--metrics", "FD_incep,ULIP_I"))
    assert "In all: everything is in the cache: nothing to draw or to look at." in again.out
    wrong = mdtbench(*small("--metrics", "FD_incp"))
    assert (wrong.code, wrong.out) == (2, "")
    assert "Unknown column 'FD_incp'. Did you mean 'FD_incep'?" in wrong.err


def test_what_is_fetched_for_an_evaluation_is_what_its_columns_need(mdtbench, tmp_path):
    def lacking(*words: str) -> set[str]:
        done = mdtbench("fetch", "--for", "evaluate", *words, "--offline", "--out", tmp_path)
        assert done.code == 4
        assert "run the same command without --offline" in done.err
        return set(re.findall(r"NOT THERE  (\S+):", done.err))

    assert lacking("--metrics", "FD_incep") == {"pt_inception-2015-12-05-6726825d.pth"}
    assert lacking("--metrics", "precision_dinov2_mesh") == {"dinov2_vitl14_pretrain.pth"}
    assert len(lacking()) == 5  # with CLIP's for condition pictures, without what only other presets need
    one = lacking("--protocol", "trellis-v1+ulip1-flashvdm", "--metrics", "ULIP_I")
    assert one == {"pretrained_models_ckpt_zero-sho_classification_checkpoint_pointbert.pt"}
    for words, message in (
        (("--for", "evalute"), "Did you mean 'evaluate'?"),
        (("--metrics", "FD_incep"), "need --for evaluate"),
        (("--for", "evaluate", "--metrics", "FD_incp"), "Did you mean 'FD_incep'?"),
    ):
        wrong = mdtbench("fetch", *words)
        assert (wrong.code, wrong.out) == (2, "")
        assert message in wrong.err


def test_failed_files_are_listed_with_their_reasons(mdtbench, small, files):
    shutil.copytree(files / "made", "broken")
    Path("broken/a.glb").unlink()
    shutil.copytree(files / "truth", "truth")
    Path("truth/d.glb").write_bytes(b"nothing")
    result = mdtbench(*(word if word != files / "made" else "broken" for word in small("--reference", "truth")))
    assert result.code == 0, result.err
    assert "1 asset of the reference cannot be used:\n  d (mesh): " in result.out
    assert "1 failure counted as black pictures in distances and 0 in ULIP_I and CLIP_score:" in result.out
    assert "\n  a (mesh): not generated\n" in result.out


def test_a_plug_in_of_a_user_is_measured(mdtbench, small, tmp_path, monkeypatch):
    monkeypatch.setattr(METRICS, "_entries", dict(METRICS._entries))
    (tmp_path / "brightness_plugin.py").write_text(PLUGIN)
    result = mdtbench(*small("--plugin", tmp_path / "brightness_plugin.py", "--out", "out"))
    sys.modules.pop("brightness_plugin", None)
    assert result.code == 0, result.err
    assert "brightness" in result.out
    (row,) = [row for row in read_rows(Path("out/rows.jsonl")) if row.metric == "brightness"]
    values = [one.values["brightness"] for one in read_asset_values(Path("out")) if one.method == "My system"]
    assert row.value == pytest.approx(sum(values) / 4)
    assert min(values) > 0


@pytest.mark.skipif(importlib.util.find_spec("jinja2") is None, reason="the report needs jinja2")
def test_its_report_is_a_page_with_the_assets(mdtbench, small):
    assert mdtbench(*small("--out", "out")).code == 0
    result = mdtbench("report", "out", "--format", "html")
    assert result.code == 0, result.err
    page = Path(result.out.strip())
    text = page.read_text(encoding="utf-8")
    assert "My system" in text
    assert "ULIP_I[random]" in text
    of_assets = "".join(path.read_text(encoding="utf-8") for path in page.parent.rglob("*.html") if path != page)
    for one in read_asset_values(Path("out")):
        assert f"{one.values['ULIP_I[random]']:.4g}" in of_assets


def test_help_names_every_option(mdtbench):
    shown = mdtbench("evaluate", "--help").out
    parameters = {name.replace("_", "-") for name in inspect.signature(evaluate_command).parameters}
    names = parameters - {"folder", "changes"} | {"set"}
    assert len(names) > 15
    assert [name for name in sorted(names) if f"--{name}" not in shown] == []


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        ((), 4, "mdtbench fetch"),
        (("--name", "a/b"), 2, "no slashes"),
        (("--name", "truth"), 2, "that of a control"),
        (("--name", "x", "--set", "extractor=random"), 2, "Did you mean 'extractors'"),
        (("--name", "x", "--set", "extractors=fake"), 2, "--set extractors"),
        (("--name", "x", "--set", 'columns=["clip"]'), 2, "--set columns.0"),
        (("--name", "x", "--protocol", "trellis-v1+smok"), 2, "Did you mean 'smoke'"),
        (("--name", "x", "--reference", "nowhere"), 4, "There is no folder nowhere"),
        (("--name", "x", "--limit", "1"), 2, "--limit"),
        (("--name", "x", "--conditions", "nowhere"), 4, "There is no folder nowhere"),
        (("--name", "x", "--protocol", "trellis-v1+ulip2-cond"), 2, "give their folder with --conditions"),
        (("--name", "x", "--calibrates"), 2, "--steps is not given"),
        (("--name", "x", "--device", "cuda:99"), 2, "There is no device cuda:99"),
        (("--name", "x", "--device", "tpu"), 2, "--device"),
        (("--name", "x", "--plugin", "nowhere.py"), 4, "There is no plug-in file nowhere.py"),
    ],
)
def test_errors_have_their_code_and_say_what_to_do(mdtbench, files, args, code, message):
    result = mdtbench("evaluate", files / "made", *args)
    assert result.code == code
    assert message in result.err
    assert "Traceback" not in result.err


def test_missing_weights_are_listed_at_once_and_nothing_is_written(mdtbench, files, tmp_path):
    at = ("--weights", tmp_path / "weights", "--cache", tmp_path / "cache", "--out", tmp_path / "out")
    result = mdtbench("evaluate", files / "made", "--name", "x", *at)
    assert result.code == 4
    for file in ("pt_inception-2015-12-05-6726825d.pth", "dinov2_vitl14_pretrain.pth", "open_clip_model.safetensors"):
        assert file in result.err
    words = f"`mdtbench fetch --for evaluate --metrics FD_incep,FD_dinov2,ULIP_I --out {tmp_path / 'weights'}`"
    assert words in result.err
    listed = mdtbench(*words.strip("`").split()[1:], "--offline")
    assert listed.code == 4
    assert listed.err.count("NOT THERE") == 4  # the same files, and no others
    one = mdtbench("evaluate", files / "made", "--name", "x", *at, "--metrics", "FD_incep,KD_incep_mesh")
    assert "1 of 1 file of weights" in one.err
    assert "fetch --for evaluate --metrics FD_incep --out" in one.err
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "cache").exists()
