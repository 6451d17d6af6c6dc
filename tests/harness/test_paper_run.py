"""Tables as they are run: small networks in the place of TRELLIS, boxes in the place of Toys4k, small extractors.

Everything else is what a run at full size does: the preset's rows, the protocol's samplers and seeds, files, tables.
"""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import fake_blender
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from silent import Silent
from small_stage import COND, IMAGE, NETWORKS, network, small_pipeline
from torch import nn

from mdtbench.assets.mesh_export import write_glb
from mdtbench.assets.toys4k import COLUMNS
from mdtbench.base.errors import MissingError, UsageError
from mdtbench.base.files import file_sha256, read_json
from mdtbench.harness.assemble import Decoded
from mdtbench.harness.evaluate import command
from mdtbench.harness.evaluate import plan as evaluation_plan
from mdtbench.harness.evaluate.features import Tower, Towers
from mdtbench.harness.evaluate.looks import run_look
from mdtbench.harness.paper import generate as generating
from mdtbench.harness.paper import load_tables, needs, plan_tables, run
from mdtbench.harness.paper.backbone import load_backbone
from mdtbench.harness.paper.generate import Account, Recipe, asset_of, generate
from mdtbench.harness.paper.machine import lacking
from mdtbench.harness.paper.measure import cell_name
from mdtbench.harness.paper.networks import evaluated, students, teachers
from mdtbench.harness.paper.plan import REFERENCE, TablesPlan
from mdtbench.harness.paper.ranges import calibration_of, ranges, verdicts, verdicts_text
from mdtbench.harness.paper.run import Outcome, run_id, run_tables
from mdtbench.harness.paper.subjects import Picture, Subject, TestSet, open_tests
from mdtbench.harness.protocol.model import PROTOCOLS
from mdtbench.harness.protocol.rules import asset_seed
from mdtbench.harness.storage import save_tensors
from mdtbench.render.preprocess import preprocess_image
from mdtbench.results.report import read_run, report, tables
from mdtbench.results.rows import LATENCY_METRIC, Row, read_rows
from mdtbench.trellis.pipeline import (
    CONDITIONER,
    DECODER,
    ENCODER,
    FLOW,
    SAMPLER,
    SLAT_FLOW,
    SLAT_SAMPLER,
    write_pipeline,
)
from mdtbench.trellis.slat_pipeline import GAUSSIAN_DECODER, MESH_DECODER, NORMALISATION, SLAT_ENCODER
from mdtbench.trellis.students import SLAT_STUDENT, STRUCTURE_STUDENT
from mdtbench.trellis.weights import NetworkConfig, save_checkpoint

IDS = ("cube", "shelves/wide", "tall")
SIZES = ((1, 1, 1), (2, 1, 1), (1, 1, 2))
METRICS = {"FD_incep[random]", "FD_dinov2[random]", "ULIP_I[random]"}
SECONDS = {"structure_s", "slat_s", "decode_s", LATENCY_METRIC}
EMBEDDING = 8
STRUCTURE = {"latent_channels": 4, "num_res_blocks": 1, "num_res_blocks_middle": 1}
STRUCTURES: dict[str, NetworkConfig] = {
    FLOW: {
        "name": "SparseStructureFlowModel",
        "args": {
            "resolution": 4,
            "in_channels": 4,
            "out_channels": 4,
            "model_channels": 32,
            "cond_channels": COND,
            "num_blocks": 1,
            "num_heads": 2,
            "patch_size": 2,
        },
    },
    DECODER: {"name": "SparseStructureDecoder", "args": {**STRUCTURE, "out_channels": 8, "channels": [16, 8]}},
    ENCODER: {"name": "SparseStructureEncoder", "args": {**STRUCTURE, "in_channels": 8, "channels": [8, 16]}},
}
SLATS = {
    SLAT_FLOW: "flow",
    SLAT_ENCODER: "encoder",
    GAUSSIAN_DECODER: "gaussian_decoder",
    MESH_DECODER: "mesh_decoder",
}
SAMPLED = {"steps": 25, "cfg_strength": 5.0, "cfg_interval": [0.5, 1.0], "rescale_t": 3.0}


