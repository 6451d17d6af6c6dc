"""What extractors look at: drawn as the protocol says, failures black and with their reasons."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from small_stage import IMAGE, structures
from small_world import PIXELS, POINTS, opened, small_plan

from mdtbench.assets.folder import FolderAsset
from mdtbench.assets.gaussian_ply import write_gaussians
from mdtbench.assets.primitives import ellipsoid, mesh_of
from mdtbench.base.errors import AssetError
from mdtbench.geometry.gaussians import Gaussians
from mdtbench.geometry.mesh import Mesh
from mdtbench.harness.driver.measuring import Measuring
from mdtbench.harness.generate.made import EMPTY, NOT_FINITE, AssetsJob, StructuresJob, decoded_assets
from mdtbench.harness.inputs.subjects import Subject, occupancies, whole_pictures
from mdtbench.harness.measure import looks as looks_module
from mdtbench.harness.measure.looks import (
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
)
from mdtbench.harness.measure.pairs import Files
from mdtbench.harness.protocol.model import load_protocol
from mdtbench.harness.protocol.rules import Identity, points_seed
from mdtbench.harness.protocol.values import Values
from mdtbench.render.gaussian_rasteriser import Splatting, render
from mdtbench.render.meshes import MeshRenderer, on_background, to_uint8
from mdtbench.render.points import sample_surface
from mdtbench.render.structure import structure_mesh

STRUCTURE_LOOKS, ASSET_LOOKS = ("voxel_points", "voxels"), ("gaussians", "mesh", "points")
COUNTS = (5, 0, 9, 3)  # cells of the structures that were "made"; the third's latent is not finite
DIGITS = load_protocol("trellis-v1").values  # the other rule of seeds
BALL = mesh_of([(ellipsoid((0.1, 0, 0.2), (0.3, 0.2, 0.1), 8), (0.2, 0.5, 0.7))])


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


def test_an_asset_that_fails_in_one_look_fails_in_all(studio: Studio):
    full = np.full((2, 3), 0.1, np.float32)
    good = Gaussians(full, full, np.tile(np.float32([1, 0, 0, 0]), (2, 1)), full[:, 0], full)
    assert not isinstance(asset_looks(studio, ASSET_LOOKS, BALL, good, 0), str)
    bad = replace(good, opacities=np.full(2, np.nan, np.float32))
    assert "not finite" in asset_looks(studio, ASSET_LOOKS, BALL, bad, 0)


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
    assert "broken.ply" in shown[1]
    meshes = found["mesh"]["errors"].tolist()
    assert (meshes[:2], meshes[3]) == ([NOT_MADE] * 2, NOT_MADE)
    assert "c.glb" in meshes[2]
    assert np.array_equal(found["gaussians"]["data"][0], studio.of_gaussians("gaussians", gaussians))


def test_conditioning_pictures_are_whole(bench: Measuring, tmp_path: Path):
    subjects = bench.tests.subjects[:2]
    [arrays] = ConditionLooks(tmp_path, subjects, ("condition",), bench.studio).compute()
    assert arrays["data"].shape == (2, 1, 3, IMAGE, IMAGE)
    assert np.array_equal(arrays["data"][:, 0].transpose(0, 2, 3, 1), whole_pictures(subjects))


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
