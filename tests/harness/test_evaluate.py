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
from PIL import Image
from silent import Silent
from small_towers import PICTURES, POINTS

from mdtbench.assets.gaussian_ply import write_gaussians
from mdtbench.assets.mesh_export import write_glb, write_ply
from mdtbench.base.errors import MissingError, UsageError
from mdtbench.harness.cache import Store
from mdtbench.harness.evaluate.command import evaluate, manifest
from mdtbench.harness.evaluate.features import Tower, Towers
from mdtbench.harness.evaluate.looks import (
    BLACK,
    clip_studio_of,
    drawn_mesh,
    pictures_of,
    points_of,
    run_look,
    studio_of,
)
from mdtbench.harness.evaluate.measure import Measured, jobs_of, measure
from mdtbench.harness.evaluate.options import EvaluateOptions
from mdtbench.harness.evaluate.pairs import Contents, Files, files_in, matched, names_others
from mdtbench.harness.evaluate.plan import Plan, resolve
from mdtbench.harness.evaluate.rows import calibration_of, rows_of
from mdtbench.harness.evaluate.scores import Value, distance_values, needed_for_infinity
from mdtbench.harness.export import safe_path
from mdtbench.harness.protocol.model import load_protocol
from mdtbench.metrics.frechet import Moments, frechet_distance
from mdtbench.metrics.kernel import draw_subsets, kernel_distance
from mdtbench.metrics.official import ulip
from mdtbench.metrics.official.picture_extractors import random_extractor, version_of
from mdtbench.render.cameras import protocol_views
from mdtbench.render.gaussian_rasteriser import MIP
from mdtbench.render.gaussians import Gaussians
from mdtbench.results.evaluation_tables import NOT_CALIBRATED
from mdtbench.results.report import RunResults, report
from mdtbench.results.rows import read_rows

SIDE = 48  # pixels of a picture
LOADED: list[str] = []  # towers, in the order of their loading


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
    values |= {"conditions": None, "seed": None, "calibrates": False}
    values |= {"latency": 1.3, "steps": 5, "nfe": 10, "weights": Path("none"), "out": None, "cache": made, "workers": 1}
    plan = resolve(EvaluateOptions(folder=made, name="Sys", reference=reference, **values | changes))

    def load_points():
        LOADED.append("points")
        return ulip.random_extractor(POINTS, 3)

    points = Tower(ulip.version_of(POINTS, "random:3"), load_points, POINTS.preparation.count)
    distances = {name: small_tower(name, seed) for seed, name in enumerate(plan.towers.distances)}
    clip = small_tower("clip", 5) if plan.towers.clip else None
    towers = Towers(distances, small_tower("pictures", 2), points, True, clip)
    inputs = plan.studio.inputs | {"views": plan.studio.inputs["views"] | {"resolution": SIDE}}
    small = plan.clip_studio and replace(
        plan.clip_studio,
        resolution=SIDE,
        inputs=plan.clip_studio.inputs | {"views": {**plan.clip_studio.inputs["views"], "resolution": SIDE}},
    )
    studio = replace(plan.studio, resolution=SIDE, inputs=inputs)
    return replace(plan, towers=towers, studio=studio, clip_studio=small)


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
    real, fake = random.standard_normal((2, 24, 8)).astype(np.float32)
    assert needed_for_infinity(8, 4) == 24
    compute = partial(distance_values, "x", "_mesh", kernel=kernel, views=4, with_manifold=False)
    assert set(compute(real, fake)) == {"FD_x_mesh", "KD_x_mesh", "FD_inf_x_mesh"}
    assert set(compute(real[:20], fake[:20])) == {"FD_x_mesh", "KD_x_mesh"}


