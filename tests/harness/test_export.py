"""`--export`: which files are written where, that none is written twice or left from other settings, what fails.

The decoders are stubs here; what they make of latents is tested elsewhere.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from mdtbench.assets.gaussian_ply import read_gaussians
from mdtbench.assets.mesh import Mesh
from mdtbench.assets.mesh_files import read_mesh
from mdtbench.assets.primitives import ellipsoid, mesh_of
from mdtbench.assets.toys import ToySource
from mdtbench.base.errors import AssetError, UsageError
from mdtbench.harness import export as exporting
from mdtbench.harness.assemble import Assembled, Decoded
from mdtbench.harness.asset_jobs import save_assembled
from mdtbench.harness.commands import RunOptions, run_command
from mdtbench.harness.config import load_config
from mdtbench.harness.export import Subjects, export, folder_name, formats_of, safe_path, vertex_colours
from mdtbench.harness.plan import AssetCell, Plan, resolve
from mdtbench.harness.viewing import VIEWED_FACES, viewed
from mdtbench.harness.workshop import SHARD, Workshop
from mdtbench.metrics.contract import WholeAssets
from mdtbench.render.gaussians import Gaussians
from mdtbench.results.rows import BOTH
from mdtbench.trellis.pipeline import SamplerParams

SAMPLER = SamplerParams(steps=25, cfg_strength=2.0, cfg_interval=(0.0, 1.0), rescale_t=1.0)
IDS = ("chair", "lamps/red", "../../escaped", *(f"more/{i}" for i in range(SHARD)))  # two files of assets
EMPTY, BROKEN = 1, 3  # rows: an empty structure; one whose decoding fails
CELLS_OF_EACH = 2
RGB = (0.2, 0.5, 0.7)
SOLID = mesh_of([(ellipsoid((0.1, 0, 0.2), (0.3, 0.2, 0.1), 8), RGB)])
FINE = mesh_of([(ellipsoid((0, 0, 0), (0.4, 0.3, 0.2), 2400), RGB)])
FINE_ROW = 4  # whose mesh that is
UNREADABLE = "more/2"  # as ground truth


@dataclass
class Inline:
    """A team that works in this process and remembers what it was given."""

    done: list[int] = field(default_factory=list)

    def map(self, function: Callable, items: Sequence, label: str, total: int) -> list:
        if label == "export":
            self.done.append(total)
        return [function(item) for item in items]


def make_plan(*changes: str, methods: Sequence[str] = ("vm",), train_seeds: Sequence[int] = (3, 4)) -> Plan:
    settings = [
        "evaluate.steps=[1]",
        "slat.steps=2",
        "slat.batch=2",
        "evaluate.seeds=[5,6]",
        "evaluate.apart=[5]",
        *changes,
    ]
    config = load_config("smoke", settings)
    test = ToySource("test", config.data.test, config.data.seed)
    return resolve(config, methods, train_seeds, test, None, Path("world"), "w", SAMPLER, SAMPLER)


def cells_of(made: Plan) -> list[AssetCell]:
    """Those of the teacher and of vm."""
    assert made.second
    return [cell for cell in made.second.cells if cell.who.name in ("vm", "teacher")]


def assets(ids: Sequence[str]) -> Assembled:
    """The latents of asset i are all i; row `EMPTY` has none and a reason."""
    rows = np.array([IDS.index(name) for name in ids])
    counts = np.where(rows == EMPTY, 0, CELLS_OF_EACH)
    n, zero = len(ids), np.zeros(len(ids))
    whole = WholeAssets(
        ok=counts > 0,
        gaussian_features=np.zeros((n, 4, 1), np.float32),
        mesh_features=np.zeros((n, 4, 1), np.float32),
        embedding=np.zeros((n, 1), np.float32),
        counts=counts,
        coords=np.zeros((counts.sum(), 3), np.int32),
        latents=np.repeat(rows, counts)[:, None].astype(np.float32),
    )
    errors = tuple("the structure is empty" if row == EMPTY else "" for row in rows)
    return Assembled(whole, np.ones(n, np.int64), zero, zero, errors)


def decoded_stub(stage: object, coords: np.ndarray, latents) -> Decoded:
    """As many Gaussians as the asset's row and two more; a sphere as its mesh."""
    row = int(latents[0, 0])
    assert len(latents) == len(coords) == CELLS_OF_EACH
    assert (latents == row).all()
    if row == BROKEN:
        raise AssetError("the mesh has no surface")
    mesh, n = FINE if row == FINE_ROW else SOLID, row + 2
    rotations = np.tile(np.array([1, 0, 0, 0], np.float32), (n, 1))
    full = np.full((n, 3), 0.1, np.float32)
    return Decoded(coords, latents.numpy(), Gaussians(full, full, rotations, full[:, 0], full), mesh)