@torch.no_grad()
def make_sparse(decoder: nn.Module) -> None:
    """One cell of a hundred is occupied, wherever the latents say."""
    logits = decoder(torch.randn((8, 4, 4, 4, 4), generator=torch.Generator().manual_seed(0)))
    decoder.out_layer[-1].bias.sub_(logits.quantile(0.99))  # type: ignore[union-attr,operator]


def write_repository(folder: Path) -> None:
    """A backbone in TRELLIS' layout: random structures, and the second stage of `small_stage`."""
    slat = small_pipeline()
    for seed, (key, config) in enumerate(STRUCTURES.items(), 20):
        made = network(config["name"], config["args"], seed, noise=0.2)
        if key == DECODER:
            make_sparse(made)
        save_checkpoint(folder / "ckpts" / key, made, config)
    for key, name in {**SLATS, CONDITIONER: "conditioner"}.items():
        kind, args = NETWORKS[name]
        save_checkpoint(folder / "ckpts" / key, getattr(slat, name), {"name": kind, "args": args})
    write_pipeline(
        folder,
        {key: f"ckpts/{key}" for key in (*STRUCTURES, *SLATS)},
        {SAMPLER: SAMPLED, SLAT_SAMPLER: SAMPLED},
        **{CONDITIONER: f"ckpts/{CONDITIONER}"},
        **{NORMALISATION: {"mean": slat.mean.tolist(), "std": slat.std.tolist()}},
    )


def small_towers(*args, conditions: bool = False, **kwargs) -> Towers:
    """In the place of the official networks of an evaluation: random projections of means over parts."""

    def tower(seed: int, points: int = 0) -> Tower:
        def see(batch: NDArray) -> NDArray[np.float32]:
            parts = batch.reshape(len(batch), 24, -1).astype(np.float32).mean(2)
            return parts @ np.random.default_rng(seed).standard_normal((24, EMBEDDING), np.float32)

        return Tower(f"small {seed}", lambda: see, points)

    return Towers(
        {"incep": tower(0), "dinov2": tower(1)}, tower(2), tower(3, 64), True, tower(4) if conditions else None
    )


def picture(seed: int) -> Image.Image:
    """A coloured disc on a transparent background."""
    y, x = np.mgrid[:96, :96] - 48
    inside = x**2 + (y * (1 + 0.2 * seed)) ** 2 < 36**2
    rgb = np.random.default_rng(seed).integers(0, 256, 3)
    return Image.fromarray(
        np.concatenate([np.where(inside[..., None], rgb, 0), 255 * inside[..., None]], 2).astype("u1")
    )


def box(path: Path, size: Sequence[float]) -> None:
    corners = np.indices((2, 2, 2)).reshape(3, 8).T
    quads = np.array([[0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, 4], [1, 5, 7, 3]])
    faces = np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])
    path.parent.mkdir(parents=True, exist_ok=True)
    write_glb(path, corners * np.array(size, float), faces, corners.astype(np.float32))


def small_protocol(path: Path) -> Path:
    """trellis-v1 with small pictures and one run seed; its assets are as many as there are."""
    text = (PROTOCOLS / "trellis-v1.toml").read_text(encoding="utf-8")
    for old, new in {
        "values.run_seeds = [0, 1, 2]": "values.run_seeds = [0]",
        "values.resolution = 518": f"values.resolution = {IMAGE}",
        "values.resolution = 512": "values.resolution = 32",
        "values.expected_n = 3218": f"values.expected_n = {len(IDS)}",
    }.items():
        assert text.count(old) == 1
        text = text.replace(old, new)
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All that a run needs, with the teacher's own weights in the files of the released students."""
    root = tmp_path_factory.mktemp("site")
    write_repository(root / "weights" / "trellis-image-large")
    backbone = load_backbone(root / "weights" / "trellis-image-large")
    for name, flow in ((STRUCTURE_STUDENT, backbone.structure.flow), (SLAT_STUDENT, backbone.slat.flow)):
        path = root / "weights" / "mdt-dist" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(flow.state_dict(), path)
    for seed, (name, size) in enumerate(zip(IDS, SIZES, strict=True)):
        box(root / "meshes" / f"{name}.glb", size)
        shown = root / "shown" / f"{name}.png"
        shown.parent.mkdir(parents=True, exist_ok=True)
        picture(seed).save(shown)
    small_protocol(root / "small.toml")
    (root / "list.toml").write_text("source = []\n", encoding="utf-8")
    return root


