"""The plan of the second stage: which assets there are, and that an address changes with its inputs alone."""

from __future__ import annotations

import pytest
from whole_plans import SLAT_SAMPLER, asset_plan

from mdtbench.base.errors import UsageError
from mdtbench.flow.samplers import Euler
from mdtbench.harness.plan import SLAT, AssetCell, Plan, SecondStagePlan, with_rates, with_step_seconds
from mdtbench.results.rows import BOTH, STRUCTURE, STRUCTURE_THEN_TEACHER, TEACHER_THEN_SLAT
from mdtbench.trellis.pipeline import SamplerParams


def second(made: Plan) -> SecondStagePlan:
    assert made.second is not None
    return made.second


def students(made: Plan) -> dict[str, str]:
    return {f"{t.entrant.label} {t.seed}": t.folder for t in second(made).trainings}


def key(cell: AssetCell) -> tuple:
    seed = cell.trainings[0].seed if cell.trainings else None
    return cell.stage, cell.who.label, seed, cell.steps, cell.seed


def cells(made: Plan) -> dict[tuple, str]:
    return {key(cell): cell.folder for cell in second(made).cells}


def changed(a: dict, b: dict) -> set:
    """Keys of both whose address differs."""
    assert a.keys() == b.keys()
    return {one for one in a if a[one] != b[one]}


def test_every_own_cell_becomes_whole_assets_by_both_stages():
    made = asset_plan("evaluate.samplers=['euler']", "evaluate.seeds=[0,1]", train_seeds=(0, 1))
    both = [cell for cell in second(made).cells if cell.stage == BOTH]
    assert [cell.structure for cell in both] == [cell for cell in made.cells if cell.own]
    assert len([cell for cell in made.cells if not cell.own]) > 0  # another sampler of the structures has no assets
    for cell in both:
        assert cell.entrant.label == cell.structure.entrant.label
        assert (cell.training is None) == (cell.structure.training is None)
        if cell.training and cell.structure.training:
            assert cell.training.seed == cell.structure.training.seed
            assert (cell.training.stage, cell.structure.training.stage) == (SLAT, STRUCTURE)
            assert cell.trainings == (cell.structure.training, cell.training)
            assert cell.sampler.steps == cell.structure.steps == cell.steps
    assert len(cells(made)) == len(second(made).cells)
    assert second(made).cells == tuple(both)  # nobody asked for one stage apart
    assert {cell.seed for cell in both if cell.who.label == "teacher"} == {0, 1}
    assert len([cell for cell in both if cell.who.label == "teacher"]) == 2  # once per generation seed


def test_the_second_stages_teacher_is_sampled_as_its_own_file_says():
    made = asset_plan(slat_sampler=SamplerParams(7, 3.0, (0.5, 1.0), 2.0))
    teacher = next(cell for cell in second(made).cells if cell.who.label == "teacher")
    assert teacher.sampler == Euler(7, 2.0, 3.0, (0.5, 1.0))
    assert teacher.structure.sampler.steps == teacher.steps == 25  # of its row: the structure's
    by_label = {who.label: who.method for who in second(made).entrants}
    assert by_label["vm"].cfg_strength == by_label["none:cfg"].sampler(1).cfg_strength == 3.0
    assert by_label["vm"].rescale_t == 2.0
    assert {who.label: who.method.cfg_strength for who in made.entrants}["vm"] == 2.0


def test_one_stage_is_left_to_the_teacher_for_the_seeds_that_ask():
    made = asset_plan("evaluate.apart=[1]", "evaluate.seeds=[0,1]", "evaluate.steps=[1,2]", train_seeds=(0, 1))
    apart = [cell for cell in second(made).cells if cell.stage != BOTH]
    expected = {
        (stage, who, train_seed, steps, 1)
        for stage in (STRUCTURE_THEN_TEACHER, TEACHER_THEN_SLAT)
        for who in ("cm", "vm")
        for train_seed in (0, 1)
        for steps in (1, 2)
    }
    assert {key(cell) for cell in apart} == expected
    assert len(apart) == len(expected)
    for cell in apart:
        if cell.stage == STRUCTURE_THEN_TEACHER:
            assert cell.structure.training is not None
            assert (cell.entrant.label, cell.training) == ("teacher", None)
            assert cell.sampler.steps == SLAT_SAMPLER.steps
        else:
            assert (cell.structure.entrant.label, cell.structure.training) == ("teacher", None)
            assert cell.training is not None
            assert cell.structure.seed == 1
            assert cell.sampler == cell.who.method.sampler(cell.steps)
    both = {cell.folder for cell in second(made).cells if cell.stage == BOTH}
    assert not both & {cell.folder for cell in apart}
    plain = asset_plan("evaluate.seeds=[0,1]", "evaluate.steps=[1,2]", train_seeds=(0, 1))
    assert cells(plain).items() <= cells(made).items()  # asking for more leaves the others where they are
    fewer = asset_plan(
        *("evaluate.apart=[1]", "evaluate.apart_steps=[1]", "evaluate.seeds=[0,1]", "evaluate.steps=[1,2]"),
        train_seeds=(0, 1),
    )
    assert {key(cell) for cell in second(fewer).cells if cell.stage != BOTH} == {k for k in expected if k[3] == 1}