@dataclass(frozen=True)
class Thing:
    """A test asset."""

    id: str
    category: str = ""

    def load(self) -> Mesh:
        if self.id == UNREADABLE:
            raise AssetError("the file is gone")
        return FINE if self.id == "chair" else SOLID


def subjects(shade: int = 40, digest: str = "toys 1") -> Subjects:
    """The picture of asset i is grey of value `shade` + i."""
    shown = np.tile(np.arange(shade, shade + len(IDS), dtype=np.uint8)[:, None, None, None], (1, 8, 8, 3))
    return Subjects(IDS, shown, [Thing(name) for name in IDS], digest)


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    monkeypatch.setattr(exporting, "load_cached", lambda world, device: SimpleNamespace(whole=None))
    monkeypatch.setattr(exporting, "decoded", decoded_stub)
    return Workshop(load_config("smoke"), Path("world"), "w", tmp_path / "out", tmp_path / "cache", Inline())  # type: ignore[arg-type]


def assemble_all(shop: Workshop, cells: Sequence[AssetCell]) -> None:
    for cell in cells:
        for i, path in enumerate(shop.asset_files(cell, len(IDS))):
            made = assets(IDS[i * SHARD : (i + 1) * SHARD])
            save_assembled(path, made, made.nfe, made.slat_s)


def written(shop: Workshop) -> dict[str, int]:
    """Time of writing of all that methods made."""
    folder = shop.out / "export"
    return {
        path.relative_to(folder).as_posix(): path.stat().st_mtime_ns
        for made in folder.glob("*x2")
        for path in made.rglob("*.[gp][ln][bgy]")
    }


def listed(shop: Workshop) -> dict[str, dict[str, list[str]]]:
    """The files of each asset by id and by whose they are."""
    index = json.loads((shop.out / "export" / "index.json").read_text())
    assert index["format"] == 1
    return {asset["id"]: asset["files"] for asset in index["assets"]}


def test_every_asset_that_is_good_has_its_files(shop: Workshop):
    cells = cells_of(make_plan())
    assemble_all(shop, cells)
    failed = export(cells, shop, subjects(), ("glb", "ply"))
    chosen = ("teacher-25x2", "vm-1x2")
    good = [safe_path(name).as_posix() for i, name in enumerate(IDS) if i not in (EMPTY, BROKEN)]
    assert set(written(shop)) == {f"{m}/{name}.{end}" for m in chosen for name in good for end in ("glb", "ply")}
    assert shop.team.done == [len(IDS) * len(chosen)]  # type: ignore[attr-defined]
    for i, name in ((0, "chair"), (SHARD + 2, f"more/{SHARD - 1}")):  # of the first and of the second file
        assert len(read_gaussians(shop.out / "export" / "vm-1x2" / f"{name}.ply")) == i + 2
    assert failed == 2 * len(chosen) + 1  # and one ground truth
    rows = list(csv.DictReader((shop.out / "export" / "failures.csv").open(encoding="utf-8")))
    assert [(row["id"], row["reason"]) for row in rows if row["made_by"] == "vm-1x2"] == [
        (IDS[EMPTY], "the structure is empty"),
        (IDS[BROKEN], "the mesh has no surface"),
    ]