def settings(site: Path, *more: str) -> list[str]:
    places = {"downloads": "list.toml", "weights": "weights", "test": "meshes", "conditions": "shown"}
    changes = [f"places.{key}='{site / value}'" for key, value in places.items()]
    return [*changes, f"protocol.name='{site / 'small.toml'}'", "protocol.extractors=random", *more]


def planned(site: Path, *more: str, methods: Sequence[str] = ("mdt:released",)) -> TablesPlan:
    return plan_tables(load_tables("paper", settings(site, *more)), methods)


MADE: dict[str, tuple[Decoded, Account]] = {}


def remembered(recipe: Recipe, subject: Subject, rgba: Picture) -> tuple[Decoded, Account]:
    """`asset_of`, once per asset: most runs here make the same ones."""
    key = recipe.source(subject)
    if key not in MADE:
        MADE[key] = asset_of(recipe, subject, rgba)
    return MADE[key]


@pytest.fixture(autouse=True)
def small_evaluations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generating, "asset_of", remembered)
    monkeypatch.setattr(evaluation_plan, "towers_of", small_towers)
    monkeypatch.setattr(command, "spread", lambda team, jobs: [run_look(job) for job in jobs])


def ran(plan: TablesPlan, out: Path, reporter: Silent | None = None) -> Outcome:
    cache = Path(plan.config.places.weights).parent / "cache"  # of all runs here: many make the same assets
    return run_tables(plan, out, cache, "cpu", 1, reporter or Silent())


@pytest.fixture(scope="session")
def finished(site: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[TablesPlan, Path, Outcome]:
    """A whole run of the rows that need no training."""
    out = tmp_path_factory.mktemp("finished") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generating, "asset_of", remembered)
        patch.setattr(evaluation_plan, "towers_of", small_towers)
        patch.setattr(command, "spread", lambda team, jobs: [run_look(job) for job in jobs])
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        plan = planned(site)
        outcome = ran(plan, out)
        torch.set_num_threads(threads)
    return plan, out, outcome


def values(rows: Sequence[Row], method: str, steps: int, variant: str = "") -> dict[str, float | None]:
    """By metric, costs left out."""
    mine = [row for row in rows if (row.method, row.steps, row.variant) == (method, steps, variant)]
    return {row.metric: row.value for row in mine if row.metric not in SECONDS}


# ------------------------------------------------------------------------------------------------------- a whole run


def test_every_cell_has_its_rows(finished):
    plan, _, outcome = finished
    keys = {(row.method, row.variant, row.steps, row.seed) for row in outcome.rows if row.steps}
    assert keys == {
        ("teacher", "", 25, 0),
        *(("none", "", steps, 0) for steps in (1, 2)),
        *(("mdt", "released", steps, 0) for steps in (1, 2)),
    }
    for row in plan.lines:
        name, _, variant = row.row.method.partition(":")
        mine = [r for r in outcome.rows if (r.method, r.variant, r.steps) == (name, variant, row.row.steps)]
        assert {r.metric for r in mine} == METRICS | SECONDS
        assert {(r.n_ok, r.n_total, r.status, r.stage) for r in mine} == {(3, 3, "ok", "both")}
        assert {r.nfe for r in mine} == {sum(plan.passes(row).values())}
    assert outcome.failures == ()
    assert not outcome.failed
    latest = {row.metric: row.value for row in outcome.rows if row.method == "teacher"}
    assert latest[LATENCY_METRIC] == pytest.approx(sum(latest[name] for name in SECONDS - {LATENCY_METRIC}))  # type: ignore[misc]


def test_released_students_with_the_teachers_weights_are_the_undistilled_teacher(finished):
    """To the bit: same noise, same sampler, same weights; and other than the teacher's 25 steps."""
    _, out, outcome = finished
    for steps in (1, 2):
        undistilled = values(outcome.rows, "none", steps)
        assert undistilled == values(outcome.rows, "mdt", steps, "released")
        assert undistilled != values(outcome.rows, "teacher", 25)
        for name in IDS:
            made = [(out / "assets" / f"{who}-{steps}x2-run0" / f"{name}.glb") for who in ("none", "mdt_released")]
            assert made[0].read_bytes() == made[1].read_bytes()
    assert values(outcome.rows, "none", 1) != values(outcome.rows, "none", 2)


