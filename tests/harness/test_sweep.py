"""The sweep and the budget on a few toys: what is chosen, what is reused, what is never looked at."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mdtbench.assets.toys import ToySource
from mdtbench.base.errors import UsageError
from mdtbench.harness import budget, workshop
from mdtbench.harness.budget import step_seconds, students
from mdtbench.harness.config import load_config
from mdtbench.harness.jobs import SHAPE_FIELDS
from mdtbench.harness.parameters import Entrant
from mdtbench.harness.plan import Plan, resolve, with_rates
from mdtbench.harness.references import reconstructed, truth_of
from mdtbench.harness.sweep import hopeless, rates, sweep_rates
from mdtbench.harness.train import student_file
from mdtbench.harness.workshop import Workshop
from mdtbench.harness.world import World
from mdtbench.methods import METHODS, Distillation, Loss, Step
from mdtbench.methods.vm import VelocityMatching
from mdtbench.trellis.pipeline import SamplerParams

SETTINGS = ["train.steps=2", "train.batch=2", "data.train=3", "sweep.assets=3", "evaluate.seeds=[0]"]
GRID = "sweep.lr=[1e-4,2e-3]"


@dataclass
class Inline:
    """Workers that are this process; remembers what it was asked to do."""

    count: int = 2
    phases: list[str] = field(default_factory=list)

    def map(self, function: Callable, items: Sequence, label: str, total: int) -> list:
        self.phases += [label] if items else []
        return [function(item) for item in items]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@dataclass
class Bench:
    plan: Plan
    shop: Workshop
    team: Inline


@pytest.fixture
def bench(tiny_folder: Path, tiny_world: World, cache: Path, tmp_path: Path) -> Callable[..., Bench]:
    def make(*changes: str, methods: Sequence[str] = ("vm",), out: Path = tmp_path / "run") -> Bench:
        config = load_config("smoke", [*SETTINGS, *changes]).first_stage
        params = SamplerParams(2, 2.0, (0.0, 1.0), 1.0)
        test = ToySource("test", 3)
        plan = resolve(config, methods, (0,), test, None, tiny_folder, tiny_world.digest, params)
        team: Any = Inline()
        return Bench(plan, Workshop(config, tiny_folder, tiny_world.digest, out, cache, team), team)

    return make


@dataclass(frozen=True, kw_only=True)
class Fragile(VelocityMatching):
    """Fails above a learning rate."""

    most: float = 1.0

    def loss(self, step: Step) -> Loss:
        if self.lr > self.most:
            raise ValueError("too fast")
        return super().loss(step)


@pytest.fixture
def fragile(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(METHODS, "_entries", dict(METHODS._entries))
    variants = {"": {"most": 1e-3}, "never": {"most": 0.0}}
    METHODS.register("fragile", version=1, source="", variants=variants)(Fragile)


def weights(made: Bench, folder: str) -> bytes:
    return student_file(made.shop.out / folder).read_bytes()


def test_a_sweep_chooses_resumes_and_never_sees_a_test_toy(bench: Callable[..., Bench], cache: Path):
    made = bench(GRID)
    record = sweep_rates(made.plan, made.shop)
    scores = {trial.lr: trial.score for trial in record.trials}
    assert set(scores) == {1e-4, 2e-3}
    assert len(set(scores.values())) == 2
    best = min(scores, key=lambda lr: scores[lr] or 0.0)  # FD: lower is better
    assert rates(made.plan, record) == {"vm": best}
    assert hopeless(made.plan, record) == {}
    assert made.team.phases.count("try learning rates") == 1  # all rates in lockstep
    assert list(cache.glob("prepared-toys-validation-*"))
    assert not list(cache.glob("*toys-test*"))

    again = bench(GRID)
    assert sweep_rates(again.plan, again.shop) == record
    assert again.team.phases == []

    decided = with_rates(made.plan, rates(made.plan, record))
    again.shop.train(decided.trainings, "distil")
    assert again.team.phases == []  # the chosen student is the run's own
    [told] = students(decided, made.shop.out, {})
    assert (told.lr, told.grid, told.steps, told.batch, told.forwards) == (best, 2, 2, 2, 6)


def test_a_student_of_the_grid_is_the_one_that_trains_alone(bench: Callable[..., Bench], tmp_path: Path):
    """Bit for bit, beside another rate of its own method and another method."""
    together = bench(GRID, methods=("vm", "scm"), out=tmp_path / "together")
    together = replace(together, shop=replace(together.shop, team=Inline(count=1)))  # one group of four
    together.shop.train([cell.training for cell in together.plan.grid if cell.training], "x")
    alone = bench("methods.vm.lr=2e-3", out=tmp_path / "alone")
    [training] = alone.plan.trainings
    alone.shop.train([training], "x")
    assert weights(together, training.folder) == weights(alone, training.folder)
    assert len({weights(together, c.training.folder) for c in together.plan.grid if c.training}) == 4


def test_failed_students_lose_and_a_method_without_any_is_a_failure_row(fragile: None, bench: Callable[..., Bench]):
    made = bench(GRID, methods=("fragile", "fragile:never"))
    record = sweep_rates(made.plan, made.shop)
    assert rates(made.plan, record) == {"fragile": 1e-4}
    errors = {(trial.variant, trial.lr): trial.error for trial in record.trials}
    assert errors["", 1e-4] is None
    assert "too fast" in (errors["", 2e-3] or "")
    reasons = hopeless(made.plan, record)
    assert list(reasons) == [t.folder for t in made.plan.trainings if t.entrant.variant == "never"]
    [reason] = reasons.values()
    assert reason.startswith("no learning rate gave a student: 0.0001: ValueError: too fast")
    again = bench(GRID, methods=("fragile", "fragile:never"))
    assert sweep_rates(again.plan, again.shop) == record
    assert again.team.phases == []  # what failed is not tried again


def test_a_metric_that_needs_the_teachers_shapes_is_refused_before_any_training(bench: Callable[..., Bench]):
    made = bench(GRID, "sweep.metric=MSE_teacher")
    with pytest.raises(UsageError, match="'MSE_teacher' compares with the teacher's shapes"):
        sweep_rates(made.plan, made.shop)
    assert "try learning rates" not in made.team.phases


def test_seconds_of_a_step_are_measured_once(
    fragile: None, bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
):
    made = bench("train.budget=seconds", methods=("vm", "fragile:never"))
    first = step_seconds(made.plan, made.shop)
    assert set(first) == {"cm", "vm"}  # cm is the yardstick; what fails has no time
    assert all(0 < seconds < 60 for seconds in first.values())
    more = bench("train.budget=seconds", methods=("scm", "vm", "fragile:never"))
    asked: list[str] = []

    def measured(self: Workshop, entrants: Sequence[Entrant], stage: str) -> dict[str, float]:
        asked.extend(who.label for who in entrants)
        return {who.label: 1.0 for who in entrants}

    monkeypatch.setattr(workshop.Workshop, "step_seconds", measured)
    assert step_seconds(more.plan, more.shop) == first | {"scm": 1.0}
    assert asked == ["scm"]
    assert sorted(path.name for path in more.shop.out.iterdir()) == [budget.BUDGET_FILE]  # no student is left behind


def test_observed_assets_do_not_depend_on_the_split_and_are_kept(
    bench: Callable[..., Bench], tiny_world: World, monkeypatch: pytest.MonkeyPatch
):
    made, source = bench(), ToySource("validation", 3)
    toys = made.shop.prepare(source)
    truth, rebuilt = truth_of(tiny_world, toys), reconstructed(tiny_world, toys.occupancy, toys.ids)
    monkeypatch.setattr(workshop, "SHARD", 2)
    for _ in range(2):
        shared, others = made.shop.truth(source, toys), made.shop.reconstruction(source, toys)
        for name in SHAPE_FIELDS:
            assert np.array_equal(getattr(shared.shapes, name), getattr(truth.shapes, name)), name
            assert np.array_equal(getattr(others, name), getattr(rebuilt, name)), name
        assert np.array_equal(shared.embedding, truth.embedding)
    assert made.team.phases.count("truth of toys-validation") == 1
    assert made.team.phases.count("reconstruction of toys-validation") == 1


def test_distillation_is_asked_of_methods_that_train_only(bench: Callable[..., Bench]):
    by_label = {who.label: who for who in bench().plan.entrants}
    assert isinstance(by_label["vm"].distillation, Distillation)
    assert by_label["vm"].at_rate(0.5).distillation.lr == 0.5
    with pytest.raises(TypeError, match="teacher does not train"):
        by_label["teacher"].at_rate(0.5)
