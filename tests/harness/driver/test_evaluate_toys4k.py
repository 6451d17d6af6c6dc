"""`mdtbench evaluate --reference toys4k:FOLDER` with a stand-in for Blender and small networks."""

from __future__ import annotations

import csv
import hashlib
import json
import pickle
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import fake_blender
import numpy as np
import pytest
from evaluations import SIDE, Files, small_evaluations
from inprocess import in_process
from PIL import Image

from mdtbench.assets.blend import condition_views, find_blender
from mdtbench.assets.folder import FolderSource
from mdtbench.assets.mesh_export import write_glb
from mdtbench.assets.toys4k import COLUMNS
from mdtbench.base.errors import AssetError, MissingError, UsageError
from mdtbench.base.files import file_sha256
from mdtbench.harness.driver.evaluation import Evaluation
from mdtbench.harness.inputs.prepare import OwnRenderer, Preparation, prepare_jobs
from mdtbench.harness.inputs.subjects import BlenderPictures, Toys4kTests, protocol_for
from mdtbench.harness.inputs.subjects import test_source as source_of
from mdtbench.harness.inputs.toys4k import Toys4kReference, folder_of, open_toys4k
from mdtbench.harness.protocol import model
from mdtbench.harness.protocol.model import load_protocol
from mdtbench.harness.settings.config import load_config
from mdtbench.results.frames import to_rows

CONDITION_SIDE = 1024  # pixels of a conditioning picture
KINDS = {"car/a.blend": "good", "car/b.blend": "good", "cup/c.blend": "good", "d.blend": "exit", "e.blend": "good"}


@pytest.fixture(scope="module", autouse=True)
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with small_evaluations(tmp_path_factory.mktemp("small")):
        yield


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


class Toys(Files):
    """A stand-in for Toys4k in root/toys, and what a system made of it in root/made.

    Three assets can be used; Blender fails on d, and e is not the listed file. A sixth is not good enough.
    """

    def __init__(self, root: Path):
        super().__init__(root)
        shas = {name: toy(self.blend(name), kind, seed) for seed, (name, kind) in enumerate(KINDS.items())}
        self.blend("e.blend").write_text("good but changed")
        low = hashlib.sha256(b"low").hexdigest()
        self.write_list([*((sha, name, 5.5, "") for name, sha in shas.items()), (low, "low.blend", 4.4, "")])
        self.made.mkdir()
        for name, sha in shas.items():
            shutil.copy(self.blend(name).with_suffix(".glb"), self.made / f"{sha}.glb")
        self.ids = {Path(name).stem: sha for name, sha in shas.items()}

    @property
    def toys(self) -> Path:
        return self.root / "toys"

    @property
    def option(self) -> str:
        return f"toys4k:{self.toys}"

    def blend(self, name: str) -> Path:
        return self.toys / "toys4k_blend_files" / name

    def write_list(self, rows: Sequence[tuple]) -> None:
        with (self.toys / "Toys4k.csv").open("w", encoding="utf-8", newline="") as stream:
            csv.writer(stream).writerows([COLUMNS, *rows])

    def resolved(self, **changes: Any) -> Evaluation:
        return super().resolved(**{"reference": self.option, **changes})

    def opened(self, protocol: str = "trellis-v1") -> Toys4kReference:
        return open_toys4k(self.toys, load_protocol(protocol).values, find_blender(), self.root / "cache")

    @property
    def calls(self) -> int:
        return fake_blender.calls(self.root / "blender")


@pytest.fixture
def toys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Toys:
    monkeypatch.setenv("MDTBENCH_BLENDER", str(fake_blender.install(tmp_path, "3.0.1")))
    return Toys(tmp_path)