def test_the_tables_are_the_papers(finished):
    _, out, _ = finished
    shown = {table.name: table for table in tables(read_run(out))}
    assert [name for name in shown if name.startswith("table")] == ["table_1", "table_2", "table_3"]
    lines = [(line.cells[0].text, line.steps) for line in shown["table_1"].rows]
    assert lines == [
        ("Teacher", 25),
        ("VM+VD (Ours) [released]", 1),
        ("Undistilled, CFG", 1),
        ("VM+VD (Ours) [released]", 2),
        ("Undistilled, CFG", 2),
    ]
    beside = dict(zip(lines, shown["table_1"].column("paper:FD_incep"), strict=True))
    assert beside["Teacher", 25].value == 11.80
    assert beside["VM+VD (Ours) [released]", 2].value == 14.16
    assert {column.title for column in shown["table_1"].columns if column.kind == "metric"} == METRICS
    controls = [line.method for line in shown["table_2"].rows if line.role == "control"]
    assert controls == ["truth", "shuffled", "teacher", "none", "none"]
    text = report(read_run(out), "markdown")
    assert "calibration: not judged: compare only within this run (random weights)" in text
    assert "not calibrated" not in text
    assert "extractors with random weights, whose numbers mean nothing" in text
    assert "drawn by mdtbench's own renderer" in text


def test_all_columns_are_kept_beside(finished):
    _, out, _ = finished
    rows = read_rows(out / "measured" / "none-2x2-run0" / "rows.jsonl")
    assert {"KD_incep[random]", "FD_incep_mesh[random]"} <= {row.metric for row in rows}
    manifest = read_json(out / "manifest.json")
    assert manifest["test"] == {"source": "meshes", "ids": list(IDS)}
    assert read_json(out / "expected.json")["rows"][0]["published"] == 11.80


def test_a_second_call_computes_nothing_and_changes_no_row(finished, monkeypatch):
    plan, out, first = finished
    before = (out / "rows.jsonl").read_bytes()

    def refuse(*args, **kwargs):
        raise AssertionError("computed again")

    monkeypatch.setattr(generating, "asset_of", refuse)
    monkeypatch.setattr(command, "measure", refuse)
    again = ran(plan, out)
    assert (out / "rows.jsonl").read_bytes() == before
    assert again.verdicts == first.verdicts


# ------------------------------------------------------------------------------------------------- interrupted, failing


def test_an_interrupted_run_goes_on_with_the_next_asset(finished, site, tmp_path, monkeypatch):
    """In the middle of the second cell; the rows are those of a run in one go."""
    plan, _, whole = finished
    made: list[str] = []

    def counted(recipe, subject, rgba):
        if len(made) == len(IDS) + 1:
            raise KeyboardInterrupt
        made.append(subject.id)
        return remembered(recipe, subject, rgba)

    monkeypatch.setattr(generating, "asset_of", counted)
    with pytest.raises(KeyboardInterrupt):
        ran(plan, tmp_path / "out")
    assert {row.method for row in read_rows(tmp_path / "out" / "rows.jsonl")} == {"teacher", "truth", "shuffled"}
    monkeypatch.setattr(generating, "asset_of", remembered)
    kept = tmp_path / "out" / "assets" / "none-1x2-run0" / f"{IDS[0]}.glb"
    changed = kept.stat().st_mtime_ns
    outcome = ran(plan, tmp_path / "out")
    assert kept.stat().st_mtime_ns == changed
    for method, steps, variant in (("teacher", 25, ""), ("none", 1, ""), ("mdt", 2, "released")):
        assert values(outcome.rows, method, steps, variant) == values(whole.rows, method, steps, variant)


