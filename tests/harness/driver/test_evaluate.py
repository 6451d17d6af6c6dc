"""`mdtbench evaluate` below the command line: real files, small networks, every column and every way to fail."""

from __future__ import annotations

import gc
import hashlib
import json
import shutil
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluations import SIDE, Files, box, see, small_evaluations, splats, write_files
from inprocess import in_process
from PIL import Image
from silent import Silent
from tracked import FLOAT32, of_tensorboard, same

from mdtbench.assets.mesh_export import write_glb
from mdtbench.base.errors import MissingError, UsageError
from mdtbench.geometry.cameras import protocol_views
from mdtbench.harness.driver.evaluate import _measurements, calibration_of, evaluate
from mdtbench.harness.driver.evaluation import Evaluation
from mdtbench.harness.engine import held
from mdtbench.harness.engine.engine import Engine
from mdtbench.harness.engine.trackers import NOT_IN_NAMES
from mdtbench.harness.engine.tracking import scalars_of
from mdtbench.harness.engine.workers import workers
from mdtbench.harness.inputs.paths import safe_path
from mdtbench.harness.inputs.subjects import matched
from mdtbench.harness.measure import extractors
from mdtbench.harness.measure.looks import Studio
from mdtbench.harness.measure.pairs import Contents, files_in
from mdtbench.harness.measure.pairs import Files as Pair
from mdtbench.harness.measure.scores import Scored
from mdtbench.harness.measure.sides import Side
from mdtbench.harness.protocol.model import load_protocol
from mdtbench.metrics import METRICS, Comparison, Metric, Score, Seen
from mdtbench.metrics.contract import known_mean
from mdtbench.metrics.frechet import Moments, frechet_distance
from mdtbench.metrics.kernel import draw_subsets, kernel_distance
from mdtbench.render.gaussian_rasteriser import MIP
from mdtbench.results.asset_values import read_asset_values
from mdtbench.results.evaluation_tables import NOT_CALIBRATED
from mdtbench.results.frames import rows_frame, to_rows
from mdtbench.results.report import RunResults, report
from mdtbench.results.rows import read_rows


@pytest.fixture(scope="module", autouse=True)
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with small_evaluations(tmp_path_factory.mktemp("small")):
        yield


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """Evaluated with condition pictures: what tests look at, and whose cache they begin with."""
    files = Files(tmp_path_factory.mktemp("once"))
    write_files(files.root)
    write_conditions(files.root / "conditions")
    files.evaluated(conditions=files.root / "conditions", out="shown")
    files.evaluated()
    return files


@pytest.fixture
def files(once: Files, tmp_path: Path) -> Files:
    """A copy of the files and of what was made of them, to change."""
    shutil.copytree(once.root, tmp_path / "files")
    return Files(tmp_path / "files")


def write_conditions(folder: Path) -> None:
    """A picture for every asset: colours that alpha hides in one corner."""
    folder.mkdir()
    for i, name in enumerate("abcd"):
        picture = np.full((40, 40, 4), 255, np.uint8)
        picture[:20, :, i % 3] = 60 * i
        picture[:, 20:, 3] = 128
        picture[20:, 20:, 3] = 0
        Image.fromarray(picture).save(folder / f"{name}.png")


def looks(found: Evaluation, side: Side, look: str) -> np.ndarray:
    """Pictures or points of all assets of a side, [N, V, ...]."""
    (seen,) = side.seen([look], found.extractors).data.values()
    return seen


def moments(name: str, pictures: np.ndarray) -> Moments:
    return Moments.of(np.concatenate([see(name, one) for one in pictures]))


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


# ------------------------------------------------------------------------------------------------------- what there is


def test_a_system_has_every_column_and_the_controls(files):
    result = files.evaluated()
    plain = {f"{kind}_{end}{mesh}" for kind in ("FD", "KD") for end in ("incep", "dinov2") for mesh in ("", "_mesh")}
    shares = {f"{name}_dinov2" for name in ("precision", "recall", "density", "coverage")}
    # With 8 features 20 pictures are needed to extrapolate, and there are 16.
    assert result.values().keys() == plain | shares | {"ULIP_I"}
    assert {line: set(result.values(line)) for line, _ in result.rows if line != "Sys"} == {
        "truth": {"ULIP_I"}, "shuffled": {"ULIP_I"}, "floor": plain
    }  # fmt: skip
    values = result.values()
    assert values["FD_incep"] > values["FD_incep_mesh"] > 0  # one box of four differs, all Gaussians do
    assert {row.n_ok for (line, _), row in result.rows.items() if line == "Sys"} == {4}
    assert not result.failures
    assert not result.found.dropped
    assert not result.jobs


