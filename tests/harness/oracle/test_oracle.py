"""The oracle benchmark: its problems are exact, its bank of networks is a row of networks, a run ends in a table."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from pydantic import TypeAdapter
from torch import Tensor

from mdtbench.base.errors import UsageError
from mdtbench.flow.guidance import Guided
from mdtbench.flow.oracles import integrate
from mdtbench.flow.samplers import Euler
from mdtbench.harness.oracle import (
    OracleConfig,
    is_oracle,
    load_oracle_config,
    oracle_summary,
    plan_oracle,
    run_oracle,
)
from mdtbench.harness.oracle import run as run_module
from mdtbench.harness.oracle.family import Exam, LawTask
from mdtbench.harness.oracle.jobs import TimeJob, run_time
from mdtbench.harness.oracle.plan import family
from mdtbench.harness.oracle.plane import SLICED_W2, TRANSPORT, Plane
from mdtbench.harness.oracle.plane_bank import Bank, BankStudent
from mdtbench.harness.oracle.plane_problems import CLASSES, PROBLEMS, Problem
from mdtbench.harness.train import budget
from mdtbench.harness.train.loop import Failure
from mdtbench.harness.train.task import Points
from mdtbench.results.frames import rows_frame
from mdtbench.results.oracle_tables import oracle_tables
from mdtbench.results.render_csv import to_csv
from mdtbench.results.render_json import Report, to_json
from mdtbench.results.render_latex import to_latex
from mdtbench.results.render_markdown import to_markdown
from mdtbench.results.render_rich import to_rich
from mdtbench.results.report import read_run, tables
from mdtbench.results.rows import Row, read_rows
from mdtbench.results.students import read_students

F64 = torch.float64
STRENGTH = 2.0
SMALL = (
    'oracle.problems=["gaussian-cfg","modes"]',
    "oracle.width=8",
    "train.steps=4",
    "train.batch=8",
    "evaluate.samples=64",
    "evaluate.steps=[1,2]",
)


class Here:
    """Workers without processes."""

    def __init__(self) -> None:
        self.jobs: list[Any] = []

    def map(self, function: Callable[[Any], Any], items: Sequence[Any], label: str, total: int) -> list[Any]:
        self.jobs += items
        return [function(item) for item in items]


def small() -> OracleConfig:
    return load_oracle_config("oracle", SMALL)


def problem(name: str) -> Problem:
    return PROBLEMS[name](name)


def noise_of(problem_count: int, count: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    noise = torch.randn(count, 2, generator=generator)
    classes = torch.randint(CLASSES, (count,), generator=generator)
    return noise.repeat(problem_count, 1), classes.repeat(problem_count)


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_guided_velocity_leads_to_the_exact_ends(name: str):
    """Guidance by the bank's two conditions, integrated, against the closed form of the translated data."""
    one = problem(name)
    noise, classes = noise_of(1, 40)
    teacher = Bank([one]).teacher(classes)
    got = integrate(lambda x, t: teacher(x.float(), t.float(), STRENGTH).double(), noise.double(), 1.0, 0.0, steps=100)
    expected = one.ends(noise.double(), classes, STRENGTH)
    assert (got - expected).abs().max() < 2e-4  # observed 5e-6; the bank computes in float32


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_exact_ends_have_the_moments_of_independent_answers(name: str):
    one, count = problem(name), 2000
    generator = torch.Generator().manual_seed(1)
    noise, classes = torch.randn(count, 2, generator=generator, dtype=F64), torch.zeros(count, dtype=torch.int64)
    ends = one.ends(noise, classes, STRENGTH)
    answers = one.answers(classes, STRENGTH, generator)
    assert (
        ends.mean(0) - answers.mean(0)
    ).abs().max() < 0.2  # four standard errors of a deviation of 1.5, of two samples
    assert (ends.T.cov() - answers.T.cov()).abs().max() < 0.4  # likewise of a variance of 2.3


def test_guided_problems_are_those_named_so():
    for name in PROBLEMS:
        assert problem(name).guided == name.endswith("-cfg")


def test_strength_does_nothing_where_there_is_no_guidance():
    noise, classes = noise_of(1, 20)
    teacher = Bank([problem("product")]).teacher(classes)
    t = torch.full((20,), 0.6)
    assert (teacher(noise, t, 2.0) - teacher(noise, t, 0.0)).abs().max() < 1e-5