def test_an_asset_without_a_picture_or_with_nothing_in_it_is_counted(site, tmp_path):
    shown = tmp_path / "shown"
    shutil.copytree(site / "shown", shown)
    (shown / f"{IDS[1]}.png").unlink()
    Image.new("RGBA", (32, 32)).save(shown / f"{IDS[2]}.png")
    reporter = Silent()
    outcome = ran(planned(site, f"places.conditions='{shown}'", methods=("none",)), tmp_path / "out", reporter)
    counts = {row.n_ok for row in outcome.rows if row.method in ("teacher", "none")}
    assert counts == {1}
    assert {row.n_ok for row in outcome.rows if row.method == "truth"} == {3}
    reasons = {(cell, name): reason for cell, name, reason in outcome.failures}
    assert "no conditioning picture" in reasons["none-1x2-run0", IDS[1]]
    assert "no pixel has alpha" in reasons["teacher-25x2-run0", IDS[2]]
    assert len(reasons) == 2 * 3  # cells
    assert any(IDS[1] in note for note in reporter.notes)
    text = (tmp_path / "out" / "failures.csv").read_text(encoding="utf-8")
    assert len(text.splitlines()) == 1 + 2 * 3
    # The picture has come: this asset is made, the others stay.
    shutil.copy(site / "shown" / f"{IDS[1]}.png", shown / f"{IDS[1]}.png")
    outcome = ran(planned(site, f"places.conditions='{shown}'", methods=("none",)), tmp_path / "out")
    assert {row.n_ok for row in outcome.rows if row.method == "none"} == {2}


def test_a_cell_of_which_nothing_could_be_made_is_a_failed_row(site, tmp_path, monkeypatch):
    def empty(pipeline, latents):
        return torch.zeros(1, 16, 16, 16, dtype=torch.bool)

    monkeypatch.setattr(generating, "asset_of", asset_of)
    monkeypatch.setattr("mdtbench.trellis.pipeline.StructurePipeline.decode", empty)
    outcome = ran(planned(site, methods=("none",)), tmp_path / "out")
    assert {row.status for row in outcome.rows} == {"failed"}
    assert "no asset could be made: the structure is empty" in outcome.failed["none-1x2-run0"]
    assert "failed" in report(read_run(tmp_path / "out"), "markdown")
    assert "none-1x2-run0 failed: no asset could be made" in outcome.text(tmp_path / "out")


def test_a_student_that_is_not_there_fails_its_cells_alone(site, tmp_path, monkeypatch):
    """The students of vm are the teacher, those of cm failed in the second stage."""
    backbone = load_backbone(site / "weights" / "trellis-image-large")
    files = {}
    for stage, flow in (("ss", backbone.structure.flow), ("slat", backbone.slat.flow)):
        folder = tmp_path / stage
        nonsense = {name: torch.zeros_like(value) for name, value in flow.state_dict().items()}
        save_tensors(folder / "student.safetensors", nonsense)  # the average; the protocol wants the raw weights
        save_tensors(folder / "student-ema0.0.safetensors", flow.state_dict())
        files |= {("vm:official", stage, 0): folder / "student.safetensors"}
    files[("cm", "ss", 0)] = files["vm:official", "ss", 0]
    monkeypatch.setattr(run, "train_students", lambda *args: files)
    outcome = ran(planned(site, methods=("cm", "vm")), tmp_path / "out")
    assert set(outcome.failed) == {"cm-1x2-train0-run0", "cm-2x2-train0-run0"}
    assert "no student of seed 0 (SLAT)" in outcome.failed["cm-1x2-train0-run0"]
    for steps in (1, 2):
        assert values(outcome.rows, "vm", steps, "official") == values(outcome.rows, "none", steps)
    assert {row.train_seed for row in outcome.rows if row.method in ("vm", "cm")} == {0}
    table_3 = next(table for table in tables(read_run(tmp_path / "out")) if table.name == "table_3")
    assert [line.method for line in table_3.rows][:2] == ["none", "vm"]