def test_the_values_are_those_of_the_features(once):
    result = once.evaluated()
    found, values, floor = result.found, result.values(), result.values("floor")
    splatted, drawn = looks(found, found.made, "gaussians"), looks(found, found.truth, "gaussians")
    assert splatted.shape == drawn.shape == (4, 4, 3, SIDE, SIDE)
    fd = frechet_distance(moments("fd_incep", splatted), moments("fd_incep", drawn))
    assert values["FD_incep"] == pytest.approx(fd, rel=1e-9)
    halves = frechet_distance(moments("fd_dinov2", drawn[::2]), moments("fd_dinov2", drawn[1::2]))
    assert floor["FD_dinov2"] == pytest.approx(halves, rel=1e-9)
    cosines = [
        unit(see("clip_bigg", pictures)) @ unit(see("ulip2", points))[0]
        for pictures, points in zip(drawn, looks(found, found.made, "points"), strict=True)
    ]
    assert values["ULIP_I"] == pytest.approx(100 * np.mean(cosines), abs=1e-4)
    assert result.rows["Sys", "ULIP_I"].stderr == pytest.approx(100 * np.std(np.mean(cosines, 1), ddof=1) / 2, rel=1e-3)


def test_points_are_drawn_with_the_seed_of_the_id_or_of_the_file(files):
    name = "0123456789abcdef" * 4  # an id that is a digest is the asset's own
    for folder in (files.made, files.truth):
        shutil.copy(folder / "a.glb", folder / f"{name}.glb")
    found = files.resolved()
    identities = {subject.id: subject.identity.sha256 for subject in found.truth.subjects}
    assert identities[name] == name
    assert identities["a"] == hashlib.sha256((files.truth / "a.glb").read_bytes()).hexdigest()
    places = {run_seed: _digests(files.resolved(run_seed=run_seed).made, "points") for run_seed in (0, 1)}
    assert len(set(places[0])) == len(places[0])  # equal meshes of other seeds are other points
    assert not set(places[0]) & set(places[1])


def _digests(side: Side, *names: str) -> list[str]:
    return [place.digest for job in side.shards(names) for place in job.places]


def test_the_floor_of_an_odd_number_has_unequal_halves(files):
    box(files.truth / "e.glb", (3, 1, 1), 0.9)
    result = files.evaluated()
    drawn = looks(result.found, result.found.truth, "mesh")
    even, odd = (np.concatenate([see("fd_incep", one) for one in drawn[start::2]]) for start in (0, 1))
    subsets = draw_subsets(np.random.RandomState(0), 12, 8, count=100, size=1000)
    assert result.values("floor")["KD_incep"] == pytest.approx(100 * kernel_distance(even, odd, subsets).mean)
    row = result.rows["floor", "KD_incep"]
    assert (row.n_ok, row.n_total) == (3, 5)
    assert row.note.endswith("one half of the test assets against the other (n = 3 and 2)")


def test_assets_against_themselves_have_no_distance_and_the_truths_agreement(once):
    result = once.evaluated(out="own", reference="", folder=once.truth)
    values = result.values()
    assert "FD_incep" not in values  # no Gaussians: no row
    assert values["FD_incep_mesh"] == pytest.approx(0, abs=1e-6)
    assert values["precision_dinov2_mesh"] == 1
    assert values["ULIP_I"] == result.values("truth")["ULIP_I"] != result.values("shuffled")["ULIP_I"]
    assert "the assets themselves" in result.rows["Sys", "ULIP_I"].note
    assert once.resolved(reference=f"{once.truth}/", folder=once.truth).own_reference


def test_gaussians_alone_have_no_mesh_columns(files):
    usual = files.evaluated().values()
    for path in files.made.glob("*.glb"):
        path.unlink()
    values = files.evaluated().values()
    assert "ULIP_I" not in values
    assert not any(name.endswith("_mesh") for name in values)
    assert {"FD_incep", "KD_dinov2", "coverage_dinov2"} <= set(values)
    assert all(values[name] == usual[name] for name in values)


def test_geometry_only_has_the_agreement_alone_and_draws_nothing_of_the_system(files):
    usual = files.evaluated().values()
    shutil.rmtree(files.root / "cache")
    result = files.evaluated(geometry_only=True)
    assert result.values() == {"ULIP_I": usual["ULIP_I"]}
    assert {row.method for row in to_rows(result.outcome.results.rows)} == {"Sys", "truth", "shuffled"}
    drawn = result.found.made.shards(("mesh", "gaussians"))
    assert not any(place.exists() for job in drawn for place in job.places)
    for path in files.made.glob("*.glb"):
        path.unlink()
    with pytest.raises(MissingError, match="--geometry-only measures meshes"):
        files.resolved(geometry_only=True)