def test_kernel_distance_is_scaled_and_drawn_as_in_the_protocol():
    random = np.random.default_rng(0)
    kernel = load_protocol("trellis-v1").values.fd.kernel
    real, fake = random.standard_normal((2, 20, 3)).astype(np.float32)
    found = distance_values("x", "", real, fake + 1, kernel, views=4, with_manifold=False)["KD_x"]
    subsets = draw_subsets(np.random.RandomState(0), 20, 20, count=100, size=1000)
    expected = kernel_distance(fake + 1, real, subsets)
    assert found.value == pytest.approx(100 * expected.mean, rel=1e-12)
    assert found.value > 1
    assert found.error is None  # every subset is all there is, and their spread is rounding


def test_the_error_of_kd_is_the_spread_of_its_subsets_and_fd_has_none():
    random = np.random.default_rng(0)
    kernel = load_protocol("trellis-v1").values.fd.kernel.model_copy(update={"subset_size": 12})
    real, fake = random.standard_normal((2, 20, 3)).astype(np.float32)
    found = distance_values("x", "", real, fake, kernel, views=4, with_manifold=False)
    subsets = draw_subsets(np.random.RandomState(0), 20, 20, count=100, size=12)
    assert found["KD_x"].error == pytest.approx(100 * np.std(kernel_distance(fake, real, subsets).values), rel=1e-12)
    assert found["FD_x"].error is None


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
        ({"protocol": "trellis-v1+ulip2-cond"}, "compares meshes with the condition image.*give .* --conditions"),
        ({"protocol": "trellis-v1+ulip2-4gen", "geometry_only": True}, "--geometry-only draws none"),
        ({"conditions": Path(), "geometry_only": True}, "leave out the other"),
        ({"calibrates": True, "steps": None}, "--steps is not given"),
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


# Condition images


@pytest.fixture
def conditions(folders, tmp_path: Path) -> Path:
    """A picture for every asset: colours that alpha hides in one corner."""
    folder = tmp_path / "conditions"
    folder.mkdir()
    for i, name in enumerate("abcd"):
        picture = np.full((40, 40, 4), 255, np.uint8)
        picture[:20, :, i % 3] = 60 * i
        picture[:, 20:, 3] = 128
        picture[20:, 20:, 3] = 0
        Image.fromarray(picture).save(folder / f"{name}.png")
    return folder


def embedded(plan: Plan, look, *, on_black: bool, seed: int) -> np.ndarray:
    """The unit embedding of a condition image, composed here."""
    rgba = np.asarray(Image.open(look.path).convert("RGBA")).astype(int)
    rgb = rgba[..., :3] * rgba[..., 3:] // 255 if on_black else rgba[..., :3]
    return unit(random_extractor(PICTURES, seed)(rgb.astype(np.uint8).transpose(2, 0, 1)[None])[0])


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def test_the_clip_score_is_of_eight_views_with_the_condition_image(folders, conditions, tmp_path):
    plan, store = planned(*folders, conditions=conditions), Store(tmp_path / "cache")
    result = measure(plan, store, Silent(), in_process)
    values = {value.metric: value for value in result.system}
    see = random_extractor(PICTURES, 5)
    for metric, what in (("CLIP_score", "gaussians"), ("CLIP_score_mesh", "mesh")):
        expected = []
        for pair in plan.pairs:
            views = pictures_of(getattr(pair, what), plan.clip_studio, store)
            assert len(views) == 8
            expected.append(100 * (unit(see(views)) @ embedded(plan, pair.condition, on_black=True, seed=5)).mean())
        # float32 features, compared in float64 there and in float32 here
        assert values[metric].value == pytest.approx(np.mean(expected), abs=1e-4)
        assert values[metric].stderr == pytest.approx(np.std(expected, ddof=1) / 2, rel=1e-3)
    assert not any(value.metric.startswith("CLIP") for value in measured(planned(*folders), tmp_path / "cache").system)
    assert values["CLIP_score"].higher_is_better