def test_the_mesh_in_the_file_is_that_of_the_decoder(shop: Workshop):
    cells = [cell for cell in cells_of(make_plan()) if cell.who.label == "teacher"]
    assemble_all(shop, cells)
    export(cells, shop, subjects(), ("glb",))
    found = read_mesh(shop.out / "export" / "teacher-25x2" / "chair.glb")
    np.testing.assert_allclose(found.vertices.min(0), SOLID.vertices.min(0), atol=1e-6)  # float32 in the file
    np.testing.assert_allclose(found.vertices.max(0), SOLID.vertices.max(0), atol=1e-6)
    assert np.abs(found.corner_rgba[..., :3] - RGB).max() < 0.01  # read as 8 bits of linear colour


def test_what_assets_are_judged_beside_is_written(shop: Workshop):
    cells = [cell for cell in cells_of(make_plan()) if cell.who.label == "teacher"]
    assemble_all(shop, cells)
    export(cells, shop, subjects(), ("png",))
    folder = shop.out / "export"
    for i in (0, 1, SHARD + 2):
        picture = np.asarray(Image.open(folder / "condition" / f"{safe_path(IDS[i])}.png"))
        assert picture.shape == (8, 8, 3)
        assert (picture == 40 + i).all()
    for name in ("chair", "lamps/red"):
        picture = np.asarray(Image.open(folder / "truth" / f"{name}.png")).astype(int)
        assert np.abs(picture - np.array(RGB) * 255).max(-1).min() < 1.5  # it is there, in its colour
        assert (picture[0] == 0).all()
    chair, lamp = (read_mesh(folder / "truth" / f"{name}.glb") for name in ("chair", "lamps/red"))
    assert 1000 < len(chair.faces) <= VIEWED_FACES < len(FINE.faces)
    assert len(lamp.faces) == len(SOLID.faces)
    rows = list(csv.DictReader((folder / "failures.csv").open(encoding="utf-8")))
    assert [row for row in rows if row["made_by"] == "truth"] == [
        {"made_by": "truth", "id": UNREADABLE, "reason": "the file is gone"}
    ]


def test_pictures_are_drawn_of_the_gaussians(shop: Workshop):
    cells = [cell for cell in cells_of(make_plan()) if cell.who.label == "teacher"]
    assemble_all(shop, cells)
    export(cells, shop, subjects(), ("png",))
    picture = np.asarray(Image.open(shop.out / "export" / "teacher-25x2" / "chair.png"))
    assert picture.shape == (256, 256, 3)
    assert picture.max() > 5  # grey of 0.1, at its opacity of 0.1 twice
    assert not list(shop.out.glob("export/teacher-25x2/*.glb"))


def test_the_index_lists_what_there_is_of_each_asset(shop: Workshop):
    cells = cells_of(make_plan())
    assemble_all(shop, cells)
    export(cells, shop, subjects(), ("glb",))
    found = listed(shop)
    assert tuple(found) == IDS
    assert found["chair"] == {
        "condition": ["condition/chair.png"],
        "truth": ["truth/chair.glb", "truth/chair.png"],
        "teacher-25x2": ["teacher-25x2/chair.glb"],
        "vm-1x2": ["vm-1x2/chair.glb"],
    }
    assert found[IDS[EMPTY]]["vm-1x2"] == found[IDS[BROKEN]]["vm-1x2"] == found[UNREADABLE]["truth"] == []
    assert found[IDS[2]]["condition"] == [f"condition/{safe_path(IDS[2])}.png"]
    fine = IDS[FINE_ROW]
    assert found[fine]["vm-1x2"] == [f"vm-1x2/{fine}.glb", f"view/vm-1x2/{fine}.glb"]
    whole, few = (read_mesh(shop.out / "export" / name) for name in found[fine]["vm-1x2"])
    assert 1000 < len(few.faces) <= VIEWED_FACES < len(whole.faces) == len(FINE.faces)
    export(cells, shop, subjects(), ("png",))
    assert listed(shop)["chair"]["vm-1x2"] == ["vm-1x2/chair.glb", "vm-1x2/chair.png"]  # of the earlier call too