def test_the_variant_of_meshes_has_the_plain_columns_from_meshes(once):
    usual, values = once.evaluated().values(), once.evaluated(protocol="trellis-v1+fd-mesh", out="of meshes").values()
    assert values["FD_incep"] == usual["FD_incep_mesh"]
    assert "FD_incep_mesh" not in values


def test_more_columns_are_asked_for_by_their_extractors(once):
    result = once.evaluated(columns=("fd_incep_clean",), out="more")
    more = {f"{kind}_incep_clean{mesh}" for kind in ("FD", "KD") for mesh in ("", "_mesh")}
    assert result.values().keys() == once.evaluated().values().keys() | more
    assert set(result.values("floor")) >= more
    drawn, splatted = (looks(result.found, side, "mesh") for side in (result.found.truth, result.found.made))
    fd = frechet_distance(moments("fd_incep_clean", splatted), moments("fd_incep_clean", drawn))
    assert result.values()["FD_incep_clean_mesh"] == pytest.approx(fd, rel=1e-9)


class Brightness(Metric):
    """A plug-in's: of pictures as they are."""

    name, version, higher_is_better, level = "brightness", 3, True, "assets"
    made, truth, controls = ("mesh",), ("mesh",), ("truth",)

    def score(self, made: Seen, against: Comparison) -> Score:
        assert made["mesh"].dtype == np.uint8
        return known_mean(np.array([one.mean() for one in made["mesh"]]) - against.truth["mesh"].mean())  # type: ignore[index]


@pytest.fixture
def plugged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(METRICS, "_entries", dict(METRICS._entries))
    METRICS.register("brightness", version=3, source="here")(Brightness())


def test_a_metric_of_a_plug_in_is_a_column(once, plugged):
    result = once.evaluated(out="plugged")
    row, found = result.rows["Sys", "brightness"], result.found
    made, truth = (looks(found, side, "mesh").astype(float) for side in (found.made, found.truth))
    assert row.value == pytest.approx(made.mean() - truth.mean())
    assert row.metric == "brightness"  # no network has random weights
    assert (row.metric_version, row.n_ok, row.weights_sha) == (3, 4, "")
    assert result.values("truth")["brightness"] == pytest.approx(0)
    values = {one.asset: one.values for one in read_asset_values(result.out) if one.method == "Sys"}
    assert values["b"]["brightness"] == pytest.approx(made[1].mean() - truth.mean())


def test_cameras_are_those_of_the_protocol():
    studio = Studio.of(load_protocol("trellis-v1").values, 0)
    assert (studio.resolution, studio.splatting) == (SIDE, MIP)
    for camera, expected in zip(studio.cameras, protocol_views(), strict=True):
        np.testing.assert_array_equal(camera.extrinsics, expected.extrinsics)
        np.testing.assert_array_equal(camera.intrinsics, expected.intrinsics)
    for camera, own in zip(studio.turn[::2], studio.cameras, strict=True):
        np.testing.assert_allclose(camera.extrinsics, own.extrinsics, atol=1e-12)
    assert len({camera.eye.tobytes() for camera in studio.turn}) == 8


# ------------------------------------------------------------------------------------------------------------ repeated


def test_an_evaluation_is_tracked_by_its_rows(files, tmp_path: Path):
    found = files.resolved()
    rows = to_rows(evaluate(found, tmp_path, in_process()[0], ("tensorboard",)).results.rows)
    [track] = of_tensorboard(tmp_path).values()
    named: dict[str, list[tuple[int, float]]] = {}
    for steps, values in scalars_of(rows).items():
        for name, value in values.items():
            named.setdefault(NOT_IN_NAMES.sub("-", name), []).append((steps, value))
    assert same(track.curves, named, FLOAT32)
    assert {steps for points in named.values() for steps, _ in points} == {0, 5}  # controls have no steps
    assert track.settings["name"] == "Sys"


