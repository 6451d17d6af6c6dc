"""From a plan to rows: on small random networks, with students that are the teacher with other weights."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from inprocess import in_process
from numpy.typing import NDArray
from silent import Silent
from small_stage import CHANNELS, RESOLUTION, SIDE
from small_world import POINTS, STEPS, opened, small_plan
from torch import Tensor

from mdtbench.assets.toys import AllToys
from mdtbench.base.errors import AssetError
from mdtbench.base.files import digest_of, write_record
from mdtbench.base.seeds import seed_of
from mdtbench.flow.times import sampling_times
from mdtbench.geometry.mesh import Mesh
from mdtbench.harness.driver import measuring as measuring_module
from mdtbench.harness.driver.measuring import LEVELS, Measuring, everything, other_assets, unseen
from mdtbench.harness.engine.engine import Engine
from mdtbench.harness.engine.files import load_arrays, save_tensors
from mdtbench.harness.engine.store import Store
from mdtbench.harness.engine.workers import workers
from mdtbench.harness.generate.made import with_weights
from mdtbench.harness.inputs.cells import one_voxels, ragged
from mdtbench.harness.inputs.subjects import conditioning_images
from mdtbench.harness.inputs.world import load_extractor, load_world
from mdtbench.harness.measure.latency import DECODE, way
from mdtbench.harness.measure.rows import Measurement, joined, stamp
from mdtbench.harness.plan.plan import Cell
from mdtbench.harness.protocol.rules import Identity
from mdtbench.harness.train.loop import ACCOUNT_FILE, Failure
from mdtbench.metrics import METRICS
from mdtbench.render.appearance import coarse_coords
from mdtbench.render.points import sample_surface
from mdtbench.render.structure import structure_mesh
from mdtbench.results.asset_values import AssetValue
from mdtbench.results.rows import BOTH, COST_METRICS, STRUCTURE, STRUCTURE_THEN_TEACHER, TEACHER_THEN_SLAT, Row
from mdtbench.trellis.sparse import SparseTensor

OF_LAW = {"valid", "IoU_law"}  # four toys have no two of one picture, and so no coverage
STRUCTURES = {"FD_tiny2d", "FD_tiny3d", "ULIP_tiny", "IoU_teacher", "MSE_teacher", "IoU_truth", *OF_LAW}
ASSETS = {"FD_tiny_gs", "FD_tiny_mesh", "ULIP_tiny_mesh"}
OF_TEACHER = {"IoU_teacher", "MSE_teacher", "MSE_slat"}
CHANGES = ("evaluate.steps=[1,2]", "evaluate.apart=[0]", "evaluate.apart_steps=[1]", "evaluate.samplers=['euler']")
SKIPPED = "structure: 25% of 4 training steps were skipped (not finite)"
STRENGTH = 1.0  # of the small world's teacher


@dataclass(frozen=True)
class Run:
    measuring: Measuring
    found: Measurement

    @property
    def cells(self) -> tuple[Cell, ...]:
        return self.measuring.plan.cells

    def rows(self, cell: Cell) -> dict[str, Row]:
        """By metric."""
        found = [row for row in self.found.rows if whose(row) == of(cell)]
        assert len({row.metric for row in found}) == len(found)
        return {row.metric: row for row in found}

    def assets(self, cell: Cell) -> list[AssetValue]:
        return [value for value in self.found.assets if whose(value) == of(cell)]

    def controls(self, stage: str) -> dict[tuple[str, str], Row]:
        return {(row.method, row.metric): row for row in self.found.rows if row.seed is None and row.stage == stage}


def whose(one: Row | AssetValue) -> tuple:
    return one.stage, one.method, one.variant, one.train_seed, one.steps, one.seed, one.extra_sampler


def of(cell: Cell) -> tuple:
    seed = cell.train_seed
    return cell.stage, cell.line.name, cell.line.variant, seed, cell.own.sampler.steps, cell.seed, cell.extra


def ready(folder: Path, root: Path, *changes: str, methods: Sequence[str] = ("vm",)) -> Measuring:
    """A run whose students are there: networks of the teacher with other weights. The first skipped steps."""
    measuring = opened(small_plan(folder, *CHANGES, *changes, methods=methods, cache=root), root)
    world = load_world(folder)
    for student in measuring.plan.students:
        state = world.stage(student.stage).flow.state_dict()
        save_tensors(measuring.weights.of(student)[0], {key: 1.05 * value for key, value in state.items()})
    for student in measuring.plan.students[:1]:
        assert student.stage == "structure"
        write_record(root / student.folder / ACCOUNT_FILE, {"skipped": 1, "steps": 4})
    return measuring


def measure(measuring: Measuring, engine: Engine | None = None, failures: dict[str, Failure] | None = None) -> Run:
    plan = measuring.plan
    common = {"run_id": plan.run_id, "split": "test", "config_sha": plan.key, **stamp("cpu")}
    return Run(measuring, joined(measuring.measure(engine or in_process()[0], plan.cells, failures or {}, common)))


def numbers(found: Measurement) -> list[dict[str, Any]]:
    """Rows without what the clock decides, then assets."""
    apart = {"created_utc", "git_dirty"}
    rows = [row.model_dump(exclude=apart) for row in found.rows if row.metric not in COST_METRICS]
    return rows + [value.model_dump() for value in found.assets]


@pytest.fixture(scope="module")
def run(small_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return measure(ready(small_folder, tmp_path_factory.mktemp("run")))


# ---------------------------------------------------------------------------------------------------------------- rows


def test_every_cell_has_a_row_per_column_and_cost(run: Run):
    stages = {cell.stage for cell in run.cells}
    assert stages == {STRUCTURE, BOTH, STRUCTURE_THEN_TEACHER, TEACHER_THEN_SLAT}
    for cell in run.cells:
        columns = (ASSETS | set(COST_METRICS)) if cell.slat else (STRUCTURES | {"latency_s"})
        columns |= {"MSE_slat"} if cell.slat and shares_cells(run, cell) else set()
        expected = columns - OF_TEACHER if cell.is_reference else columns
        assert run.rows(cell).keys() == expected, cell.name
        assert {row.status for row in run.rows(cell).values()} == {"ok"}
    assert sum(len(run.rows(cell)) for cell in run.cells) + len(run.controls(STRUCTURE)) + len(
        run.controls(BOTH)
    ) == len(run.found.rows)


def shares_cells(run: Run, cell: Cell) -> bool:
    """Whether any whole asset is on the very cells of the teacher's."""
    made = []
    for one in (cell, run.measuring.reference(cell)):
        arrays = run.measuring.assets(one)[0].place.get()
        made.append([arrays["coords"][rows].tolist() for rows in ragged(arrays["counts"])])
    shared = any(mine == theirs for mine, theirs in zip(*made, strict=True))
    assert shared or cell.stage != TEACHER_THEN_SLAT
    return shared