def test_a_whole_evaluation_and_its_repeat(toys):
    result = toys.evaluated()
    assert result.found.protocol.name == "trellis-v1"
    assert result.found.protocol.sha256 == load_protocol("trellis-v1").sha256
    reasons = dict(result.outcome.failures)
    assert set(reasons) == {toys.ids["d"], toys.ids["e"]}
    assert "no visible mesh" in reasons[toys.ids["d"]]
    assert "Toys4k.csv says" in reasons[toys.ids["e"]]
    assert not result.failures
    values = result.values()
    assert {"FD_incep_mesh", "KD_dinov2_mesh", "ULIP_I"} <= set(values)
    assert values["FD_incep_mesh"] > 0.01  # our pictures of triangles against the stand-in's noise
    # The system's files are those that Blender makes: equal points, and so equal features.
    assert values["ULIP_I"] == result.values("truth")["ULIP_I"]
    rows = to_rows(result.outcome.results.rows)
    assert {row.split for row in rows} == {"toys4k-full"}
    assert all("3 assets of 'toys4k-full', drawn by Blender 3.0.1" in row.note for row in rows)
    assert all("2 assets of the reference cannot be used" in row.note for row in rows)
    manifest = json.loads((result.out / "manifest.json").read_text())
    assert manifest["reference"]["ids"] == sorted(toys.ids[name] for name in "abc")
    assert toys.calls == 3 * 3 + 1  # a mesh, four views, a conditioning picture; the changed file is never opened
    before = (result.out / "rows.jsonl").read_bytes()
    toys.blend("car/a.blend").unlink()  # what was made of it is kept
    again = toys.evaluated()
    assert to_rows(again.outcome.results.rows) == rows
    assert (again.out / "rows.jsonl").read_bytes() == before
    assert toys.calls == 11  # the one that failed is tried again


def test_a_file_that_is_there_at_last_counts(toys):
    blend = toys.blend("car/b.blend")
    blend.rename(blend.with_suffix(".away"))
    assert toys.ids["b"] in dict(toys.evaluated().outcome.failures)
    blend.with_suffix(".away").rename(blend)
    result = toys.evaluated()
    assert set(dict(result.outcome.failures)) == {toys.ids["d"], toys.ids["e"]}
    assert {row.n_total for row in result.rows.values()} == {3}


def test_the_pictures_are_blenders_from_the_cameras_of_the_protocol(toys):
    found = toys.evaluated().found
    drawn = found.truth.seen(["gaussians"], {})["gaussians"][found.ids.index(toys.ids["a"])]
    pixels = np.asarray(Image.open(toys.blend(f"car/a-{SIDE}.png")), float)
    expected = np.floor(pixels[..., :3] * pixels[..., 3:] / 255 + 0.5).astype(np.uint8).transpose(2, 0, 1)
    np.testing.assert_array_equal(drawn, np.stack([expected] * 4))
    jobs = [json.loads(path.read_text())["inputs"]["job"] for path in (toys.root / "cache/blender").rglob("entry.json")]
    views = next(job for job in jobs if len(job.get("views", ())) == 4)
    condition = next(job for job in jobs if len(job.get("views", ())) == 1)
    assert (views["samples"], views["seed"], views["as_is"], views["resolution"]) == (128, 0, False, SIDE)
    turns = [view["yaw"] / np.pi * 2 for view in views["views"]]
    assert turns == pytest.approx([1, 0, -1, -2])  # quarters from +x, of yaws 0, 90, 180, 270 from +y
    assert {(round(np.rad2deg(v["pitch"])), v["radius"], round(np.rad2deg(v["fov"]))) for v in views["views"]} == {
        (30, 2.0, 40)
    }
    assert condition["resolution"] == 1024


def test_the_conditioning_picture_is_the_one_that_the_digest_chooses(toys):
    reference, name = toys.opened(), toys.ids["b"]
    look = reference.look(name)
    np.testing.assert_array_equal(look.shown(), np.asarray(Image.open(toys.blend(f"car/b-{CONDITION_SIDE}.png"))))
    assert (look.shown().shape, look.shown().dtype) == ((1024, 1024, 4), np.uint8)
    views = condition_views(int(name[:8], 16), 24, (10, 70))
    assert look.condition.views == (views[int(name[8:16], 16) % 24],)
    assert toys.calls == 1
    with pytest.raises(AssetError, match="says"):
        reference.look(toys.ids["e"]).shown()


