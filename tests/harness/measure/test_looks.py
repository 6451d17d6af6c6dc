"""What extractors look at: drawn as the protocol says, failures black and with their reasons."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray
from small_stage import IMAGE, RESOLUTION, structures
from small_world import PIXELS, POINTS, opened, small_plan
from solids import ellipsoid

from mdtbench.assets.folder import FolderAsset
from mdtbench.assets.gaussian_ply import write_gaussians
from mdtbench.base.errors import AssetError
from mdtbench.geometry.gaussians import SH_C0, Gaussians
from mdtbench.geometry.mesh import Mesh
from mdtbench.harness.driver.measuring import Measuring
from mdtbench.harness.generate.made import EMPTY, NOT_FINITE, AssetsJob, Decoded, StructuresJob, decoded_assets
from mdtbench.harness.inputs.subjects import Subject, conditioning_images, occupancies
from mdtbench.harness.measure import looks as looks_module
from mdtbench.harness.measure.looks import (
    CELL_COLOURS,
    COVERAGE,
    NOT_MADE,
    AssetLooks,
    ConditionLooks,
    FileLooks,
    LooksJob,
    Studio,
    TruthAssets,
    TruthVoxels,
    VoxelLooks,
    asset_looks,
    cell_colours,
)
from mdtbench.harness.measure.pairs import Files
from mdtbench.harness.protocol.model import load_protocol
from mdtbench.harness.protocol.rules import Identity, points_seed
from mdtbench.harness.protocol.values import Values
from mdtbench.render.gaussian_rasteriser import Splatting, render
from mdtbench.render.meshes import MeshRenderer, on_background, to_uint8
from mdtbench.render.points import sample_surface
from mdtbench.render.structure import structure_mesh
from mdtbench.trellis.slat_pipeline import SlatPipeline

STRUCTURE_LOOKS, ASSET_LOOKS = ("voxel_points", "voxels"), ("gaussians", "mesh", "points")
COUNTS = (5, 0, 9, 3)  # cells of the structures that were "made"; the third's latent is not finite
DIGITS = load_protocol("trellis-v1").values  # the other rule of seeds
BALL = ellipsoid((0.1, 0, 0.2), (0.3, 0.2, 0.1), (0.2, 0.5, 0.7), segments=8)


@dataclass(frozen=True)
class Thing:
    """A test asset of the tests' own; without a mesh it cannot be read."""

    id: str
    mesh: Mesh | None = BALL
    category: str = ""

    def load(self) -> Mesh:
        if self.mesh is None:
            raise AssetError("the file is gone")
        return self.mesh


@pytest.fixture(scope="module")
def bench(small_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Measuring:
    root = tmp_path_factory.mktemp("run")
    return opened(small_plan(small_folder, cache=root), root)


@pytest.fixture(scope="module")
def studio(bench: Measuring) -> Studio:
    return bench.studio


def made_structures(bench: Measuring) -> StructuresJob:
    [job] = bench.structures(bench.plan.structure_cells[0])
    job.places[0].put({"occupancy": structures(COUNTS), "ok": np.array([True, True, False, True])})
    return job


def made_assets(bench: Measuring) -> AssetsJob:
    """Of three assets, the second of which failed."""
    [job] = bench.assets(bench.plan.asset_cells[0])
    coords = np.argwhere(structures([12])[0]).astype(np.int32) // 2
    latents = np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32)
    arrays = {"counts": np.array([5, 0, 7]), "coords": coords, "latents": latents}
    job.places[0].put({**arrays, "errors": np.array(["", EMPTY, ""]), "nfe": np.array(2)})
    return job


def by_name(job: LooksJob) -> dict[str, dict[str, NDArray]]:
    return dict(zip(job.names, job.compute(), strict=True))


def pictures_of(mesh: Mesh, studio: Studio) -> NDArray[np.uint8]:
    """A second way to them: [V, 3, S, S]."""
    views = [MeshRenderer(mesh).render(camera, PIXELS, 2) for camera in studio.cameras]
    return np.stack([to_uint8(on_background(view)).transpose(2, 0, 1) for view in views])


def points_of(mesh: Mesh, seed: int) -> NDArray[np.float32]:
    return sample_surface(mesh, POINTS, np.random.Generator(np.random.PCG64(seed)))


def things(*given: Thing) -> tuple[Subject, ...]:
    return tuple(Subject(Identity(one.id, f"{i:064x}"), one) for i, one in enumerate(given))


