"""`mdtbench run --preset paper` from its command line to its rows, of what needs no training."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import official_site
import pytest
from official_runs import ALWAYS, COLUMNS_OF_PAPER, COMPUTING, few, rows_of, run, students_in, timeless, values
from official_site import IDS, OWN, SMALL, Ended, Site, call
from PIL import Image

from mdtbench.base.files import read_json
from mdtbench.harness.driver import planning
from mdtbench.harness.protocol.model import Protocol
from mdtbench.results.report import read_run, tables
from mdtbench.results.rows import COST_METRICS, LATENCY_METRIC


@pytest.fixture(scope="module")
def finished(site: Site, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ended]:
    """A whole run of the lines that need no training: all columns, all test assets, all files."""
    out = tmp_path_factory.mktemp("finished") / "out"
    words = ("--methods", "mdt:released", "--export", "glb,ply,png")
    ended = run(site, out, *words, protocol__columns="all")
    assert ended.code == 0, ended.err
    return out, ended


def test_every_line_has_its_rows(finished: tuple[Path, Ended]):
    rows = [row for row in rows_of(finished[0]) if row.steps]
    lines = [*ALWAYS, *(("mdt", "released", steps) for steps in (1, 2))]
    assert {(row.method, row.variant, row.steps, row.seed) for row in rows} == {(*line, 0) for line in lines}
    passes = {("none", ""): 2, ("none", "cfg"): 4, ("mdt", "released"): 4}  # of both stages and one step
    for line in lines:
        mine = [row for row in rows if (row.method, row.variant, row.steps) == line]
        assert {*COLUMNS_OF_PAPER, "KD_incep[random]", "FD_incep_mesh[random]", "CLIP_score[random]"} <= {
            row.metric for row in mine
        }
        assert {(row.status, row.stage, row.sampler, row.train_seed) for row in mine} == {("ok", "both", "euler", None)}
        made = [row for row in mine if row.metric not in COST_METRICS]
        assert {(row.n_ok, row.n_total) for row in made} == {(len(IDS),) * 2}
        # Of 25 steps 19 lie at t >= 0.5 in rescaled time, and guidance takes two passes there.
        assert {row.nfe for row in mine} == {2 * (25 + 19) if line[0] == "teacher" else passes[line[:2]] * line[2]}
        seconds = {row.metric: row.value for row in mine if row.metric in COST_METRICS}
        assert seconds.pop(LATENCY_METRIC) == pytest.approx(sum(seconds.values()))  # type: ignore[arg-type]
    assert finished[1].given["distil"] == 0


def test_released_students_with_the_teachers_weights_are_the_guided_teacher(finished: tuple[Path, Ended]):
    """To the bit: same noise, sampler, weights; and other than the unguided one, other steps, and the teacher's 25."""
    out, rows = finished[0], rows_of(finished[0])
    for steps in (1, 2):
        same = values(rows, "none", "cfg", steps)
        assert same == values(rows, "mdt", "released", steps)
        others = [values(rows, *line) for line in ALWAYS if line != ("none", "cfg", steps)]
        assert all(other[metric] != same[metric] for other in others for metric in COLUMNS_OF_PAPER)
        for name in IDS:
            for ending in ("glb", "ply", "png"):
                made = (out / "export" / f"{who}-{steps}x2" for who in ("none_cfg", "mdt_released"))
                assert len({(folder / f"{name}.{ending}").read_bytes() for folder in made}) == 1


def test_the_tables_are_the_papers(finished: tuple[Path, Ended]):
    out, ended = finished
    shown = {table.name: table for table in tables(read_run(out))}
    assert [name for name in shown if name.startswith("table")][:3] == ["table_1", "table_2", "table_3"]
    lines = [(line.method, line.variant, line.steps) for line in shown["table_1"].rows]
    assert set(lines) == {*ALWAYS, ("mdt", "released", 1), ("mdt", "released", 2)}
    beside = dict(zip(lines, shown["table_1"].column("paper:FD_incep"), strict=True))
    assert beside["teacher", "", 25].value == 11.80
    assert beside["mdt", "released", 2].value == 14.16
    told = ("all lines: 4 assets of 'meshes', drawn by mdtbench's own renderer", "whose numbers mean nothing")
    text = " ".join(ended.out.split())
    for words in ("FD_incep", "FD_dinov2", "VM+VD [released]", "--all", str(out), *told):
        assert words in text


def test_controls_say_what_good_and_bad_numbers_are(finished: tuple[Path, Ended]):
    rows = rows_of(finished[0])
    of = {name: {row.metric: row for row in rows if row.method == name} for name in ("truth", "shuffled", "floor")}
    assert {"FD_incep[random]", "KD_incep[random]"} <= set(of["floor"])
    assert "ULIP_I[random]" in set(of["truth"]) & set(of["shuffled"])
    assert {row.n_ok for row in of["floor"].values()} == {2}  # one half of the test assets against the other
    assert {row.n_ok for name in ("truth", "shuffled") for row in of[name].values()} == {len(IDS)}
    assert of["truth"]["ULIP_I[random]"].value != of["shuffled"]["ULIP_I[random]"].value
    assert "reconstruction" not in {row.method for row in rows}  # its encoder reads features of a large network