def test_what_belongs_to_other_test_assets_is_replaced(shop: Workshop):
    cells = [cell for cell in cells_of(make_plan()) if cell.who.label == "teacher"]
    assemble_all(shop, cells)
    export(cells, shop, subjects(), ("png",))
    folder = shop.out / "export"
    old = {path: path.stat().st_mtime_ns for path in folder.glob("[ct]*[nh]/chair.*")}
    export(cells, shop, subjects(), ("png",))
    assert {path: path.stat().st_mtime_ns for path in old} == old
    export(cells, shop, subjects(shade=41, digest="toys 2"), ("png",))
    assert len(old) == 3
    assert all(path.stat().st_mtime_ns != time for path, time in old.items())


def test_meshes_for_viewers_keep_place_and_colour():
    few = viewed(FINE, 500)
    assert 100 < len(few.faces) <= 500
    np.testing.assert_allclose(few.colours, np.tile(np.float32(RGB), (len(few.vertices), 1)), atol=1e-6)
    low, high = few.vertices.min(0), few.vertices.max(0)
    np.testing.assert_allclose((low, high), (FINE.vertices.min(0), FINE.vertices.max(0)), atol=0.06)  # a cell
    same = viewed(SOLID)
    assert len(same.vertices) == len(SOLID.vertices)  # corners are joined again
    areas = [
        np.linalg.norm(np.cross(t[:, 1] - t[:, 0], t[:, 2] - t[:, 0]), axis=1).sum() / 2
        for t in (SOLID.triangles, same.vertices[same.faces])
    ]
    np.testing.assert_allclose(*areas, rtol=1e-12)


def test_textured_faces_are_cut_until_vertices_show_the_texture():
    """One square of two faces; its texture is black on the left and white on the right."""
    texture = np.zeros((4, 64, 4), np.uint8)
    texture[:, 32:] = 255
    vertices = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], float)
    faces = np.array([[0, 1, 2], [0, 2, 3]])
    uv = vertices[faces][..., :2].astype(np.float32)
    square = Mesh(vertices, faces, np.ones((2, 3, 4), np.float32), uv, np.zeros(2, np.int64), (texture,))
    few = viewed(square, 600)
    assert len(few.faces) == 2 * 4**4  # the next power would be above the limit
    inside = (few.vertices[:, 0] > 0.02) & (few.vertices[:, 0] < 0.98)  # the texture repeats beyond its edges
    away = inside & (np.abs(few.vertices[:, 0] - 0.5) > 0.02)  # from where black meets white
    np.testing.assert_array_equal(few.colours[away, 0], few.vertices[away, 0] > 0.5)
    assert {0.0, 1.0} <= set(few.colours[away, 0])


def test_only_the_first_training_and_generation_seed_are_written(shop: Workshop):
    cells = cells_of(make_plan())
    assemble_all(shop, cells)
    export(cells, shop, subjects(), ("ply",))
    marks = {path.parent.name: path.read_text().strip() for path in shop.out.glob("export/*x2/source.txt")}
    [vm] = [c for c in cells if c.stage == BOTH and c.seed == 5 and [t.seed for t in c.trainings] == [3, 3]]
    assert marks["vm-1x2"] == vm.folder
    assert all("-gen5-" in folder for folder in marks.values())