@pytest.mark.parametrize("values", [None, DIGITS], ids=["named", "digits"])
def test_structures_are_drawn_and_their_points_are_of_the_protocols_seeds(
    bench: Measuring, studio: Studio, values: Values | None, tmp_path: Path
):
    job, studio = made_structures(bench), replace(studio, values=values or studio.values)
    found = by_name(VoxelLooks(tmp_path, job.subjects, STRUCTURE_LOOKS, studio, 1, job))
    for row in (0, 3):
        mesh = structure_mesh(structures(COUNTS)[row])
        assert np.array_equal(found["voxels"]["data"][row], pictures_of(mesh, studio))
        seed = points_seed(studio.values, job.subjects[row].identity, 1, "structure")
        assert np.array_equal(found["voxel_points"]["data"][row, 0], points_of(mesh, seed))


@pytest.mark.parametrize("names", [STRUCTURE_LOOKS, ("voxels",)], ids=["all", "pictures alone"])
def test_structures_that_failed_are_black_and_have_reasons(bench: Measuring, names: tuple[str, ...], tmp_path: Path):
    """Whatever else is asked for."""
    job = made_structures(bench)
    for arrays in VoxelLooks(tmp_path, job.subjects, names, bench.studio, 0, job).compute():
        assert arrays["ok"].tolist() == [True, False, False, True]
        assert arrays["errors"].tolist() == ["", EMPTY, NOT_FINITE, ""]
        assert not arrays["data"][1:3].any()
        assert arrays["data"][0].any()


def test_assets_are_decoded_and_drawn(bench: Measuring, studio: Studio, tmp_path: Path):
    job = made_assets(bench)
    found = by_name(AssetLooks(tmp_path, job.subjects, ASSET_LOOKS, studio, 2, job))
    for row, asset in enumerate(decoded_assets(job.maker.world, "cpu", job.places[0].get())):
        if isinstance(asset, str):
            assert row == 1
            continue
        assert np.array_equal(found["mesh"]["data"][row], pictures_of(asset.mesh, studio))
        drawn = [render(asset.gaussians, c, PIXELS, mode=Splatting(blur=0.1, compensated=True)) for c in studio.cameras]
        assert np.array_equal(found["gaussians"]["data"][row], looks_module.on_black(drawn))
        seed = points_seed(studio.values, job.subjects[row].identity, 2, "assets")
        assert np.array_equal(found["points"]["data"][row, 0], points_of(asset.mesh, seed))
    for arrays in found.values():
        assert arrays["errors"].tolist() == ["", EMPTY, ""]
        assert not arrays["data"][1].any()
        assert arrays["data"][[0, 2]].any()


def test_a_look_that_fails_leaves_the_others_as_they_are(studio: Studio):
    full = np.full((2, 3), 0.1, np.float32)
    good = Gaussians(full, full, np.tile(np.float32([1, 0, 0, 0]), (2, 1)), full[:, 0], full)
    bad = replace(good, opacities=np.full(2, np.nan, np.float32))
    asset, broken = (SimpleNamespace(gaussians=made, mesh=BALL) for made in (good, bad))
    found = asset_looks(studio, ASSET_LOOKS, asset, 0)  # type: ignore[arg-type]
    assert not any(isinstance(look, str) for look in found.values())
    failed = asset_looks(studio, ASSET_LOOKS, broken, 0)  # type: ignore[arg-type]
    for name, look in failed.items():  # the others are what they are without it
        if name.startswith("gaussians"):
            assert "not finite" in look
        else:
            assert np.array_equal(look, found[name])