def test_averages_are_of_the_values_of_single_assets(finished: tuple[Path, Ended]):
    out = finished[0]
    single = [json.loads(line) for line in (out / "assets.jsonl").read_text().splitlines()]
    for method, variant, steps in ALWAYS:
        mine = [one for one in single if (one["method"], one["variant"], one["steps"]) == (method, variant, steps)]
        assert [one["asset"] for one in mine] == list(IDS)
        averages = values(rows_of(out), method, variant, steps)
        for metric in ("ULIP_I[random]", "CLIP_score[random]", "CLIP_score_mesh[random]"):
            assert np.mean([one["values"][metric] for one in mine]) == pytest.approx(averages[metric], rel=1e-12)


def test_what_was_run_is_recorded(finished: tuple[Path, Ended], site: Site):
    manifest = read_json(finished[0] / "manifest.json")
    assert manifest["preset"] == "paper"
    assert manifest["test_ids"] == list(IDS)
    assert manifest["test"]["source"] == "meshes"
    assert manifest["command"][:4] == ["mdtbench", "run", "--preset", "paper"]
    with Image.open(finished[0] / "grid.png") as grid:
        assert grid.height > 9 * 112  # pictures, truth, seven lines
    index = read_json(finished[0] / "export" / "index.json")
    assert [one["id"] for one in index["assets"]] == list(IDS)
    folders = {"condition", "truth", "teacher-25x2", *(f"{who}-{n}x2" for who in ("none", "none_cfg") for n in (1, 2))}
    assert folders | {f"mdt_released-{n}x2" for n in (1, 2)} == set(index["assets"][0]["files"])
    assert all(files for one in index["assets"] for files in one["files"].values())


def test_nothing_is_judged_by_random_extractors(finished: tuple[Path, Ended]):
    out, ended = finished
    expected = read_json(out / "expected.json")
    assert expected["calibration"].startswith("not judged")
    assert "random weights" in expected["calibration"]
    judged = {(row["method"], row["steps"], row["metric"]): row for row in expected["rows"]}
    assert {key[:2] for key in judged} == {("teacher", 25), ("none:cfg", 1), ("mdt:released", 1), ("mdt:released", 2)}
    first = judged["teacher", 25, "FD_incep"]
    assert (first["published"], first["inside"]) == (11.80, None)
    assert (first["low"], first["high"]) == pytest.approx((11.8 * 0.9, 11.8 * 1.1))
    assert judged["mdt:released", 1, "ULIP_I"]["low"] == pytest.approx(36.88 - 1)
    assert first["found"] == values(rows_of(out), "teacher", "", 25)["FD_incep[random]"]
    assert "Calibration: not judged" in ended.out
    assert "Expected: found" in ended.out


def test_the_report_shows_it(finished: tuple[Path, Ended], tmp_path: Path):
    """Tables, charts, a page per asset with pictures, models and values."""
    out, pages = finished[0], tmp_path / "pages"
    ended = call("report", out, "--format", "html", "--out", pages)
    assert (ended.code, ended.out.strip()) == (0, str(pages / "index.html"))
    index = (pages / "index.html").read_text(encoding="utf-8")
    for words in ("Table 1. Quality against cost", 'id="cost"', 'id="extremes"', 'id="controls"', "<svg", "not judged"):
        assert words in index
    for name in IDS:
        [page] = (pages / "assets").glob(f"{name.replace('/', '-')}*.html")
        text = page.read_text(encoding="utf-8")
        assert name in text
        models = re.findall(r'data-model="(media/[^"]+)"', text)
        assert {Path(model).parent.name for model in models} == {
            *("truth", "teacher-25x2"),
            *(f"{who}-{steps}x2" for who in ("none", "none_cfg", "mdt_released") for steps in (1, 2)),
        }
        assert all((pages / model).is_file() for model in models)
    listed = (pages / "media" / "list-000.js").read_text(encoding="utf-8")
    found = json.loads(listed[listed.index("(...") + 4 : listed.rindex(")")])
    ulip = values(rows_of(out), "teacher", "", 25)["ULIP_I[random]"]
    assert [one["id"] for one in found] == list(IDS)
    means = np.mean([[row[0] for row in one["values"]] for one in found], axis=0)
    assert np.isclose(means, ulip, atol=0.01).sum() == 1  # of the lines, one is the teacher's; rounded to 0.01