def test_toys4k_is_shown_and_compared_through_blender(site, tmp_path, monkeypatch):
    """Blender makes the conditioning pictures, the true pictures and the true meshes; it fails on one of three."""
    monkeypatch.delenv("MDTBENCH_BLENDER", raising=False)
    rows = []
    for seed, (name, kind) in enumerate({"a": "good", "b": "good", "c": "exit"}.items()):
        path = fake_blender.write_blend(tmp_path / "toys" / "toys4k_blend_files" / f"{name}.blend", kind)
        for side in (32, 1024):
            picture(seed).resize((side, side)).save(path.with_name(f"{name}-{side}.png"))
        rows.append((file_sha256(path), path.name, 5.0, ""))
    with (tmp_path / "toys" / "Toys4k.csv").open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([COLUMNS, *rows])
    places = {
        "test": f"toys4k:{tmp_path / 'toys'}",
        "blender": fake_blender.install(tmp_path, "3.0.1"),
        "conditions": "",
    }
    plan = planned(site, *(f"places.{key}='{value}'" for key, value in places.items()), methods=("none",))
    assert lacking(needs(plan.config, plan, "cpu")) == []
    outcome = ran(plan, tmp_path / "out")
    undistilled = [row for row in outcome.rows if (row.method, row.steps) == ("none", 1)]
    assert {(row.n_ok, row.n_total) for row in undistilled if row.metric in METRICS} == {(2, 2)}
    assert {row.split for row in outcome.rows} == {"toys4k-full"}
    assert {row.config_sha for row in outcome.rows} == {plan.protocol.sha256}  # the protocol itself: no variant
    assert {name for _, name, _ in outcome.failures} == {rows[2][0]}
    assert sorted(path.stem for path in (tmp_path / "out" / "assets" / "none-1x2-run0").glob("*.glb")) == sorted(
        sha for sha, *_ in rows[:2]
    )
    assert "drawn by Blender 3.0.1" in report(read_run(tmp_path / "out"), "markdown")


# ------------------------------------------------------------------------------------------------------------- assets


@pytest.fixture(scope="module")
def tests(site: Path, tmp_path_factory: pytest.TempPathFactory) -> TestSet:
    return open_tests(planned(site).config, 3, tmp_path_factory.mktemp("cache"), Silent())


def recipe_of(site: Path, tests: TestSet, steps: int = 1, run_seed: int = 0) -> Recipe:
    backbone = load_backbone(site / "weights" / "trellis-image-large")
    values = tests.protocol.values
    return Recipe(backbone, teachers(backbone), values.sampler.student, steps, values, run_seed)


def test_noise_is_the_protocols(site, tests):
    """Seeds by the written rule: sha256 of prefix, asset and run seed; one more for the second stage."""
    recipe, subject = recipe_of(site, tests, run_seed=2), tests.subjects[0]
    seed = asset_seed(recipe.values, subject.sha256, 2)
    for stage, offset in (("ss", 0), ("slat", 1)):
        [found] = recipe.noise(subject, stage)
        assert found.initial_seed() == seed + offset
        assert found.device.type == "cpu"


def test_one_step_is_one_guided_step_from_that_noise(site, tests, monkeypatch):
    """x_0 = noise - v with v = 6 v_cond - 5 v_neg, written out."""
    recipe, subject = recipe_of(site, tests), tests.subjects[1]
    pipeline = recipe.backbone.structure
    seen: list[torch.Tensor] = []
    decode = type(pipeline).decode

    def watched(self, latents):
        seen.append(latents)
        return decode(self, latents)

    monkeypatch.setattr(type(pipeline), "decode", watched)
    _, account = asset_of(recipe, subject, tests.condition(subject.id))
    generator = torch.Generator().manual_seed(asset_seed(recipe.values, subject.sha256, 0))
    noise = torch.randn((1, *pipeline.latent_shape), generator=generator)
    shown = preprocess_image(tests.condition(subject.id), IMAGE)
    cond = pipeline.condition(torch.from_numpy(shown).permute(2, 0, 1)[None])
    with torch.no_grad():
        time = torch.full((1,), 1000.0)
        with_cond, without = pipeline.flow(noise, time, cond), pipeline.flow(noise, time, torch.zeros_like(cond))
    # Two rows in one product round otherwise than one alone.
    torch.testing.assert_close(seen[0], noise - (6 * with_cond - 5 * without), atol=1e-4, rtol=1e-4)
    assert account.nfe == 2 + 2


