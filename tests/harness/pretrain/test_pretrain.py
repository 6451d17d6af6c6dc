"""`mdtbench pretrain`, three steps a stage: a world that loads, is not made twice, and survives an interruption."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tracked import FLOAT32, curves_of, of_tensorboard, same
from views import views_of

from mdtbench.assets.toys import GRID, AllToys
from mdtbench.base.errors import UsageError
from mdtbench.base.files import read_json
from mdtbench.base.seeds import seed_of
from mdtbench.harness.engine.engine import Engine
from mdtbench.harness.engine.files import load_arrays
from mdtbench.harness.engine.workers import workers
from mdtbench.harness.inputs.world import World, load_world, world_info
from mdtbench.harness.pretrain import FIRST, SECOND, STAGES, data, fit, pretrain, quality, stage_address
from mdtbench.harness.pretrain.data import Toys
from mdtbench.harness.settings.config import Config, load_config
from mdtbench.render.appearance import coarse_coords, voxel_features
from mdtbench.render.points import sample_surface
from mdtbench.render.structure import structure_mesh

N_TOYS, N_HELD_OUT, N_JUDGED, STEPS = 24, 4, 5, 3
CHANGES = [
    f"pretrain.assets={N_TOYS}",
    f"pretrain.held_out={N_HELD_OUT}",
    "pretrain.preparation.views=1",
    "pretrain.observation.points=128",
    "pretrain.second.assets=12",
    "pretrain.second.looks.points=96",
    "pretrain.second.looks.picture_size=48",
    "pretrain.second.slat_vae.picture_size=32",
    *(f"pretrain.{stage}.{key}" for stage in FIRST for key in (f"steps={STEPS}", "batch=4")),
    *(f"pretrain.second.{stage}.{key}" for stage in SECOND for key in (f"steps={STEPS}", "batch=4")),
]


class Quiet:
    """A reporter that says nothing, remembers the tasks and can interrupt one of them."""

    def __init__(self, stop_at: int | None = None):
        self.stop_at = stop_at
        self.started: list[tuple[str, int]] = []

    def note(self, text: str) -> None:
        del text

    def start(self, label: str, total: int, done: int = 0) -> int:
        del total
        self.started.append((label, done))
        return len(self.started) - 1

    def update(self, task: int, done: int, info: str = "") -> None:
        if info and done == self.stop_at:
            raise KeyboardInterrupt
        del task


def recipe(*changes: str) -> Config:
    return load_config("tiny", [*CHANGES, *changes])


def files(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Time of writing and content of a world's files."""
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in sorted((folder / "ckpts").iterdir())}


