"""`mdtbench evaluate --reference toys4k:FOLDER` with a stand-in for Blender and small networks."""

from __future__ import annotations

import csv
import hashlib
import json
import pickle
import shutil
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import fake_blender
import numpy as np
import pytest
from PIL import Image
from silent import Silent
from small_towers import PICTURES, POINTS

from mdtbench.assets.blend import condition_views, find_blender
from mdtbench.assets.folder import FolderSource
from mdtbench.assets.mesh_export import write_glb
from mdtbench.assets.toys4k import COLUMNS
from mdtbench.base.errors import AssetError, MissingError, UsageError
from mdtbench.base.files import file_sha256
from mdtbench.harness.cache import Store
from mdtbench.harness.commands import test_source as source_of
from mdtbench.harness.config import load_config
from mdtbench.harness.evaluate import command
from mdtbench.harness.evaluate.features import Tower
from mdtbench.harness.evaluate.looks import pictures_of, run_look
from mdtbench.harness.evaluate.measure import jobs_of
from mdtbench.harness.evaluate.options import EvaluateOptions
from mdtbench.harness.evaluate.plan import Plan, resolve
from mdtbench.harness.evaluate.toys4k import folder_of, open_toys4k
from mdtbench.harness.protocol.model import PROTOCOLS, load_protocol
from mdtbench.metrics.official import ulip
from mdtbench.metrics.official.picture_extractors import random_extractor, version_of
from mdtbench.results.rows import read_rows

SIDE, CONDITION_SIDE = 48, 1024  # pixels of a picture and of a conditioning picture
KINDS = {"car/a.blend": "good", "car/b.blend": "good", "cup/c.blend": "good", "d.blend": "exit", "e.blend": "good"}