@pytest.mark.parametrize(
    ("names", "unused"), [(("gaussians", CELL_COLOURS), "meshes"), (("mesh", "points"), "gaussians")]
)
def test_what_no_look_is_of_is_not_decoded(
    bench: Measuring,
    studio: Studio,
    names: tuple[str, ...],
    unused: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    job, coloured = made_assets(bench), replace(studio, cells=RESOLUTION)
    monkeypatch.setattr(SlatPipeline, unused, lambda *_: pytest.fail(f"{unused} were decoded"))
    for arrays in AssetLooks(tmp_path, job.subjects, names, coloured, 0, job).compute():
        assert arrays["ok"].tolist() == [True, False, True]


def test_colours_of_cells_are_means_weighted_by_opacity():
    """Of red and blue at 1 to 3; of red and green that cannot be seen, half of each. The weights are off by 1e-6."""
    rgb = np.array([[1, 0, 0], [0, 0, 1], [1, 0, 0], [0, 1, 0]], np.float32)
    full, turns = np.full((4, 3), 0.1, np.float32), np.tile(np.float32([1, 0, 0, 0]), (4, 1))
    made = Gaussians(full, full, turns, np.float32([0.2, 0.6, 0, 0]), (rgb - 0.5) / np.float32(SH_C0))
    cells = cell_colours(np.array([[3, 0, 1], [0, 2, 1]], np.int32), made, 4)
    assert (cells.shape, cells.dtype) == ((4, 4, 4, 4), np.float32)
    np.testing.assert_allclose(cells[3, 0, 1], [0.25, 0, 0.75, 1], atol=1e-5)
    np.testing.assert_allclose(cells[0, 2, 1], [0.5, 0.5, 0, 1], atol=1e-5)
    assert np.count_nonzero(cells[..., 3]) == 2
    assert not cells[cells[..., 3] == 0].any()


def test_colours_of_cells_are_of_the_gaussians_that_lie_there(bench: Measuring, studio: Studio, tmp_path: Path):
    """A Gaussian of the decoder is at most 0.75 of a cell off its cell's centre; these cells are 3 apart."""
    job = made_assets(bench)
    coords = np.array([[4, 1, 7], [1, 1, 1], [7, 4, 4], [1, 7, 1]], np.int32)
    latents = np.random.default_rng(1).normal(size=(4, 4)).astype(np.float32)
    arrays = {"counts": np.array([4, 0, 0]), "coords": coords, "latents": latents}
    job = replace(job, root=tmp_path)
    job.places[0].put({**arrays, "errors": np.array(["", EMPTY, EMPTY]), "nfe": np.array(2)})
    [asset, *_] = decoded_assets(job.maker.world, "cpu", job.places[0].get())
    assert isinstance(asset, Decoded)
    made = asset.gaussians
    gaps = np.abs(made.means[:, None] - ((coords + 0.5) / RESOLUTION - 0.5)).max(-1)
    owner = gaps.argmin(1)
    assert gaps.min(1).max() <= 0.75 / RESOLUTION
    coloured = replace(studio, cells=RESOLUTION)
    found = by_name(AssetLooks(tmp_path, job.subjects, (CELL_COLOURS,), coloured, 0, job))[CELL_COLOURS]
    assert found["errors"].tolist() == ["", EMPTY, EMPTY]
    assert found["data"].shape == (3, *[RESOLUTION] * 3, 4)
    assert not found["data"][1:].any()
    for i, cell in enumerate(coords):
        mean = np.average(made.colours[owner == i], axis=0, weights=made.opacities[owner == i])
        np.testing.assert_allclose(found["data"][0][tuple(cell)], [*mean, 1], atol=1e-4)
    assert np.ptp(found["data"][0][tuple(coords.T)][:, :3], axis=0).max() > 0.01  # cells can be told apart


def test_the_truth_of_structures_is_that_of_the_test_assets(bench: Measuring, studio: Studio, tmp_path: Path):
    subjects = bench.tests.subjects
    found = by_name(TruthVoxels(tmp_path, subjects, STRUCTURE_LOOKS, studio, 0))
    for row, grid in enumerate(occupancies(subjects)):
        assert np.array_equal(found["voxels"]["data"][row], pictures_of(structure_mesh(grid), studio))
    assert found["voxels"]["ok"].all()


def test_the_truth_of_assets_is_drawn_once_for_all_that_pictures_tell(
    studio: Studio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    drawn: list[Mesh] = []
    monkeypatch.setattr(looks_module, "MeshRenderer", lambda mesh: drawn.append(mesh) or MeshRenderer(mesh))
    subjects, names = things(Thing("ball"), Thing("gone", None)), (*ASSET_LOOKS, COVERAGE)
    found = by_name(TruthAssets(tmp_path, subjects, names, studio, 0, ("a", "b")))
    assert len(drawn) == 1  # of the one that can be read
    assert np.array_equal(found["mesh"]["data"][0], pictures_of(BALL, studio))
    assert np.array_equal(found["gaussians"]["data"], found["mesh"]["data"])
    seed = points_seed(studio.values, subjects[0].identity, 0, "assets")
    assert np.array_equal(found["points"]["data"][0, 0], points_of(BALL, seed))
    least = min((picture > 0).any(0).mean() for picture in found["mesh"]["data"][0])
    assert found[COVERAGE]["data"][0] == pytest.approx(least, abs=0.02)  # pixels of the edge that round to black
    for arrays in found.values():
        assert arrays["errors"].tolist() == ["", "the file is gone"]
        assert not arrays["data"][1].any()


def test_points_of_equal_files_are_of_each_assets_own_seed(studio: Studio, tmp_path: Path):
    """Under the rule of names; under that of digits the file decides."""
    a, b = things(Thing("a"), Thing("b"))
    b = replace(b, identity=replace(b.identity, sha256=a.identity.sha256))

    def digest(subject: Subject, values: Values) -> str:
        return (
            TruthAssets(tmp_path, (subject,), ("points",), replace(studio, values=values), 0, ("x",)).places[0].digest
        )

    assert digest(a, studio.values) != digest(b, studio.values)
    assert digest(a, DIGITS) == digest(b, DIGITS)


def test_files_may_have_one_representation_and_not_the_other(studio: Studio, tmp_path: Path):
    full = np.full((2, 3), 0.1, np.float32)
    gaussians = Gaussians(full, full, np.tile(np.float32([1, 0, 0, 0]), (2, 1)), full[:, 0], full)
    write_gaussians(tmp_path / "a.ply", gaussians)
    (tmp_path / "broken.ply").write_bytes(b"ply")
    gone = FolderAsset("c", "", tmp_path / "c.glb")
    files = (Files(None, tmp_path / "a.ply"), Files(None, tmp_path / "broken.ply"), Files(gone, None), Files())
    subjects, content = things(*map(Thing, "abcd")), (("", "1"), ("", "2"), ("3", ""), ("", ""))
    found = by_name(FileLooks(tmp_path, subjects, ("gaussians", "mesh"), studio, 0, files, content))
    shown = found["gaussians"]["errors"].tolist()
    assert (shown[0], shown[2:]) == ("", [NOT_MADE] * 2)
    assert "its header is missing" in shown[1]
    assert "broken" not in shown[1]  # a file of the same content elsewhere has the same looks
    meshes = found["mesh"]["errors"].tolist()
    assert (meshes[:2], meshes[3]) == ([NOT_MADE] * 2, NOT_MADE)
    assert "there is no such file" in meshes[2]
    assert np.array_equal(found["gaussians"]["data"][0], studio.of_gaussians("gaussians", gaussians))


def test_conditioning_pictures_are_whole(bench: Measuring, tmp_path: Path):
    subjects = bench.tests.subjects[:2]
    [arrays] = ConditionLooks(tmp_path, subjects, ("condition",), bench.studio).compute()
    assert arrays["data"].shape == (2, 1, 3, IMAGE, IMAGE)
    assert np.array_equal(arrays["data"][:, 0].transpose(0, 2, 3, 1), conditioning_images(subjects))


@pytest.mark.parametrize("look", [*STRUCTURE_LOOKS, *ASSET_LOOKS, "mesh_turn"])
def test_what_failed_looks_like_an_empty_picture_of_the_same_size(studio: Studio, look: str):
    turn = replace(studio, turn=studio.cameras * 2)
    blank, seen = turn.blank(look), turn.of_mesh(look.replace("gaussians", "mesh"), BALL, 0)
    assert (blank.shape, blank.dtype) == (seen.shape, seen.dtype)
    assert not blank.any()


def test_of_a_condition_there_is_one_picture(studio: Studio):
    assert studio.blank("condition").shape[:2] == (1, 3)


def test_a_look_is_addressed_by_what_decides_it(bench: Measuring, studio: Studio, tmp_path: Path):
    """Points by their number and seeds, pictures by cameras and splats."""
    subjects = bench.tests.subjects[:2]

    def digests(change: Callable[[Studio], Studio] = lambda studio: studio, seed: int = 0) -> list[str]:
        job = TruthAssets(tmp_path, subjects, ("points", "mesh"), change(studio), seed, ("a", "b"))
        return [place.digest for place in job.places]

    values = studio.values
    views = values.model_copy(update={"views": values.views.model_copy(update={"pitch_deg": 10})})
    usual = digests()
    assert digests() == usual
    for change, kept in (
        (lambda s: replace(s, points=8), [False, True]),
        (lambda s: replace(s, values=views), [True, False]),
        (lambda s: replace(s, splatting=Splatting(blur=0.3, compensated=True)), [True, False]),
        (lambda s: replace(s, frame=1.0), [False, False]),
    ):
        assert [a == b for a, b in zip(digests(change), usual, strict=True)] == kept
    assert digests(seed=1) == usual  # under the rule of names a run's seed decides no point