def test_ids_and_failures(toys):
    reference = toys.opened()
    toys.blend("car/b.blend").unlink()
    assert list(reference.ids) == sorted(toys.ids.values())
    assert len(reference.known) == 6
    assert set(reference.failures) == {toys.ids["b"], toys.ids["e"]}
    assert "it is missing" in reference.failures[toys.ids["b"]]
    assert toys.calls == 0


def test_the_subset_is_that_of_the_protocol_and_files_of_the_others_are_no_leftovers(toys):
    names = [hashlib.sha256(str(i).encode()).hexdigest() for i in range(80)]
    toys.write_list([(sha, "car/a.blend", 4.5 if i else 4.4, "") for i, sha in enumerate(names)])
    first = sorted(names[1:], key=lambda sha: hashlib.sha256(f"trellis-v1/1250/{sha}".encode()).hexdigest())[:64]
    shutil.rmtree(toys.made)
    toys.made.mkdir()
    for name in (*names, "stray"):
        shutil.copy(toys.blend("car/a.glb"), toys.made / f"{name}.glb")
    found = toys.resolved(protocol="trellis-v1+smoke")
    assert found.ids == tuple(sorted(first))
    assert found.reference == "toys4k-smoke"
    assert found.unused == ("stray",)


def test_an_asset_without_a_visible_conditioning_picture_does_not_count(toys):
    rgba(toys.blend(f"car/a-{CONDITION_SIDE}.png"), CONDITION_SIDE, 0, covered=0.001)
    assert "it covers 0.0" in dict(toys.evaluated().outcome.failures)[toys.ids["a"]]  # one row, less than opaque


def test_everything_that_decides_pictures_is_in_their_addresses(toys, monkeypatch):
    def addresses(**changes: Any) -> list[str]:
        found = toys.resolved(**changes)
        (place,) = found.truth.shards(("gaussians",))[0].places
        return [place.digest, found.reference_sha, found.key]

    first = addresses()
    assert addresses(threads=4, cache=toys.root / "other") == first
    assert not set(addresses(protocol="trellis-v1+as-is")) & set(first)
    monkeypatch.setenv("MDTBENCH_BLENDER", str(fake_blender.install(toys.root, "4.5.15 LTS")))
    assert not set(addresses()) & set(first)
    assert toys.resolved().protocol.name == "trellis-v1+blender-4.5"


def test_as_is_asks_blender_for_the_files_own_world(toys):
    look = toys.opened("trellis-v1+as-is").look(toys.ids["a"])
    assert look.views.as_is
    assert look.condition.as_is


def test_jobs_can_be_sent_to_workers(toys):
    job = toys.resolved(threads=3).truth.shards(("mesh",))[0]
    sent = pickle.loads(pickle.dumps(job))
    assert sent.places == job.places
    assert sent.blender[0].asset.blender.threads == 3


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (lambda toys: shutil.rmtree(toys.toys), MissingError, r"Missing file .*Toys4k\.csv.*TRELLIS-500K"),
        (lambda toys: shutil.rmtree(toys.blend("")), MissingError, "no folder .*toys4k_blend_files"),
        (
            lambda toys: [path.unlink() for path in toys.toys.rglob("*.blend")],
            MissingError,
            "None of the 5 listed files is in .*toys4k_blend_files .such as .*blend",
        ),
        (
            lambda toys: toys.write_list([("a" * 64, "a.blend", 4.49, "")]),
            UsageError,
            r"no row has an aesthetic score of 4\.5 or more",
        ),
    ],
)
def test_a_folder_that_is_no_toys4k_is_refused(toys, spoil: Callable[[Toys], Any], error, message):
    spoil(toys)
    with pytest.raises(error, match=message) as caught:
        toys.resolved()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("version", "protocol", "message"),
    [
        ("4.2.3 LTS", "trellis-v1", r"No protocol has pictures of Blender 4\.2\.3 LTS - 3\.0\.1 and 4\.5 are allowed"),
        ("3.0.10", "trellis-v1", "No protocol has pictures"),
        ("3.0.1", "trellis-v1+blender-4.5", r"those of 'Blender 4\.5 Cycles', and this is Blender 3\.0\.1"),
        ("3.0.1", "trellis-v1+own-renderer", "those of 'mdtbench ray caster'"),
        ("3.0.1", "tiny-v3", "no pictures of Blender's"),
    ],
)
def test_another_renderer_than_the_protocols_is_refused(toys, monkeypatch, version, protocol, message):
    monkeypatch.setenv("MDTBENCH_BLENDER", str(fake_blender.install(toys.root, version)))
    with pytest.raises(UsageError, match=message):
        toys.resolved(protocol=protocol)