def test_what_decides_an_asset_decides_its_account(site, tests):
    recipe, subject = recipe_of(site, tests), tests.subjects[0]
    sources = {
        recipe.source(subject),
        recipe_of(site, tests, run_seed=1).source(subject),
        recipe_of(site, tests, steps=2).source(subject),
        replace(recipe, networks=replace(recipe.networks, digest="other")).source(subject),
        replace(recipe, backbone=replace(recipe.backbone, digest="other")).source(subject),
        recipe.source(replace(subject, picture="other")),
        recipe.source(replace(subject, sha256="0" * 64)),
        replace(
            recipe, sampler=tests.protocol.values.sampler.student.model_copy(update={"cfg_strength_ss": 0.0})
        ).source(subject),
    }
    assert len(sources) == 8
    assert recipe_of(site, tests).source(subject) == recipe.source(subject)


def test_files_of_other_settings_are_not_taken_for_these(site, tests, tmp_path):
    first, second = recipe_of(site, tests), recipe_of(site, tests, run_seed=1)
    made = {}
    for recipe in (first, second, first):
        [account] = generate(recipe, tests.subjects[:1], tests.condition, tmp_path, Silent(), "cell")
        content = (tmp_path / f"{IDS[0]}.glb").read_bytes(), (tmp_path / f"{IDS[0]}.ply").read_bytes()
        assert made.setdefault(account.source, content) == content
    assert len(set(made.values())) == 2
    failing = replace(tests.subjects[0], error="gone")
    [account] = generate(second, [failing], tests.condition, tmp_path, Silent(), "cell")
    assert account.error == "gone"
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{IDS[0]}.json"]  # no stale file is measured


def test_of_measured_cells_few_files_stay(site, tmp_path, monkeypatch):
    plan = planned(site, "places.keep_assets=1", methods=("none",))
    outcome = ran(plan, tmp_path / "out")
    kept = [path for path in (tmp_path / "out" / "assets").rglob("*") if path.suffix in (".glb", ".ply")]
    assert {path.stem for path in kept} == {IDS[0]}
    assert len(kept) == 3 * 2
    assert {row.n_ok for row in outcome.rows if row.method == "none"} == {3}
    monkeypatch.setattr(generating, "asset_of", None)  # a measured cell needs its files no more
    assert ran(plan, tmp_path / "out").rows == outcome.rows


def test_students_are_in_the_precision_of_the_backbone(site, tmp_path):
    backbone = load_backbone(site / "weights" / "trellis-image-large")
    flow = backbone.structure.flow
    doubled = {name: value.double() for name, value in flow.state_dict().items()}
    save_tensors(tmp_path / "ss.safetensors", doubled)
    save_tensors(tmp_path / "slat.safetensors", backbone.slat.flow.state_dict())
    made = students(backbone, tmp_path / "ss.safetensors", tmp_path / "slat.safetensors")
    assert {p.dtype for p in made.structure.parameters()} == {p.dtype for p in flow.parameters()}
    assert made.structure is not flow
    with pytest.raises(MissingError, match="does not fit"):
        students(backbone, tmp_path / "slat.safetensors", tmp_path / "ss.safetensors")


def test_which_weights_are_evaluated_is_the_protocols(site, tmp_path):
    sampling = planned(site).protocol.values.sampler
    student = tmp_path / "student.safetensors"
    assert evaluated(student, sampling).name == "student-ema0.0.safetensors"
    assert evaluated(student, sampling.model_copy(update={"weights": "ema"})) == student


# ------------------------------------------------------------------------------------------------- places and verdicts


def test_meshes_need_pictures(site, tmp_path):
    config = load_tables("paper", settings(site, "places.conditions=''"))
    with pytest.raises(UsageError, match=r"no conditioning pictures .* set places\.conditions"):
        open_tests(config, 3, tmp_path, Silent())
    assert "conditioning pictures" in lacking(needs(config))