def rgba(path: Path, side: int, seed: int, covered: float = 0.5) -> None:
    """Blocks of noise with alpha 51 to 255 in the upper rows, nothing below."""
    blocks = np.random.default_rng(seed).integers(51, 256, (16, 16, 4), np.uint8)
    pixels = blocks.repeat(side // 16, 0).repeat(side // 16, 1)
    pixels[int(covered * side) :] = 0
    Image.fromarray(pixels).save(path)


def toy(path: Path, kind: str, seed: int) -> str:
    """A .blend file, what the stand-in makes of it, and its sha256."""
    fake_blender.write_blend(path, kind)
    corners = np.random.default_rng(seed).uniform(-1, 1, (6, 3))
    write_glb(path.with_suffix(".glb"), corners, np.array([[0, 1, 2], [3, 4, 5], [0, 2, 4]]), np.full((6, 3), 0.5))
    for side in (SIDE, CONDITION_SIDE):
        rgba(path.with_name(f"{path.stem}-{side}.png"), side, seed)
    return file_sha256(path)


def write_list(folder: Path, rows) -> None:
    with (folder / "Toys4k.csv").open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([COLUMNS, *rows])


@pytest.fixture
def ids(tmp_path, monkeypatch) -> dict[str, str]:
    """Ids by name of a stand-in for Toys4k in tmp_path/toys, with what a system made of it in tmp_path/made.

    Three assets can be used; Blender fails on d, and e is not the listed file. A sixth is not good enough.
    """
    toys = tmp_path / "toys"
    shas = {name: toy(toys / "toys4k_blend_files" / name, kind, i) for i, (name, kind) in enumerate(KINDS.items())}
    (toys / "toys4k_blend_files/e.blend").write_text("good but changed")
    low = hashlib.sha256(b"low").hexdigest()
    write_list(toys, [*((sha, name, 5.5, "") for name, sha in shas.items()), (low, "low.blend", 4.4, "")])
    (tmp_path / "made").mkdir()
    for name, sha in shas.items():
        glb = (toys / "toys4k_blend_files" / name).with_suffix(".glb")
        shutil.copy(glb, tmp_path / "made" / f"{sha}.glb")
    monkeypatch.setenv("MDTBENCH_BLENDER", str(fake_blender.install(tmp_path, "3.0.1")))
    return {Path(name).stem: sha for name, sha in shas.items()}


def tower(name: str, seed: int) -> Tower:
    return Tower(version_of(PICTURES, f"random:{seed}"), lambda: random_extractor(PICTURES, seed))


def options(tmp_path: Path, **changes) -> EvaluateOptions:
    values = {"folder": tmp_path / "made", "name": "Sys", "reference": Path(f"toys4k:{tmp_path / 'toys'}")}
    values |= {"protocol": "trellis-v1", "changes": ("extractors=random",), "geometry_only": False, "limit": None}
    values |= {"latency": None, "steps": None, "nfe": None, "weights": Path("none"), "out": None, "workers": 1}
    values |= {"conditions": None, "seed": None, "calibrates": False}
    return EvaluateOptions(**values | {"cache": tmp_path / "cache"} | changes)


def planned(tmp_path: Path, **changes) -> Plan:
    """A plan with small networks and pictures."""
    plan = resolve(options(tmp_path, **changes))
    points = Tower(
        ulip.version_of(POINTS, "random:3"), lambda: ulip.random_extractor(POINTS, 3), POINTS.preparation.count
    )
    distances = {name: tower(name, seed) for seed, name in enumerate(plan.towers.distances)}
    towers = replace(plan.towers, distances=distances, ulip_pictures=tower("pictures", 2), ulip_points=points)
    return replace(plan, towers=towers, studio=replace(plan.studio, resolution=SIDE))


def opened(tmp_path: Path, protocol: str = "trellis-v1"):
    return open_toys4k(tmp_path / "toys", load_protocol(protocol).values, find_blender(), tmp_path / "cache")


@pytest.fixture
def in_process(monkeypatch):
    """Without worker processes, which take seconds to start."""

    @contextmanager
    def nobody(count, report):
        yield None

    monkeypatch.setattr(command, "workers", nobody)
    monkeypatch.setattr(command, "spread", lambda team, jobs: [run_look(job) for job in jobs])


def calls(tmp_path: Path) -> int:
    return fake_blender.calls(tmp_path / "blender")


def test_a_whole_evaluation_and_its_repeat(tmp_path, ids, in_process):
    plan, out = planned(tmp_path), tmp_path / "out"
    rows, result = command.evaluate(plan, out, tmp_path / "cache", 1, Silent())
    assert plan.protocol.name == "trellis-v1"
    assert plan.protocol.sha256 == load_protocol("trellis-v1").sha256
    assert [pair.id for pair in result.pairs] == sorted(ids[name] for name in "abc")
    reasons = {failure.id: failure.reason for failure in result.dropped}
    assert set(reasons) == {ids["d"], ids["e"]}
    assert "no visible mesh" in reasons[ids["d"]]
    assert "Toys4k.csv says" in reasons[ids["e"]]
    assert not result.failures
    values = {value.metric: value.value for value in result.system}
    assert {"FD_incep_mesh", "KD_dinov2_mesh", "ULIP_I"} <= set(values)
    assert values["FD_incep_mesh"] > 0.01  # our pictures of triangles against the stand-in's noise
    # The system's files are those that Blender makes: equal points, and so equal features.
    assert values["ULIP_I"] == result.controls["truth"].value
    assert {row.split for row in rows} == {"toys4k-full"}
    assert all("3 assets of 'toys4k-full', drawn by Blender 3.0.1" in row.note for row in rows)
    assert all("2 assets of the reference cannot be used" in row.note for row in rows if row.method == "Sys")
    assert calls(tmp_path) == 3 * 3 + 1  # a mesh, four views, a conditioning picture; the changed file is never opened
    before = (out / "rows.jsonl").read_bytes()
    (tmp_path / "toys/toys4k_blend_files/car/a.blend").unlink()  # what was made of it is kept
    again, _ = command.evaluate(planned(tmp_path), out, tmp_path / "cache", 1, Silent())
    assert again == rows == read_rows(out / "rows.jsonl")
    assert (out / "rows.jsonl").read_bytes() == before
    assert calls(tmp_path) == 11  # the one that failed is tried again


def test_the_pictures_are_blenders_from_the_cameras_of_the_protocol(tmp_path, ids):
    plan = planned(tmp_path)
    (pair,) = [pair for pair in plan.pairs if pair.id == ids["a"]]
    found = pictures_of(pair.truth, plan.studio, Store(tmp_path / "cache"))
    pixels = np.asarray(Image.open(tmp_path / f"toys/toys4k_blend_files/car/a-{SIDE}.png"), float)
    expected = np.floor(pixels[..., :3] * pixels[..., 3:] / 255 + 0.5).astype(np.uint8).transpose(2, 0, 1)
    np.testing.assert_array_equal(found, np.stack([expected] * 4))
    jobs = [json.loads(path.read_text())["inputs"]["job"] for path in (tmp_path / "cache/blender").rglob("entry.json")]
    views, condition = sorted(jobs, key=lambda job: -len(job["views"]))
    assert (views["samples"], views["seed"], views["as_is"], views["resolution"]) == (128, 0, False, SIDE)
    turns = [view["yaw"] / np.pi * 2 for view in views["views"]]
    assert turns == pytest.approx([1, 0, -1, -2])  # quarters from +x, of yaws 0, 90, 180, 270 from +y
    assert {(round(np.rad2deg(v["pitch"])), v["radius"], round(np.rad2deg(v["fov"]))) for v in views["views"]} == {
        (30, 2.0, 40)
    }
    assert (condition["resolution"], len(condition["views"])) == (1024, 1)


def test_the_conditioning_picture_is_the_one_that_the_digest_chooses(tmp_path, ids):
    reference, name = opened(tmp_path), ids["b"]
    found = reference.condition(name)
    path = tmp_path / f"toys/toys4k_blend_files/car/b-{CONDITION_SIDE}.png"
    np.testing.assert_array_equal(found, np.asarray(Image.open(path)))
    assert (found.shape, found.dtype) == ((1024, 1024, 4), np.uint8)
    views = condition_views(int(name[:8], 16), 24, (10, 70))
    assert reference.look(name).condition.views == (views[int(name[8:16], 16) % 24],)
    reference.condition(name)
    assert calls(tmp_path) == 1
    with pytest.raises(AssetError, match="says"):
        reference.condition(ids["e"])


def test_ids_and_failures(tmp_path, ids):
    reference = opened(tmp_path)
    (tmp_path / "toys/toys4k_blend_files/car/b.blend").unlink()
    assert list(reference.ids) == sorted(ids.values())
    assert len(reference.known) == 6
    assert set(reference.failures) == {ids["b"], ids["e"]}
    assert "it is missing" in reference.failures[ids["b"]]
    assert calls(tmp_path) == 0


def test_the_subset_is_that_of_the_protocol(tmp_path, ids):
    names = [hashlib.sha256(str(i).encode()).hexdigest() for i in range(80)]
    write_list(tmp_path / "toys", [(sha, "car/a.blend", 4.5 if i else 4.4, "") for i, sha in enumerate(names)])
    first = sorted(names[1:], key=lambda sha: hashlib.sha256(f"trellis-v1/1250/{sha}".encode()).hexdigest())[:64]
    reference = opened(tmp_path, "trellis-v1+smoke")
    assert list(reference.ids) == sorted(first)
    assert reference.name == "toys4k-smoke"
    assert len(reference.known) == 80


def test_an_asset_without_a_visible_conditioning_picture_does_not_count(tmp_path, ids, in_process):
    rgba(tmp_path / f"toys/toys4k_blend_files/car/a-{CONDITION_SIDE}.png", CONDITION_SIDE, 0, covered=0.001)
    _, result = command.evaluate(planned(tmp_path), tmp_path / "out", tmp_path / "cache", 1, Silent())
    reasons = {failure.id: failure.reason for failure in result.dropped}
    assert "it covers 0.0" in reasons[ids["a"]]  # one row of 1024, less than opaque


def test_everything_that_decides_pictures_and_points_is_in_their_addresses(tmp_path, ids, monkeypatch):
    def addresses(**changes) -> list[str]:
        plan = planned(tmp_path, **changes)
        pair = plan.pairs[0]
        at = (pair.truth.address(plan.studio), pair.truth.cloud_address(plan.cloud(pair)))
        return [*(address.digest for address in at), plan.key]

    first = addresses()
    assert addresses(workers=4, cache=tmp_path / "other") == first
    as_is = addresses(protocol="trellis-v1+as-is")
    assert [new == old for new, old in zip(as_is, first, strict=True)] == [False, True, False]
    monkeypatch.setenv("MDTBENCH_BLENDER", str(fake_blender.install(tmp_path, "4.5.15 LTS")))
    newer = addresses()
    assert not set(newer) & set(first)
    assert planned(tmp_path).protocol.name == "trellis-v1+blender-4.5"


def test_as_is_asks_blender_for_the_files_own_world(tmp_path, ids):
    look = opened(tmp_path, "trellis-v1+as-is").look(ids["a"])
    assert look.views.as_is
    assert look.condition.as_is


def test_jobs_can_be_sent_to_workers(tmp_path, ids):
    plan, store = planned(tmp_path), Store(tmp_path / "cache")
    job = next(job for job in jobs_of(plan, store) if job.look == plan.pairs[0].truth)
    assert pickle.loads(pickle.dumps(job)).look == job.look
    assert (job.pictures, len(job.clouds)) == (True, 1)


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (lambda toys: shutil.rmtree(toys), MissingError, r"Missing file .*Toys4k\.csv.*TRELLIS-500K"),
        (lambda toys: shutil.rmtree(toys / "toys4k_blend_files"), MissingError, "no folder .*toys4k_blend_files"),
        (
            lambda toys: [path.unlink() for path in toys.rglob("*.blend")],
            MissingError,
            "None of the 5 listed files is in .*toys4k_blend_files .such as .*blend",
        ),
        (
            lambda toys: write_list(toys, [("a" * 64, "a.blend", 4.49, "")]),
            UsageError,
            r"no row has an aesthetic score of 4\.5 or more",
        ),
    ],
)
def test_a_folder_that_is_no_toys4k_is_refused(tmp_path, ids, spoil, error, message):
    spoil(tmp_path / "toys")
    with pytest.raises(error, match=message) as caught:
        resolve(options(tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("version", "protocol", "message"),
    [
        ("4.2.3 LTS", "trellis-v1", r"No protocol has pictures of Blender 4\.2\.3 LTS - 3\.0\.1 and 4\.5 are allowed"),
        ("3.0.10", "trellis-v1", "No protocol has pictures"),
        ("3.0.1", "trellis-v1+blender-4.5", r"those of 'Blender 4\.5 Cycles', and this is Blender 3\.0\.1"),
        ("3.0.1", "trellis-v1+own-renderer", "those of 'mdtbench ray caster'"),
    ],
)
def test_another_renderer_than_the_protocols_is_refused(tmp_path, ids, monkeypatch, version, protocol, message):
    monkeypatch.setenv("MDTBENCH_BLENDER", str(fake_blender.install(tmp_path, version)))
    with pytest.raises(UsageError, match=message):
        resolve(options(tmp_path, protocol=protocol))


def test_a_protocol_whose_light_the_scripts_do_not_have_is_refused(tmp_path, ids):
    text = (PROTOCOLS / "trellis-v1.toml").read_text(encoding="utf-8")
    (tmp_path / "mine.toml").write_text(text.replace("values.bounces_diffuse = 1", "values.bounces_diffuse = 2"))
    with pytest.raises(UsageError, match=r"gt_render\.bounces_diffuse = 2 .* 1 is allowed"):
        resolve(options(tmp_path, protocol=str(tmp_path / "mine.toml")))


def test_without_blender_it_says_how_to_get_it(tmp_path, ids, monkeypatch):
    monkeypatch.setenv("MDTBENCH_BLENDER", str(tmp_path / "nowhere"))
    with pytest.raises(MissingError, match=r"No Blender.*pip install 'bpy==4\.5"):
        resolve(options(tmp_path))


def test_a_run_can_measure_on_its_meshes(tmp_path, ids):
    source = source_of(load_config("smoke"), Path(f"toys4k:{tmp_path / 'toys'}"), tmp_path / "cache")
    assert source.name == "toys4k-full"
    assert [asset.id for asset in source.assets()] == sorted(ids.values())
    assets = {asset.id: asset for asset in source.assets()}
    assert len(assets[ids["c"]].load().faces) == 3
    with pytest.raises(AssetError, match="no visible mesh"):
        assets[ids["d"]].load()
    assert isinstance(source_of(load_config("smoke"), tmp_path, tmp_path / "cache"), FolderSource)


def test_the_option_is_told_from_a_folder():
    assert folder_of(Path("toys4k:/data/toys")) == Path("/data/toys")
    assert folder_of(Path("toys4k")) is None
    assert folder_of(None) is None