def test_rows_say_how_a_cell_was_made(run: Run):
    for cell in run.cells:
        trains, guided = cell.line.name == "vm", cell.line.label in ("none:cfg", "teacher")
        strength = STRENGTH if guided else run.measuring.plan.lines[0].who["structure"].method.cfg_strength * trains
        passes = [(2 if guided else 1) * cell.own.sampler.steps] * (2 if cell.slat else 1)
        if cell.stage in (STRUCTURE_THEN_TEACHER, TEACHER_THEN_SLAT):
            passes[cell.stage == STRUCTURE_THEN_TEACHER] = 2 * STEPS  # the teacher's guided steps
        for row in run.rows(cell).values():
            assert row.cfg_strength == strength, cell.name
            assert row.nfe == sum(passes)
            assert (row.own_sampler, row.extra_sampler) == (not cell.extra, cell.extra)
            assert row.sampler == ("renoise" if trains and not cell.extra else "euler")
            if row.metric not in COST_METRICS:
                assert (row.n_ok, row.n_total) == ((3, 3) if cell.slat else (4, 4))
                assert row.note == (SKIPPED if cell.structure.student else "")
    assert {cell.own.sampler.steps for cell in run.cells if cell.extra} == {2}  # at one step all samplers agree


def test_none_is_not_guided(run: Run):
    found = {cell.line.label: run.rows(cell)["FD_tiny2d"].cfg_strength for cell in run.cells if not cell.slat}
    assert (found["none"], found["none:cfg"]) == (0.0, STRENGTH)