def test_a_repeat_computes_nothing_and_writes_the_same_bytes(files):
    first = files.evaluated()
    before = {name: (first.out / name).read_bytes() for name in ("rows.jsonl", "assets.jsonl", "failures.csv")}
    again = files.evaluated()
    assert not again.jobs
    assert {name: (again.out / name).read_bytes() for name in before} == before
    assert to_rows(again.outcome.results.rows) == read_rows(again.out / "rows.jsonl")
    manifest = json.loads((again.out / "manifest.json").read_text())
    assert manifest["protocol"] == {"name": "trellis-v1+own-renderer", "sha256": again.found.protocol.sha256}
    assert manifest["extractors"]["fd_incep"] == "fd_incep-1/dgm_eval_224/float32/random:0"
    assert manifest["key"] == again.found.key
    assert manifest["reference"]["ids"] == ["a", "b", "c", "d"]
    assert "Sys" in report(RunResults(again.outcome.results.rows), "markdown")


def test_an_asset_more_costs_that_asset_alone(files):
    box(files.truth / "e.glb", (1, 3, 3), 0.9)
    box(files.made / "e.glb", (1, 3, 2), 0.9)
    splats(files.made / "e.ply", 5)
    jobs = files.evaluated().jobs
    assert jobs["pictures and points"] == 3  # pictures of the reference, points on it, all looks of the files
    assert (jobs["features fd_incep"], jobs["features ulip2"], jobs["features clip_bigg"]) == (4, 2, 1)


def test_equal_files_are_looked_at_once(files):
    for folder in (files.made, files.truth):
        for i in range(6):
            shutil.copy(folder / "a.glb", folder / f"copy{i}.glb")
            shutil.copy(folder / "a.ply", folder / f"copy{i}.ply") if folder == files.made else None
    result = files.evaluated()
    assert len(result.found.ids) == 10
    assert not result.jobs.keys() - {"scores"}


def test_features_that_were_thrown_away_are_made_again_although_the_scores_are_there(files):
    expected = files.evaluated().values()
    shutil.rmtree(files.root / "cache" / "entries-1" / "features")
    result = files.evaluated()
    assert result.values() == expected
    assert "scores" not in result.jobs


def test_networks_are_loaded_once_each_and_one_at_a_time(files, monkeypatch):
    load, loaded = extractors.OfficialExtractor.load, []

    def watched(self: Any) -> Any:
        gc.collect()
        assert all(network() is None for _, network in loaded), "the one before is still in memory"
        network = load(self)
        loaded.append((self.name, weakref.ref(network)))
        return network

    monkeypatch.setattr(extractors.OfficialExtractor, "load", watched)
    monkeypatch.setattr(held, "_held", {})
    shutil.rmtree(files.root / "cache")
    files.evaluated()
    assert sorted(name for name, _ in loaded) == ["clip_bigg", "fd_dinov2", "fd_incep", "ulip2"]
    shutil.rmtree(files.root / "cache")
    loaded.clear()
    files.evaluated(metrics=("FD_dinov2", "precision_dinov2"), out="few")
    assert [name for name, _ in loaded] == ["fd_dinov2"]


@pytest.mark.slow
def test_the_number_of_processes_changes_no_bit(files):
    expected, found = to_rows(files.evaluated().outcome.results.rows), files.resolved()
    shutil.rmtree(files.root / "cache")
    with workers(2, Silent(), ["official_plugin"]) as team:  # the same small networks
        rows = to_rows(evaluate(found, files.root / "two", Engine(team, team)).results.rows)
    assert [row.model_copy(update={"created_utc": ""}) for row in rows] == [
        row.model_copy(update={"created_utc": ""}) for row in expected
    ]


def test_everything_that_decides_the_rows_is_in_the_key(files, plugged):
    conditions = files.root / "conditions"
    keys = [files.resolved().key]
    for changes in (
        {"name": "Other"}, {"latency": 2.0}, {"steps": 6}, {"nfe": 9}, {"seed": 1}, {"calibrates": True}, {"limit": 3},
        {"run_seed": 1}, {"geometry_only": True}, {"columns": ("fd_incep_clean",)}, {"conditions": conditions},
        {"protocol": "trellis-v1+ulip2-zup"}, {"reference": str(files.made)}, {"device": "cuda"},
    ):  # fmt: skip
        keys.append(files.resolved(**changes).key)
    cpu, gpu = ({place.digest for place in files.resolved(device=one).system().places} for one in ("cpu", "cuda"))
    assert len(cpu & gpu) == 1  # the plug-in's, which needs no network
    METRICS._entries.pop("brightness")
    keys.append(files.resolved().key)
    for name in ("made/a.glb", "made/a.ply", "truth/a.glb"):
        shutil.copy(files.root / name.replace("a.", "b."), files.root / name)
        keys.append(files.resolved().key)
    keys.append(files.resolved(conditions=conditions).key)
    Image.new("RGBA", (8, 8)).save(conditions / "a.png")
    with_pictures = files.resolved(conditions=conditions)
    keys.append(with_pictures.key)
    assert with_pictures.reference_sha == files.resolved().reference_sha
    assert len(set(keys)) == len(keys)
    assert files.resolved(threads=9, extractors="random").key == keys[-3]
    moved = Files(files.root.with_name("moved"))
    shutil.copytree(files.root, moved.root)
    assert moved.resolved().key == keys[-3]


