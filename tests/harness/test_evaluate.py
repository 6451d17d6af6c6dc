"""`mdtbench evaluate` below the command line: real files, small networks, every column and every way to fail."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from torch import nn

from mdtbench.assets.gaussian_ply import write_gaussians
from mdtbench.assets.mesh_export import write_glb, write_ply
from mdtbench.base.errors import MissingError, UsageError
from mdtbench.harness.cache import Store
from mdtbench.harness.evaluate.command import evaluate
from mdtbench.harness.evaluate.features import Tower, Towers
from mdtbench.harness.evaluate.looks import BLACK, drawn_mesh, pictures_of, run_look, studio_of
from mdtbench.harness.evaluate.measure import jobs_of, measure
from mdtbench.harness.evaluate.options import EvaluateOptions
from mdtbench.harness.evaluate.pairs import Contents, Files, files_in, matched, names_others
from mdtbench.harness.evaluate.plan import Plan, resolve
from mdtbench.harness.evaluate.rows import rows_of
from mdtbench.harness.evaluate.scores import distance_values, needed_for_infinity
from mdtbench.harness.export import safe_path
from mdtbench.harness.protocol.model import load_protocol
from mdtbench.metrics.frechet import Moments, frechet_distance
from mdtbench.metrics.kernel import draw_subsets, kernel_distance
from mdtbench.metrics.official import resize, ulip
from mdtbench.metrics.official.clip_vision import ClipVision, TowerShape
from mdtbench.metrics.official.picture_extractors import PictureSpec, random_extractor, version_of
from mdtbench.metrics.official.pointbert import PointBertConfig
from mdtbench.metrics.official.points import Preparation
from mdtbench.metrics.official.weights import WeightsFile
from mdtbench.render.cameras import protocol_views
from mdtbench.render.gaussian_rasteriser import MIP
from mdtbench.render.gaussians import Gaussians
from mdtbench.results.report import RunResults, report
from mdtbench.results.rows import read_rows

TOWER = TowerShape(width=32, layers=1, heads=4, hidden=48, embedding=8, activation=nn.functional.gelu)
PICTURES = PictureSpec(
    "small", 1, WeightsFile("small", "", "", 0), partial(ClipVision, TOWER), resize.clip_224, TOWER.embedding
)
POINTS = replace(
    ulip.ULIP2_SPEC,
    config=PointBertConfig(channels=6, depth=1, embedding=8, trans_dim=48, num_group=8, group_size=4),
    preparation=Preparation(64),
)
SIDE = 48  # pixels of a picture
LOADED: list[str] = []  # towers, in the order of their loading


class Silent:
    """A reporter that keeps its notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def start(self, label: str, total: int, done: int = 0) -> int:
        return 0

    def update(self, task: int, done: int, info: str = "") -> None: ...


def box(path: Path, extent: tuple[float, float, float], colour: float = 0.5, *, write=write_glb) -> None:
    """A box of sides 2 `extent`, off the origin; the colour runs along x."""
    corners = np.indices((2, 2, 2)).reshape(3, 8).T
    faces = np.array([[0, 1, 3], [0, 3, 2], [4, 6, 7], [4, 7, 5], [0, 4, 5], [0, 5, 1]])
    faces = np.concatenate([faces, [[2, 3, 7], [2, 7, 6], [0, 2, 6], [0, 6, 4], [1, 5, 7], [1, 7, 3]]])
    colours = np.full((8, 3), colour, np.float32)
    colours[:, 0] = corners[:, 0]
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, corners * np.array(extent) + 3.0, faces, colours)


def splats(path: Path, seed: int) -> None:
    random = np.random.default_rng(seed)
    rotations = np.tile(np.array([1, 0, 0, 0], np.float32), (50, 1))
    means = random.uniform(-0.4, 0.4, (50, 3)).astype(np.float32)
    scales = np.full((50, 3), 0.05, np.float32)
    opacity, colours = np.full(50, 0.9, np.float32), random.standard_normal((50, 3)).astype(np.float32)
    write_gaussians(path, Gaussians(means, scales, rotations, opacity, colours))


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """A reference of four boxes, and what a system made of them: one other box, Gaussians of all."""
    reference, made = tmp_path / "truth", tmp_path / "made"
    for i, name in enumerate("abcd"):
        box(reference / f"{name}.glb", (1, 1 + i, 2), 0.2 * i)
        box(made / f"{name}.glb", (1, 1 + i, 2 if i else 1), 0.2 * i)
        splats(made / f"{name}.ply", i)
    LOADED.clear()
    return made, reference