def test_rows_are_compared_by_networks_and_assets(run: Run):
    tests, world = run.measuring.tests, run.measuring.plan.world.digest
    for count, whole in ((4, False), (3, True)):
        rows = [row for cell in run.cells if bool(cell.slat) == whole for row in run.rows(cell).values()]
        rows += run.controls(BOTH if whole else STRUCTURE).values()
        assert {row.reference_sha for row in rows} == {digest_of([tests.digest, list(tests.ids[:count])])}
        assert {row.weights_sha for row in rows} == {world}
        assert {(row.run_id, row.config_sha) for row in rows} == {(run.measuring.plan.run_id, run.measuring.plan.key)}


def test_rows_are_averages_of_the_values_of_assets(run: Run):
    for cell in run.cells:
        rows, assets = run.rows(cell), run.assets(cell)
        averages = {name for name, row in rows.items() if row.stderr is not None} - set(COST_METRICS)
        assert averages == rows.keys() - set(COST_METRICS) - {name for name in rows if name.startswith("FD")}
        assert [value.asset for value in assets] == list(run.measuring.tests.ids[: len(assets)])
        assert all(value.ok and value.values.keys() == averages for value in assets)
        for name in averages:
            values = [value.values[name] for value in assets]
            # the same numbers, so no more than rounding apart
            assert np.mean(values) == pytest.approx(rows[name].value, rel=1e-12)
            assert np.std(values, ddof=1) / np.sqrt(len(values)) == pytest.approx(rows[name].stderr, rel=1e-9)


def test_seconds_are_of_the_way_of_sampling(run: Run):
    """Whoever's weights: cells that compute alike have the same; of whole assets they are the sum of the parts."""
    seconds = run.measuring.seconds(in_process()[0], run.cells)
    for cell in run.cells:
        rows = {name: row for name, row in run.rows(cell).items() if name in COST_METRICS}
        parts = [seconds[way(half.stage, half.sampler)] for half in cell.halves]
        if cell.slat:
            parts.append(seconds[DECODE])
            assert [rows[name].value for name in COST_METRICS[:3]] == [median for median, _ in parts]
        assert rows["latency_s"].value == pytest.approx(sum(median for median, _ in parts), rel=1e-12)
        for row in rows.values():
            assert (row.n_ok, row.n_total, row.wall_s, row.note) == (1, 1, row.value, "")
            assert row.stderr is not None
    alike = [cell for cell in run.measuring.plan.structure_cells if cell.name in ("vm-1-train0-gen0", "none-1-gen0")]
    assert len({run.rows(cell)["latency_s"].value for cell in alike}) == 1
    assert len(alike) == 2


def test_assets_that_cannot_be_used_are_counted(run: Run):
    tests = replace(run.measuring.tests, failures=(("broken", "it cannot be read"),))
    measuring = replace(run.measuring, tests=tests)
    totals = {bool(cell.slat): measuring.fields(cell)["n_total"] for cell in run.cells}
    assert totals == {False: 5, True: 3}  # of whole assets the first three that can be used were asked for


# ---------------------------------------------------------------------------------------------------------- failures