def test_the_protocol_of_a_file_is_that_of_the_pictures(toys):
    text = (model.PROTOCOLS / "trellis-v1.toml").read_text(encoding="utf-8")
    path = toys.root / "mine.toml"
    path.write_text(text.replace("values.samples = 128", "values.samples = 16"), encoding="utf-8")
    found = toys.resolved(protocol=str(path))
    assert found.truth.blender[0].views.samples == found.protocol.values.gt_render.samples == 16
    mine = load_protocol(str(path))
    assert protocol_for(mine, Toys4kTests(toys.option, mine, "", toys.root)) == found.protocol
    path.write_text(text.replace("values.bounces_diffuse = 1", "values.bounces_diffuse = 2"), encoding="utf-8")
    with pytest.raises(UsageError, match=r"gt_render\.bounces_diffuse = 2 .* 1 is allowed"):
        toys.resolved(protocol=str(path))


def test_without_blender_it_says_how_to_get_it(toys, monkeypatch):
    monkeypatch.setenv("MDTBENCH_BLENDER", str(toys.root / "nowhere"))
    with pytest.raises(MissingError, match=r"No Blender.*pip install 'bpy==4\.5"):
        toys.resolved()


def test_a_run_can_measure_on_its_meshes(toys):
    source = source_of(toys.option, load_config("smoke"), toys.root / "cache")
    assert source.name == "toys4k-full"
    assert [asset.id for asset in source.assets()] == sorted(toys.ids.values())
    assets = {asset.id: asset for asset in source.assets()}
    assert len(assets[toys.ids["c"]].load().faces) == 3
    with pytest.raises(AssetError, match="no visible mesh"):
        assets[toys.ids["d"]].load()
    assert isinstance(source_of(str(toys.root), load_config("smoke"), toys.root / "cache"), FolderSource)
    under = source_of(toys.option, load_config("smoke", ["protocol.name=trellis-v1"]), toys.root / "cache")
    assert isinstance(under, Toys4kTests)
    assert [asset.id for asset in under.assets()] == sorted(toys.ids.values())


def test_a_run_tries_again_what_blender_failed_at(toys):
    source = Toys4kTests(toys.option, load_protocol("trellis-v1"), "", toys.root / "cache")
    looks = {name: source.reference.look(name) for name in source.reference.ids}
    shows = BlenderPictures(looks, 32)
    (engine, team), blend = in_process(), toys.blend("car/b.blend")
    blend.rename(blend.with_suffix(".away"))
    jobs = prepare_jobs(source, shows, 0, toys.root / "cache", shard=1)
    for failures in (3, 2):
        engine.do(jobs)
        assert sum(len(job.places[0].get()["failures"]) for job in jobs) == failures
        blend.with_suffix(".away").rename(blend) if failures == 3 else None
    assert sum(team.given.values()) == 5 + 3
    own = prepare_jobs(source, OwnRenderer(Preparation(8, 32)), 8, toys.root / "cache", shard=1)
    assert not {job.places[0] for job in own} & {job.places[0] for job in jobs}


def test_the_option_is_told_from_a_folder():
    assert folder_of("toys4k:/data/toys") == Path("/data/toys")
    assert folder_of("toys4k") is None
    assert folder_of(None) is None