def test_the_bank_computes_each_problem_as_if_alone():
    """Problems with different numbers of components, filled up with components of weight 0."""
    problems = [problem(name) for name in ("product", "gaussian-cfg", "modes")]
    noise, classes = noise_of(3, 16)
    t = torch.linspace(0, 1, 48)
    together = Bank(problems).velocity(noise, t, classes).unflatten(0, (3, 16))
    for i, one in enumerate(problems):
        rows = slice(16 * i, 16 * (i + 1))
        alone = Bank([one]).velocity(noise[rows], t[rows], classes[rows])
        assert (together[i] - alone).abs().max() < 1e-5  # float32
    assert torch.isfinite(together).all()


def test_a_student_starts_at_the_teacher_and_its_networks_share_nothing():
    bank = Bank([problem("gaussian"), problem("modes")])
    student = BankStudent(bank, 8, seed=0)
    noise, classes = noise_of(2, 6)
    t = torch.full((12,), 0.7)
    assert torch.equal(student(noise, t, classes), bank.velocity(noise, t, classes))
    with torch.no_grad():
        student.weights[2].normal_(generator=torch.Generator().manual_seed(1))
    student(noise, t, classes)[:6].sum().backward()  # the first problem's part alone
    for parameter in student.parameters():
        assert parameter.grad is not None
        assert parameter.grad[0].any()
        assert not parameter.grad[1].any()


def test_a_student_sees_its_class():
    bank = Bank([problem("gaussian-cfg")])
    student = BankStudent(bank, 8, seed=0)
    with torch.no_grad():
        student.weights[2].normal_(generator=torch.Generator().manual_seed(1))
    x, t = torch.zeros(2, 2), torch.ones(2)
    own = student(x, t, torch.tensor([0, 1])) - bank.velocity(x, t, torch.tensor([0, 1]))
    assert (own[0] - own[1]).abs().max() > 1e-3


def test_a_batch_is_data_of_the_classes_without_guidance():
    task = LawTask(family(small()), 4000, seed=0)
    batch = task.draw(0, 1)
    guided = problem("gaussian-cfg")
    x_0, classes = batch.x_0[:4000], batch.cond[:4000]
    for label in range(CLASSES):
        mean = x_0[classes == label].double().mean(0)
        assert (mean - guided.shifts[label]).abs().max() < 0.15  # four standard errors of a deviation of 1.5
    again = task.draw(0, 1)
    assert torch.equal(batch.x_0, again.x_0)
    assert torch.equal(batch.u, again.u)
    assert not torch.equal(batch.noise, task.draw(0, 2).noise)
    point = Points(batch, task.teacher(batch), 0.01)
    assert isinstance(task.teacher(batch), Guided)
    assert len(point.batch.u) == 8000


def test_many_teacher_steps_approach_the_exact_answer_and_one_does_not():
    plane = Plane.of(("gaussian-cfg", "modes"), STRENGTH, 8)
    noise, classes = plane.questions(512, torch.Generator().manual_seed(2))
    paper = Exam(plane, noise, classes, plane.ends(noise, classes))
    teacher = plane.teacher(classes)
    one, many = (paper.scores(paper.sample(teacher, Euler(n, 1.0, STRENGTH)), mapped=True) for n in (1, 100))
    for few, exact in zip(one, many, strict=True):
        assert exact[TRANSPORT] < 0.03 < 1 < few[TRANSPORT]
        assert exact[SLICED_W2] < 0.2 < 0.8 < few[SLICED_W2]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[Row, ...]]:
    out = tmp_path_factory.mktemp("oracle")
    plan = plan_oracle(small(), ["vm", "vm:official", "pcm"], [0, 1])
    return out, run_oracle(plan, out, Here()).rows  # type: ignore[arg-type]


def test_a_run_leaves_rows_figures_and_a_manifest(finished: tuple[Path, tuple[Row, ...]]):
    out, rows = finished
    assert tuple(read_rows(out / "rows.jsonl")) == rows
    assert {row.status for row in rows} == {"ok"}
    assert {row.stage for row in rows} == {"oracle/gaussian-cfg", "oracle/modes"}
    assert sorted(path.name for path in (out / "figures").iterdir()) == ["pcm.png", "vm.png", "vm_official.png"]
    assert Image.open(out / "figures" / "vm.png").size[0] > 2 * 280
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["train_seeds"] == [0, 1]
    assert "finished_s" in manifest


def test_every_sampler_is_reported_beyond_one_step(finished: tuple[Path, tuple[Row, ...]]):
    found = {
        (row.variant, row.steps, row.sampler, row.own_sampler)
        for row in finished[1]
        if row.method == "vm" and row.metric == SLICED_W2
    }
    assert found == {
        ("", 1, "renoise", True),
        ("", 2, "renoise", True),
        ("", 2, "euler", False),
        ("official", 1, "euler", True),
        ("official", 2, "euler", True),
        ("official", 2, "renoise", False),
    }