# ---------------------------------------------------------------------------------------------------------------- rows


def test_rows_say_what_they_are(once):
    result = once.evaluated()
    fd, time = result.rows["Sys", "FD_incep"], result.rows["Sys", "latency_s"]
    protocol = result.found.protocol
    assert fd.metric == "FD_incep[random]"
    assert f"protocol trellis-v1+own-renderer ({protocol.sha256[:12]})" in fd.note
    assert (fd.stage, fd.split, fd.n_ok, fd.n_total, fd.steps, fd.nfe) == ("evaluation", "truth", 4, 4, 5, 10)
    assert fd.weights_sha == "fd_incep-1/dgm_eval_224/float32/random:0"
    assert (time.value, time.wall_s, time.stderr, time.n_ok) == (1.3, 1.3, None, 4)
    assert "as given by --latency" in time.note
    assert result.rows["Sys", "KD_incep"].unit == result.rows["Sys", "ULIP_I"].unit == "x100"
    controls = {row.run_id for (line, _), row in result.rows.items() if line != "Sys"}
    assert controls == {f"reference-{result.found.reference_sha[:12]}"}
    assert fd.run_id == result.found.key[:12]
    assert result.rows["Sys", "recall_dinov2"].higher_is_better
    assert not fd.higher_is_better
    assert {row.config_sha for row in result.rows.values()} == {protocol.sha256}
    assert {row.device for row in result.rows.values()} == {fd.device}


def test_what_single_assets_have_stands_beside_the_rows(once):
    result = once.evaluated()
    values = read_asset_values(result.out)
    assert [(one.method, one.asset) for one in values] == [
        (line, name) for line in ("Sys", "truth", "shuffled") for name in "abcd"
    ]
    mean = np.mean([one.values["ULIP_I[random]"] for one in values if one.method == "Sys"])
    assert mean == pytest.approx(result.values()["ULIP_I"])
    assert {one.run_id for one in values if one.method == "Sys"} == {result.found.key[:12]}


def test_the_generation_seed_stands_in_the_rows_and_draws_no_other_points(once):
    one, two = (once.evaluated(seed=seed, out=f"seed {seed}") for seed in (1, 2))
    assert one.found.key != two.found.key
    assert not two.jobs
    rows = [*to_rows(one.outcome.results.rows), *to_rows(two.outcome.results.rows)]
    assert {row.seed for row in rows if row.method == "Sys"} == {1, 2}
    assert {row.seed for row in rows if row.method != "Sys"} == {None}
    assert "over generation seeds" in report(RunResults(rows_frame(rows)), "markdown")


def test_only_the_teacher_is_compared_with_its_published_numbers(once):
    plain, teacher = once.evaluated(), once.evaluated(calibrates=True, steps=25, out="teacher")
    assert NOT_CALIBRATED in plain.rows["Sys", "FD_incep"].note
    assert "not judged: compare only within this run (random weights)" in teacher.rows["Sys", "FD_incep"].note
    assert not any("calibrat" in row.note for (line, _), row in teacher.rows.items() if line != "Sys")
    verdicts = [json.loads((one.out / "manifest.json").read_text())["calibration"] for one in (plain, teacher)]
    assert verdicts[0] is None
    assert verdicts[1]["verdict"] == "not judged"


@pytest.mark.parametrize(("ulip_i", "verdict"), [(39.0, "calibrated"), (38.0, "uncalibrated")])
def test_the_protocols_rule_decides_what_is_calibrated(once, ulip_i, verdict):
    found = once.resolved(calibrates=True, steps=25)
    section = found.options.section.model_copy(update={"extractors": "official"})
    found = replace(found, options=replace(found.options, section=section))
    many = replace(found, truth=found.truth.part([0, 1, 2, 3] * 805))  # 3,220 assets, the published row has 3,218
    scored = {"FD_incep": 12.0, "FD_dinov2": 66.0, "ULIP_I": ulip_i}
    scored = {name: Scored(Score(value, n_ok=3220)) for name, value in scored.items()}
    calibration = calibration_of(many, scored)
    assert calibration.verdict == verdict
    (part,) = [part for part in _note(once, found, calibration).split("; ") if part.startswith("calibration: ")]
    assert part.startswith(f"calibration: {verdict}")
    assert "ULIP_I" in part
    assert calibration_of(found, scored).verdict == "not judged"  # four assets


