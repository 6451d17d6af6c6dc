"""`--export`: which files are written where, that none is written twice or left from other settings, what fails.

The decoders are stubs here; what they make of latents is tested elsewhere.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from inprocess import in_process
from PIL import Image
from small_world import opened, small_plan
from solids import ellipsoid

from mdtbench.assets.gaussian_ply import read_gaussians
from mdtbench.assets.mesh_files import read_mesh
from mdtbench.base.errors import AssetError, UsageError
from mdtbench.base.files import digest_of
from mdtbench.geometry.gaussians import Gaussians
from mdtbench.geometry.mesh import Mesh
from mdtbench.harness.driver import export as exporting
from mdtbench.harness.driver import measuring as measuring_module
from mdtbench.harness.driver.export import FEW, USUAL, Exports, export, exports_of, vertex_colours
from mdtbench.harness.driver.measuring import Measuring
from mdtbench.harness.engine.jobs import Place
from mdtbench.harness.engine.store import Address
from mdtbench.harness.generate.made import Decoded
from mdtbench.harness.generate.viewing import VIEWED_FACES
from mdtbench.harness.inputs.paths import safe_path
from mdtbench.harness.inputs.subjects import Subject
from mdtbench.harness.plan.plan import Cell
from mdtbench.harness.protocol.rules import Identity
from mdtbench.results.rows import BOTH

SHARD = 4  # assets of a job
IDS = ("chair", "lamps/red", "../../escaped", *(f"more/{i}" for i in range(SHARD)))  # two jobs
EMPTY, BROKEN = 1, 3  # rows: an empty structure; one whose decoding fails
CELLS_OF_EACH = 2
RGB = (0.2, 0.5, 0.7)
SOLID = ellipsoid((0.1, 0, 0.2), (0.3, 0.2, 0.1), RGB, segments=8)
FINE = ellipsoid((0, 0, 0), (0.4, 0.3, 0.2), RGB, segments=2400)
FINE_ROW = 4  # whose mesh that is
UNREADABLE = "more/2"  # as ground truth
MAKERS = ("teacher-3x2", "vm-1x2")
GOOD = [safe_path(name).as_posix() for i, name in enumerate(IDS) if i not in (EMPTY, BROKEN)]


@dataclass(frozen=True)
class Thing:
    """A test asset."""

    id: str
    category: str = ""

    def load(self) -> Mesh:
        if self.id == UNREADABLE:
            raise AssetError("the file is gone")
        return FINE if self.id == "chair" else SOLID


class Stub(Decoded):
    """As many Gaussians as the asset's row and two more; a sphere as its mesh."""

    @property
    def row(self) -> int:
        row = int(self.latents[0, 0])
        assert len(self.latents) == len(self.coords) == CELLS_OF_EACH
        assert (self.latents == row).all()
        return row

    @property
    def gaussians(self) -> Gaussians:  # type: ignore[override]
        n = self.row + 2
        rotations = np.tile(np.array([1, 0, 0, 0], np.float32), (n, 1))
        full = np.full((n, 3), 0.1, np.float32)
        return Gaussians(full, full, rotations, full[:, 0], full)

    @property
    def mesh(self) -> Mesh:  # type: ignore[override]
        if self.row == BROKEN:
            raise AssetError("the mesh has no surface")
        return FINE if self.row == FINE_ROW else SOLID