def test_the_teacher_is_guided_where_the_problem_is(finished: tuple[Path, tuple[Row, ...]]):
    rows = finished[1]
    guided = [row for row in rows if (row.method, row.variant) == ("none", "cfg")]
    assert {row.stage for row in guided} == {"oracle/gaussian-cfg"}
    assert {(row.steps, row.nfe) for row in guided} == {(1, 2), (2, 4)}
    teacher = {row.stage: row.nfe for row in rows if row.method == "teacher"}
    assert teacher == {"oracle/gaussian-cfg": 50, "oracle/modes": 25}
    assert all(row.value < 0.15 for row in rows if row.method == "teacher" and row.metric == TRANSPORT)


def test_official_variants_get_the_strength_of_the_problem():
    for label in ("vm:official", "mdt:official"):
        method = next(e.method for e in plan_oracle(small(), [label]).entrants if e.label == label)
        assert method.cfg_strength == STRENGTH
        assert getattr(method, "vd_cfg_strength", STRENGTH) == STRENGTH


def test_a_second_run_computes_nothing_and_gives_the_same(finished: tuple[Path, tuple[Row, ...]]):
    out, rows = finished
    plan, again = plan_oracle(small(), ["vm", "vm:official", "pcm"], [0, 1]), Here()
    rows_again = run_oracle(plan, out, again).rows  # type: ignore[arg-type]
    assert again.jobs == []
    assert [(row.stage, row.value) for row in rows_again] == [(row.stage, row.value) for row in rows]


def test_a_student_is_the_same_alone_as_with_others(finished: tuple[Path, tuple[Row, ...]], tmp_path: Path):
    rows = run_oracle(plan_oracle(small(), ["vm"], [1]), tmp_path, Here()).rows  # type: ignore[arg-type]

    def of_vm(found: Sequence[Row]) -> list[float | None]:
        return [row.value for row in found if (row.method, row.variant, row.train_seed) == ("vm", "", 1)]

    assert of_vm(rows)
    assert of_vm(rows) == of_vm(finished[1])


def test_a_student_that_fails_is_a_line_of_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    plan = plan_oracle(small(), ["vm", "gd"], [0])
    broken = plan.trainings[0].folder
    train = run_module.run_train
    monkeypatch.setattr(run_module, "run_train", lambda job: _failing(train, job, broken))
    outcome = run_oracle(plan, tmp_path, Here())  # type: ignore[arg-type]
    assert outcome.failed_students == {broken: Failure("no numbers")}
    failed = [row for row in outcome.rows if row.status == "failed"]
    assert {row.method for row in failed} == {"vm"}
    assert {row.metric for row in failed} == {SLICED_W2, TRANSPORT}
    assert "no numbers" in to_markdown(oracle_tables(rows_frame(outcome.rows)))
    assert not (tmp_path / "figures" / "vm.png").exists()
    assert (tmp_path / "figures" / "gd.png").exists()


def _failing(train: Callable[[Any], dict[str, Failure]], job: Any, folder: str) -> dict[str, Failure]:
    return train(job) | ({folder: Failure("no numbers")} if folder in {t.folder for t in job.trainings} else {})


def test_there_is_a_table_per_problem_in_every_format(finished: tuple[Path, tuple[Row, ...]]):
    tables = oracle_tables(rows_frame(finished[1]))
    assert [table.name for table in tables] == ["oracle_gaussian-cfg", "oracle_modes"]
    columns = [column.key for column in tables[1].columns]
    assert columns == ["method", "steps", "nfe", TRANSPORT, SLICED_W2, "SW2:2:own", "SW2:2:renoise", "SW2:2:euler"]
    assert [line.method for line in tables[1].rows] == ["vm", "vm", "pcm", "none", "teacher", "floor"]
    vm = next(line for line in tables[1].rows if (line.method, line.variant) == ("vm", ""))
    values = [
        row.value
        for row in finished[1]
        if (row.stage, row.method, row.variant) == ("oracle/modes", "vm", "")
        and (row.metric, row.steps) == (TRANSPORT, 1)
    ]
    cell = vm.cells[3]
    assert cell.value == pytest.approx(sum(values) / 2)
    assert cell.n_train == 2
    assert cell.text.count("±") == 1
    places = {column.key: i for i, column in enumerate(tables[1].columns)}
    samplers = {"vm": "renoise", "vm:official": "euler"}  # each one's own; that of pcm computes what euler does
    for line in tables[1].rows[:2]:
        label = f"{line.method}:{line.variant}".removesuffix(":")
        assert line.cells[places["SW2:2:own"]].value == line.cells[places[f"SW2:2:{samplers[label]}"]].value
    assert tables[1].rows[2].cells[places["SW2:2:own"]] == tables[1].rows[2].cells[places["SW2:2:euler"]]
    assert TypeAdapter(Report).validate_json(to_json(tables)).tables == tables
    for text in (to_rich(tables), to_latex(tables), to_csv(tables), to_markdown(tables)):
        assert "modes" in text
    assert "out of its design" in to_markdown(tables)  # pcm at fewer steps than its phases


