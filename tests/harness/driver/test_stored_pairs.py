"""Students of both stages learn from stored pairs, made once for all training seeds, however they are shared out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from inprocess import in_process
from small_world import small_plan, small_world

from mdtbench.flow.samplers import Euler
from mdtbench.harness.driver.students import PAIRS, train_students
from mdtbench.harness.inputs.world import load_cached
from mdtbench.harness.plan.plan import Plan
from mdtbench.harness.protocol.values import Stage
from mdtbench.harness.train.ends import EndsJob, parts_of_set, stored_ends
from mdtbench.harness.train.loop import ACCOUNT_FILE, student_file
from mdtbench.harness.train.pairs import SEED, batches_of
from mdtbench.harness.train.task import StageTask
from mdtbench.methods import StoredPairs

PAIRED = ("methods.kd.pairs=12", "methods.kd.epochs=2", "train.batch=2", "slat.batch=2", "data.train=4")
SET = StoredPairs(12, 2, Euler(3))  # 6 batches, one of which is held out


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def plan(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Plan:
    cache = tmp_path_factory.mktemp("cache")
    return small_plan(world, *PAIRED, methods=("kd",), cache=cache, train_seeds=(0, 1))


def job(plan: Plan, stage: Stage, root: Path, batches: tuple[int, ...]) -> EndsJob:
    place = (plan.world.folder, plan.device, plan.networks_sha, stage, plan.sets[stage])
    return EndsJob(root, *place, 2, SET.solver, batches, root)


def test_students_of_all_seeds_learn_from_one_set(plan: Plan, tmp_path: Path):
    assert {student.steps for student in plan.trained} == {2 * 5}
    engine, team = in_process()
    assert train_students(plan, plan.trained, tmp_path, engine, "distil") == {}
    assert team.given["pairs of the teacher"] == 2 * len(
        parts_of_set(SET, 2)
    )  # two stages, and not twice for two seeds
    weights = [student_file(tmp_path / student.folder).read_bytes() for student in plan.trained]
    assert len(set(weights)) == 4
    for student in plan.trained:
        assert (tmp_path / student.folder / ACCOUNT_FILE).is_file()
    again, team = in_process()
    assert train_students(plan, plan.trained, tmp_path, again, "distil") == {}
    assert not team.given
    other = small_plan(
        plan.world.folder, *PAIRED, "methods.kd.lr=1e-3", methods=("kd",), cache=tmp_path / "none", train_seeds=(2,)
    )
    engine, team = in_process()
    assert train_students(other, [one for one in other.trained if one.stage == "slat"], tmp_path, engine, "x") == {}
    assert team.given["pairs of the teacher"] == 0  # another rate and seed learn from the set that is there
    assert (tmp_path / PAIRS).is_dir()


@pytest.mark.parametrize("stage", ["structure", "slat"])
def test_ends_are_where_the_teacher_takes_the_noises(plan: Plan, tmp_path: Path, stage: Stage):
    """Of batch 4, alone and among others; bit for bit, as one process computes both."""
    engine, _ = in_process()
    whole = [job(plan, stage, tmp_path, part) for part in parts_of_set(SET, 2)]
    alone = job(plan, stage, tmp_path, (4,))
    engine.do([*whole, alone])
    ends = stored_ends(whole)
    assert len(ends) == batches_of(SET, 2) == 6
    assert torch.equal(ends[4], stored_ends([alone])[0])
    world = load_cached(plan.world.folder, plan.device)
    task = StageTask(stage, world.stage(stage), plan.sets[stage].open(world, tmp_path), 2)
    batch = task.draw(SEED, 4)
    with torch.no_grad():
        end = Euler(3).sample(task.teacher(batch), batch.noise, batch.layout, [])
    assert torch.equal(ends[4], end)
    assert not torch.equal(end, batch.noise)


def test_the_address_of_ends_holds_all_that_decides_them(plan: Plan, tmp_path: Path):
    one = job(plan, "structure", tmp_path, (0, 1))
    others = [
        replace(one, stage="slat", data=plan.sets["slat"]),
        replace(one, solver=Euler(4)),
        replace(one, solver=Euler(3, 1.0, 2.0)),
        replace(one, batch=4),
        replace(one, batches=(0, 1, 2)),
        replace(one, networks_sha="another"),
    ]
    assert len({each.place.digest for each in (one, *others)}) == 7
    assert replace(one, out=tmp_path / "elsewhere").place.digest == one.place.digest