def test_what_is_there_is_not_written_again_and_what_is_missing_is(shop: Workshop):
    cells = cells_of(make_plan())
    assemble_all(shop, cells)
    export(cells, shop, subjects(), ("glb",))
    before = written(shop)
    (shop.out / "export" / "vm-1x2" / "chair.glb").unlink()
    failed = export(cells, shop, subjects(), ("glb",))
    after = written(shop)
    assert before.keys() == after.keys()
    assert {name for name in after if after[name] != before[name]} == {"vm-1x2/chair.glb"}
    assert failed == 2 * len(set(map(folder_name, cells))) + 1  # listed again, though nothing had to be made


def test_files_of_other_settings_are_replaced(shop: Workshop):
    first, second = cells_of(make_plan()), cells_of(make_plan("train.steps=7"))
    assemble_all(shop, [*first, *second])
    export(first, shop, subjects(), ("glb", "ply"))
    before = written(shop)
    kept = shop.out / "export" / "vm-1x2" / "notes.txt"
    kept.touch()
    export(second, shop, subjects(), ("glb",))
    after = written(shop)
    assert {name for name in after if name not in before or after[name] != before[name]} == {
        name for name in before if name.startswith("vm-") and name.endswith(".glb")
    }
    assert not any(name.startswith("vm-") and name.endswith(".ply") for name in after)  # would be the old student's
    assert "teacher-25x2/chair.ply" in after
    assert kept.exists()


@pytest.mark.parametrize("name", ["chair", "a/b/c", "lamp 2 (old).v3", "größe/ö", "x=1,y+2@home"])
def test_plain_ids_are_their_own_paths(name: str):
    assert safe_path(name) == Path(name)


LONG = "é" * 300
HOSTILE = [
    "..",
    "../x",
    "a/../../x",
    "/etc/passwd",
    "a//b",
    "a/./b",
    "",
    ".hidden",
    "c:\\x",
    "a\nb",
    "\0",
    "~",
    "/",
    LONG,
]


def test_no_id_leaves_its_folder_or_meets_another(tmp_path: Path):
    alike = ["a/b", "x", "etc/passwd", "c__x", "_", LONG + "x", "\udc80"]
    paths = {name: safe_path(name) for name in [*HOSTILE, *alike]}
    assert len(set(paths.values())) == len(paths)
    for path in paths.values():
        assert path.name
        assert not path.is_absolute()
        assert not any(part.startswith(".") or len(part.encode()) > 200 for part in path.parts)
        assert (tmp_path / path).resolve().is_relative_to(tmp_path.resolve())


def test_colours_of_vertices_are_those_of_their_corners():
    level = np.random.Generator(np.random.PCG64(0)).random((len(SOLID.vertices), 4), np.float32)
    mesh = replace(SOLID, corner_rgba=level[SOLID.faces])
    np.testing.assert_array_equal(vertex_colours(mesh), level[:, :3])


def test_an_unknown_format_is_a_usage_error():
    assert formats_of(("ply", "glb", "ply")) == ("ply", "glb")
    with pytest.raises(UsageError, match=r"Unknown export format 'obj'\. Available: glb, ply, png\."):
        formats_of(("glb", "obj"))


@pytest.mark.parametrize(
    ("preset", "stages", "part"),
    [("smoke", "structure", "structures alone"), ("oracle", "", "--export has no meaning")],
)
def test_a_run_without_whole_assets_has_nothing_to_export(tmp_path: Path, preset: str, stages: str, part: str):
    options = RunOptions(
        preset=preset,
        methods=(),
        steps=(),
        stages=stages,
        samplers=(),
        budget="",
        train_seeds=(),
        assets=None,
        limit=None,
        changes=(),
        plugins=(),
        export=("glb",),
        out=tmp_path / "out",
        cache=tmp_path / "cache",
        workers=1,
        dry_run=False,
    )
    with pytest.raises(UsageError, match=part):
        run_command(options)
    assert not list(tmp_path.iterdir())