def _note(files: Files, found: Evaluation, calibration: Any) -> str:
    system = files.resolved().system()  # whose scores are in the cache
    return next(_measurements(found, system, [], calibration)).rows[0].note


# ------------------------------------------------------------------------------------------------------------ failures


def test_failures_are_black_pictures_and_zero_and_are_counted(files):
    whole = files.evaluated().values()
    (files.made / "a.glb").unlink()
    (files.made / "b.glb").write_bytes(b"glTF, but not really")
    (files.made / "c.ply").write_bytes((files.made / "c.ply").read_bytes()[:-8])
    result = files.evaluated()
    assert result.failures.keys() == {("mesh", "a"), ("mesh", "b"), ("gaussians", "c")}
    assert result.failures["mesh", "a"] == "not generated"
    assert "ends too early" in result.failures["gaussians", "c"]
    assert [result.rows["Sys", name].n_ok for name in ("FD_incep", "FD_incep_mesh", "ULIP_I")] == [3, 2, 2]
    drawn, truth = (looks(result.found, side, "mesh") for side in (result.found.made, result.found.truth))
    assert drawn[:2].max() == 0 < drawn[2:].max()
    expected = frechet_distance(moments("fd_incep", drawn), moments("fd_incep", truth))
    assert result.values()["FD_incep_mesh"] == pytest.approx(expected, rel=1e-9)
    # c and d are as before: what a and b gave is gone from the mean over four.
    valid = float(result.rows["Sys", "ULIP_I"].note.rpartition(" ")[2])
    assert result.values()["ULIP_I"] == pytest.approx(valid * 2 / 4, abs=0.005)
    assert result.values()["ULIP_I"] != pytest.approx(whole["ULIP_I"])
    listed = (result.out / "failures.csv").read_text().splitlines()
    assert "mesh,a,not generated" in listed
    assert len(listed) == 4
    values = {one.asset: one for one in read_asset_values(result.out) if one.method == "Sys"}
    assert (values["a"].ok, values["a"].error, values["a"].values["ULIP_I[random]"]) == (False, "not generated", 0)
    assert values["d"].ok


def test_a_broken_reference_is_dropped_from_both_sides(files):
    whole = files.resolved()
    (files.truth / "b.glb").write_bytes(b"nothing")
    thin = [[0, 0, 0], [1, 0, 0], [1, 0, 1e-5]]
    write_glb(files.truth / "c.glb", np.array(thin), np.array([[0, 1, 2]]), np.ones((3, 3), np.float32))
    result = files.evaluated()
    dropped = dict(result.outcome.failures)
    assert dropped.keys() == {"b", "c"}
    assert "covers" in dropped["c"]
    assert {row.n_total for row in result.rows.values()} == {2}
    assert all("2 assets of the reference cannot be used" in row.note for row in result.rows.values())
    assert {line for line, _ in result.rows} == {"Sys", "truth", "shuffled"}  # two cannot be halved
    manifest = json.loads((result.out / "manifest.json").read_text())
    assert manifest["reference"]["ids"] == ["a", "d"]
    assert manifest["key"] == result.found.key != whole.key  # the folder's, which was named before anything was read
    assert (result.out / "failures.csv").read_text().count("reference,") == 2
    (files.truth / "a.glb").write_bytes(b"nothing")
    with pytest.raises(MissingError, match="1 of 4 assets of the reference"):
        files.evaluated()


