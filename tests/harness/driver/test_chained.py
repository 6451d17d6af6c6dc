"""A student that begins as another: both are planned, trained one after the other, and accounted for together."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from inprocess import in_process
from plans import planned, students
from safetensors.torch import load_file
from small_world import small_plan, small_world

from mdtbench.harness.driver.students import FAILED_FILE, records, train_students
from mdtbench.harness.engine.files import save_tensors
from mdtbench.harness.oracle import load_oracle_config, plan_oracle
from mdtbench.harness.oracle.jobs import TrainJob, run_train
from mdtbench.harness.oracle.plan import firsts
from mdtbench.harness.plan.plan import Plan
from mdtbench.harness.train.loop import begin_as, student_file
from mdtbench.methods.ect import EasyConsistencyTuning

CHANGES = ("train.batch=2", "slat.batch=2", "data.train=4", "train.steps=10", "slat.steps=10")


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    world = small_world(tmp_path_factory.mktemp("world"))
    return small_plan(world, *CHANGES, methods=("tcm", "vm"), cache=tmp_path_factory.mktemp("cache"))


def test_two_trainings_share_one_budget(plan: Plan):
    for student in plan.trained:
        chain = [(one.who.label, one.steps) for one in student.chain]
        assert chain == ([("ect", 7), ("tcm", 3)] if student.who.label == "tcm" else [("vm", 10)])
    forwards = planned("train.budget=forwards", methods=("tcm",)).trained[0]
    steps = planned(methods=("vm",)).trained[0].steps
    assert [one.steps for one in forwards.chain] == [round(0.7 * steps), round(0.3 * round(steps * 6 / 7))]


def test_the_first_training_follows_the_guidance_of_the_second():
    changed = planned("methods.tcm.cfg_strength=7", methods=("tcm",)).trained[0]
    assert changed.before is not None
    assert changed.before.who.method.cfg_strength == 7


def test_what_the_first_training_learns_is_part_of_the_address_of_the_second():
    before, after = (students(planned(*change, methods=("tcm", "vm"))) for change in ((), ("methods.ect.stages=3",)))
    assert {key[1] for key in before if before[key] != after[key]} == {"tcm"}
    other = students(planned('methods.tcm.first="cm"', methods=("tcm", "vm")))
    assert {key[1] for key in before if before[key] != other[key]} == {"tcm"}


def test_the_second_student_begins_as_the_first(plan: Plan, tmp_path: Path):
    engine, _ = in_process()
    assert train_students(plan, plan.trained, tmp_path, engine, "distil") == {}
    for student in plan.trained:
        assert all(student_file(tmp_path / one.folder).is_file() for one in student.chain)
    record = next(one for one in records(plan, tmp_path, {}) if one.method == "tcm")
    assert (record.steps, record.forwards) == (10, pytest.approx((7 * 6 + 3 * 7) / 10))
    assert record.seconds is not None
    student = next(one for one in plan.trained if one.who.label == "tcm")
    assert student.before is not None
    accounts = [json.loads((tmp_path / one.folder / "training.json").read_text()) for one in student.chain]
    assert record.seconds == pytest.approx(sum(one["seconds"] for one in accounts))


def test_a_first_training_that_fails_is_the_reason_of_the_second(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def broken(self, step):
        raise ValueError("no")

    monkeypatch.setattr(EasyConsistencyTuning, "loss", broken)
    engine, _ = in_process()
    structure = [one for one in plan.trained if one.stage == "structure"]
    failures = train_students(plan, structure, tmp_path, engine, "distil")
    [student] = [one for one in structure if one.who.label == "tcm"]
    assert list(failures) == [student.folder]
    assert "the training that it begins with failed (ect: ValueError: no" in failures[student.folder].reason
    assert student.before is not None
    assert (tmp_path / student.before.folder / FAILED_FILE).is_file()


def test_chains_on_problems_with_a_known_law(tmp_path: Path):
    config = load_oracle_config("oracle", ['oracle.problems=["modes"]', "oracle.width=8", "train.steps=10"])
    [training] = [t for t in plan_oracle(config, ["tcm"], [0]).trainings]
    assert training.before is not None
    assert (training.before.entrant.label, training.before.steps, training.steps) == ("ect", 7, 3)
    assert firsts([training], tmp_path) == [training.before]
    assert run_train(TrainJob(config, (training.before,), tmp_path)) == {}
    assert firsts([training], tmp_path) == []
    assert run_train(TrainJob(config, (training,), tmp_path)) == {}
    first, second = (load_file(student_file(tmp_path / t.folder)) for t in (training.before, training))
    moved = [(second[key] - first[key]).abs().max().item() for key in first]
    assert 0 < max(moved) < 0.1  # three steps of at most 1e-2


def test_a_student_takes_over_every_weight(tmp_path: Path):
    first, second = torch.nn.Linear(2, 3), torch.nn.Linear(2, 3)
    save_tensors(tmp_path / "student.safetensors", first.state_dict())
    begin_as(second, tmp_path / "student.safetensors")
    assert all(torch.equal(second.state_dict()[key], value) for key, value in first.state_dict().items())