@pytest.fixture(autouse=True, scope="module")
def few_toys() -> Iterator[None]:
    """To judge on, and of all that there are."""
    listed = AllToys.assets
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "JUDGED", N_JUDGED)
        patch.setattr(AllToys, "assets", lambda toys: listed(toys)[: N_JUDGED * toys.colours])
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete world, made in two calls."""
    folder = tmp_path_factory.mktemp("pretrain") / "mine"
    assert not pretrain(recipe(), folder, ["vae"], 1, Quiet())
    assert not (folder / "world.json").exists()
    assert pretrain(recipe(), folder, list(STAGES), 1, Quiet(), ("tensorboard",))
    return folder


@pytest.fixture(scope="module")
def world(made: Path) -> World:
    return load_world(made)


def test_the_world_is_complete_and_loads(world: World, made: Path):
    assert world.file.name == "mine"
    config = recipe().pretrain
    assert config is not None
    assert world.file.preparation == config.preparation
    assert world.file.observation == config.observation
    assert world.structure.sampler.steps == config.sampler.steps
    assert world.structure.latent_shape[0] == config.vae.latent_channels
    assert config.second is not None
    assert world.whole.sampler.steps == config.second.slat_sampler.steps
    assert world.whole.resolution == config.second.looks.resolution
    names = {name for stage in STAGES.values() for name in stage.checkpoints}
    assert set(world.file.sha256) == {f"ckpts/{name}.{kind}" for name in names for kind in ("json", "safetensors")}


def test_toys_look_as_the_protocol_says(made: Path):
    """Pictures under its cameras, points by its seeds, of structures and of the toys themselves; cells and features."""
    config = recipe().pretrain
    assert config is not None
    with workers(1, Quiet()) as team:
        toys = Toys(config, made / "work", Engine(team, team))
        tests, collection, objects = toys.usable("train"), toys.collection("train"), toys.objects("train", 12)
    assert (len(collection.labels), len(objects.assets)) == (N_TOYS, 12)
    assert objects.pictures.shape[-1] != collection.pictures.shape[-1]  # each level has its own size
    for i in (0, 7, 11):
        name, mesh, grid = tests.ids[i], objects.assets[i].load(), collection.occupancy[i]
        for seen, shape, seed in (
            (collection, structure_mesh(grid), seed_of("points", name)),
            (objects, mesh, seed_of("surface points", name)),
        ):
            assert np.array_equal(seen.pictures[i], views_of(shape, seen.pictures.shape[-1]))
            source = np.random.Generator(np.random.PCG64(seed))
            assert np.array_equal(seen.points[i], sample_surface(shape, seen.points.shape[1], source))
        cells = coarse_coords(grid, GRID)
        picked = objects.picked(np.array([3, i]))
        mine = picked.voxels.sample.numpy() == 1
        assert np.array_equal(picked.voxels.coords.numpy()[mine, 1:], cells)
        assert np.array_equal(picked.feats.numpy()[mine], voxel_features(mesh, cells, GRID))


def test_its_latents_have_unit_variance(world: World, made: Path):
    """The flow is trained from noise of that size. Measured on 24 toys, after rounding to half precision."""
    shards = [load_arrays(path) for path in (made / "work").glob("entries-*/prepared/*/*.npz")]
    [occupancy] = [torch.from_numpy(shard["occupancy"]) for shard in shards if len(shard["ids"]) == N_TOYS]
    latents = world.structure.encode(occupancy)
    assert latents.std((0, 2, 3, 4)).tolist() == pytest.approx([1.0] * latents.shape[1], rel=5e-3)


def test_every_network_is_tracked_by_its_log_and_the_world_by_what_was_measured(made: Path):
    """The first was made by a call that nobody tracked."""
    work = made / "work"
    tracks = of_tensorboard(work)
    logs = {path.stem: curves_of(path) for path in work.glob("*.jsonl")}
    assert {name.rpartition("-")[0] for name in logs} == set(STAGES)
    [world] = tracks.keys() - logs.keys()
    for name, log in logs.items():
        assert [step for step, _ in log["loss"]] == [0, STEPS - 1]
        assert same(tracks[name].curves, log, FLOAT32)
        assert (tracks[name].settings["stage"], tracks[name].settings["steps"]) == (name.rpartition("-")[0], STEPS)
    found = tracks[world].curves
    for stage in STAGES:
        measured = read_json(work / f"{stage}.json")
        for key in measured.keys() - {"address"}:
            assert found[f"{key}/{stage}"] == [(0, pytest.approx(measured[key], rel=FLOAT32))]
    assert {name for name in found if name.startswith("FD_tiny2d/")} == {
        f"FD_tiny2d/{title}" for title in ("1 step", "teacher- full sampler", "other true toys")
    }
    assert found["steps/vae"] == [(0, STEPS)]


def test_the_card_says_what_was_done(made: Path):
    card = (made / "MODEL_CARD.md").read_text()
    assert f"from {N_TOYS} procedural toys ({N_HELD_OUT} held out)" in card
    for stage in STAGES:
        assert f"| {stage} | {STEPS} | 4 |" in card
    assert f"The teacher on {N_JUDGED} test toys" in card
    tables = [part.splitlines() for part in card.split("\n\n") if part.startswith("| sampler")]
    assert [table[0] for table in tables] == [
        "| sampler | valid | IoU_law | FD_tiny2d | FD_tiny3d | ULIP_tiny | IoU_truth |",
        "| sampler | valid_rgb | IoU_law_rgb | FD_tiny_gs |",
    ]  # of five toys there are no pairs, and no coverage
    rows = [[line.strip("| ").split(" | ") for line in table[2:]] for table in tables]
    titles = ["teacher, full sampler", "1 step"]
    others = rows[0].pop()
    assert (others[0], others.count("-")) == ("other true toys", 4)  # only distances are of toys of other pictures
    assert [[row[0] for row in table] for table in rows] == [titles, ["encoder and decoders", *titles]]
    assert all(float(cell) < np.inf for table in rows for row in table for cell in row[1:])


def test_making_it_again_does_nothing(made: Path):
    before, digest, reporter = files(made), world_info(made).digest, Quiet()
    assert pretrain(recipe(), made, list(STAGES), 1, reporter)
    assert files(made) == before
    assert world_info(made).digest == digest
    assert reporter.started == []


def test_a_folder_made_with_other_settings_is_left_alone(made: Path):
    before = files(made)
    for change, stage in (("vae.lr=0.5", "vae"), ("conditioner.lr=0.5", "conditioner"), ("teacher.steps=9", "teacher")):
        with pytest.raises(UsageError, match=f"Stage {stage} .* other settings"):
            pretrain(recipe(f"pretrain.{change}"), made, list(STAGES), 1, Quiet())
    assert files(made) == before


def test_a_stage_depends_on_the_stages_before_it():
    one, other = recipe().pretrain, recipe("pretrain.vae.lr=0.5").pretrain
    assert one is not None
    assert other is not None
    changed = [stage for stage in STAGES if stage_address(one, stage) != stage_address(other, stage)]
    assert changed == ["vae", "conditioner", "teacher"]


def test_a_stage_that_was_killed_while_it_was_stored_is_stored_again(made: Path):
    before = files(made)
    (made / "work" / "picture_classifier.json").unlink()
    (made / "ckpts" / "tiny2d.json").unlink()
    reporter = Quiet()
    assert pretrain(recipe(), made, list(STAGES), 1, reporter)
    assert reporter.started == [("PictureClassifier", STEPS)]
    assert {name: data for name, (_, data) in files(made).items()} == {name: data for name, (_, data) in before.items()}


@pytest.mark.parametrize("stage", ["vae", "picture_classifier", "slat_vae"])
def test_an_interrupted_stage_goes_on_bit_for_bit(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
):
    out = tmp_path / "again"
    for folder in (made / "work").iterdir():
        if folder.is_dir():  # what is known of the toys
            shutil.copytree(folder, out / "work" / folder.name)
    monkeypatch.setattr(fit, "CHECKPOINT_EVERY_S", -1.0)
    with pytest.raises(KeyboardInterrupt):
        pretrain(recipe(), out, [stage], 1, Quiet(stop_at=STEPS - 1))
    assert not (out / "ckpts").exists()
    reporter = Quiet()
    assert not pretrain(recipe(), out, [stage], 1, reporter)
    assert [done for _, done in reporter.started] == [STEPS - 2]  # steps that need not be taken again
    for name in STAGES[stage].checkpoints:
        again, whole = (load_file(folder / "ckpts" / f"{name}.safetensors") for folder in (out, made))
        assert set(again) == set(whole)
        assert [key for key in whole if not again[key].equal(whole[key])] == []


def test_stages_and_tables_are_checked_first(tmp_path: Path):
    for config, stages, text in (
        (recipe(), ["vea"], "Did you mean 'vae'"),
        (load_config("smoke"), list(STAGES), "pretrain"),
        (recipe("pretrain.dual_encoder.batch=25"), ["vae"], r"dual_encoder\.batch is 25"),
        (recipe("pretrain.second.asset_dual_encoder.batch=13"), ["vae"], r"asset_dual_encoder\.batch is 13"),
        (recipe("pretrain.second.assets=25"), ["vae"], r"second\.assets is 25"),
    ):
        with pytest.raises(UsageError, match=text):
            pretrain(config, tmp_path / "w", stages, 1, Quiet())
    assert list(tmp_path.iterdir()) == []


def test_whole_assets_on_true_structures_are_as_good_as_they_were(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Of the first six test toys, in the shipped world; another world has other numbers."""
    monkeypatch.setattr(quality, "ROWS", {"1 step": ("none", 1)})
    monkeypatch.setattr(quality, "JUDGED_WHOLE", 6)
    config = load_config("tiny", ["pretrain.held_out=6"]).pretrain
    assert config is not None
    with workers(1, Quiet()) as team:
        found = quality.second_stage_quality(tiny_folder, Toys(config, tmp_path, Engine(team, team)))
    reconstructed = {"valid_rgb": 1.0, "IoU_law_rgb": 0.99660}
    sampled = {"valid_rgb": 0.0, "IoU_law_rgb": 0.71278}
    for title, expected in {"encoder and decoders": reconstructed, "1 step": sampled}.items():
        measured = found.pop(title)
        assert measured.pop("FD_tiny_gs") > 0  # of six assets mostly bias
        assert measured == pytest.approx(expected, rel=1e-2)
    assert found == {}