def test_official_weights_are_all_named_at_once_before_anything_is_computed(once):
    conditions = {"conditions": once.root / "conditions"}
    for changes, message in (
        ({}, r"4 of 4 files .*fd_incep.*fd_dinov2.*clip_bigg.*ulip2"),
        ({"columns": ("fd_dinov2_reg518",)}, "5 of 5 files"),
        (conditions, "5 of 5 files .*clip_l14"),
        ({"geometry_only": True}, "2 of 2 files"),
        ({**conditions, "protocol": "trellis-v1+ulip1-flashvdm", "geometry_only": True}, "2 of 2 .*ulip1_slip.*ulip1"),
    ):
        with pytest.raises(MissingError, match=message) as error:
            once.resolved(extractors="official", weights=once.root / "nothing", **changes)
        assert "mdtbench fetch --for evaluate" in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"protocol": "trellis-v1+ulip2-cond"}, "compares meshes with the condition image.*give .* --conditions"),
        ({"protocol": "trellis-v1+ulip2-4gen", "geometry_only": True}, "--geometry-only draws none"),
        ({"conditions": Path(), "geometry_only": True}, "leave out the other"),
        ({"calibrates": True, "steps": None}, "--steps is not given"),
        ({"protocol": "trellis-v2"}, "Did you mean 'trellis-v1'"),
        ({"protocol": "tiny-v3"}, "one of a tiny world's"),
        ({"name": "floor"}, "that of a control"),
        ({"name": "a/b"}, "no slashes"),
    ],
)
def test_wrong_options_are_refused(once, changes, message):
    with pytest.raises(UsageError, match=message):
        once.resolved(**changes)


# ----------------------------------------------------------------------------------------------------- condition images


def composed(path: Path, *, on_black: bool) -> np.ndarray:
    """[1, 3, H, W]."""
    rgba = np.asarray(Image.open(path).convert("RGBA")).astype(int)
    rgb = rgba[..., :3] * rgba[..., 3:] // 255 if on_black else rgba[..., :3]
    return rgb.astype(np.uint8).transpose(2, 0, 1)[None]


def shown(files: Files, extractor: str, *, on_black: bool = True) -> np.ndarray:
    """Unit embeddings of the condition images, composed here: [N, E]."""
    paths = [files.root / "conditions" / f"{name}.png" for name in "abcd"]
    return np.stack([unit(see(extractor, composed(path, on_black=on_black)))[0] for path in paths])


def test_the_clip_score_is_of_eight_views_with_the_condition_image(once):
    result, pictures = once.evaluated(conditions=once.root / "conditions", out="shown"), shown(once, "clip_l14")
    assert not result.jobs
    for metric, look in (("CLIP_score", "gaussians_turn"), ("CLIP_score_mesh", "mesh_turn")):
        views = looks(result.found, result.found.made, look)
        assert views.shape == (4, 8, 3, SIDE, SIDE)
        scores = [
            100 * (unit(see("clip_l14", one)) @ picture).mean() for one, picture in zip(views, pictures, strict=True)
        ]
        # float32 features, compared in float64 there and in float32 here
        assert result.values()[metric] == pytest.approx(np.mean(scores), abs=1e-4)
        assert result.rows["Sys", metric].stderr == pytest.approx(np.std(scores, ddof=1) / 2, rel=1e-3)
    assert not any(name.startswith("CLIP") for name in once.evaluated().values())
    assert result.rows["Sys", "CLIP_score"].higher_is_better


@pytest.mark.parametrize(
    ("variant", "points", "picture", "on_black"),
    [("ulip2-cond", "ulip2", "clip_bigg", True), ("ulip1-flashvdm", "ulip1", "ulip1_slip", False)],
)
def test_variants_of_ulip_compare_meshes_with_the_condition_image(once, variant, points, picture, on_black):
    conditions = once.root / "conditions"
    result = once.evaluated(conditions=conditions, protocol=f"trellis-v1+{variant}", out=variant)
    pictures = shown(once, picture, on_black=on_black)
    for line, side in (("Sys", result.found.made), ("truth", result.found.truth)):
        clouds = unit(np.concatenate([see(points, one) for one in looks(result.found, side, "points")]))
        expected = 100 * np.sum(pictures * clouds, 1)
        assert result.values(line)["ULIP_I"] == pytest.approx(np.mean(expected), abs=1e-4)
    shuffled = 100 * np.sum(pictures * np.roll(clouds, -1, 0), 1)
    assert result.values("shuffled")["ULIP_I"] == pytest.approx(np.mean(shuffled), abs=1e-4)
    assert "conditions:" in result.rows["Sys", "ULIP_I"].weights_sha


@pytest.mark.parametrize("look", ["gaussians", "mesh"])
def test_ulip_with_generated_views_is_of_the_system_and_controls_are_of_the_reference(files, look):
    """Its views are of Gaussians where there are any."""
    for path in files.made.glob("*.ply") if look == "mesh" else ():
        path.unlink()
    usual, result = files.evaluated(), files.evaluated(protocol="trellis-v1+ulip2-4gen", out="4gen")
    found = result.found
    pairs = zip(looks(found, found.made, "points"), looks(found, found.made, look), strict=True)
    scores = [100 * (unit(see("clip_bigg", views)) @ unit(see("ulip2", points))[0]).mean() for points, views in pairs]
    assert result.values()["ULIP_I"] == pytest.approx(np.mean(scores), abs=1e-4)
    for line in ("truth", "shuffled"):
        assert result.values(line) == usual.values(line)
    assert set(result.jobs) <= {"features clip_bigg", "scores"}