def small_tower(name: str, seed: int) -> Tower:
    def load():
        LOADED.append(name)
        return random_extractor(PICTURES, seed)

    return Tower(version_of(PICTURES, f"random:{seed}"), load)


def planned(made: Path, reference: Path | None = None, **changes) -> Plan:
    """A plan with small networks and pictures."""
    values = {"protocol": "trellis-v1", "changes": ("extractors=random",), "geometry_only": False, "limit": None}
    values |= {"latency": 1.3, "steps": 5, "nfe": 10, "weights": Path("none"), "out": None, "cache": made, "workers": 1}
    plan = resolve(EvaluateOptions(folder=made, name="Sys", reference=reference, **values | changes))

    def load_points():
        LOADED.append("points")
        return ulip.random_extractor(POINTS, 3)

    points = Tower(ulip.version_of(POINTS, "random:3"), load_points, POINTS.preparation.count)
    distances = {name: small_tower(name, seed) for seed, name in enumerate(plan.towers.distances)}
    towers = Towers(distances, small_tower("pictures", 2), points, True)
    inputs = plan.studio.inputs | {"views": plan.studio.inputs["views"] | {"resolution": SIDE}}
    return replace(plan, towers=towers, studio=replace(plan.studio, resolution=SIDE, inputs=inputs))


def in_process(jobs):
    return [run_look(job) for job in jobs]


def measured(plan: Plan, cache: Path):
    return measure(plan, Store(cache), Silent(), in_process)


def by_name(result) -> dict[str, float]:
    return {value.metric: value.value for value in result.system}


def test_a_system_has_every_column_and_the_controls(folders, tmp_path):
    result = measured(planned(*folders), tmp_path / "cache")
    values = by_name(result)
    plain = {
        f"{kind}_{ending}{suffix}"
        for kind in ("FD", "KD")
        for ending in ("incep", "dinov2")
        for suffix in ("", "_mesh")
    }
    manifold = {f"{name}_dinov2" for name in ("precision", "recall", "density", "coverage")}
    # With 8 features 20 pictures are needed to extrapolate, and there are 16.
    assert set(values) == plain | manifold | {"ULIP_I"}
    assert set(result.controls) == {"truth", "shuffled"}
    assert values["FD_incep"] > values["FD_incep_mesh"] > 0  # one box of four differs, all Gaussians do
    assert not result.failures
    assert not result.dropped
    assert LOADED == ["incep", "dinov2", "points", "pictures"]  # one after the other, each once
    assert {value.n_ok for value in result.system} == {4}


def test_assets_against_themselves_have_no_distance_and_the_truths_agreement(folders, tmp_path):
    _, reference = folders
    result = measured(planned(reference), tmp_path / "cache")
    values = by_name(result)
    assert "FD_incep" not in values  # no Gaussians: no row
    assert values["FD_incep_mesh"] == pytest.approx(0, abs=1e-6)
    assert values["ULIP_I"] == result.controls["truth"].value
    assert result.controls["shuffled"].value != result.controls["truth"].value
    assert values["precision_dinov2_mesh"] == 1


def test_the_values_are_those_of_the_features(folders, tmp_path):
    plan, store = planned(*folders), Store(tmp_path / "cache")
    values = by_name(measure(plan, store, Silent(), in_process))
    see = random_extractor(PICTURES, 0)

    def moments(looks):
        return Moments.of(np.concatenate([see(pictures_of(look, plan.studio, store)) for look in looks]))

    truth, made = moments(pair.truth for pair in plan.pairs), moments(pair.gaussians for pair in plan.pairs)
    assert values["FD_incep"] == pytest.approx(frechet_distance(made, truth), rel=1e-9)
    pair = plan.pairs[1]
    expected = drawn_mesh(pair.truth.asset.load().normalised(1.0), plan.studio)["pictures"]
    np.testing.assert_array_equal(pictures_of(pair.truth, plan.studio, store), expected)


def test_a_repeat_computes_nothing_and_writes_the_same_bytes(folders, tmp_path):
    plan, out, report_ = planned(*folders), tmp_path / "out", Silent()
    for job in jobs_of(plan, Store(tmp_path / "cache")):
        run_look(job)  # what the workers would do
    rows, _ = evaluate(plan, out, tmp_path / "cache", 1, report_)
    first, loaded = (out / "rows.jsonl").read_bytes(), list(LOADED)
    again, _ = evaluate(plan, out, tmp_path / "cache", 1, report_)
    assert loaded == LOADED
    assert not jobs_of(plan, Store(tmp_path / "cache"))
    assert (out / "rows.jsonl").read_bytes() == first
    assert again == rows == read_rows(out / "rows.jsonl")
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["protocol"] == {"name": plan.protocol.name, "sha256": plan.protocol.sha256}
    assert manifest["extractors"]["incep"] == "small-1/clip_224/float32/random:0"
    assert "Sys" in report(RunResults(again), "markdown")


