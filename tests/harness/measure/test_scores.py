"""From sides to scores: pairs, failures, plug-ins, and addresses that cover all inputs."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from inprocess import in_process
from numpy.typing import NDArray
from small_stage import structures
from small_world import opened, small_plan

from mdtbench.harness.driver.measuring import Measuring, other_assets
from mdtbench.harness.engine.jobs import Place
from mdtbench.harness.engine.store import Address
from mdtbench.harness.generate.made import EMPTY, NOT_FINITE
from mdtbench.harness.inputs.subjects import occupancies
from mdtbench.harness.measure import features as features_module
from mdtbench.harness.measure.extractors import loaded
from mdtbench.harness.measure.scores import Scored, ScoresJob
from mdtbench.harness.measure.sides import Side
from mdtbench.harness.plan.plan import Cell
from mdtbench.metrics import METRICS, Comparison, Metric, NotMeasured, Score, Seen
from mdtbench.metrics.contract import Level, known_mean
from mdtbench.metrics.fd import FrechetDistance, distance
from mdtbench.metrics.fidelity import TeacherIoU

N = 4
PAIRED = {"structure": ("IoU_teacher", "MSE_teacher"), "assets": ("MSE_slat",)}


@dataclass
class Bench:
    """Cells of `none` and of the teacher whose results are put there rather than made; the metrics of a level."""

    measuring: Measuring
    level: Level

    def cell(self, label: str) -> Cell:
        plan = self.measuring.plan
        cells = plan.structure_cells if self.level == "structure" else plan.asset_cells
        return next(cell for cell in cells if cell.line.label == label)

    def put(self, label: str, arrays: Mapping[str, NDArray]) -> None:
        cell, of = self.cell(label), self.measuring
        [job] = of.structures(cell) if self.level == "structure" else of.assets(cell)
        job.places[0].put(arrays)

    def scores(self, *metrics: Metric | str, label: str = "none") -> dict[str, Scored]:
        """Of the cell of a line; all the level's metrics where none are named."""
        job = self.measuring.scores(self.cell(label))
        return self.done(replace(job, metrics=_metrics(metrics) or job.metrics))

    def control(self, name: str, *metrics: Metric | str) -> dict[str, Scored]:
        line = next(line for line in self.measuring.controls() if (line.name, line.level) == (name, self.level))
        job = line.scores(self.measuring.out, _metrics(metrics) or self.measuring.metrics(self.level), self.extractors)
        return self.done(job)

    def done(self, job: ScoresJob) -> dict[str, Scored]:
        in_process()[0].do([job])
        return job.read()

    @property
    def extractors(self):
        return self.measuring.extractors


def _metrics(given: Sequence[Metric | str]) -> tuple[Metric, ...]:
    return tuple(METRICS.get(one).value if isinstance(one, str) else one for one in given)


