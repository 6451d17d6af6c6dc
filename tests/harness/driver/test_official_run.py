"""`mdtbench run --preset paper` from its command line to its rows, with miniatures of all that it needs."""

from __future__ import annotations

import copy
import csv
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import fake_blender
import numpy as np
import official_site
import pytest
import torch
from inprocess import in_process
from official_site import IDS, INSTANCES, OWN, SMALL, Ended, Site, call, picture
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from mdtbench.assets.toys4k import COLUMNS
from mdtbench.assets.trellis_latents import open_latents
from mdtbench.base.files import file_sha256, read_json
from mdtbench.base.seeds import seed_of
from mdtbench.base.text import counted
from mdtbench.harness.driver import needs, planning
from mdtbench.harness.driver.planning import RunOptions, make_plan
from mdtbench.harness.driver.students import train_students
from mdtbench.harness.generate.made import StructuresJob
from mdtbench.harness.inputs.cells import one_voxels
from mdtbench.harness.inputs.world import load_world
from mdtbench.harness.protocol.model import Protocol, load_protocol
from mdtbench.harness.protocol.rules import asset_seed
from mdtbench.harness.protocol.values import Stage
from mdtbench.harness.train.data import CHOICES, split_held_out
from mdtbench.methods import Loss, Step
from mdtbench.methods.cm import ConsistencyDistillation
from mdtbench.results.report import read_run, tables
from mdtbench.results.rows import COST_METRICS, LATENCY_METRIC, Row, read_rows
from mdtbench.trellis.end_time import has_end_time
from mdtbench.trellis.students import SLAT_STUDENT, STRUCTURE_STUDENT