@dataclass
class Shop:
    """A run whose whole assets are there, and where its files go."""

    measuring: Measuring
    out: Path

    @property
    def cells(self) -> list[Cell]:
        """Those of the teacher and of vm."""
        return [cell for cell in self.measuring.plan.asset_cells if cell.line.name in ("vm", "teacher")]

    def export(self, *formats: str, makers: Sequence[str] = ("vm", "teacher"), exports: Exports | None = None) -> int:
        """These formats of all assets, or `exports`; returns how many failed."""
        for cell in self.cells:
            for i, job in enumerate(self.measuring.assets(cell)):
                rows = np.arange(len(IDS))[i * SHARD : (i + 1) * SHARD]
                counts = np.where(rows == EMPTY, 0, CELLS_OF_EACH)
                job.places[0].put({
                    "counts": counts,
                    "coords": np.zeros((counts.sum(), 3), np.int32),
                    "latents": np.repeat(rows, counts)[:, None].astype(np.float32),
                    "errors": np.where(rows == EMPTY, "the structure is empty", ""),
                })  # fmt: skip
        self.engine, self.team = in_process()
        chosen = [cell for cell in self.cells if cell.line.name in makers]
        return export(self.measuring, chosen, self.engine, self.out, exports or Exports(formats))

    def file(self, name: str) -> Path:
        return self.out / "export" / name

    def written(self) -> dict[str, int]:
        """Time of writing of all that methods made."""
        folder = self.file("")
        return {
            path.relative_to(folder).as_posix(): path.stat().st_mtime_ns
            for made in folder.glob("*x2")
            for path in made.rglob("*.[gp][ln][bgy]")
        }

    def listed(self) -> dict[str, dict[str, list[str]]]:
        """The files of each asset by id and by whose they are."""
        index = json.loads(self.file("index.json").read_text())
        assert index["format"] == 1
        return {asset["id"]: asset["files"] for asset in index["assets"]}

    def failures(self, maker: str) -> list[tuple[str, str]]:
        rows = csv.DictReader(self.file("failures.csv").open(encoding="utf-8"))
        return [(row["id"], row["reason"]) for row in rows if row["made_by"] == maker]


@pytest.fixture
def shop(small_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Shop]:
    """With other settings or other test assets too; the picture of asset i is grey of value `shade` + i."""
    monkeypatch.setattr(exporting, "load_cached", lambda world, device: SimpleNamespace(whole=None))
    monkeypatch.setattr(exporting, "Decoded", Stub)
    monkeypatch.setattr(exporting, "SHARD", SHARD)
    monkeypatch.setattr(measuring_module, "SHARD", SHARD)

    def make(*changes: str, shade: int = 40) -> Shop:
        usual = ("evaluate.seeds=[5,6]", "evaluate.apart=[5]", f"evaluate.whole={len(IDS)}", "data.test=2", *changes)
        plan = small_plan(small_folder, *usual, methods=("vm",), train_seeds=(3, 4), cache=tmp_path)
        shown = np.tile(np.arange(shade, shade + len(IDS), dtype=np.uint8)[:, None, None, None, None], (1, 1, 8, 8, 3))
        place = Place(tmp_path, Address("prepared", {"shade": shade}))
        place.put({"images": shown})
        subjects = tuple(Subject(Identity(name, "0" * 64), Thing(name), place, i) for i, name in enumerate(IDS))
        measuring = opened(plan, tmp_path)
        tests = replace(measuring.tests, subjects=subjects, digest=digest_of(shade))
        return Shop(replace(measuring, tests=tests), tmp_path / "out")

    return make


def test_every_asset_that_is_good_has_its_files(shop: Callable[..., Shop]):
    run = shop()
    failed = run.export("glb", "ply")
    broken = safe_path(IDS[BROKEN]).as_posix()  # has Gaussians and no mesh
    expected = [*(f"{name}.{end}" for name in GOOD for end in ("glb", "ply")), f"{broken}.ply"]
    assert set(run.written()) == {f"{maker}/{name}" for maker in MAKERS for name in expected}
    assert dict(run.team.given) == {"export truth": 2, "export": 4}
    for i, name in ((0, "chair"), (6, "more/3")):  # of the first and of the second job
        assert len(read_gaussians(run.file(f"vm-1x2/{name}.ply"))) == i + 2
    assert failed == 2 * len(MAKERS) + 1  # and one ground truth
    expected = [(IDS[EMPTY], "the structure is empty"), (IDS[BROKEN], "the mesh has no surface")]
    assert run.failures("vm-1x2") == run.failures("teacher-3x2") == expected
    assert run.failures("truth") == [(UNREADABLE, "the file is gone")]