@pytest.mark.parametrize("status", ["failed", "lost"])
def test_cells_of_a_student_that_there_is_not_have_such_rows(run: Run, status: str):
    """Wherever it was needed, and nowhere else."""
    gone = next(one for one in run.measuring.plan.students if one.stage == "slat")
    found = measure(run.measuring, failures={gone.folder: Failure("it broke", lost=status == "lost")})
    for cell in run.cells:
        if gone not in cell.students:
            assert found.rows(cell).keys() == run.rows(cell).keys()
            continue
        rows = found.rows(cell)
        assert rows.keys() == ASSETS | {"MSE_slat"}
        for row in rows.values():
            assert (row.status, row.error, row.value, row.n_ok, row.n_total) == (status, "it broke", None, 0, 3)
            assert row.nfe == run.rows(cell)["FD_tiny_gs"].nfe
        assert found.assets(cell) == []
    assert found.controls(BOTH).keys() == run.controls(BOTH).keys()


def test_a_student_that_makes_nothing_is_measured_as_that(small_folder: Path, tmp_path: Path):
    """Its latents are not finite: paired columns fail, agreements are 0, distances are to black pictures."""
    measuring = ready(small_folder, tmp_path, "evaluate.steps=[1]", "evaluate.apart=[]")
    [first, *_] = measuring.plan.students
    path = measuring.weights.of(first)[0]
    state = load_world(small_folder).structure.flow.state_dict()
    save_tensors(path, {key: value * float("nan") for key, value in state.items()})
    run = measure(measuring)
    for cell in (cell for cell in run.cells if first in cell.students):
        rows = run.rows(cell)
        if cell.slat:
            assert {name for name, row in rows.items() if row.status == "failed"} == set()
            assert "MSE_slat" not in rows  # other cells than the teacher's: nothing to compare
        else:
            assert {name for name, row in rows.items() if row.status == "failed"} == {"MSE_teacher"}
            assert {rows[name].value for name in ("IoU_teacher", "IoU_truth", *OF_LAW)} == {0}
        assert {row.n_ok for name, row in rows.items() if name not in COST_METRICS} == {0}
        assert {(value.ok, bool(value.error)) for value in run.assets(cell)} == {(False, True)}
        black = [row.value for name, row in rows.items() if name.startswith("ULIP")]
        assert black == [0]
    reasons = {value.error for cell in run.cells for value in run.assets(cell)}
    assert reasons == {"", "the latent is not finite", "the latent of the structure is not finite"}


# ---------------------------------------------------------------------------------------------------------- controls


def test_controls_are_those_that_metrics_name(run: Run):
    for stage, names in ((STRUCTURE, STRUCTURES), (BOTH, ASSETS | {"MSE_slat"})):
        metrics = [METRICS.get(name).value for name in names]
        expected = {(control, metric.name) for metric in metrics for control in metric.controls}
        expected -= {("floor", "FD_tiny_mesh")}  # three assets cannot be halved
        assert run.controls(stage).keys() == expected
        total = {STRUCTURE: 4, BOTH: 3}[stage]
        for (name, _), row in run.controls(stage).items():
            assert row.n_total == total
            assert row.n_ok == (2 if name == "floor" else total)
            assert (row.seed, row.steps, row.sampler, row.train_seed, row.nfe) == (None,) * 5
    assert "2 and 2" in run.controls(STRUCTURE)["floor", "FD_tiny2d"].note


def test_the_floor_is_of_other_toys_where_there_are_more(run: Run, tmp_path: Path):
    engine = in_process()[0]
    others = other_assets(run.measuring.plan, 4, tmp_path, engine)
    assert others is not None
    assert not set(others.ids) & set(run.measuring.tests.ids)
    found = measure(replace(run.measuring, others=others))
    floor = found.controls(STRUCTURE)["floor", "FD_tiny3d"]
    assert (floor.n_ok, floor.n_total, floor.note) == (4, 4, "")
    assert floor.value != run.controls(STRUCTURE)["floor", "FD_tiny3d"].value
    assert found.controls(BOTH)["floor", "FD_tiny_mesh"].n_ok == 3
    others_of_none = replace(run.measuring.plan, test=measuring_module.HeldOut((), None, (), 0))  # type: ignore[arg-type]
    assert other_assets(others_of_none, 4, tmp_path, engine) is None