def test_rows_say_what_they_are(folders, tmp_path):
    plan = planned(*folders)
    rows = rows_of(plan, measured(plan, tmp_path / "cache"))
    by_metric = {(row.method, row.metric): row for row in rows}
    fd, time = by_metric["Sys", "FD_incep[random]"], by_metric["Sys", "latency_s"]
    assert plan.protocol.name == "trellis-v1+own-renderer"
    assert "protocol trellis-v1+own-renderer (" + plan.protocol.sha256[:12] in fd.note
    assert (fd.stage, fd.split, fd.n_ok, fd.n_total, fd.steps, fd.nfe) == ("evaluation", "truth", 4, 4, 5, 10)
    assert (time.value, time.wall_s) == (1.3, 1.3)
    assert by_metric["Sys", "KD_incep[random]"].unit == by_metric["Sys", "ULIP_I[random]"].unit == "x100"
    assert by_metric["truth", "ULIP_I[random]"].run_id == by_metric["shuffled", "ULIP_I[random]"].run_id != fd.run_id
    assert by_metric["Sys", "recall_dinov2[random]"].higher_is_better
    assert not fd.higher_is_better
    assert all(row.config_sha == plan.protocol.sha256 for row in rows)


def test_failures_are_black_pictures_and_zero_and_are_counted(folders, tmp_path):
    made, reference = folders
    whole = by_name(measured(planned(made, reference), tmp_path / "cache"))
    (made / "a.glb").unlink()
    (made / "b.glb").write_bytes(b"glTF, but not really")
    (made / "c.ply").write_bytes((made / "c.ply").read_bytes()[:-8])
    plan, store = planned(made, reference), Store(tmp_path / "cache")
    result = measure(plan, store, Silent(), in_process)
    reasons = {(failure.id, failure.what): failure.reason for failure in result.failures}
    assert set(reasons) == {("a", "mesh"), ("b", "mesh"), ("c", "gaussians")}
    assert reasons["a", "mesh"] == "not generated"
    assert "ends too early" in reasons["c", "gaussians"]
    by_metric = {value.metric: value for value in result.system}
    assert (by_metric["FD_incep"].n_ok, by_metric["FD_incep_mesh"].n_ok, by_metric["ULIP_I"].n_ok) == (3, 2, 2)
    see = random_extractor(PICTURES, 0)
    shown = [BLACK, BLACK, *(pair.mesh for pair in plan.pairs[2:])]
    sides = [
        Moments.of(np.concatenate([see(pictures_of(look, plan.studio, store)) for look in looks]))
        for looks in (shown, [pair.truth for pair in plan.pairs])
    ]
    assert by_metric["FD_incep_mesh"].value == pytest.approx(frechet_distance(*sides), rel=1e-9)
    assert pictures_of(BLACK, plan.studio, store).max() == 0
    # c and d are as before: what a and b gave is gone from the mean over four.
    valid = float(by_metric["ULIP_I"].note.rpartition(" ")[2])
    assert by_metric["ULIP_I"].value == pytest.approx(valid * 2 / 4, abs=0.005)
    assert by_metric["ULIP_I"].value != pytest.approx(whole["ULIP_I"])


def test_a_broken_reference_is_dropped_from_both_sides(folders, tmp_path):
    made, reference = folders
    (reference / "b.glb").write_bytes(b"nothing")
    thin = [[0, 0, 0], [1, 0, 0], [1, 0, 1e-5]]
    write_glb(reference / "c.glb", np.array(thin), np.array([[0, 1, 2]]), np.ones((3, 3), np.float32))
    plan = planned(made, reference)
    result = measured(plan, tmp_path / "cache")
    assert [pair.id for pair in result.pairs] == ["a", "d"]
    dropped = {failure.id: failure.reason for failure in result.dropped}
    assert set(dropped) == {"b", "c"}
    assert "covers" in dropped["c"]
    rows = rows_of(plan, result)
    assert {row.n_total for row in rows} == {2}
    assert all("2 assets of the reference cannot be used" in row.note for row in rows if row.method == "Sys")
    (reference / "a.glb").write_bytes(b"nothing")
    with pytest.raises(MissingError, match="1 of 4 assets of the reference"):
        measured(planned(made, reference), tmp_path / "cache")


