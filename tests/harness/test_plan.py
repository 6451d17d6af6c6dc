"""The plan: which rows are always there, and that a result's address changes with its inputs and with nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from mdtbench.assets.toys import ToySource
from mdtbench.base.errors import UsageError
from mdtbench.flow.samplers import Euler, Sampler
from mdtbench.harness.config import load_config
from mdtbench.harness.parameters import entrant
from mdtbench.harness.plan import Plan, resolve, with_rates, with_step_seconds
from mdtbench.harness.workshop import balanced
from mdtbench.methods import METHODS, Distillation, Loss, Step
from mdtbench.trellis.pipeline import SamplerParams

SAMPLER = SamplerParams(steps=25, cfg_strength=2.0, cfg_interval=(0.0, 1.0), rescale_t=1.0)


def plan(
    *changes: str,
    methods: Sequence[str] = ("cm", "vm"),
    train_seeds: Sequence[int] = (0,),
    limit: int | None = None,
    world_sha: str = "w",
    sampler: SamplerParams = SAMPLER,
) -> Plan:
    config = load_config("smoke", list(changes)).first_stage
    test = ToySource("test", config.data.test, config.data.seed)
    return resolve(config, methods, train_seeds, test, limit, Path("world"), world_sha, sampler)


def students(made: Plan) -> dict[str, str]:
    return {f"{t.entrant.label} {t.seed}": t.folder for t in made.trainings}


def cells(made: Plan) -> dict[tuple, str]:
    return {(c.entrant.label, c.training and c.training.seed, c.steps, c.seed): c.folder for c in made.cells}


def changed(a: dict, b: dict) -> set:
    """Keys of both whose address differs."""
    return {key for key in a.keys() & b.keys() if a[key] != b[key]}


def test_undistilled_rows_and_the_teacher_are_always_there():
    assert [e.label for e in plan(methods=()).entrants] == ["none", "none:cfg", "teacher"]
    assert [e.label for e in plan(methods=("teacher", "vm")).entrants] == ["teacher", "vm", "none", "none:cfg"]


def test_a_cell_per_method_steps_and_seeds_and_one_teacher_per_generation_seed():
    made = plan("evaluate.steps=[1,2]", "evaluate.seeds=[3,4,5]", methods=("vm",), train_seeds=(0, 1))
    found = cells(made)
    assert len(found) == len(made.cells) == len(set(found.values()))
    assert {key for key in found if key[0] == "vm"} == {
        ("vm", t, n, s) for t in (0, 1) for n in (1, 2) for s in (3, 4, 5)
    }
    assert {key for key in found if key[0] == "teacher"} == {("teacher", None, 25, s) for s in (3, 4, 5)}
    assert {key[2] for key in found if key[0] == "none"} == {1, 2}
    assert [t.seed for t in made.trainings] == [0, 1]


def test_the_backbones_sampler_settings_reach_the_methods_and_changes_win():
    made = plan("methods.none.cfg_strength=7.0", sampler=SamplerParams(12, 3.0, (0.5, 1.0), 4.0))
    by_label = {e.label: e.method for e in made.entrants}
    assert by_label["vm"].cfg_strength == 3.0
    assert by_label["vm"].rescale_t == 4.0
    assert (
        repr(by_label["teacher"].sampler(1))
        == "Euler(steps=12, rescale_t=4.0, cfg_strength=3.0, cfg_interval=(0.5, 1.0))"
    )
    assert by_label["none:cfg"].sampler(1).cfg_strength == 7.0
    assert by_label["none"].sampler(1).cfg_strength == 0.0


def test_the_same_inputs_have_the_same_addresses():
    assert (students(plan()), cells(plan()), plan().key) == (students(plan()), cells(plan()), plan().key)


@pytest.mark.parametrize(
    "change", ["train.lr=1e-3", "train.steps=21", "train.batch=17", "train.ema=0.5", "data.train=99", "data.seed=1"]
)
def test_training_settings_change_every_student_and_its_shapes(change: str):
    before, after = plan(), plan(change)
    assert changed(students(before), students(after)) == {"cm 0", "vm 0"}
    trained = {key for key in cells(before) if key[0] in ("cm", "vm")}
    assert changed(cells(before), cells(after)) >= trained
    if not change.startswith("data.seed"):  # which is that of the test toys, too
        assert changed(cells(before), cells(after)) == trained
    assert before.key != after.key


def test_another_world_changes_everything():
    before, after = plan(), plan(world_sha="other")
    assert changed(students(before), students(after)) == {"cm 0", "vm 0"}
    assert changed(cells(before), cells(after)) == set(cells(before))


def test_a_methods_parameter_changes_that_method_alone():
    before, after = plan(), plan("methods.vm.delta=0.02")
    assert changed(students(before), students(after)) == {"vm 0"}
    assert {key[0] for key in changed(cells(before), cells(after))} == {"vm"}


@pytest.mark.parametrize("other", [{"limit": 4}, {"changes": ["data.test=25"]}])
def test_another_test_set_changes_shapes_and_trains_no_student_again(other: dict):
    before, after = plan(), plan(*other.get("changes", []), limit=other.get("limit"))
    assert students(before) == students(after)
    assert changed(cells(before), cells(after)) == set(cells(before))
    assert before.key != after.key


def test_another_generation_seed_has_its_own_shapes():
    before, after = plan("evaluate.seeds=[0,1]"), plan("evaluate.seeds=[1,2]")
    assert students(before) == students(after)
    assert changed(cells(before), cells(after)) == set()
    assert set(cells(before).values()) != set(cells(after).values())
    by_seed = {key[3]: folder for key, folder in cells(after).items() if key[:3] == ("vm", 0, 1)}
    assert by_seed[1] != by_seed[2]
    assert before.key != after.key


def test_another_training_seed_is_another_student():
    made = students(plan(train_seeds=(0, 1)))
    assert len(set(made.values())) == 4
    assert {key: made[key] for key in ("cm 0", "vm 0")} == students(plan())


def test_adding_a_method_leaves_the_others_alone():
    before, after = plan(methods=("vm",)), plan(methods=("scm", "vm", "mdt"))
    assert changed(students(before), students(after)) == set()
    assert changed(cells(before), cells(after)) == set()
    assert set(students(after)) == {"scm 0", "vm 0", "mdt 0"}
    assert before.key != after.key


def test_what_changes_no_result_changes_no_address():
    before, after = plan(), plan("evaluate.batch=3")
    assert (students(before), cells(before), before.key) == (students(after), cells(after), after.key)


def test_naming_something_twice_does_it_once():
    once = plan("evaluate.seeds=[0]", methods=("vm",))
    twice = plan("evaluate.seeds=[0,0]", "evaluate.steps=[1,2,1]", methods=("vm", "vm"), train_seeds=(0, 0))
    assert len(twice.trainings) == 1
    assert [cell.folder for cell in twice.cells] == [cell.folder for cell in once.cells]


@pytest.mark.parametrize(
    ("methods", "changes", "parts"),
    [
        (["mtd"], [], ["Unknown method 'mtd'", "Did you mean 'mdt'?", "Available: cm, "]),
        (["none:cgf"], [], ["variant of method 'none'", "Did you mean 'cfg'?"]),
        (["vm:cfg"], [], ["variant of method 'vm'", "'cfg'"]),
        (["vm"], ["methods.vm.dleta=0.1"], ["parameter of method 'vm'", "Did you mean 'delta'?"]),
        (["cm"], ["methods.vmm.delta=0.1"], ["Unknown method 'vmm'", "'vm'"]),
        (["vm"], ["methods.vm.delta=abc"], ["delta", "abc"]),
        (["vm"], ["methods.vm.phases=2"], ["parameter of method 'vm'", "phases"]),
        (["vm"], ["evaluate.steps=[0]"], ["steps", "0"]),
        (["vm"], ["evaluate.steps=[]"], ["steps"]),
        (["vm"], ["evaluate.seeds=[]"], ["seeds"]),
        (["vm"], ["train.lr=inf"], ["train.lr"]),
        (["vm"], ["methods.vm.delta=nan"], ["delta", "nan"]),
        (["vm"], ["evaluate.samplers=['euller']"], ["sampler 'euller'", "Did you mean 'euler'?"]),
        (["vm"], ["sweep.lr=[1e-4]", "sweep.metric=FD_tiny2"], ["metric 'FD_tiny2'", "Did you mean 'FD_tiny2d'?"]),
        (["vm"], ["sweep.lr=[1e-4]", "train.lr=1e-3"], ["train.lr", "sweep.lr"]),
        (["vm"], ["sweep.lr=[0.0]"], ["sweep.lr"]),
        (["vm"], ["train.budget=time"], ["train.budget", "'steps', 'forwards' or 'seconds'"]),
    ],
)
def test_a_wrong_name_or_value_is_a_usage_error(methods: list[str], changes: list[str], parts: list[str]):
    with pytest.raises(UsageError) as caught:
        plan(*changes, methods=methods)
    for part in parts:
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_balanced_is_a_partition_into_parts_of_similar_cost():
    trainings = plan(methods=("cm", "pcm", "scm", "vm", "mdt")).trainings
    for groups in (1, 2, 3, 5, 9):
        parts = balanced(trainings, groups)
        assert len(parts) == min(groups, 5)
        assert sorted(t.entrant.label for part in parts for t in part) == ["cm", "mdt", "pcm", "scm", "vm"]
        assert all(parts)
    costs = [sum(t.entrant.method.cost() for t in part) for part in balanced(trainings, 2)]
    assert sorted(costs) == [19, 20]  # 13 + 6 | 8 + 6 + 6
    assert balanced([], 4) == []


def test_students_are_sampled_with_other_samplers_only_where_these_compute_something_else():
    made = plan("evaluate.samplers=['renoise','euler']", "evaluate.seeds=[0]", methods=("vm", "pcm", "vm:official"))
    found = {}
    for cell in made.cells:
        found.setdefault(cell.entrant.label, []).append((cell.sampler.name, cell.steps, cell.own))
    assert found["vm"] == [("renoise", 1, True), ("renoise", 2, True), ("euler", 2, False)]
    assert found["pcm"] == [("phase", 1, True), ("phase", 2, True), ("renoise", 2, False)]
    assert found["vm:official"] == [("euler", 1, True), ("euler", 2, True), ("renoise", 2, False)]
    assert found["none"] == [("euler", 1, True), ("euler", 2, True)]
    plain = plan("evaluate.seeds=[0]", methods=("vm", "pcm", "vm:official"))
    assert [cell.folder for cell in plain.cells] == [cell.folder for cell in made.cells if cell.own]
    assert plan().key != plan("evaluate.samplers=['euler']").key


@pytest.mark.parametrize("budget", ["steps", "forwards", "seconds"])
def test_a_budget_gives_every_method_the_same_amount(budget: str):
    made = plan(f"train.budget={budget}", "train.steps=150", methods=("cm", "mdt", "gd", "kd"))
    if budget == "seconds":
        made = with_step_seconds(made, {"cm": 0.5, "mdt": 1.0, "gd": 0.4, "kd": 2.0})
    steps = {t.entrant.label: t.steps for t in made.trainings}
    expected = {
        "steps": {"cm": 150, "mdt": 150, "gd": 150, "kd": 150},
        "forwards": {"cm": 150, "mdt": 69, "gd": 180, "kd": 17},  # 6, 13, 5, 53 passes
        "seconds": {"cm": 150, "mdt": 75, "gd": 188, "kd": 38},
    }
    assert steps == expected[budget]


def test_measured_seconds_change_students_and_leave_the_run_where_it_is():
    before = plan("train.budget=seconds")
    after = with_step_seconds(before, {"cm": 0.5, "vm": 1.0})
    assert changed(students(before), students(after)) == {"vm 0"}
    assert before.key == after.key
    assert students(plan()) == students(before)  # cm and vm cost the same: what is trained is the same


def test_a_sweep_trains_a_student_per_rate_and_the_chosen_one_is_the_runs_own():
    made = plan("sweep.lr=[1e-4,5e-4]", "sweep.seed=1", train_seeds=(0, 1))
    assert [(c.entrant.label, c.entrant.distillation.lr, c.training and c.training.seed) for c in made.grid] == [
        ("cm", 1e-4, 1), ("cm", 5e-4, 1), ("vm", 1e-4, 1), ("vm", 5e-4, 1)
    ]  # fmt: skip
    assert {(cell.steps, cell.seed, cell.own) for cell in made.grid} == {(1, 1, True)}
    assert not {cell.folder for cell in made.grid} & {cell.folder for cell in made.cells}
    decided = with_rates(made, {"cm": 5e-4})
    folders = {c.training.folder for c in made.grid if c.training}
    assert [t.folder in folders for t in decided.trainings] == [False, True, False, False]  # cm 0, cm 1, vm 0, vm 1
    assert [t.entrant.distillation.lr for t in decided.trainings] == [5e-4, 5e-4, 4e-4, 4e-4]
    assert changed(students(made), students(decided)) == {"cm 0", "cm 1"}
    assert {key[0] for key in changed(cells(made), cells(decided))} == {"cm"}
    assert decided.grid == made.grid
    assert decided.key == made.key != plan().key
    assert plan().grid == ()


def test_the_grid_is_scored_on_no_test_asset():
    """Its shapes do not depend on the test set, and those of the test set are of another split."""
    grids = [plan("sweep.lr=[1e-4]", limit=limit).grid for limit in (None, 4)]
    assert grids[0] == grids[1]
    more = plan("sweep.lr=[1e-4]", "sweep.assets=65").grid
    assert {cell.folder for cell in more}.isdisjoint(cell.folder for cell in grids[0])
    assert [c.training for c in more] == [c.training for c in grids[0]]


@dataclass(frozen=True)
class Smooth:
    width: float = 0.1
    ends: tuple[float, ...] = (0.0, 1.0)


@dataclass(frozen=True)
class Sharp:
    pass


@dataclass(frozen=True, kw_only=True)
class Choosy(Distillation):
    scaling: Smooth | Sharp = field(default=Smooth(), metadata={"choices": {"smooth": Smooth(), "sharp": Sharp()}})
    limit: float | None = None

    def loss(self, step: Step) -> Loss:
        raise NotImplementedError

    def sampler(self, n_steps: int) -> Sampler:
        return Euler(n_steps)

    def cost(self) -> float:
        return 5


@pytest.fixture
def choosy(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(METHODS, "_entries", dict(METHODS._entries))
    METHODS.register("choosy", version=1, source="", variants={"": {}, "wide": {"scaling": Smooth(9.0)}})(Choosy)
    return "choosy"


def scaling(label: str, *changes: str) -> object:
    made = plan(*changes, methods=(label,)).entrants[0].method
    assert isinstance(made, Choosy)
    return made.scaling


def test_a_parameter_with_choices_is_named_and_one_that_is_an_object_is_changed_inside(choosy: str):
    assert scaling("choosy") == Smooth()
    assert scaling("choosy", "methods.choosy.scaling=sharp") == Sharp()
    assert scaling("choosy:wide", "methods.choosy.scaling=smooth") == Smooth()
    assert scaling("choosy", "methods.choosy.scaling.width=0.5") == Smooth(0.5)
    inside = ["methods.choosy.scaling.width=2", "methods.choosy.scaling.ends=[0.5]"]
    assert scaling("choosy", *inside) == Smooth(2, (0.5,))
    assert scaling("choosy:wide", "methods.choosy.scaling.ends=[0.5]") == Smooth(9.0, (0.5,))  # of the variant's object
    folders = [set(students(plan(*c, methods=(choosy,))).values()) for c in ([], inside[:1], inside[1:])]
    assert len(set().union(*folders)) == 3
    assert entrant("choosy", {"choosy": {"limit": 3}}, SAMPLER).method == Choosy(cfg_strength=2.0, limit=3)


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ("scaling=shrap", ["methods.choosy.scaling 'shrap'", "Did you mean 'sharp'?", "smooth"]),
        ("scaling=3", ["methods.choosy.scaling '3'", "Available: sharp, smooth"]),
        ("scaling.widht=3", ["parameter of methods.choosy.scaling 'widht'", "Did you mean 'width'?"]),
        ("scaling.width=wide", ["methods.choosy.scaling.width", "0.1", "'wide'"]),
        ("scaling.ends=3", ["methods.choosy.scaling.ends", "(0.0, 1.0)", "(got 3)"]),
        ("limit=low", ["methods.choosy.limit", "a number", "'low'"]),
    ],
)
def test_a_wrong_choice_or_nested_value_is_a_usage_error(choosy: str, change: str, parts: list[str]):
    with pytest.raises(UsageError) as caught:
        plan(f"methods.choosy.{change}", methods=(choosy,))
    for part in parts:
        assert part in str(caught.value)


def test_a_parameter_without_a_text_of_its_own_is_refused(monkeypatch: pytest.MonkeyPatch):
    """Its address in memory would give every call other students."""
    monkeypatch.setattr(METHODS, "_entries", dict(METHODS._entries))
    METHODS.register("odd", version=1, source="", variants={"": {"scaling": object()}})(Choosy)
    with pytest.raises(UsageError, match="place in memory"):
        plan(methods=("odd",))