def test_of_toys_there_are_all(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Every structure once, and whole assets in four colours; of these the first two structures here."""
    listed = AllToys.assets
    monkeypatch.setattr(AllToys, "assets", lambda all_toys: listed(all_toys)[: 2 * all_toys.colours])
    found = everything(run.measuring.plan, tmp_path, in_process()[0])
    choices = {level: [subject.asset.choices for subject in tests.subjects] for level, tests in found.items()}  # type: ignore
    assert {level: len(toys) for level, toys in choices.items()} == {"structure": 2, "assets": 8}
    for toys in choices.values():
        assert {(toy.category, toy.size, toy.top, toy.turn) for toy in toys} == {(0, 0, 0, 0), (0, 0, 0, 1)}
    measuring = replace(run.measuring, everything=found)
    for level in LEVELS:
        against = measuring.against(level)
        assert against["truth"].subjects == measuring.of(level).subjects
        assert against["population"].subjects == found[level].subjects
    others = replace(run.measuring.plan, test=measuring_module.HeldOut((), None, (), 0))  # type: ignore[arg-type]
    assert everything(others, tmp_path, in_process()[0]) == {}


def test_colours_of_cells_are_on_the_grid_of_the_second_stage(small_folder: Path, tmp_path: Path):
    """Which is no other's: with a law of 16 cells a side it has no number."""
    plan = small_plan(small_folder, "protocol.name=tiny-v3", "evaluate.whole=2", cache=tmp_path)
    measuring = opened(plan, tmp_path)
    assert measuring.studio.cells == RESOLUTION
    assert opened(small_plan(small_folder, cache=tmp_path), tmp_path).studio.cells == 0  # no column asks for them
    cell = next(cell for cell in plan.asset_cells if cell.line.label == "none")
    job = replace(measuring.scores(cell), metrics=(METRICS.get("valid_rgb").value,))
    in_process()[0].do([job])
    assert job.read()["valid_rgb"].error == "structures have 8 cells a side, their law 16"


def test_a_reconstruction_that_failed_is_counted(run: Run, tmp_path: Path):
    tests = run.measuring.tests
    bad = replace(tests.subjects[1], asset=Unreadable(tests.subjects[1].id))
    subjects = (tests.subjects[0], bad, *tests.subjects[2:])
    tests = replace(tests, subjects=subjects, digest="other")
    measuring = replace(run.measuring, out=tmp_path, cache=tmp_path, tests=tests)
    line = next(line for line in measuring.controls() if (line.name, line.level) == ("reconstruction", "assets"))
    job = line.scores(measuring.out, measuring.metrics("assets"), measuring.extractors)
    in_process()[0].do([job])
    for scored in job.read().values():
        assert scored.score is not None
        assert scored.score.n_ok == 2
        assert scored.ok.tolist() == [True, False, True]


@dataclass(frozen=True)
class Unreadable:
    id: str
    category: str = ""

    def load(self) -> Mesh:
        raise AssetError("the file is gone")


@dataclass(frozen=True)
class Needle(Unreadable):
    """A triangle of which hardly anything is seen."""

    def load(self) -> Mesh:
        corners = np.array([[-0.4, 0.0, 0.0], [0.4, 0.0, 0.0], [0.4, 1e-4, 0.0]])
        return Mesh.of_faces(corners, np.array([[0, 1, 2]]), np.ones((1, 3)))


def test_assets_that_cannot_be_seen_are_left_out_on_both_sides(run: Run, tmp_path: Path):
    toy, *_ = run.measuring.tests.subjects
    things = (toy.asset, Unreadable("gone"), Needle("thin"))
    subjects = tuple(replace(toy, asset=thing, identity=Identity(thing.id, "0" * 64)) for thing in things)
    tests = replace(run.measuring.tests, subjects=subjects, digest="these")
    measuring = replace(run.measuring, cache=tmp_path, tests=tests)
    reasons = unseen(measuring.truth("assets", tests), in_process()[0], 0.01, [])
    assert reasons.keys() == {"gone", "thin"}
    assert reasons["gone"] == "the file is gone"
    assert "1.0% are needed" in reasons["thin"]
    left = tests.without(reasons)
    assert (left.ids, left.total, left.dropped) == ((toy.id,), 1, tuple(reasons.items()))


# ----------------------------------------------------------------------------------------------- nothing decides a bit


def entries(root: Path) -> dict[str, dict[str, NDArray]]:
    """Arrays of the stores of a run by digest, without seconds."""
    slots = [slot for name in ("store", "cache") for slot in Store(root / name).slots()]
    return {slot.digest: load_arrays(slot.data) for slot in slots if slot.kind != "seconds"}


def test_processes_and_shards_change_no_bit(small_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """In this process; in two others; and in shards of one asset."""
    usual = ("evaluate.steps=[1]", "data.test=3", "evaluate.whole=2", "evaluate.apart=[]")

    def done(root: Path, engine: Engine | None = None) -> Run:
        return measure(ready(small_folder, root, *usual, methods=("none",)), engine)

    here = done(tmp_path / "here")
    with workers(2, Silent()) as team:
        there = done(tmp_path / "there", Engine(team, team))
    assert numbers(here.found) == numbers(there.found)
    mine, theirs = entries(tmp_path / "here"), entries(tmp_path / "there")
    assert mine.keys() == theirs.keys()
    assert len(mine) > 50
    for digest, arrays in mine.items():
        assert arrays.keys() == theirs[digest].keys()
        for name, array in arrays.items():
            assert array.tobytes() == theirs[digest][name].tobytes()
    monkeypatch.setattr(measuring_module, "SHARD", 1)
    assert numbers(done(tmp_path / "shards").found) == numbers(here.found)


def test_a_repeated_run_makes_what_is_missing(run: Run, small_folder: Path, tmp_path: Path):
    """Nothing, at first; seconds are those that were measured."""
    shutil.copytree(run.measuring.out.parent, tmp_path / "run")
    measuring = replace(ready(small_folder, tmp_path / "run"), cache=run.measuring.cache)
    engine, team = in_process()
    again = measure(measuring, engine)
    assert numbers(again.found) == numbers(run.found)
    assert [row.value for row in again.found.rows] == [row.value for row in run.found.rows]
    assert dict(team.given) == {}
    cell = next(cell for cell in run.cells if cell.stage == TEACHER_THEN_SLAT)
    scores, side = measuring.scores(cell), measuring.side(cell)
    features, looks = side.jobs(["mesh:tiny_rgb"], measuring.extractors)[0], side.shards(("mesh",))[0]
    lost = [measuring.assets(cell)[0].places[0], looks.places[0], features.places[0], scores.places[0]]
    for slot in Store(measuring.out).slots():
        if slot.digest in {place.digest for place in lost}:
            slot.record.unlink()
    assert numbers(measure(measuring, engine).found) == numbers(run.found)
    assert dict(team.given) == {"assets": 1, "pictures and points": 1, "features tiny_rgb": 1, "scores": 1, "prune": 1}


# ------------------------------------------------------------------------------------------------ one asset by hand


def generator(*parts: object) -> torch.Generator:
    return torch.Generator().manual_seed(seed_of(*parts))


def numpy_random(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


@torch.inference_mode()
def test_one_asset_from_noise_to_row(run: Run, small_folder: Path):
    """The way of the second test asset through a student's two steps of both stages, by hand."""
    world, measuring = load_world(small_folder), run.measuring
    subject = measuring.tests.subjects[1]
    name, picture = subject.id, conditioning_images([subject])[0]
    image = torch.from_numpy(picture).permute(2, 0, 1)[None]
    networks = {
        student.stage: with_weights(world.stage(student.stage).flow, measuring.weights.of(student)[0])
        for student in measuring.plan.students
    }
    _, later, _ = sampling_times(2, 1.0)

    # structure: jump, fresh noise, jump
    draw, shape = generator("sample", name, 0), (1, CHANNELS, SIDE, SIDE, SIDE)
    noise, cond = torch.randn(shape, generator=draw), world.structure.conditioner(image)
    latent = noise - networks["structure"](noise, torch.tensor([1000.0]), cond)
    mixed = (1 - later) * latent + later * torch.randn(shape, generator=draw)
    latent = mixed - later * networks["structure"](mixed, torch.tensor([1000.0 * later]), cond)
    grid = world.structure.decode(latent)[0].numpy()

    # the teacher from the same noise: guided Euler
    x, nothing = noise, torch.zeros_like(cond)
    for t, after in pairwise(sampling_times(STEPS, 1.0)):
        v = [world.structure.flow(x, torch.tensor([1000.0 * t]), c) for c in (cond, nothing)]
        x = x - (t - after) * ((1 + STRENGTH) * v[0] - STRENGTH * v[1])
    reference = world.structure.decode(x)[0].numpy()

    cell = next(cell for cell in run.cells if cell.name == "vm-2-train0-gen0")
    values = run.assets(cell)[1].values
    points = sample_surface(structure_mesh(grid), POINTS, numpy_random(seed_of("points", name)))
    assert values["ULIP_tiny"] == pytest.approx(agreement(small_folder, "ulip_tiny", points, picture), rel=1e-5)
    assert values["IoU_teacher"] == pytest.approx((grid & reference).sum() / (grid | reference).sum(), abs=0.02)
    assert values["MSE_teacher"] == pytest.approx(float((latent - x).double().square().mean()), rel=1e-4)

    # whole asset: the same on the cells of the structure, then decoders
    cells = coarse_coords(grid, world.whole.resolution)
    voxels, draw, cond = one_voxels(cells), generator("slat sample", name, 0), world.whole.conditioner(image)

    def velocity(x: Tensor, t: float) -> Tensor:
        return networks["slat"](SparseTensor(x, voxels), torch.tensor([1000.0 * t]), cond).feats

    noise = torch.randn((len(cells), CHANNELS), generator=draw)
    made = noise - velocity(noise, 1.0)
    mixed = (1 - later) * made + later * torch.randn((len(cells), CHANNELS), generator=draw)
    made = mixed - later * velocity(mixed, later)
    [mesh] = world.whole.mesh_decoder.to_meshes(
        world.whole.mesh_decoder(SparseTensor(made * world.whole.std + world.whole.mean, voxels))
    )
    points = sample_surface(mesh, POINTS, numpy_random(seed_of("surface points", name)))
    cell = next(cell for cell in run.cells if cell.name == "vm-2x2-train0-gen0")
    found = run.assets(cell)
    expected = agreement(small_folder, "ulip_tiny_mesh", points, picture)
    assert found[1].asset == name
    assert found[1].values["ULIP_tiny_mesh"] == pytest.approx(expected, rel=1e-4)
    mean = np.mean([value.values["ULIP_tiny_mesh"] for value in found])
    assert run.rows(cell)["ULIP_tiny_mesh"].value == pytest.approx(mean, rel=1e-12)


def agreement(world: Path, name: str, points: NDArray[np.float32], picture: NDArray[np.uint8]) -> float:
    """100 x cosine."""
    network, _ = load_extractor(world, name)
    a: Any = network.embed_points(torch.from_numpy(points)[None])[0]  # type: ignore[operator]
    b: Any = network.embed_pictures(torch.from_numpy(picture).permute(2, 0, 1)[None])[0]  # type: ignore[operator]
    return 100 * float(a.double() @ b.double() / (a.double().norm() * b.double().norm()))