def test_missing_and_broken_condition_images_are_counted_failures(files):
    conditions, changes = files.root / "conditions", {"protocol": "trellis-v1+ulip2-cond", "out": "shown"}
    whole = files.evaluated(conditions=conditions, **changes)
    (conditions / "a.png").unlink()
    (conditions / "b.png").write_bytes(b"no picture")
    result = files.evaluated(conditions=conditions, **changes)
    assert result.failures["condition", "a"] == "no picture"
    assert "b.png: it is not a readable picture" in result.failures["condition", "b"]
    for metric in ("CLIP_score", "CLIP_score_mesh", "ULIP_I"):
        row = result.rows["Sys", metric]
        assert (row.n_ok, whole.rows["Sys", metric].n_ok) == (2, 4)
        assert row.weights_sha != whole.rows["Sys", metric].weights_sha
        assert row.value == pytest.approx(float(row.note.rpartition(" ")[2]) / 2, abs=0.005)
    assert result.values()["FD_incep"] == whole.values()["FD_incep"]
    assert result.rows["truth", "ULIP_I"].n_ok == 2
    for name in "cd":
        (conditions / f"{name}.png").write_bytes(b"no picture")
    with pytest.raises(MissingError, match="None of the 4 condition images can be used"):
        files.evaluated(conditions=conditions)


def test_wrong_folders_of_condition_images_are_refused(files):
    conditions = files.root / "conditions"
    with pytest.raises(MissingError, match="There is no folder"):
        files.resolved(conditions=files.root / "nowhere")
    shutil.copy(conditions / "a.png", conditions / "a.webp")
    with pytest.raises(UsageError, match=r"Two pictures of asset 'a' \(got a.png and a.webp\)"):
        files.resolved(conditions=conditions)
    (conditions / "a.webp").unlink()
    for path in list(conditions.iterdir()):
        path.rename(path.with_stem(f"x{path.stem}"))
    with pytest.raises(MissingError, match=r"None of the 4 pictures .*4 are missing: a, b, c, ..."):
        files.resolved(conditions=conditions)


# --------------------------------------------------------------------------------------------------------------- files


def test_limit_takes_the_first_ids_and_leftovers_are_named(files):
    box(files.made / "zebra.glb", (1, 1, 1))
    result = files.evaluated(limit=2)
    assert result.found.ids == ("a", "b")
    assert result.found.unused == ("zebra",)
    assert result.notes == ["1 asset not in the reference, so not measured: zebra"]


def test_a_folder_of_other_assets_is_refused(files):
    box(files.root / "others" / "x.glb", (1, 1, 1))
    with pytest.raises(MissingError, match=r"No file in .* has the id of an asset"):
        files.resolved(reference=str(files.root / "others"))
    splats(files.root / "splats" / "a.ply", 0)
    with pytest.raises(MissingError, match=r"No mesh in .*splats"):
        files.resolved(reference=str(files.root / "splats"))


def test_names_match_by_id_by_what_export_made_of_it_and_by_a_unique_end():
    made = {name: Pair() for name in ("cars/taxi", "bus", "odd_name-1f7b0a3e", "chair")}
    odd = "odd:name"
    made[safe_path(odd).as_posix()] = Pair()
    found = matched(["cars/taxi", "vehicles/bus", odd, "a/chair", "b/chair", "missing"], made)
    assert found == {"cars/taxi": "cars/taxi", "vehicles/bus": "bus", odd: safe_path(odd).as_posix()}


def test_gaussians_and_meshes_are_told_apart_by_content(tmp_path):
    points = "".join(f"property float {axis}\n" for axis in "xyz")
    triangle = (
        f"ply\nformat ascii 1.0\nelement vertex 3\n{points}element face 1\nproperty list uchar int vertex_indices\n"
    )
    (tmp_path / "a.ply").write_text(f"{triangle}end_header\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n")
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
    files = {name: one.mesh for name, one in files_in(tmp_path).items()}
    before = {name: Contents().of_mesh(mesh) for name, mesh in files.items()}
    (tmp_path / "b.mtl").write_text("newmtl y\n")
    after = {name: Contents().of_mesh(mesh) for name, mesh in files.items()}
    assert before["a"] == after["a"]
    assert before["b"] != after["b"]