def test_exported_files_have_the_numbers_of_the_run(finished: tuple[Path, Ended], site: Site, tmp_path: Path):
    """A GLB keeps float32 vertices and colours, which is what the decoder gives; colours of files are mixed as light,
    those of the decoder as they are, so that pixels differ a little. A PLY keeps logarithms of scales and logits of
    opacities, which differ by a rounding of float32 when read: a few pixels may differ by one grey level."""
    out = finished[0] / "export"
    folders = (out / "teacher-25x2", "--reference", site.root / "meshes", "--conditions", out / "condition")
    words = ("--name", "Files", "--protocol", site.root / "small.toml", "--set", "extractors=random", "--device", "cpu")
    ended = call("evaluate", *folders, *words, "--out", tmp_path / "out", "--cache", tmp_path / "cache")
    assert ended.code == 0, ended.err
    here = {row.metric: row.value for row in rows_of(tmp_path / "out") if row.method == "Files"}
    there = values(rows_of(finished[0]), "teacher", "", 25)
    assert here.keys() == there.keys()
    for metric, value in there.items():
        assert here[metric] == pytest.approx(value, rel=1e-4), metric
    controls = {(row.method, row.metric): row.value for row in rows_of(finished[0]) if row.seed is None}
    again = {(row.method, row.metric): row.value for row in rows_of(tmp_path / "out") if row.method != "Files"}
    assert again == controls  # the same truth, looked at from another side of the program


def test_a_second_call_computes_nothing_and_changes_no_row(finished: tuple[Path, Ended], site: Site):
    out, before = finished[0], rows_of(finished[0])
    again = run(site, out, "--methods", "mdt:released", "--export", "glb,ply,png", protocol__columns="all")
    assert again.code == 0
    assert set(again.given).isdisjoint(COMPUTING)
    assert timeless(rows_of(out)) == timeless(before)
    assert again.out == finished[1].out


@pytest.mark.slow
def test_worker_processes_and_ranks_change_no_bit(site: Site, tmp_path: Path):
    """The command in a process of its own, with two workers and two processes to a student; and all in this one."""
    here, there, methods = tmp_path / "here", tmp_path / "there", "own,mdt:released"
    with official_site.registries():
        assert few(site, here, "--plugin", OWN, methods=methods).code == 0
    words = ("run", "--preset", "paper", "--limit", 2, "--methods", methods, "--device", "cpu", *site.words())
    plugins = ("--plugin", SMALL, "--plugin", OWN)
    processes = ("--workers", 2, "--ranks", 2, *plugins, "--out", there, "--cache", tmp_path / "cache")
    command = [sys.executable, "-m", "mdtbench", *map(str, (*words, *processes))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    assert timeless(rows_of(there), seconds=False) == timeless(rows_of(here), seconds=False)
    files = students_in(here)
    assert len(files) == 2 * 2  # stages, averages
    for file in files:
        assert (there / file.relative_to(here)).read_bytes() == file.read_bytes()
    assert (there / "assets.jsonl").read_bytes() == (here / "assets.jsonl").read_bytes()


@pytest.mark.slow
def test_the_official_protocol_on_the_shipped_world(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """trellis-v1 as it is, its repeats of what is timed apart, on a world that knows nothing of it."""
    chosen, out = planning.protocol_for, tmp_path / "out"

    def quick(*given: Any) -> Protocol:
        protocol = chosen(*given)
        few_times = protocol.values.speed.model_copy(update={"warm_up": 1, "repeats": 1})
        return replace(protocol, values=protocol.values.model_copy(update={"speed": few_times}))

    monkeypatch.setattr(planning, "protocol_for", quick)
    words = ("--set", "protocol=trellis-v1", "--set", "protocol.extractors=random")
    words += ("--set", "protocol.columns=main", "--limit", 5, "--methods", "mdt")
    less = ("--steps", 1, "--set", "train.steps=2", "--set", "slat.steps=2")
    less += ("--set", "evaluate.seeds=[0]", "--set", "data.train=16")
    where = ("--device", "cpu", "--out", out, "--cache", tmp_path / "cache")
    ended = call("run", "--preset", "smoke", *words, *less, *where)
    assert ended.code == 0, ended.err
    rows = [row for row in rows_of(out) if row.steps and row.metric not in COST_METRICS]
    lines = {("teacher", "", 25), ("none", "", 1), ("none", "cfg", 1), ("mdt", "", 1)}  # guided, as the protocol says
    assert {(row.method, row.variant, row.steps, row.metric) for row in rows} == {
        (*line, metric) for line in lines for metric in COLUMNS_OF_PAPER
    }
    assert {(row.n_ok, row.n_total, row.stage) for row in rows} == {(4, 4, "both")}  # the preset makes four whole
    assert read_json(out / "expected.json")["calibration"].startswith("not judged")
    assert read_json(out / "manifest.json")["protocol"]["name"] == "trellis-v1+own-renderer"