def test_eight_views_of_the_clip_score_are_those_of_the_protocol():
    values = load_protocol("trellis-v1").values
    studio, clip = studio_of(values), clip_studio_of(values)
    assert clip.inputs["views"]["yaw_deg"] == [0, 45, 90, 135, 180, 225, 270, 315]
    assert clip.resolution == 512
    for camera, same in zip(clip.cameras[::2], studio.cameras, strict=True):
        np.testing.assert_allclose(camera.extrinsics, same.extrinsics, atol=1e-12)
    assert len({camera.eye.tobytes() for camera in clip.cameras}) == 8


@pytest.mark.parametrize(("variant", "on_black"), [("ulip2-cond", True), ("ulip1-flashvdm", False)])
def test_variants_of_ulip_compare_meshes_with_the_condition_image(folders, conditions, tmp_path, variant, on_black):
    plan, store = planned(*folders, conditions=conditions, protocol=f"trellis-v1+{variant}"), Store(tmp_path / "cache")
    result = measure(plan, store, Silent(), in_process)
    ulip_i = next(value for value in result.system if value.metric == "ULIP_I")
    see = ulip.random_extractor(POINTS, 3)

    def embed(pair, look):
        return unit(see(points_of(look, plan.cloud(pair), store)[None])[0])

    shown = [embedded(plan, pair.condition, on_black=on_black, seed=2) for pair in plan.pairs]
    made = [embed(pair, pair.mesh) for pair in plan.pairs]
    truth = [embed(pair, pair.truth) for pair in plan.pairs]
    assert ulip_i.value == pytest.approx(100 * np.mean(np.sum(np.multiply(shown, made), 1)), abs=1e-4)
    assert result.controls["truth"].value == pytest.approx(
        100 * np.mean(np.sum(np.multiply(shown, truth), 1)), abs=1e-4
    )
    assert "conditions:" in ulip_i.extractor


def test_ulip_with_generated_views_is_of_the_gaussians_and_controls_are_of_the_reference(folders, tmp_path):
    plan, store = planned(*folders, protocol="trellis-v1+ulip2-4gen"), Store(tmp_path / "cache")
    result = measure(plan, store, Silent(), in_process)
    found = next(value.value for value in result.system if value.metric == "ULIP_I")
    points, pictures = ulip.random_extractor(POINTS, 3), random_extractor(PICTURES, 2)
    scores = []
    for pair in plan.pairs:
        made = unit(points(points_of(pair.mesh, plan.cloud(pair), store)[None])[0])
        scores.append(100 * (unit(pictures(pictures_of(pair.gaussians, plan.studio, store))) @ made).mean())
    assert found == pytest.approx(np.mean(scores), abs=1e-4)
    usual = measure(planned(*folders), store, Silent(), in_process)
    assert {name: value.value for name, value in result.controls.items()} == {
        name: value.value for name, value in usual.controls.items()
    }
    assert not jobs_of(plan, store)


def test_missing_and_broken_condition_images_are_counted_failures(folders, conditions, tmp_path):
    plan = planned(*folders, conditions=conditions, protocol="trellis-v1+ulip2-cond")
    whole = {value.metric: value for value in measured(plan, tmp_path / "cache").system}
    (conditions / "a.png").unlink()
    (conditions / "b.png").write_bytes(b"no picture")
    plan = planned(*folders, conditions=conditions, protocol="trellis-v1+ulip2-cond")
    result = measured(plan, tmp_path / "cache")
    reasons = {failure.id: failure.reason for failure in result.failures if failure.side == "conditions"}
    assert reasons["a"] == "no picture"
    assert "b.png is not a readable picture" in reasons["b"]
    values = {value.metric: value for value in result.system}
    for metric in ("CLIP_score", "CLIP_score_mesh", "ULIP_I"):
        assert (values[metric].n_ok, whole[metric].n_ok) == (2, 4)
        assert values[metric].extractor != whole[metric].extractor
        valid = float(values[metric].note.rpartition(" ")[2])
        assert values[metric].value == pytest.approx(valid / 2, abs=0.005)
    assert values["FD_incep"] == whole["FD_incep"]
    assert result.controls["truth"].n_ok == 2
    for name in "cd":
        (conditions / f"{name}.png").write_bytes(b"no picture")
    with pytest.raises(MissingError, match="None of the 4 condition images can be used"):
        measured(planned(*folders, conditions=conditions), tmp_path / "cache")