def test_the_same_inputs_have_the_same_addresses():
    assert (students(asset_plan()), cells(asset_plan())) == (students(asset_plan()), cells(asset_plan()))
    folders = [cell.folder for cell in second(asset_plan(train_seeds=(0, 1))).cells]
    assert len(set(folders)) == len(folders)
    assert not {t.folder for t in second(asset_plan()).trainings} & {t.folder for t in asset_plan().trainings}


@pytest.mark.parametrize("change", ["slat.lr=1e-3", "slat.steps=21", "slat.batch=5", "slat.ema=0.5"])
def test_its_training_settings_change_its_students_and_their_assets_alone(change: str):
    before, after = asset_plan("evaluate.apart=[0]"), asset_plan("evaluate.apart=[0]", change)
    assert changed(students(before), students(after)) == {"cm 0", "vm 0"}
    assert [t.folder for t in before.trainings] == [t.folder for t in after.trainings]
    assert [c.folder for c in before.cells] == [c.folder for c in after.cells]
    trained = {one for one in cells(before) if one[1] in ("cm", "vm") and one[0] != STRUCTURE_THEN_TEACHER}
    assert changed(cells(before), cells(after)) == trained
    assert before.key != after.key


def test_other_structures_are_other_assets():
    """The second stage's students are the same; all that is built on the structures' students is new."""
    before, after = asset_plan("evaluate.apart=[0]"), asset_plan("evaluate.apart=[0]", "train.lr=1e-3")
    assert students(before) == students(after)
    on_students = {one for one in cells(before) if one[1] in ("cm", "vm") and one[0] != TEACHER_THEN_SLAT}
    assert changed(cells(before), cells(after)) == on_students


def test_another_sampler_of_the_teacher_is_another_address():
    other = SamplerParams(13, SLAT_SAMPLER.cfg_strength, SLAT_SAMPLER.cfg_interval, SLAT_SAMPLER.rescale_t)
    before, after = asset_plan("evaluate.apart=[0]"), asset_plan("evaluate.apart=[0]", slat_sampler=other)
    assert students(before) == students(after)
    moved = changed(cells(before), cells(after))
    assert {one for one in moved if one[0] == BOTH} == {one for one in cells(before) if one[1] == "teacher"}
    assert {one[0] for one in moved} == {BOTH, STRUCTURE_THEN_TEACHER}


def test_another_world_seed_or_test_set():
    before = asset_plan()
    assert changed(cells(before), cells(asset_plan(world_sha="other"))) == set(cells(before))
    assert changed(students(before), students(asset_plan(world_sha="other"))) == {"cm 0", "vm 0"}
    assert changed(cells(before), cells(asset_plan(limit=4))) == set(cells(before))
    assert students(before) == students(asset_plan(limit=4))
    three, later = cells(before), cells(asset_plan("evaluate.seeds=[1,3]"))
    assert {one for one in later if one in three} == {one for one in three if one[4] == 1}
    assert all(later[one] == three[one] for one in later if one[4] == 1)
    assert not {later[one] for one in later if one[4] == 3} & set(three.values())
    two = students(asset_plan(train_seeds=(0, 1)))
    assert len(set(two.values())) == 4
    assert students(before).items() <= two.items()


def test_without_the_table_there_is_no_second_stage():
    made = asset_plan(slat=None)
    assert made.second is None
    assert made.all_trainings == made.trainings
    assert asset_plan().all_trainings == (*asset_plan().trainings, *second(asset_plan()).trainings)


def test_a_world_without_a_second_stage_cannot_train_one():
    assert asset_plan(slat=None, slat_sampler=None).second is None
    with pytest.raises(UsageError, match=r"no second stage.*\[slat\]"):
        asset_plan(slat_sampler=None)


def test_a_sweep_leaves_second_stage_methods_at_their_own_rate():
    made = asset_plan("sweep.lr=[1e-4,5e-4]")
    decided = with_rates(made, {"cm": 5e-4, "vm": 1e-4})
    assert [t.entrant.distillation.lr for t in decided.trainings] == [5e-4, 1e-4]
    assert [t.entrant.distillation.lr for t in second(decided).trainings] == [
        t.entrant.distillation.lr for t in second(made).trainings
    ]
    assert students(decided) == students(made)
    assert all(cell.training is None or cell.training.stage == STRUCTURE for cell in made.grid)
    moved = changed(cells(made), cells(decided))
    assert moved == {one for one in cells(made) if one[1] in ("cm", "vm")}  # their structures are others


def test_budgets_are_of_each_stage():
    """The kind of budget is the run's, whatever [slat] says; the steps and seconds are the stage's own."""
    made = asset_plan("train.budget=seconds", "train.steps=40", "slat.budget=steps")
    assert second(made).train.budget == "seconds"
    timed = with_step_seconds(made, {"cm": 1.0, "vm": 2.0}, {"cm": 1.0, "vm": 0.5})
    assert {t.entrant.label: t.steps for t in timed.trainings} == {"cm": 40, "vm": 20}
    assert {t.entrant.label: t.steps for t in second(timed).trainings} == {"cm": 15, "vm": 30}
    assert timed.key == made.key
    assert changed(students(made), students(timed)) == {"vm 0"}
    forwards = asset_plan("train.budget=forwards", methods=("cm", "mdt"))
    assert {t.entrant.label: t.steps for t in second(forwards).trainings} == {"cm": 15, "mdt": 7}  # 6 and 13 passes
