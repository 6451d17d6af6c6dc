"""The sweep and the budget of seconds on a few toys: what is chosen, what is reused, what is never looked at."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from inprocess import InProcess
from plans import planned
from torch import nn

from mdtbench.base.errors import RunError
from mdtbench.base.files import read_json, write_record
from mdtbench.harness.driver import students as training
from mdtbench.harness.driver import sweep as sweeping
from mdtbench.harness.driver.run import Options, Outcome, run
from mdtbench.harness.driver.students import (
    TimeJob,
    Weights,
    changed_share,
    grouped,
    stage_seconds,
    train_students,
)
from mdtbench.harness.driver.sweep import Swept, sweep
from mdtbench.harness.engine.engine import Engine
from mdtbench.harness.engine.files import save_tensors
from mdtbench.harness.plan.plan import Plan
from mdtbench.harness.train import budget
from mdtbench.harness.train.budget import BUDGET_FILE
from mdtbench.harness.train.loop import Failure, student_file
from mdtbench.methods import METHODS, Loss, Step
from mdtbench.methods.vm import VelocityMatching
from mdtbench.results.frames import to_rows
from mdtbench.results.students import read_students
from mdtbench.results.sweep import read_sweeps
from mdtbench.results.training_tables import sweep_table

TINY = (
    "train.steps=2", "train.batch=2", "slat.steps=2", "slat.batch=1", "data.train=3", "data.test=2", "sweep.assets=3",
    "evaluate.seeds=[0]", "evaluate.steps=[1]", "evaluate.whole=2", "methods.teacher.steps=2",
)  # fmt: skip
RATES = "sweep.lr=[1e-4,2e-3]"
STAGES = ("structure", "slat")


class Inline(InProcess):
    """Remembers the labels of what it was asked to do."""

    @property
    def asked(self) -> list[str]:
        return list(self.given)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def small(cache: Path) -> Callable[..., Plan]:
    def make(*changes: str, methods: Sequence[str] = ("vm",), stages: str = "structure", **options: Any) -> Plan:
        return planned(*TINY, *changes, methods=methods, stages=stages, cache=cache, **options)

    return make


def engine_of(team: Any) -> Engine:
    return Engine(team, team)


def swept(plan: Plan, out: Path, cache: Path, team: Inline) -> Swept:
    weights = Weights(out, out, plan.world.folder, average=True)
    return sweep(plan, out, cache, out / "store", weights, engine_of(team), 1)


def ran(plan: Plan, out: Path, cache: Path, team: Inline, *, overwrite: bool = False) -> Outcome:
    return run(plan, Options(out, cache, overwrite=overwrite), engine_of(team))


def measured(outcome: Outcome) -> list[dict]:
    return [row.model_dump(exclude={"created_utc"}) for row in to_rows(outcome.results.rows)]


@dataclass(frozen=True, kw_only=True)
class Fragile(VelocityMatching):
    """Fails above a learning rate."""

    most: float = 1.0

    def loss(self, step: Step) -> Loss:
        if self.lr > self.most:
            raise ValueError("too fast")
        return super().loss(step)


@pytest.fixture
def fragile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(METHODS, "_entries", dict(METHODS._entries))
    variants = {"": {"most": 1e-3}, "never": {"most": 0.0}}
    METHODS.register("fragile", version=1, source="", variants=variants)(Fragile)


def test_a_run_with_sweeps_of_both_stages(small: Callable[..., Plan], cache: Path, tmp_path: Path):
    """Two methods, two rates and two strengths of each stage; chosen by the best value, made once."""
    changes = (RATES, "sweep.slat_lr=[1e-4,2e-3]", "sweep.cfg_strength=[0.5,3.0]")
    plan, team = small(*changes, methods=("vm", "gd"), stages="both"), Inline()
    outcome = ran(plan, tmp_path, cache, team)
    records = read_sweeps(tmp_path)
    assert records == outcome.results.sweeps
    assert [(one.stage, one.metric, one.steps, one.assets) for one in records] == [
        ("structure", "MSE_teacher", 1, 3), ("slat", "MSE_slat", 1, 3)
    ]  # fmt: skip
    used = {row.method: row.cfg_strength for row in to_rows(outcome.results.rows) if row.stage == "structure"}
    for record in records:
        for method in ("vm", "gd"):
            trials = record.trials_of(method, "")
            assert [(one.lr, one.cfg_strength) for one in trials] == [
                (lr, s) for lr in (1e-4, 2e-3) for s in (0.5, 3.0)
            ]
            scores = [one.score for one in trials]
            assert len({*scores} - {None}) == 4
            [best] = [one for one in trials if one.chosen]
            assert best.score == min(score for score in scores if score is not None)  # both are better when lower
            [told] = [one for one in read_students(tmp_path) if (one.method, one.stage) == (method, record.stage)]
            assert (told.lr, told.grid, told.steps, told.error) == (best.lr, 2, 2, None)
            assert (tmp_path / best.address).is_dir()
            if record.stage == "structure":
                assert used[method] == best.cfg_strength
    assert len(list((tmp_path / "students").iterdir())) == 16  # no student is the run's alone
    assert team.asked.count("try structure settings") == team.asked.count("try slat settings") == 1
    assert "distil" not in team.asked
    again = Inline()
    assert measured(ran(plan, tmp_path, cache, again)) == measured(outcome)
    assert read_sweeps(tmp_path) == records
    assert again.asked == []
    ran(small(methods=("vm",)), tmp_path, cache, Inline(), overwrite=True)
    assert read_sweeps(tmp_path) == ()  # nothing was chosen in this run


def test_settings_are_tried_for_some_of_the_steps_and_the_best_trains_for_all(
    small: Callable[..., Plan], cache: Path, tmp_path: Path
):
    plan, team = small(RATES, "sweep.halving=2"), Inline()
    outcome = ran(plan, tmp_path, cache, team)
    [record] = read_sweeps(tmp_path)
    [best] = [trial for trial in record.trials if trial.chosen]
    assert (record.halving, len(record.trials), record.beaten()) == (2, 2, list(record.trials))
    tried = [read_json(tmp_path / trial.address / "training.json") for trial in record.trials]
    assert [account["steps"] for account in tried] == [1, 1]
    [student] = read_students(tmp_path)
    assert (student.steps, student.lr, student.error) == (2, best.lr, None)
    assert "distil" in team.asked
    assert len(list((tmp_path / "students").iterdir())) == 3
    assert "1/2 of the training steps" in sweep_table(record).notes[0]
    assert outcome.failed_students == {}
    one = small("sweep.lr=[1e-4]", "sweep.halving=2")
    assert [trial.student.steps for trial in one.trials("structure")] == [2]  # there is nothing to choose from


def test_what_the_cast_to_half_precision_leaves_of_a_training_is_noted(small: Callable[..., Plan], tmp_path: Path):
    teacher = nn.Sequential(nn.Linear(10, 10).half(), nn.Linear(10, 10))
    weights = {name: p.detach().float() for name, p in teacher.named_parameters()}
    weights["0.weight"][:3] *= 1.001  # two steps of float16 and more
    weights["0.weight"][3:] *= 1 + 1e-5
    weights["1.weight"] *= 2
    save_tensors(tmp_path / "student.safetensors", weights)
    assert changed_share(teacher, tmp_path / "student.safetensors") == pytest.approx(30 / 110, abs=0.02)  # zeros stay
    assert changed_share(teacher.float(), tmp_path / "student.safetensors") is None
    plan = small(methods=("vm",))
    [student] = plan.students
    write_record(tmp_path / student.folder / "training.json", {"steps": 2, "changed": {"raw": 0.25, "average": 0.0625}})
    cell = next(cell for cell in plan.cells if cell.students)
    for average, share in ((False, "25.0%"), (True, "6.2%")):
        notes = Weights(tmp_path, tmp_path, plan.world.folder, average=average).notes(cell)
        assert f"structure: cast to the teacher's half precision, {share} of the weights differ from its own" in notes


def test_a_sweep_sees_validation_toys_alone(small: Callable[..., Plan], tmp_path: Path):
    """Whatever the test assets are, what is chosen and why stays the same, and they are not even prepared."""
    plans = [small(RATES, limit=limit) for limit in (None, 1)]
    found = [swept(plan, tmp_path, tmp_path / "cache", Inline()) for plan in plans]
    assert found[0].records == found[1].records
    assert found[0].chosen.keys() == {("structure", "vm")}
    texts = [path.read_text(encoding="utf-8") for path in (tmp_path / "cache").rglob("*.json")]
    assert any("validation-00000" in text for text in texts)
    assert not any("test-00000" in text for text in texts)


def test_a_student_of_the_grid_is_the_one_that_trains_alone(small: Callable[..., Plan], tmp_path: Path):
    """Bit for bit, beside another rate of its own method and another method."""
    together, alone = small(RATES, methods=("vm", "scm")), small("methods.vm.lr=2e-3")
    tried = [trial.student for trial in together.trials("structure")]
    assert train_students(together, tried, tmp_path / "together", engine_of(Inline()), "x") == {}
    assert train_students(alone, alone.students, tmp_path / "alone", engine_of(Inline()), "x") == {}
    [student] = alone.students
    weights = {one: student_file(tmp_path / "together" / one.folder).read_bytes() for one in tried}
    assert weights[student] == student_file(tmp_path / "alone" / student.folder).read_bytes()
    assert len(set(weights.values())) == 4


@pytest.mark.parametrize("stage", STAGES)
def test_failed_students_lose_and_a_method_without_any_is_a_failed_line(
    fragile: None, small: Callable[..., Plan], cache: Path, tmp_path: Path, stage: str
):
    changes = (RATES if stage == "structure" else "sweep.slat_lr=[1e-4,2e-3]",)
    plan = small(*changes, methods=("fragile", "fragile:never"), stages="both" if stage == "slat" else stage)
    found = swept(plan, tmp_path, cache, Inline())
    assert {key: dict(value) for key, value in found.chosen.items()} == {
        (stage, "fragile"): {"lr": 1e-4, "cfg_strength": 2.0}
    }
    errors = {(one.variant, one.lr): one.error or "" for one in found.records[0].trials}
    assert errors.pop(("", 1e-4)) == ""
    assert all("too fast" in error for error in errors.values())
    failure = found.hopeless[stage, "fragile:never"]
    assert failure.reason.startswith("no setting of the sweep trained: lr 0.0001, guidance ")
    assert failure.reason.count("ValueError: too fast") == 2
    assert not failure.lost
    again = Inline()
    assert swept(plan, tmp_path, cache, again).chosen == found.chosen
    assert again.asked == []  # what failed is not tried again
    if stage == "structure":
        outcome = ran(plan, tmp_path, cache, Inline())
        status = {(row.variant, row.status) for row in to_rows(outcome.results.rows) if row.method == "fragile"}
        assert status == {("", "ok"), ("never", "failed")}
        assert list(outcome.failed_students) == [one.folder for one in plan.students if one.who.variant]


def test_what_a_machine_lost_is_no_failure_of_the_method(
    small: Callable[..., Plan], cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def lost(plan: Plan, students: Sequence, *args: Any) -> dict[str, Failure]:
        return {one.folder: Failure("out of memory", lost=True) for one in students}

    monkeypatch.setattr(sweeping, "train_students", lost)
    [failure] = swept(small(RATES), tmp_path, cache, Inline()).hopeless.values()
    assert failure.lost
    assert "out of memory" in failure.reason


@pytest.mark.parametrize("stages", ["structure", "both"])
def test_seconds_of_a_step_are_measured_once(
    fragile: None, small: Callable[..., Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stages: str
):
    monkeypatch.setattr(budget, "TIMED_STEPS", 1)
    names = STAGES if stages == "both" else STAGES[:1]
    plan = small("train.budget=seconds", methods=("vm", "fragile:never"), stages=stages)
    first = stage_seconds(plan, tmp_path, engine_of(Inline()))
    assert {stage: set(found) for stage, found in first.items()} == {
        stage: {"cm", "vm"} for stage in names
    }  # cm: yardstick
    assert all(0 < seconds < 60 for found in first.values() for seconds in found.values())
    assert [path.name for path in tmp_path.iterdir()] == [BUDGET_FILE]  # no student is left behind
    asked: list[str] = []

    def timed(job: TimeJob) -> dict[str, float]:
        asked.extend(who.label for who in job.entrants)
        return {who.label: 1.0 for who in job.entrants}

    monkeypatch.setattr(training, "run_time", timed)
    more = small("train.budget=seconds", methods=("gd", "vm", "fragile:never"), stages=stages)
    expected = {stage: found | {"gd": 1.0} for stage, found in first.items()}
    assert stage_seconds(more, tmp_path, engine_of(Inline())) == expected
    assert asked == ["gd"] * len(names)
    larger = small("train.budget=seconds", "train.batch=3", stages=stages)
    assert stage_seconds(larger, tmp_path, engine_of(Inline()))["structure"] == {"cm": 1.0, "vm": 1.0}
    assert None in json.loads((tmp_path / BUDGET_FILE).read_text(encoding="utf-8")).values()  # nor is a failure


def test_a_time_that_the_machine_lost_is_not_kept(
    small: Callable[..., Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def full(self: VelocityMatching, step: Step) -> Loss:
        raise MemoryError

    plan = small("train.budget=seconds")
    monkeypatch.setattr(VelocityMatching, "loss", full)
    with pytest.raises(RunError, match=r"machine failed while steps were timed: MemoryError.* tries again"):
        stage_seconds(plan, tmp_path, engine_of(Inline()))
    assert list(tmp_path.iterdir()) == []


def test_groups_are_a_partition_into_parts_of_similar_cost(small: Callable[..., Plan]):
    students = small(methods=("cm", "pcm", "scm", "vm", "mdt")).students
    for processes, most in ((1, None), (2, None), (3, None), (9, None), (1, 2), (2, 1), (1, 5)):
        parts = grouped(students, processes, most)
        assert len(parts) == max(min(processes, 5), -(-5 // (most or 5)))
        assert sorted(one.folder for part in parts for one in part) == sorted(one.folder for one in students)
        assert all(len(part) <= (most or 5) for part in parts)
    costs = [sum(one.who.distillation.cost() for one in part) for part in grouped(students, 2, None)]
    assert sorted(costs) == [19, 20]  # 13 + 6 | 8 + 6 + 6
    assert grouped([], 4, None) == []