def test_wrong_folders_of_condition_images_are_refused(folders, conditions, tmp_path):
    with pytest.raises(MissingError, match="There is no folder"):
        planned(*folders, conditions=tmp_path / "nowhere")
    shutil.copy(conditions / "a.png", conditions / "a.webp")
    with pytest.raises(UsageError, match=r"Two pictures of asset 'a' \(got a.png and a.webp\)"):
        planned(*folders, conditions=conditions)
    (conditions / "a.webp").unlink()
    for path in list(conditions.iterdir()):
        path.rename(path.with_stem(f"x{path.stem}"))
    with pytest.raises(MissingError, match=r"None of the 4 pictures .*4 are missing: a, b, c, ..."):
        planned(*folders, conditions=conditions)


def test_condition_images_decide_the_key_and_not_the_reference(folders, conditions):
    plain, shown = planned(*folders), planned(*folders, conditions=conditions)
    assert plain.key != shown.key
    assert plain.reference_sha(plain.pairs) == shown.reference_sha(shown.pairs)


# Seeds and calibration


def test_the_generation_seed_stands_in_the_rows_and_draws_no_other_points(folders, tmp_path):
    one, two = (planned(*folders, seed=seed) for seed in (1, 2))
    assert one.key != two.key
    assert [pair.seed for pair in one.pairs] == [pair.seed for pair in two.pairs]
    rows = [*rows_of(one, measured(one, tmp_path / "cache")), *rows_of(two, measured(two, tmp_path / "cache"))]
    assert {row.seed for row in rows if row.method == "Sys"} == {1, 2}
    assert {row.seed for row in rows if row.method != "Sys"} == {None}
    assert "over generation seeds" in report(RunResults(rows), "markdown")


def test_only_the_teacher_is_compared_with_its_published_numbers(folders, tmp_path):
    plain, teacher = planned(*folders), planned(*folders, calibrates=True, steps=25)
    result = measured(plain, tmp_path / "cache")
    assert calibration_of(plain, result) is None
    assert NOT_CALIBRATED in rows_of(plain, result)[0].note
    found = calibration_of(teacher, result)
    assert (found.verdict, found.reason) == ("not judged", "random weights")
    assert "not judged: compare only within this run (random weights)" in rows_of(teacher, result)[0].note
    assert manifest(teacher, result)["calibration"]["verdict"] == "not judged"
    assert manifest(plain, result)["calibration"] is None
    assert not any("calibrat" in row.note for row in rows_of(teacher, result) if row.method == "truth")


@pytest.mark.parametrize(("ulip_i", "verdict"), [(39.0, "calibrated"), (38.0, "uncalibrated")])
def test_the_protocols_rule_decides_what_is_calibrated(folders, ulip_i, verdict):
    plan = planned(*folders, calibrates=True, steps=25)
    plan = replace(plan, towers=replace(plan.towers, random=False))
    pairs = plan.pairs * 805  # 3,220 assets, the published row has 3,218
    found = {"FD_incep": 12.0, "FD_dinov2": 66.0, "ULIP_I": ulip_i}
    system = tuple(Value(metric, value, len(pairs), "x") for metric, value in found.items())
    assert calibration_of(plan, Measured(pairs, system, {}, (), ())).verdict == verdict
    row = rows_of(plan, Measured(pairs, system, {}, (), ()))[0]
    (part,) = [part for part in row.note.split("; ") if part.startswith("calibration: ")]
    assert part.startswith(f"calibration: {verdict}")
    assert "ULIP_I" in part
    assert calibration_of(plan, Measured(pairs[:64], system, {}, (), ())).verdict == "not judged"