def test_presets_are_told_apart():
    assert is_oracle("oracle")
    assert not is_oracle("tiny")


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ('oracle.problems=["mode"]', "Did you mean 'modes'"),
        ('oracle.problems=["modes","pictures"]', "two families"),
        ("train.step=3", "Did you mean 'train.steps'"),
        ('evaluate.samplers=["eule"]', "euler"),
        ("train.batch=0", "train.batch"),
        ("evaluate.steps=[0]", "evaluate.steps"),
        ("world=tiny", "Unknown key 'world'"),
    ],
)
def test_a_wrong_key_or_value_is_one_line(change: str, part: str):
    with pytest.raises(UsageError) as caught:
        load_oracle_config("oracle", [change])
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("label", ["vn", "vm:oficial"])
def test_unknown_methods_are_refused(label: str):
    with pytest.raises(UsageError, match="Did you mean"):
        plan_oracle(small(), [label])


def test_the_summary_names_students_and_cost():
    text = oracle_summary(plan_oracle(small(), ["vm", "gd"], [0, 3]), workers=2)
    assert "gaussian-cfg, modes" in text
    assert "4 students" in text
    assert "min" in text


def test_equal_passes_are_those_of_cm():
    config = load_oracle_config("oracle", [*SMALL, "train.steps=100", "train.budget=forwards"])
    plan = plan_oracle(config, ["cm", "gd", "ayf", "tcm"], [0])
    spent = [sum(one.entrant.distillation.cost() * one.steps for one in t.chain) for t in plan.trainings]
    assert spent == pytest.approx([600] * 4, rel=0.02)
    assert {t.steps for t in plan_oracle(small(), ["cm", "ayf"], [0]).trainings} == {4}


def test_equal_seconds_are_measured_once_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    seconds = {"cm": 2.0, "vm": 1.0, "ect": 1.0, "tcm": 4.0}
    asked: list[str] = []

    def measured(job: TimeJob) -> dict[str, float]:
        asked.extend(who.label for who in job.entrants)
        return {label: seconds[label] for label in asked}

    monkeypatch.setattr(run_module, "run_time", measured)
    plan = plan_oracle(load_oracle_config("oracle", [*SMALL, "train.budget=seconds"]), ["vm", "tcm"], [0])
    students = run_oracle(plan, tmp_path, Here()).students  # type: ignore[arg-type]
    # vm twice as many as the 4 of cm; tcm 0.7 of 8 steps of ect, and 0.3 of 2 of its own.
    assert [(one.method, one.steps, one.budget) for one in students] == [
        ("vm", 8, "seconds"),
        ("tcm", 6 + 1, "seconds"),
    ]
    assert all(one.seconds and one.stage == "oracle" for one in students)
    assert read_students(tmp_path) == list(students)
    assert [table.name for table in tables(read_run(tmp_path))][-1] == "training_budget"
    assert sorted(asked) == sorted(seconds)
    run_oracle(plan, tmp_path, Here())  # type: ignore[arg-type]
    assert len(asked) == len(seconds)


def test_steps_are_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(budget, "TIMED_STEPS", 1)
    plan = plan_oracle(load_oracle_config("oracle", [*SMALL, "train.budget=seconds"]), ["vm"], [0])
    found = run_time(TimeJob(plan.config, (plan.trainings[0].entrant,)))
    assert list(found) == ["vm"]
    assert 0 < found["vm"] < 60


def test_a_rate_of_a_methods_own_goes_before_that_of_all():
    config = load_oracle_config("modes", ["methods.vm.lr=0.5"])
    found = {t.entrant.label: t.entrant.distillation.lr for t in plan_oracle(config, ["vm", "cm"], [0]).trainings}
    assert found == {"vm": 0.5, "cm": config.train.lr}