def test_geometry_only_has_the_agreement_alone_and_draws_nothing_of_the_system(folders, tmp_path):
    plan = planned(*folders, geometry_only=True)
    jobs = jobs_of(plan, Store(tmp_path / "cache"))
    (other,) = [job for job in jobs if job.look == plan.pairs[0].mesh]  # the others equal their reference
    assert (other.pictures, len(other.clouds)) == (False, 1)
    result = measured(plan, tmp_path / "cache")
    assert set(by_name(result)) == {"ULIP_I"}
    assert LOADED == ["points", "pictures"]
    assert by_name(result)["ULIP_I"] == by_name(measured(planned(*folders), tmp_path / "cache"))["ULIP_I"]


def test_gaussians_alone_have_no_mesh_columns(folders, tmp_path):
    made, reference = folders
    for path in made.glob("*.glb"):
        path.unlink()
    values = by_name(measured(planned(made, reference), tmp_path / "cache"))
    assert "ULIP_I" not in values
    assert not any(name.endswith("_mesh") for name in values)
    assert {"FD_incep", "KD_dinov2", "coverage_dinov2"} <= set(values)


def test_the_variant_of_meshes_has_the_plain_columns_from_meshes(folders, tmp_path):
    usual = by_name(measured(planned(*folders), tmp_path / "cache"))
    values = by_name(measured(planned(*folders, protocol="trellis-v1+fd-mesh"), tmp_path / "cache"))
    assert values["FD_incep"] == usual["FD_incep_mesh"]
    assert "FD_incep_mesh" not in values


def test_equal_files_are_looked_at_once(folders, tmp_path):
    made, reference = folders
    for folder in (made, reference):
        for i in range(20):
            shutil.copy(folder / "a.glb", folder / f"copy{i}.glb")
    plan = planned(made, reference)
    assert len(jobs_of(plan, Store(tmp_path / "cache"))) == 4 + 1 + 4  # one other box; three are in both folders
    assert len(measured(plan, tmp_path / "cache").pairs) == 24


def test_the_points_of_an_asset_are_those_of_its_id_and_run(folders):
    seeds = [pair.seed for pair in planned(*folders).pairs]
    assert len(set(seeds)) == 4
    assert seeds == [pair.seed for pair in planned(*folders).pairs]
    other = planned(*folders, changes=("extractors=random", "run_seed=1"))
    assert not set(seeds) & {pair.seed for pair in other.pairs}


def test_an_id_that_is_a_digest_is_the_assets_own(tmp_path):
    name = "0123456789abcdef" * 4
    for folder in ("truth", "made"):
        box(tmp_path / folder / f"{name}.glb", (1, 2, 3))
        box(tmp_path / folder / "b.glb", (1, 2, 3))
    seeds = {pair.id: pair.seed for pair in planned(tmp_path / "made", tmp_path / "truth").pairs}
    # sha256("trellis-v1/" + 64 digits + "/0"), first 8 digits
    assert seeds[name] == int(hashlib.sha256(f"trellis-v1/{name}/0".encode()).hexdigest()[:8], 16)
    assert seeds["b"] != seeds[name]


def test_limit_takes_the_first_ids_and_leftovers_are_named(folders, tmp_path):
    made, reference = folders
    box(made / "zebra.glb", (1, 1, 1))
    plan = planned(made, reference, limit=2)
    assert [pair.id for pair in plan.pairs] == ["a", "b"]
    assert plan.unused == ("zebra",)


def test_names_match_by_id_by_what_export_made_of_it_and_by_a_unique_end():
    made = {name: Files() for name in ("cars/taxi", "bus", "odd_name-1f7b0a3e", "chair")}
    odd = "odd:name"
    made[safe_path(odd).as_posix()] = Files()
    ids = ["cars/taxi", "vehicles/bus", odd, "a/chair", "b/chair", "missing"]
    found = matched(ids, made)
    assert found == {"cars/taxi": "cars/taxi", "vehicles/bus": "bus", odd: safe_path(odd).as_posix()}


def test_gaussians_and_meshes_are_told_apart_by_content(tmp_path):
    box(tmp_path / "a.ply", (1, 2, 3), write=write_ply)
    splats(tmp_path / "b.ply", 0)
    box(tmp_path / "b.glb", (1, 2, 3))
    files = files_in(tmp_path)
    assert files["a"].mesh
    assert not files["a"].gaussians
    assert files["b"].mesh
    assert files["b"].gaussians == tmp_path / "b.ply"
    box(tmp_path / "b.obj", (1, 2, 3))
    with pytest.raises(UsageError, match="Two meshes of asset 'b'"):
        files_in(tmp_path)