@pytest.fixture(scope="module")
def measuring(small_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Measuring:
    root = tmp_path_factory.mktemp("run")
    return opened(small_plan(small_folder, "evaluate.whole=4", cache=root), root)


@pytest.fixture
def shapes(measuring: Measuring, tmp_path: Path) -> Bench:
    """Structures; nothing is made yet."""
    return Bench(replace(measuring, out=tmp_path), "structure")


@pytest.fixture
def wholes(measuring: Measuring, tmp_path: Path) -> Bench:
    return Bench(replace(measuring, out=tmp_path), "assets")


def grids(counts: Sequence[int], ok: Sequence[bool] | None = None, seed: int = 0) -> dict[str, NDArray]:
    """Structures of so many cells with random latents; what is not ok is empty, as it is made."""
    good = np.ones(len(counts), bool) if ok is None else np.array(ok)
    latents = np.random.default_rng(seed).normal(size=(len(counts), 4, 4, 4, 4)).astype(np.float32)
    occupancy = structures(counts, seed) & good[:, None, None, None]
    latents *= good[:, None, None, None, None]
    return {"occupancy": occupancy, "latents": latents, "ok": good}


def cells(counts: Sequence[int], errors: Sequence[str], seed: int = 0) -> dict[str, NDArray]:
    """Whole assets of so many cells; those of equal counts are at the same places."""
    coords = [np.argwhere(grid).astype(np.int32) // 2 for grid in structures(counts)]
    latents = np.random.default_rng(seed).normal(size=(sum(counts), 4)).astype(np.float32)
    return {
        "counts": np.array(counts), "coords": np.concatenate(coords), "latents": latents, "errors": np.array(errors)
    }  # fmt: skip


# --------------------------------------------------------------------------------------------------------------- pairs


def test_what_failed_here_or_there_is_no_pair_of_latents(shapes: Bench):
    """As a zero it would lower the distance: the mean is over the two pairs that there are."""
    mine, theirs = grids([5, 9, 9, 3], [True, False, True, True]), grids([5, 9, 9, 3], [True, True, False, True], 1)
    shapes.put("none", mine)
    shapes.put("teacher", theirs)
    score = shapes.scores("MSE_teacher")["MSE_teacher"].score
    assert score is not None
    gaps = np.square(mine["latents"].astype(float) - theirs["latents"]).mean((1, 2, 3, 4))
    assert score.value == pytest.approx(gaps[[0, 3]].mean(), rel=1e-12)
    assert score.n_ok == 2
    np.testing.assert_allclose(score.per_asset, [gaps[0], np.nan, np.nan, gaps[3]])  # type: ignore[arg-type]


def test_what_failed_agrees_with_nothing(shapes: Bench):
    """What the teacher failed at is not counted, and two empty shapes do not agree."""
    mine, theirs = grids([5, 0, 9, 3], [True, True, True, False]), grids([5, 0, 9, 3], [True, True, False, True])
    shapes.put("none", mine)
    shapes.put("teacher", theirs)
    found = shapes.scores("IoU_teacher", "IoU_truth")
    teacher, truth = found["IoU_teacher"].score, found["IoU_truth"].score
    assert teacher is not None
    assert truth is not None
    assert teacher.per_asset[[0, 3]].tolist() == [1, 0]  # type: ignore[index]
    assert np.isnan(teacher.per_asset[[1, 2]]).all()  # type: ignore[index]
    assert teacher.value == 0.5
    true = occupancies(shapes.measuring.tests.subjects)
    expected = [(a & b).sum() / (a | b).sum() for a, b in zip(mine["occupancy"], true, strict=True)]
    assert truth.per_asset.tolist() == expected  # type: ignore[union-attr]
    assert expected[1] == expected[3] == 0
    assert truth.n_ok == 2


def test_whole_assets_are_compared_on_equal_cells(wholes: Bench):
    mine, theirs = cells([5, 0, 7, 3], ["", EMPTY, "", "broke"]), cells([5, 0, 7, 3], ["", EMPTY, "", ""], 1)
    wholes.put("none", mine)
    wholes.put("teacher", theirs)
    score = wholes.scores("MSE_slat")["MSE_slat"].score
    assert score is not None
    gap = np.square(mine["latents"].astype(float) - theirs["latents"]).mean(1)
    assert score.value == pytest.approx(np.mean([gap[:5].mean(), gap[5:12].mean()]), rel=1e-12)
    assert score.n_ok == 2


def test_on_other_cells_than_the_teachers_there_is_nothing_to_compare(wholes: Bench):
    wholes.put("none", cells([5, 0, 7, 3], ["", EMPTY, "", ""]))
    wholes.put("teacher", cells([5, 0, 6, 3], ["", EMPTY, "", ""], 1))
    assert wholes.scores("MSE_slat") == {"MSE_slat": Scored(None)}


@pytest.mark.parametrize("level", ["structure", "assets"])
def test_where_everything_failed_paired_columns_fail_and_others_say_so(level: Level, shapes: Bench, wholes: Bench):
    """Distances of distributions are to black pictures; agreements are 0."""
    bench = shapes if level == "structure" else wholes
    if level == "structure":
        bench.put("none", grids([5] * N, [False] * N))
        bench.put("teacher", grids([5] * N))
    else:
        bench.put("none", cells([5] * N, ["broke"] * N))
        bench.put("teacher", cells([5] * N, [""] * N))
    found = bench.scores()
    for name, scored in found.items():
        if name == "coverage":
            assert scored == Scored(None)
            continue
        if name in PAIRED[level] and name != "IoU_teacher":
            assert scored.error == "no asset was made both here and by the teacher"
            continue
        assert scored.score is not None, name
        assert np.isfinite(scored.score.value)
        assert scored.score.n_ok == 0
        assert not scored.ok.any()
        if METRICS.get(name).value.higher_is_better:
            assert scored.score.value == 0


def test_a_failed_asset_enters_a_distance_as_black_pictures(shapes: Bench):
    shapes.put("none", grids([5, 9, 7, 3], [True, False, True, True]))
    shapes.put("teacher", grids([5] * N))
    score = shapes.scores("FD_tiny2d")["FD_tiny2d"].score
    sides = shapes.measuring.scores(shapes.cell("none")).sides
    assert score is not None
    assert score.value == distance(features(shapes, sides["made"]), features(shapes, sides["truth"]))
    assert score.n_ok == 3


def features(bench: Bench, side: Side) -> NDArray[np.float32]:
    """Of the pictures of cells, [N, V, D], by a second way."""
    shards, see = side.shards(("voxels",)), loaded(bench.extractors["tiny2d"])
    return np.stack([see(one) for shard in shards for one in shard.compute()[0]["data"]])


def test_distributions_are_held_against_all_there_could_be(shapes: Bench, tmp_path: Path):
    """Where that is known; what is of pairs stays with the test assets. Without it the test assets stand for all."""
    every = other_assets(shapes.measuring.plan, 6, tmp_path, in_process()[0])
    assert every is not None
    known = Bench(replace(shapes.measuring, everything={"structure": every}), "structure")
    shapes.put("none", grids([5, 9, 7, 3]))
    shapes.put("teacher", grids([5] * N))
    usual, found = (bench.scores("FD_tiny2d", "IoU_truth", "valid") for bench in (shapes, known))
    made, truth = (
        features(shapes, known.measuring.scores(known.cell("none")).sides[name]) for name in ("made", "truth")
    )
    population = features(shapes, known.measuring.against("structure")["population"])
    assert (len(truth), len(population)) == (N, 6)
    assert usual["FD_tiny2d"].score == Score(distance(made, truth), n_ok=N)
    assert found["FD_tiny2d"].score == Score(distance(made, population), n_ok=N)
    assert found["FD_tiny2d"] != usual["FD_tiny2d"]
    assert {name: found[name] for name in ("IoU_truth", "valid")} == {
        name: usual[name] for name in ("IoU_truth", "valid")
    }
    assert known.measuring.against("assets")["population"] == known.measuring.against("assets")["truth"]


# ------------------------------------------------------------------------------------------------------------ controls


def test_the_floor_of_halves_holds_one_against_the_other(shapes: Bench):
    score = shapes.control("floor", "FD_tiny2d")["FD_tiny2d"].score
    truth = features(shapes, shapes.measuring.against("structure")["truth"])
    assert score is not None
    assert score.value == pytest.approx(distance(truth[::2], truth[1::2]), rel=1e-12)


@pytest.mark.parametrize("limit", [1, 2**24], ids=["on disk", "in memory"])
@pytest.mark.parametrize("level", ["structure", "assets"])
def test_shuffled_pictures_are_with_the_next_assets_shape(
    level: Level, limit: int, shapes: Bench, wholes: Bench, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(features_module, "IN_MEMORY", limit)
    bench, name = (shapes, "ULIP_tiny") if level == "structure" else (wholes, "ULIP_tiny_mesh")
    truth, shuffled = (bench.control(control, name)[name].score for control in ("truth", "shuffled"))
    metric = METRICS.get(name).value
    against = bench.measuring.against(level)
    things = against["truth"].seen(metric.made, bench.extractors)[metric.thing][:, 0]
    shown = against["condition"].seen(metric.condition, bench.extractors)[metric.picture][:, 0]
    pairs = 100 * (things.astype(float) @ shown.astype(float).T)  # unit vectors
    assert truth is not None
    assert shuffled is not None
    np.testing.assert_allclose(truth.per_asset, np.diag(pairs), rtol=1e-5, atol=1e-4)  # type: ignore[arg-type]
    expected = [pairs[(i + 1) % N, i] for i in range(N)]
    np.testing.assert_allclose(shuffled.per_asset, expected, rtol=1e-5, atol=1e-4)  # type: ignore[arg-type]


@pytest.mark.parametrize("level", ["structure", "assets"])
def test_features_on_disk_give_the_scores_of_those_in_memory(
    level: Level, shapes: Bench, wholes: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    found = []
    for limit in (1, 2**24):
        monkeypatch.setattr(features_module, "IN_MEMORY", limit)
        measuring = replace((shapes if level == "structure" else wholes).measuring, out=tmp_path / str(limit))
        bench = Bench(measuring, level)
        for seed, label in enumerate(("none", "teacher")):
            made = cells([5, 4, 7, 3], ["", "", "", "broke"], seed)
            bench.put(label, grids([5, 0, 7, 3], seed=seed) if level == "structure" else made)
        found.append(bench.scores())
    for name, scored in found[0].items():
        other = found[1][name]
        assert scored.score == other.score, name
        assert scored.error == other.error == ""


# ------------------------------------------------------------------------------------------------------------ plug-ins


class Plain(Metric):
    name, version, higher_is_better = "mine", 1, False
    level: Level = "structure"
    made = truth = ("occupancy",)
    controls = ("truth", "shuffled")

    def score(self, made: Seen, against: Comparison) -> Score | None:
        return known_mean(np.arange(float(len(made))))


class Raises(Plain):
    def score(self, made: Seen, against: Comparison) -> Score | None:
        raise ZeroDivisionError("it broke")


class Cannot(Plain):
    def score(self, made: Seen, against: Comparison) -> Score | None:
        raise NotMeasured("too few")


class Silent(Plain):
    def score(self, made: Seen, against: Comparison) -> Score | None:
        return None


@dataclass(frozen=True)
class Says(Plain):
    """Whatever it is told to."""

    told: object

    def score(self, made: Seen, against: Comparison) -> Score | None:
        return self.told  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("metric", "error"),
    [
        (Raises(), "ZeroDivisionError: it broke"),
        (Cannot(), "too few"),
        (Says(Score(float("nan"))), "the value is not finite (nan)"),
        (Says(Score(1.0, float("inf"))), "the standard error is not finite (inf)"),
        (Says(Score(1.0, None, np.zeros(3))), "the values of single assets are not 4 numbers"),
        (Says(Score(1.0, None, np.array([0, 0, 0, np.inf]))), "the values of single assets are not 4 numbers"),
        (Says(3.0), "AttributeError: 'float' object has no attribute 'value'"),
        (Silent(), ""),
    ],
)
def test_a_plug_in_that_fails_has_no_value_and_a_reason(shapes: Bench, metric: Metric, error: str):
    shapes.put("none", grids([5, 0, 7, 3]))
    scored = shapes.scores(metric)["mine"]
    assert (scored.score, scored.error) == (None, error)
    assert scored.ok.tolist() == [True, False, True, True]


def test_assets_that_enter_as_zero_are_not_counted_as_ok(shapes: Bench):
    shapes.put("none", grids([5, 0, 7, 3], [True, True, True, False]))
    score = shapes.scores(Plain())["mine"].score
    assert score is not None
    assert (score.value, score.n_ok) == (1.5, 2)


@pytest.mark.parametrize("level", ["structure", "assets"])
@pytest.mark.parametrize("limit", [1, 2**24], ids=["on disk", "in memory"])
def test_a_plug_in_sees_raw_pictures(
    level: Level, limit: int, shapes: Bench, wholes: Bench, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(features_module, "IN_MEMORY", limit)
    look = "voxels" if level == "structure" else "mesh"

    class Brightness(Plain):
        made = truth = (look,)

        def score(self, made: Seen, against: Comparison) -> Score | None:
            assert against.truth is not None
            return known_mean(made[look][:].mean((1, 2, 3, 4)) - against.truth[look][1:3].mean())

    bench = shapes if level == "structure" else wholes
    bench.put("none", grids([5, 0, 7, 3]) if level == "structure" else cells([5, 4, 7, 3], ["", EMPTY, "", ""]))
    found = bench.scores(Brightness())["mine"].score
    job = bench.measuring.scores(bench.cell("none"))
    made, truth = (job.sides[name].shards((look,))[0].compute()[0]["data"] for name in ("made", "truth"))
    assert found is not None
    expected = made.mean((1, 2, 3, 4)) - truth[1:3].mean()
    np.testing.assert_allclose(found.per_asset, expected, rtol=1e-12)  # type: ignore[arg-type]
    assert expected[1] == -truth[1:3].mean()


def test_a_plug_in_sees_cells_and_latents_of_assets(wholes: Bench):
    class Cells(Plain):
        level, made, teacher, truth = "assets", ("cells",), ("cells",), ()

        def score(self, made: Seen, against: Comparison) -> Score | None:
            assert against.teacher is not None
            return known_mean(made["cells"].counts - against.teacher["cells"].counts)

    wholes.put("none", cells([5, 4, 7, 3], [""] * N))
    wholes.put("teacher", cells([5, 5, 5, 5], [""] * N))
    score = wholes.scores(Cells())["mine"].score
    assert score is not None
    assert score.per_asset.tolist() == [0, -1, 2, -2]  # type: ignore[union-attr]


@pytest.mark.parametrize("need", ["latents", "cells"])
def test_the_truth_has_no_latents(shapes: Bench, wholes: Bench, need: str):
    """It is no shape in their place."""

    class Latent(Plain):
        made = truth = (need,)

    bench = shapes if need == "latents" else wholes
    bench.put("none", grids([5] * N) if need == "latents" else cells([5] * N, [""] * N))
    for scored in (bench.scores(Latent()), bench.control("truth", Latent()), bench.control("shuffled", Latent())):
        assert scored["mine"].error == f"of these assets there are no {need}"


def test_the_reference_has_no_teacher_to_be_compared_with(shapes: Bench):
    shapes.put("teacher", grids([5] * N))
    found = shapes.scores(label="teacher")
    assert {name for name, one in found.items() if one.score is None} == {*PAIRED["structure"], "coverage"}
    assert not any(one.error for one in found.values())


# ----------------------------------------------------------------------------------------------------------- addresses


def digest(bench: Bench, metric: Metric) -> str:
    return replace(bench.measuring.scores(bench.cell("none")), metrics=(metric,)).places[0].digest


def test_scores_are_found_again_by_another_process(shapes: Bench):
    """Whatever an object's place in memory is."""
    for metric in (TeacherIoU(), Plain(), FrechetDistance("FD", "voxels", "tiny2d", "structure")):
        assert digest(shapes, metric) == digest(shapes, pickle.loads(pickle.dumps(metric)))
    assert digest(shapes, TeacherIoU()) == digest(shapes, TeacherIoU())


def test_scores_are_addressed_by_the_metric(shapes: Bench):
    usual = FrechetDistance("FD", "voxels", "tiny2d", "structure")
    changes = [{"version": 2}, {"name": "other"}, {"few": "x"}, {"extractor": "tiny3d", "look": "voxel_points"}]
    assert len({digest(shapes, usual), *(digest(shapes, replace(usual, **change)) for change in changes)}) == 5


@pytest.mark.parametrize("metric", [Plain(), FrechetDistance("FD", "voxels", "tiny2d", "structure")])
def test_scores_are_addressed_by_the_test_assets_own_shapes(shapes: Bench, metric: Metric):
    """Of controls too, which nothing but them decides; whether a metric looks at cells or at pictures of them."""

    def control(measuring: Measuring) -> str:
        line = next(line for line in measuring.controls() if line.name == "truth")
        named = replace(metric, controls=("truth",)) if isinstance(metric, FrechetDistance) else metric
        return line.scores(measuring.out, (named,), measuring.extractors).places[0].digest

    other = Place(shapes.measuring.cache, Address("prepared", {"of": "other toys"}))
    tests = shapes.measuring.tests
    moved = replace(tests, subjects=tuple(replace(one, prepared=other) for one in tests.subjects))
    assert control(shapes.measuring) != control(replace(shapes.measuring, tests=moved))


def test_reasons_are_by_look(shapes: Bench):
    shapes.put("none", grids([5, 0, 7, 3], [True, True, True, False]))
    shapes.put("teacher", grids([5] * N))
    job = shapes.measuring.scores(shapes.cell("none"))
    in_process()[0].do([job])
    reasons = job.reasons()
    assert set(reasons) == {"voxels", "voxel_points", "occupancy", "latents"}
    for look, whys in reasons.items():
        assert whys == ("", "" if look == "latents" else EMPTY, "", NOT_FINITE), look