def test_the_mesh_in_the_file_is_that_of_the_decoder(shop: Callable[..., Shop]):
    run = shop()
    run.export("glb", makers=["teacher"])
    found = read_mesh(run.file("teacher-3x2/chair.glb"))
    np.testing.assert_allclose(found.vertices.min(0), SOLID.vertices.min(0), atol=1e-6)  # float32 in the file
    np.testing.assert_allclose(found.vertices.max(0), SOLID.vertices.max(0), atol=1e-6)
    assert np.abs(found.corner_rgba[..., :3] - RGB).max() < 0.01  # read as 8 bits of linear colour


def test_what_assets_are_judged_beside_is_written(shop: Callable[..., Shop]):
    run = shop()
    run.export("glb", makers=["teacher"])
    for i in (0, 1, 6):
        picture = np.asarray(Image.open(run.file(f"condition/{safe_path(IDS[i])}.png")))
        assert picture.shape == (8, 8, 3)
        assert (picture == 40 + i).all()
    for name in ("chair", "lamps/red"):
        picture = np.asarray(Image.open(run.file(f"truth/{name}.png"))).astype(int)
        assert np.abs(picture - np.array(RGB) * 255).max(-1).min() < 1.5  # it is there, in its colour
        assert (picture[0] == 0).all()
    chair, lamp = (read_mesh(run.file(f"truth/{name}.glb")) for name in ("chair", "lamps/red"))
    assert 1000 < len(chair.faces) <= VIEWED_FACES < len(FINE.faces)
    assert len(lamp.faces) == len(SOLID.faces)


def test_pictures_are_drawn_of_the_gaussians(shop: Callable[..., Shop]):
    run = shop()
    run.export("png", makers=["teacher"])
    picture = np.asarray(Image.open(run.file("teacher-3x2/chair.png")))
    assert picture.shape == (256, 256, 3)
    assert picture.max() > 5  # grey of 0.1, at its opacity of 0.1 twice
    assert not list(run.file("teacher-3x2").glob("*.glb"))


def test_the_index_lists_what_there_is_of_each_asset(shop: Callable[..., Shop]):
    run = shop()
    run.export("glb")
    found = run.listed()
    assert tuple(found) == IDS
    assert found["chair"] == {
        "condition": ["condition/chair.png"],
        "truth": ["truth/chair.glb", "truth/chair.png"],
        "teacher-3x2": ["teacher-3x2/chair.glb"],
        "vm-1x2": ["vm-1x2/chair.glb"],
    }
    assert found[IDS[EMPTY]]["vm-1x2"] == found[IDS[BROKEN]]["vm-1x2"] == found[UNREADABLE]["truth"] == []
    assert found[IDS[2]]["condition"] == [f"condition/{safe_path(IDS[2])}.png"]
    fine = IDS[FINE_ROW]
    assert found[fine]["vm-1x2"] == [f"vm-1x2/{fine}.glb", f"view/vm-1x2/{fine}.glb"]
    whole, few = (read_mesh(run.file(name)) for name in found[fine]["vm-1x2"])
    assert 1000 < len(few.faces) <= VIEWED_FACES < len(whole.faces) == len(FINE.faces)
    run.export("png")
    assert run.listed()["chair"]["vm-1x2"] == ["vm-1x2/chair.glb", "vm-1x2/chair.png"]  # of the earlier call too


def test_what_belongs_to_other_test_assets_is_replaced(shop: Callable[..., Shop]):
    run = shop()
    run.export("glb", makers=["teacher"])
    old = {path: path.stat().st_mtime_ns for path in run.file("").glob("[ct]*[nh]/chair.*")}
    run.export("glb", makers=["teacher"])
    assert {path: path.stat().st_mtime_ns for path in old} == old
    shop(shade=41).export("glb", makers=["teacher"])
    assert len(old) == 3
    assert all(path.stat().st_mtime_ns != time for path, time in old.items())