def test_companions_count_as_content_only_where_they_can_be_named(tmp_path):
    box(tmp_path / "a.glb", (1, 2, 3))
    (tmp_path / "b.obj").write_text("mtllib b.mtl\n")
    (tmp_path / "b.mtl").write_text("newmtl x\n")
    files = {name: files.mesh for name, files in files_in(tmp_path).items()}
    before = {name: Contents().of_mesh(mesh) for name, mesh in files.items()}
    (tmp_path / "b.mtl").write_text("newmtl y\n")
    after = {name: Contents().of_mesh(mesh) for name, mesh in files.items()}
    assert before["a"] == after["a"]
    assert before["b"] != after["b"]
    assert not names_others(tmp_path / "a.glb")
    assert names_others(tmp_path / "b.obj")


def test_the_studio_is_that_of_the_protocol():
    values = load_protocol("trellis-v1").values
    studio = studio_of(values)
    assert (studio.resolution, studio.splatting) == (512, MIP)
    for camera, expected in zip(studio.cameras, protocol_views(), strict=True):
        np.testing.assert_array_equal(camera.extrinsics, expected.extrinsics)
        np.testing.assert_array_equal(camera.intrinsics, expected.intrinsics)


def test_infinity_is_there_from_the_number_of_pictures_it_needs():
    random = np.random.default_rng(0)
    kernel = load_protocol("trellis-v1").values.fd.kernel.model_copy(update={"subsets": 2})
    real, fake = random.standard_normal((2, 6, 4, 8)).astype(np.float32)
    assert needed_for_infinity(8, 4) == 24
    compute = partial(distance_values, "x", "_mesh", kernel=kernel, with_manifold=False)
    assert set(compute(real, fake)) == {"FD_x_mesh", "KD_x_mesh", "FD_inf_x_mesh"}
    assert set(compute(real[:5], fake[:5])) == {"FD_x_mesh", "KD_x_mesh"}


def test_kernel_distance_is_scaled_and_drawn_as_in_the_protocol():
    random = np.random.default_rng(0)
    kernel = load_protocol("trellis-v1").values.fd.kernel
    real, fake = random.standard_normal((2, 5, 4, 3)).astype(np.float32)
    found = distance_values("x", "", real, fake + 1, kernel, with_manifold=False)["KD_x"]
    subsets = draw_subsets(np.random.RandomState(0), 20, 20, count=100, size=1000)
    expected = kernel_distance(fake.reshape(-1, 3) + 1, real.reshape(-1, 3), subsets)
    assert found == pytest.approx(100 * expected.mean, rel=1e-12)
    assert found > 1


def test_official_weights_are_all_named_at_once_before_anything_is_computed(folders, tmp_path):
    made, reference = folders
    with pytest.raises(
        MissingError, match=r"4 of 4 files .*pt_inception.*dinov2_vitl14_pretrain.*bigG.*ULIP-2"
    ) as error:
        planned(made, reference, changes=(), weights=tmp_path / "weights")
    assert "mdtbench fetch --preset paper" in str(error.value)
    with pytest.raises(MissingError, match="5 of 5 files"):
        planned(made, reference, changes=('columns=["fd_dinov2_reg518"]',), weights=tmp_path / "weights")
    with pytest.raises(MissingError, match="2 of 2 files"):
        planned(made, reference, changes=(), weights=tmp_path / "weights", geometry_only=True)


def test_more_columns_are_asked_for_by_their_extractors(folders):
    plan = planned(*folders, changes=("extractors=random", 'columns=["fd_incep_clean"]'))
    assert list(plan.towers.distances) == ["incep", "dinov2", "incep_clean"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"changes": ("extractor=random",)}, "Did you mean 'extractors'"),
        ({"changes": ("extractors=fake",)}, "--set extractors: .*got 'fake'"),
        ({"protocol": "trellis-v1+ulip2-cond"}, "compares meshes with the condition image"),
        ({"protocol": "trellis-v2"}, "Did you mean 'trellis-v1'"),
    ],
)
def test_wrong_options_are_refused(folders, changes, message):
    with pytest.raises(UsageError, match=message):
        planned(*folders, **changes)


def test_a_folder_of_other_assets_is_refused(folders, tmp_path):
    made, _ = folders
    box(tmp_path / "others" / "x.glb", (1, 1, 1))
    with pytest.raises(MissingError, match=r"No file in .* has the id of an asset"):
        planned(made, tmp_path / "others")
