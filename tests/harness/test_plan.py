"""The plan: which rows are always there, and that a result's address changes with its inputs and with nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from mdtbench.assets.toys import ToySource
from mdtbench.base.errors import UsageError
from mdtbench.harness.config import load_config
from mdtbench.harness.plan import Plan, resolve
from mdtbench.harness.run import balanced
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
    config = load_config("smoke", list(changes))
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