EXAMPLES = Path(__file__).parents[3] / "docs" / "examples"
COLUMNS_OF_PAPER = {"FD_incep[random]", "FD_dinov2[random]", "ULIP_I[random]"}
ALWAYS = [("teacher", "", 25), *(("none", variant, steps) for steps in (1, 2) for variant in ("cfg", ""))]
COMPUTING = {"structures", "assets", "pictures and points", "scores", "distil", "seconds, alone on the machine"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with pytest.MonkeyPatch.context() as patch:
        official_site.small_official(patch)
        official_site.remember_meshes(patch)
        yield official_site.write_site(tmp_path_factory.mktemp("site"))


def run(site: Site, out: Path, *words: object, stop_after: int | None = None, **changes: str) -> Ended:
    """changes: keys of --set, with __ for the dot."""
    usual = ("--preset", "paper", "--device", "cpu", "--cache", site.root / "cache", "--out", out)
    return call("run", *usual, *site.words(**changes), *words, stop_after=stop_after)


def few(site: Site, out: Path, *words: object, methods: str = "none", **changes: str) -> Ended:
    """Of two test assets; without training by default."""
    return run(site, out, "--limit", 2, "--methods", methods, *words, **changes)


@pytest.fixture(scope="module")
def finished(site: Site, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ended]:
    """A whole run of the lines that need no training: all columns, all test assets, all files."""
    out = tmp_path_factory.mktemp("finished") / "out"
    words = ("--methods", "mdt:released", "--export", "glb,ply,png")
    ended = run(site, out, *words, protocol__columns="all")
    assert ended.code == 0, ended.err
    return out, ended


@pytest.fixture(scope="module")
def plain(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two assets without any student."""
    out = tmp_path_factory.mktemp("plain") / "out"
    assert few(site, out).code == 0
    return out


def rows_of(out: Path) -> list[Row]:
    return read_rows(out / "rows.jsonl")


def values(rows: Sequence[Row], *line: object) -> dict[str, float | None]:
    """Values by column of a line (method, variant, steps), seconds left out."""
    mine = [row for row in rows if (row.method, row.variant, row.steps) == line]
    return {row.metric: row.value for row in mine if row.metric not in COST_METRICS}


def timeless(rows: Sequence[Row], *, seconds: bool = True) -> list[dict[str, Any]]:
    """Rows without what differs between two runs of the same; seconds: whether those are the same."""
    apart = {"created_utc", "git_dirty", "git_commit"}
    return [row.model_dump(exclude=apart) for row in rows if seconds or row.metric not in COST_METRICS]


# ------------------------------------------------------------------------------------------------------- a whole run


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


# ----------------------------------------------------------------------------------------------- calibration and ranges


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


# ------------------------------------------------------------------------------------------------ afterwards, elsewhere


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


# ------------------------------------------------------------------------------------------------- trained on latents


@pytest.fixture(scope="module")
def trained(site: Site, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ended]:
    """A swept method and one of a plug-in, which brings columns as well; both stages, on latents on disk."""
    out = tmp_path_factory.mktemp("trained") / "out"
    rates, strengths = "[1e-3, 1e9]", "[1.0, 5.0]"
    changes = {"sweep__lr": rates, "sweep__slat_lr": rates, "sweep__cfg_strength": strengths}
    words = ("--samplers", "renoise", "--plugin", OWN)
    with official_site.registries():
        ended = few(site, out, *words, methods="cm,own", sweep__methods='["cm"]', **changes)
    assert ended.code == 0, ended.err
    return out, ended


def test_a_plug_in_stands_in_the_tables(trained: tuple[Path, Ended]):
    out, ended = trained
    rows = rows_of(out)
    shown = {table.name: table for table in tables(read_run(out))}
    for name in ("table_1", "table_2"):
        assert {("own", steps) for steps in (1, 2)} <= {(line.method, line.steps) for line in shown[name].rows}
        assert "brightness" in {column.key for column in shown[name].columns}
    assert "--all" in ended.out
    whole = call("report", out, "--all")
    assert whole.code == 0, whole.err
    assert "brightness" in whole.out
    lines = {(row.method, row.variant, row.steps) for row in rows if row.steps}
    assert lines == {*ALWAYS, *((method, "", steps) for method in ("cm", "own") for steps in (1, 2))}
    for metric, stage in (("cells", "structure"), ("brightness", "both")):
        mine = [row for row in rows if row.metric == metric and row.steps]
        assert {(row.method, row.variant, row.steps) for row in mine} == lines
        assert {row.stage for row in mine} == {stage}
    manifest = read_json(out / "manifest.json")
    assert manifest["methods"]["own"]["code"] == file_sha256(OWN)
    assert manifest["methods"]["cm"]["code"] == ""


def test_methods_of_the_documentation_with_a_critic_and_with_two_times(site: Site, tmp_path: Path):
    """Both stages. The protocol samples all students by Euler; `flow_map` tells those with two times where to jump."""
    out, files = tmp_path / "out", [EXAMPLES / f"{name}.py" for name in ("my_flow_map", "my_critic")]
    plugins = [word for file in files for word in ("--plugin", file)]
    with official_site.registries():
        ended = few(site, out, *plugins, "--samplers", "flow_map", methods="leaps,sharper")
    assert ended.code == 0, ended.err
    rows = [row for row in rows_of(out) if row.method in ("leaps", "sharper")]
    assert rows
    assert all(row.status == "ok" for row in rows)
    for method in ("leaps", "sharper"):
        mine = [row for row in rows if row.method == method and row.stage == "both" and row.steps == 2]
        found = {
            name: {row.metric: row.value for row in mine if row.sampler == name and row.metric in COLUMNS_OF_PAPER}
            for name in ("euler", "flow_map")
        }
        assert found["euler"] != found["flow_map"]
    trained = [read_json(path) for path in (out / "students").glob("*/training.json")]
    assert sorted({one["label"] for one in trained}) == ["leaps", "sharper", "vm"]
    assert len(trained) == 6  # of two stages; vm is what sharper begins as
    ends = [
        path.parent.name for path in (out / "students").glob("*/student.safetensors") if has_end_time(load_file(path))
    ]
    assert len(ends) == 2
    assert all("leaps" in name for name in ends)


def test_students_are_reported_with_a_further_sampler(trained: tuple[Path, Ended]):
    """Which has no guidance: half the passes. It is what `own` is made for, and the protocol's is not."""
    rows = [row for row in rows_of(trained[0]) if row.method in ("cm", "own") and row.stage == "both"]
    for method in ("cm", "own"):
        for steps in (1, 2):
            mine = [row for row in rows if (row.method, row.steps) == (method, steps)]
            found = {(row.sampler, row.extra_sampler, row.own_sampler, row.nfe) for row in mine}
            assert found == {("euler", False, False, 4 * steps), ("renoise", True, True, 2 * steps)}
            by_sampler = [
                {row.metric: row.value for row in mine if row.sampler == name and row.metric in COLUMNS_OF_PAPER}
                for name in ("euler", "renoise")
            ]
            assert by_sampler[0] != by_sampler[1]
    assert not any(row.extra_sampler for row in rows_of(trained[0]) if row.method in ("teacher", "none"))


@pytest.mark.parametrize("stage", ["structure", "slat"])
def test_a_sweep_takes_the_saner_rate_on_held_out_latents(stage: str, trained: tuple[Path, Ended]):
    out, ended = trained
    [record] = [one for one in read_run(out).sweeps if one.stage == stage]
    assert (record.metric, record.assets, record.steps) == (f"MSE_{'teacher' if stage == 'structure' else stage}", 2, 1)
    assert [(one.lr, one.cfg_strength) for one in record.trials] == [(1e-3, 1), (1e-3, 5), (1e9, 1), (1e9, 5)]
    sane, absurd = record.trials[:2], record.trials[2:]
    assert all(one.error or one.score > 100 * max(s.score for s in sane) for one in absurd)  # type: ignore[operator]
    best = min(sane, key=lambda one: one.score)  # type: ignore[arg-type,return-value]
    assert [one for one in record.trials if one.chosen] == [best]
    assert all((out / one.address / "student.safetensors").is_file() for one in sane)
    # The chosen student is the run's own: only the other method was trained afterwards.
    assert ended.given["distil"] == 2
    [mine] = [one for one in read_run(out).students if (one.method, one.stage) == ("cm", stage)]
    assert (mine.lr, mine.grid) == (best.lr, 2)
    guided = {row.cfg_strength for row in rows_of(out) if row.method == "cm" and row.stage == "both"}
    assert stage == "slat" or guided == {best.cfg_strength}


@pytest.mark.parametrize("stage", ["structure", "slat"])
def test_a_score_of_a_sweep_is_the_distance_to_the_teachers_own_result(
    stage: Stage, trained: tuple[Path, Ended], site: Site
):
    """Recomputed from its definition: noise by the written rule, raw weights, one step, the teacher's 25."""
    world, values = load_world(site.world), load_protocol(str(site.root / "small.toml")).values
    [record] = [one for one in read_run(trained[0]).sweeps if one.stage == stage]
    [best] = [one for one in record.trials if one.chosen]
    pipeline = world.stage(stage)
    student = copy.deepcopy(pipeline.flow)
    student.load_state_dict(load_file(trained[0] / best.address / "student-ema0.0.safetensors"))
    source = open_latents([site.root / "latents"], CHOICES[stage])
    distances = []
    for name in split_held_out(INSTANCES, 2, 0)[0]:
        shown = source.condition(name, np.random.Generator(np.random.PCG64(seed_of("grid picture", name, 0))))
        images = torch.from_numpy(shown[None]).permute(0, 3, 1, 2)
        seed = asset_seed(values, name, 0)
        layout: Any = world.structure.layout(1)
        noise = layout.randn([torch.Generator().manual_seed(seed)])
        if stage == "slat":
            latent = end_of(world.structure, world.structure.flow, images, layout, noise, 25)
            cells = np.argwhere(world.structure.decode(latent)[0].numpy())
            layout = world.whole.layout(one_voxels(cells.astype(np.int32)))
            noise = layout.randn([torch.Generator().manual_seed(seed + 1)])
        made, wanted = (
            end_of(pipeline, who, images, layout, noise, n) for who, n in ((student, 1), (pipeline.flow, 25))
        )
        distances.append(float(((made - wanted) ** 2).mean()))
    assert best.score == pytest.approx(np.mean(distances), rel=1e-4)  # float32 over 25 steps, in another order


@torch.no_grad()
def end_of(pipeline: Any, network: nn.Module, images: Tensor, layout: Any, noise: Tensor, steps: int) -> Tensor:
    """Euler from noise in steps of rescaled time, guidance 5 from t = 0.5 on."""
    cond = pipeline.condition(images)
    with_cond, without = (pipeline.bind(network, each, layout) for each in (cond, torch.zeros_like(cond)))
    times = [3 * t / (1 + 2 * t) for t in np.linspace(1, 0, steps + 1)]
    x = noise
    for t, t_next in pairwise(times):
        at = torch.full((1,), t, dtype=torch.float32)
        v = with_cond(x, at)
        v = 6 * v - 5 * without(x, at) if t >= 0.5 else v
        x = x - (t - t_next) * v
    return x


def test_training_curves_are_in_the_report(trained: tuple[Path, Ended], tmp_path: Path):
    assert call("report", trained[0], "--format", "html", "--out", tmp_path / "pages").code == 0
    index = (tmp_path / "pages" / "index.html").read_text(encoding="utf-8")
    for words in ("own, seed 0", "CM, seed 0", 'class="curve', "Learning rate and guidance of the slat stage"):
        assert words in index


def test_seeds_and_budget_of_structures_alone(site: Site, tmp_path: Path):
    """Forwards: what consistency distillation takes in its steps, 6 passes each; velocity matching takes its own."""
    out = tmp_path / "out"
    words = ("--stages", "structure", "--seeds", "0,1", "--budget", "forwards", "--plugin", OWN)
    with official_site.registries():
        ended = few(site, out, *words, methods="cm,own", train__steps="5")
        refused = few(site, out, *words, "--export", "glb", methods="cm,own", train__steps="5")
    without = few(site, out, *words[:-2])
    assert ended.code == 0, ended.err
    rows = rows_of(out)
    assert {row.stage for row in rows} == {"structure"}
    assert {row.metric for row in rows} == {"cells", LATENCY_METRIC}
    assert {row.train_seed for row in rows if row.method in ("cm", "own")} == {0, 1}
    students = read_run(out).students
    assert {(one.method, one.train_seed, one.steps) for one in students} == {
        *(("cm", seed, 5) for seed in (0, 1)),
        *(("own", seed, 6) for seed in (0, 1)),  # 5 x 6 / 5
    }
    weights = [path.read_bytes() for path in (out / "students").glob("structure-*/student.safetensors")]
    assert len({*weights}) == 4
    assert not list((out / "students").glob("slat-*"))
    assert (refused.code, "--export writes whole assets" in refused.err) == (2, True)
    assert (without.code, "has columns of whole assets alone" in without.err) == (2, True)


def test_a_budget_of_seconds_is_measured_once(site: Site, tmp_path: Path):
    out = tmp_path / "out"
    with official_site.registries():
        words = ("--stages", "structure", "--budget", "seconds", "--plugin", OWN)
        ended = [few(site, out, *words, methods="vm") for _ in range(2)]
    assert [one.code for one in ended] == [0, 0], ended[0].err
    found = read_json(out / "seconds_per_step.json")
    mine, cm = (next(value for key, value in found.items() if f'"{label}"' in key) for label in ("vm:official", "cm"))
    [student] = read_run(out).students
    assert (student.budget, student.steps) == ("seconds", max(1, round(3 * cm / mine)))
    assert [one.given["time structure steps"] for one in ended] == [1, 0]
    assert [one.given["distil"] for one in ended] == [1, 0]


def test_sharing_a_process_changes_no_bit(site: Site, tmp_path: Path):
    """lockstep 1: one student after the other. 2: two at once, on the same passes of the teacher."""
    found = []
    for lockstep in ("1", "2"):
        changes = site.changes(train__lockstep=lockstep, slat__lockstep=lockstep)
        plan = make_plan(RunOptions("paper", ("cm", "vm"), changes=tuple(changes), device="cpu"), site.root / "cache")
        engine, team = in_process()
        assert train_students(plan, plan.trained, tmp_path / lockstep, engine, "distil") == {}
        assert team.given["distil"] == 2 * 2 // int(lockstep)
        files = students_in(tmp_path / lockstep)
        found.append({path.relative_to(tmp_path / lockstep): path.read_bytes() for path in files})
    assert found[0] == found[1]
    assert len(found[0]) == len(set(found[0].values())) == 2 * 2 * 2  # methods, stages, averages


def students_in(out: Path) -> list[Path]:
    """Files of weights."""
    return sorted((out / "students").rglob("*.safetensors"))


def test_a_method_that_fails_in_one_stage_fails_its_lines_alone(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    out, loss = tmp_path / "out", ConsistencyDistillation.loss

    def broken(self: ConsistencyDistillation, step: Step) -> Loss:
        if step.x_t.ndim == 2:
            raise ValueError("no such thing")
        return loss(self, step)

    monkeypatch.setattr(ConsistencyDistillation, "loss", broken)
    ended = few(site, out, methods="cm,vm")
    assert ended.code == 1
    assert "1 student failed, 0 lost" in ended.err
    assert "ValueError: no such thing" in ended.out
    rows = rows_of(out)
    failed = [row for row in rows if row.status == "failed"]
    assert {(row.method, row.steps, row.metric) for row in failed} == {
        ("cm", steps, metric) for steps in (1, 2) for metric in COLUMNS_OF_PAPER
    }
    assert all("no such thing" in (row.error or "") for row in failed)
    assert {row.train_seed for row in rows if row.method in ("vm", "cm")} == {0}
    assert set(values(rows, "vm", "official", 1)) == COLUMNS_OF_PAPER
    table_3 = next(table for table in tables(read_run(out)) if table.name == "table_3")
    assert [line.method for line in table_3.rows][:2] == ["none", "vm"]
    # What failed through its own code is not tried again.
    again = few(site, out, methods="cm,vm")
    assert (again.code, again.given["distil"]) == (1, 0)


# ------------------------------------------------------------------------------------------------- interrupted, failing


@pytest.mark.parametrize("jobs", [4, 12])
def test_an_interrupted_run_goes_on(jobs: int, plain: Path, site: Site, tmp_path: Path):
    """In the middle of generation, and of measurement; the rows are those of a run in one go."""
    out = tmp_path / "out"
    assert few(site, out, stop_after=jobs).code == 130
    assert not (out / "rows.jsonl").exists()
    kinds = ("structures", "assets")  # pictures are thrown away once they are measured
    made = [path for kind in kinds for path in (out / "store").glob(f"entries-*/{kind}/*/*.json")]
    kept = {path: path.stat().st_mtime_ns for path in made}
    assert 0 < len(kept) <= jobs
    ended = few(site, out)
    assert ended.code == 0
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert timeless(rows_of(out), seconds=False) == timeless(rows_of(plain), seconds=False)
    assert sum(ended.given[kind] for kind in kinds) == 2 * 5 - len(kept)


def test_an_asset_without_a_picture_or_with_nothing_in_it_is_counted(site: Site, tmp_path: Path):
    shown, out = tmp_path / "shown", tmp_path / "out"
    shutil.copytree(site.root / "shown", shown)
    (shown / f"{IDS[1]}.png").unlink()
    Image.new("RGBA", (32, 32)).save(shown / f"{IDS[2]}.png")
    changes = {"places__conditions": str(shown)}
    ended = run(site, out, "--methods", "none", **changes)
    assert ended.code == 0
    made = [row for row in rows_of(out) if row.steps and row.metric not in COST_METRICS]
    assert {(row.n_ok, row.n_total) for row in made} == {(2, 4)}
    with (out / "failures.csv").open(encoding="utf-8", newline="") as stream:
        reasons = {(row["where"], row["id"]): row["reason"] for row in csv.DictReader(stream)}
    assert "no conditioning picture" in reasons["test", IDS[1]]
    assert "no pixel has alpha" in reasons["test", IDS[2]]
    assert f"{IDS[1]}: there is no conditioning picture of it" in ended.out
    # The picture has come: this asset counts; what was made of the others stays.
    shutil.copy(site.root / "shown" / f"{IDS[1]}.png", shown / f"{IDS[1]}.png")
    assert run(site, out, "--methods", "none", "--overwrite", **changes).code == 0
    made = [row for row in rows_of(out) if row.steps and row.metric not in COST_METRICS]
    assert {(row.n_ok, row.n_total) for row in made} == {(3, 4)}


@pytest.mark.parametrize("empty", [slice(1, 2), slice(None)], ids=["one", "all"])
def test_an_empty_structure_is_a_failed_asset(
    empty: slice, plain: Path, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    compute, out = StructuresJob.compute, tmp_path / "out"

    def emptied(self: StructuresJob) -> list:
        [arrays] = compute(self)
        arrays["occupancy"][empty] = False
        return [arrays]

    monkeypatch.setattr(StructuresJob, "compute", emptied)
    ended = few(site, out)
    assert ended.code == 0
    gone = len(range(2)[empty])
    made = [row for row in rows_of(out) if row.steps and row.metric not in COST_METRICS]
    assert {(row.n_ok, row.n_total) for row in made} == {(2 - gone, 2)}
    assert f"{counted(5 * gone, 'generated asset')} failed:" in ended.out
    single = [json.loads(line) for line in (out / "assets.jsonl").read_text().splitlines()]
    failed = [one for one in single if one["method"] in ("teacher", "none") and one["asset"] in IDS[:2][empty]]
    assert len(failed) == 5 * gone
    assert {(one["ok"], one["error"]) for one in failed} == {(False, "the structure is empty")}
    assert {one["values"]["ULIP_I[random]"] for one in failed} == {0.0}
    assert "the structure is empty" in (out / "failures.csv").read_text(encoding="utf-8")
    whole, here = values(rows_of(plain), "teacher", "", 25), values(rows_of(out), "teacher", "", 25)
    # Cosines of random networks have either sign: those of failed assets are zero.
    assert abs(here["ULIP_I[random]"]) < abs(whole["ULIP_I[random]"])  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------ what must be there


def test_what_is_missing_is_listed_and_nothing_computed(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """All is there but a GPU, unless the CPU is named; and for a method that trains, latents."""
    monkeypatch.setattr(needs, "cuda_devices", list)
    given = ("run", "--preset", "paper", "--out", tmp_path / "out", *site.words(data__latents="[]"))
    for words, missing in (
        (("--methods", "mdt:released"), ["a GPU"]),
        (("--methods", "cm"), ["training latents", "a GPU"]),
        (("--methods", "cm", "--device", "cpu"), ["training latents"]),
    ):
        ended = call(*given, *words)
        assert (ended.code, ended.given) == (4, {})
        head, *details = ended.err.splitlines()
        assert re.match(
            rf"mdtbench: {len(missing)} of \d+ things are missing: {'; '.join(missing)}\. Nothing was", head
        )
        assert len(details) == len(missing)
        assert ("no folder is named" in ended.err) is ("training latents" in missing)
    assert not (tmp_path / "out").exists()


def test_a_released_student_that_does_not_fit_is_told(site: Site, tmp_path: Path):
    weights = tmp_path / "weights"
    shutil.copytree(site.root / "weights", weights)
    structure, slat = (weights / "mdt-dist" / name for name in (STRUCTURE_STUDENT, SLAT_STUDENT))
    shutil.copy(slat, structure)
    ended = few(site, tmp_path / "out", methods="mdt:released", places__weights=str(weights))
    assert ended.code == 4
    assert structure.name in ended.err


def test_meshes_are_shown_by_the_own_renderer_where_there_are_no_pictures(site: Site, tmp_path: Path):
    """Of structures alone, which are other ones then."""
    found, words = [], ("--stages", "structure", "--plugin", OWN)
    with official_site.registries():
        for name, changes in (("given", {}), ("drawn", {"places__conditions": ""})):
            assert few(site, tmp_path / name, *words, **changes).code == 0
            found.append([values(rows_of(tmp_path / name), *line)["cells"] for line in ALWAYS])
    assert found[0] != found[1]


def test_toys4k_is_shown_and_compared_through_blender(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Blender makes the conditioning pictures, the true pictures and the true meshes; it fails on one of three."""
    monkeypatch.delenv("MDTBENCH_BLENDER", raising=False)
    toys, rows = tmp_path / "toys", []
    for seed, (name, kind) in enumerate({"a": "good", "b": "good", "c": "exit"}.items()):
        path = fake_blender.write_blend(toys / "toys4k_blend_files" / f"{name}.blend", kind)
        for side in (32, 1024):
            picture(seed).resize((side, side)).save(path.with_name(f"{name}-{side}.png"))
        rows.append((file_sha256(path), path.name, 5.0, ""))
    with (toys / "Toys4k.csv").open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([COLUMNS, *rows])
    blender = str(fake_blender.install(tmp_path, "3.0.1"))
    changes = {"places__test": f"toys4k:{toys}", "places__blender": blender, "places__conditions": ""}
    ended = run(site, tmp_path / "out", "--methods", "none", **changes)
    assert ended.code == 0, ended.err
    made = [row for row in rows_of(tmp_path / "out") if row.steps and row.metric not in COST_METRICS]
    good = sorted(sha for sha, *_ in rows[:2])
    manifest = read_json(tmp_path / "out" / "manifest.json")
    assert manifest["test_ids"] == good
    assert manifest["protocol"]["name"] == "trellis-v1"  # itself: no variant
    assert {row.n_ok for row in made} == {2}
    assert {"drawn by Blender 3.0.1" in row.note for row in made if row.method == "teacher"} == {True}
    assert rows[2][0] in (tmp_path / "out" / "failures.csv").read_text(encoding="utf-8")


# -------------------------------------------------------------------------------------------------- in other processes


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