def test_only_the_first_training_and_generation_seed_are_written(shop: Callable[..., Shop]):
    run = shop()
    run.export("ply")
    marks = {path.parent.name: path.read_text().strip() for path in run.out.glob("export/*x2/source.txt")}
    [vm] = [cell for cell in run.cells if (cell.stage, cell.seed, cell.train_seed) == (BOTH, 5, 3)]
    assert marks["vm-1x2"] == digest_of([job.places[0].digest for job in run.measuring.assets(vm)])
    assert set(marks) == set(MAKERS)


def test_what_is_there_is_not_written_again_and_what_is_missing_is(shop: Callable[..., Shop]):
    run = shop()
    run.export("glb")
    before = run.written()
    run.file("vm-1x2/chair.glb").unlink()
    failed = run.export("glb")
    after = run.written()
    assert before.keys() == after.keys()
    assert {name for name in after if after[name] != before[name]} == {"vm-1x2/chair.glb"}
    assert failed == 2 * len(MAKERS) + 1  # listed again, though nothing had to be made


def test_files_of_other_settings_are_replaced(shop: Callable[..., Shop]):
    run = shop()
    run.export("glb", "ply")
    before = run.written()
    kept = run.file("vm-1x2/notes.txt")
    kept.touch()
    shop("train.steps=7").export("glb")
    after = run.written()
    assert {name for name in after if name not in before or after[name] != before[name]} == {
        name for name in before if name.startswith("vm-") and name.endswith(".glb")
    }
    assert not any(name.startswith("vm-") and name.endswith(".ply") for name in after)  # would be the old student's
    assert "teacher-3x2/chair.ply" in after
    assert kept.exists()


def test_colours_of_vertices_are_those_of_their_corners():
    level = np.random.Generator(np.random.PCG64(0)).random((len(SOLID.vertices), 4), np.float32)
    mesh = replace(SOLID, corner_rgba=level[SOLID.faces])
    np.testing.assert_array_equal(vertex_colours(mesh), level[:, :3])


def test_a_run_has_pictures_of_all_assets_and_meshes_of_the_first(shop: Callable[..., Shop]):
    run = shop()
    run.export(exports=USUAL)
    names = [safe_path(name).as_posix() for name in IDS]
    for maker in MAKERS:
        pictures, meshes = (
            {name for name in names if run.file(f"{maker}/{name}.{end}").exists()} for end in ("png", "glb")
        )
        assert pictures == {name for i, name in enumerate(names) if i != EMPTY}  # of BROKEN, too, which has no mesh
        assert meshes == {name for i, name in enumerate(names[:FEW]) if i not in (EMPTY, BROKEN)}
    assert [run.file(f"truth/{name}.glb").exists() for name in names] == [i < FEW for i in range(len(names))]
    assert all(run.file(f"truth/{safe_path(name)}.png").exists() for name in IDS if name != UNREADABLE)


def test_a_run_of_structures_has_its_conditions(shop: Callable[..., Shop]):
    run = shop()
    run.export(exports=USUAL, makers=[])
    assert tuple(run.listed()) == IDS
    assert all(
        files == {"condition": [f"condition/{safe_path(name)}.png"], "truth": []}
        for name, files in run.listed().items()
    )
    assert not run.written()
    assert not any(run.team.given.values())


def test_words_say_what_is_written():
    assert exports_of(("ply", "glb", "ply")) == Exports(("ply", "glb"))
    assert exports_of(()) == USUAL == Exports(("png",), ("glb",))
    assert exports_of(("none",)) == Exports()
    assert USUAL.told == f"png of all assets, glb of the first {FEW}"
    assert Exports().told == ""
    with pytest.raises(UsageError, match=r"Unknown export format 'obj'\. Available: glb, none, ply, png\."):
        exports_of(("glb", "obj"))
    with pytest.raises(UsageError, match="--export glb,none asks for files and for none"):
        exports_of(("glb", "none"))