def test_what_a_run_lacks_is_what_its_rows_need(site, monkeypatch):
    monkeypatch.setattr("mdtbench.harness.paper.machine.cuda_devices", list)
    config = load_tables("paper", [*settings(site)])
    few, all_rows = planned(site), plan_tables(config)
    assert lacking(needs(config, few, "cpu")) == []
    assert lacking(needs(config, few)) == ["a GPU"]
    assert lacking(needs(config, all_rows, "cpu")) == ["training latents"]
    text = next(finding.text for finding in needs(config, few, "cpu") if finding.name == "GPU")
    assert "days" in text
    official = load_tables("paper", [f"places.weights='{site / 'nothing'}'"])
    random = load_tables("paper", [f"places.weights='{site / 'nothing'}'", "protocol.extractors=random"])
    spared = set(lacking(needs(official, few))) - set(lacking(needs(random, few)))
    assert "laion/CLIP-ViT-bigG-14-laion2B-39B-b160k" in spared
    assert "dinov2_vitl14_reg4_pretrain.pth" not in spared  # the conditioner
    assert "Zanwei/mdt-dist" not in lacking(needs(official, planned(site, methods=("none",))))


def test_the_ranges_are_the_presets(site):
    teacher = planned(site).lines[0]
    found = ranges(teacher.paper, teacher.row.tolerance)
    assert (found["FD_incep"].low, found["FD_incep"].high) == pytest.approx((11.8 * 0.9, 11.8 * 1.1))
    assert (found["ULIP_I"].low, found["ULIP_I"].high) == pytest.approx((38.53, 40.53))


def test_a_row_is_judged_where_the_teacher_is(finished):
    """With official extractors and as many assets as published: inside, outside, and of a mean over seeds."""
    plan, _, outcome = finished
    numbers = {"FD_incep": 11.8, "FD_dinov2": 60.0, "ULIP_I": 39.0}
    teacher = [row for row in outcome.rows if row.method == REFERENCE and row.metric in METRICS]
    official = [
        row.model_copy(update={"metric": name, "value": numbers[name], "n_ok": 3218, "n_total": 3218})
        for row in teacher
        for name in [row.metric.removesuffix("[random]")]
    ]
    protocol = plan.protocol
    calibration = calibration_of(plan, protocol, official)
    assert calibration.verdict == "calibrated"
    other = [row.model_copy(update={"seed": 1, "value": (row.value or 0) * 1.3}) for row in official]
    by_metric = {v.metric: v for v in verdicts(plan, official, calibration) if v.method == REFERENCE}
    assert {v.inside for v in by_metric.values()} == {True}
    by_metric = {v.metric: v for v in verdicts(plan, [*official, *other], calibration) if v.method == REFERENCE}
    assert by_metric["FD_incep"].found == pytest.approx(11.8 * 1.15)
    assert {name: v.inside for name, v in by_metric.items()} == {"FD_incep": False, "FD_dinov2": True, "ULIP_I": False}
    text = verdicts_text(verdicts(plan, official, calibration), calibration)
    assert re.search(r"teacher +25x2 +11\.8 inside 11\.8 \(10\.62 to 12\.98\)", text)
    assert re.search(r"mdt:released +1x2 +failed not judged", text)
    assert {v.inside for v in outcome.verdicts} == {None}


def test_names_say_what_a_cell_is(site):
    plan = planned(site, methods=("vm", "mdt:released"))
    assert [cell_name(cell) for cell in plan.cells][-3:] == [
        "vm_official-2x2-train0-run0",
        "mdt_released-1x2-run0",
        "mdt_released-2x2-run0",
    ]
    assert run_id(plan) == run_id(planned(site, "places.weights=elsewhere", methods=("vm", "mdt:released")))
    assert run_id(plan) != run_id(planned(site, "train.steps=5", methods=("vm", "mdt:released")))


# --------------------------------------------------------------------------------------------------- the command line


def test_the_verb_runs_and_prints(finished, site, mdtbench: Callable, monkeypatch: pytest.MonkeyPatch):
    _, out, _ = finished
    monkeypatch.setattr("mdtbench.harness.paper.machine.cuda_devices", list)
    options = ["run", "--preset", "paper", "--methods", "mdt:released", "--out", str(out), "--workers", "1"]
    options += ["--cache", str(site / "cache"), *(word for c in settings(site) for word in ("--set", c))]
    code, text, error = mdtbench(*options)
    assert (code, "a GPU" in error) == (4, True)
    code, text, error = mdtbench(*options, "--device", "cpu")
    assert code == 0, error
    for part in ("Table 1", "Table 2", "Table 3", "Calibration: not judged", "Expected: found", "measured/"):
        assert part in text
    assert json.loads((out / "expected.json").read_text())["calibration"].startswith("not judged")
