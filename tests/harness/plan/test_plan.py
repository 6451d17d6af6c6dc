"""The plan: which lines, students and cells there are, and that an address changes with its inputs and nothing else."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from plans import cells, changed, key_of, planned, resolved, scores, students

from mdtbench.base.errors import UsageError
from mdtbench.flow.samplers import Euler
from mdtbench.harness.engine.plugins import load_plugin
from mdtbench.harness.plan.plan import Plan
from mdtbench.harness.protocol.model import load_protocol
from mdtbench.harness.settings.config import PRESETS, load_config
from mdtbench.harness.train.data import LatentSet
from mdtbench.methods import METHODS
from mdtbench.metrics import METRICS
from mdtbench.results.rows import BOTH, STRUCTURE, STRUCTURE_THEN_TEACHER, TEACHER_THEN_SLAT
from mdtbench.trellis.kernels import Choice, Kernels
from mdtbench.trellis.pipeline import SamplerParams

STAGES = ("structure", "slat")


def lines(plan: Plan) -> list[tuple[str, int]]:
    return [(line.label, line.steps) for line in plan.lines]


def labels(plan: Plan) -> list[str]:
    return list(dict.fromkeys(line.label for line in plan.lines))


# --------------------------------------------------------------------------------------------------------------- lines


def test_undistilled_lines_and_the_teacher_are_always_there():
    assert labels(planned(methods=("teacher", "vm"))) == ["teacher", "vm", "none", "none:cfg"]
    alone = planned("evaluate.steps=[1,2,1]", methods=("none",))
    assert lines(alone) == [("none", 1), ("none", 2), ("none:cfg", 1), ("none:cfg", 2), ("teacher", 25)]
    assert alone.students == ()
    assert labels(planned(methods=()))[:5] == ["cm", "pcm", "scm", "vm", "mdt"]


@pytest.mark.parametrize(
    ("strengths", "guided"),
    [((0.0, 0.0), False), ((0.0, 2.0), True), ((2.0, 0.0), True)],
    ids=["no", "slat", "structure"],
)
def test_without_guidance_of_the_teacher_there_is_no_guided_line(strengths: tuple[float, float], guided: bool):
    """It would be `none` again; whoever names it gets it. Structures alone are of the first stage's teacher."""
    samplers = {stage: SamplerParams(25, one, (0.0, 1.0), 1.0) for stage, one in zip(STAGES, strengths, strict=True)}
    plan = planned("evaluate.steps=[1,2]", methods=("vm",))
    world = replace(plan.world, samplers=samplers)
    usual = ["vm", "none", "teacher"]
    assert sorted(labels(resolved(plan, ("vm",), world=world))) == sorted(usual + ["none:cfg"] * guided)
    alone = resolved(plan, ("vm",), world=world, config=plan.config.first_stage)
    assert sorted(labels(alone)) == sorted(usual + ["none:cfg"] * bool(strengths[0]))
    assert "none:cfg" in labels(resolved(plan, ("none:cfg",), world=world))
    official = resolved(plan, ("vm",), world=world, protocol=load_protocol("trellis-v1"))
    assert "none:cfg" in labels(official)  # this protocol says how teachers are guided


def test_the_lines_of_a_preset():
    plan = planned(preset="paper", methods=())
    few = ("none:cfg", "none", "cm", "pcm", "scm:fd", "vm:official", "mdt:official", "mdt:released")
    assert lines(plan) == [("teacher", 25), *((label, steps) for label in few for steps in (1, 2))]
    assert plan.left_out == ("vm:paper", "mdt:paper")
    assert {(line.paper.method, line.paper.steps) for line in plan.lines if line.tolerance and line.paper} == {
        ("teacher", 25), *((method, 1) for method in ("none", "cm", "pcm", "scm", "vm", "mdt")), ("mdt", 2)
    }  # fmt: skip
    assert all(line.paper is None for line in plan.lines if line.label == "none")  # the paper's is guided


@pytest.mark.parametrize(
    ("methods", "expected"),
    [
        (("vm",), {"vm:official"}),  # its lines that are not optional
        (("mdt:paper", "vm"), {"mdt:paper", "vm:official"}),
        (("mdt",), {"mdt:official", "mdt:released"}),
        (("mdt:released",), {"mdt:released"}),
        (("gd", "cm:"), {"gd", "cm"}),
    ],
)
def test_methods_choose_lines_and_the_teacher_stays(methods: tuple[str, ...], expected: set[str]):
    assert set(labels(planned(preset="paper", methods=methods))) == {"teacher", "none", "none:cfg"} | expected


def test_a_method_without_a_line_gets_one_per_number_of_steps():
    plan = planned("evaluate.steps=[1,4]", preset="paper", methods=("gd", "vm"))
    assert [one for one in lines(plan) if one[0] == "gd"] == [("gd", 1), ("gd", 4)]
    assert [one for one in lines(plan) if one[0] == "vm:official"] == [("vm:official", 1), ("vm:official", 2)]
    assert {one.who.label for one in plan.students} == {"gd", "vm:official"}


def preset_of(folder: Path, old: str, new: str) -> str:
    """The preset paper with the first such text replaced."""
    text = (PRESETS / "paper.toml").read_text(encoding="utf-8")
    assert old in text
    path = folder / "mine.toml"
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    return str(path)


def test_a_method_whose_only_line_is_optional_is_one_without_a_line(tmp_path: Path):
    mine = preset_of(tmp_path, "[estimate]", '[[line]]\nmethod = "gd"\nsteps = 4\noptional = true\n\n[estimate]')
    assert "gd" in planned(preset=mine, methods=()).left_out
    assert [one for one in lines(planned(preset=mine, methods=("gd",))) if one[0] == "gd"] == [("gd", 4)]
    variant = preset_of(tmp_path, "[estimate]", '[[line]]\nmethod = "gd:"\nsteps = 4\noptional = true\n\n[estimate]')
    assert [one for one in lines(planned(preset=variant, methods=("gd",))) if one[0] == "gd"] == [("gd", 1), ("gd", 2)]


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ("optional = true", "optionl = true", r"'line\.17\.optionl'.*Did you mean 'line\.17\.optional'"),
        ('method = "teacher"', 'method = "techer"', "method 'techer'.*'teacher'"),
        ('"mdt:released" = ', '"mdt:relased" = ', "published students 'mdt:released'.*'mdt:relased'"),
        ("steps = 2\n", "steps = 3\ntolerance = { fd_relative = 0.1, ulip_absolute = 1 }\n", "3 steps has a tolerance"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, old: str, new: str, text: str):
    with pytest.raises(UsageError, match=text):
        planned(preset=preset_of(tmp_path, old, new), methods=())


@pytest.mark.parametrize(
    ("methods", "changes", "parts"),
    [
        (["mtd"], [], ["Unknown method 'mtd'", "Did you mean 'mdt'?", "Available: ayf, cm, "]),
        (["none:cgf"], [], ["variant of method 'none'", "Did you mean 'cfg'?"]),
        (["mdt:papr"], [], ["variant of method 'mdt'", "Did you mean 'paper'?"]),
        (["vm:cfg"], [], ["variant of method 'vm'", "'cfg'"]),
        (["vm"], ["methods.vm.dleta=0.1"], ["parameter of method 'vm'", "Did you mean 'delta'?"]),
        (["cm"], ["methods.vmm.delta=0.1"], ["Unknown method 'vmm'", "'vm'"]),
        (["vm"], ["methods.vm.delta=abc"], ["delta", "abc"]),
        (["vm"], ["methods.vm.phases=2"], ["parameter of method 'vm'", "phases"]),
        (["vm"], ["methods.vm.delta=nan"], ["delta", "nan"]),
        (["vm"], ["evaluate.samplers=['euller']"], ["sampler 'euller'", "Did you mean 'euler'?"]),
        (["vm"], ["sweep.lr=[1e-4]", "sweep.metric=FD_tiny2"], ["metric 'FD_tiny2'", "Did you mean 'FD_tiny2d'?"]),
        (["vm"], ["sweep.lr=[1e-4]", "sweep.metric=FD_tiny_gs"], ["sweep.metric", "level 'structure'", "FD_tiny_gs"]),
        (["vm"], ["sweep.slat_lr=[1e-4]", "sweep.slat_metric=IoU_truth"], ["sweep.slat_metric", "level 'assets'"]),
        (["vm"], ["sweep.lr=[1e-4]", "train.lr=1e-3"], ["train.lr", "sweep"]),
        (["vm"], ["sweep.slat_lr=[1e-4]", "slat.lr=1e-3"], ["slat.lr", "sweep"]),
        (["vm"], ["sweep.lr=[1e-4]", "sweep.methods=['vmm']"], ["method 'vmm'", "'vm'"]),
        (["vm"], ["train.budget=time"], ["train.budget", "'steps', 'forwards' or 'seconds'"]),
    ],
)
def test_a_wrong_name_or_value_is_a_usage_error(methods: list[str], changes: list[str], parts: list[str]):
    with pytest.raises(UsageError) as caught:
        planned(*changes, methods=methods)
    for part in parts:
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_world_without_a_second_stage_cannot_train_one():
    plan = planned()
    first = replace(plan.world, samplers={"structure": plan.world.samplers["structure"]})
    assert resolved(plan, world=first, config=plan.config.first_stage).asset_cells == ()
    with pytest.raises(UsageError, match=r"no second stage.*\[slat\]"):
        resolved(plan, world=first)


# --------------------------------------------------------------------------------------------------------------- cells


def test_a_cell_per_line_and_seeds_and_one_teacher_per_generation_seed():
    plan = planned("evaluate.seeds=[3,4,5,3]", methods=("vm",), train_seeds=(0, 1, 0))
    found = cells(plan)
    assert len(found) == len(plan.cells) == len(set(found.values()))
    for stage in (STRUCTURE, BOTH):
        mine = {key for key in found if key[0] == stage}
        assert {key[2:5] for key in mine if key[1] == "vm"} == {
            (t, n, s) for t in (0, 1) for n in (1, 2) for s in (3, 4, 5)
        }
        assert {key[2:5] for key in mine if key[1] == "teacher"} == {(None, 25, seed) for seed in (3, 4, 5)}
        assert {key[3] for key in mine if key[1] == "none"} == {1, 2}
    assert [(one.stage, one.seed) for one in plan.students] == [
        ("structure", 0), ("structure", 1), ("slat", 0), ("slat", 1)
    ]  # fmt: skip


def test_whole_assets_are_made_of_the_lines_own_structures():
    plan = planned("evaluate.samplers=['euler']", train_seeds=(0, 1))
    assert [(cell.structure, cell.seed, cell.extra) for cell in plan.asset_cells] == [
        (cell.structure, cell.seed, cell.extra) for cell in plan.structure_cells
    ]
    for cell in plan.asset_cells:
        assert cell.slat is not None
        assert (cell.stage, cell.slat.who.label, cell.slat.stage) == (BOTH, cell.structure.who.label, "slat")
        if cell.students:
            assert [(one.stage, one.seed) for one in cell.students] == [(s, cell.train_seed) for s in STAGES]
            assert cell.slat.sampler.steps == cell.structure.sampler.steps
    first = planned(stages="structure")
    assert (first.asset_cells, {one.stage for one in first.students}) == ((), {"structure"})


def test_one_stage_is_left_to_the_teacher_for_the_seeds_and_steps_that_ask():
    asked = ("evaluate.apart=[1]", "evaluate.seeds=[0,1]", "evaluate.samplers=['euler']")
    plan = planned(*asked, train_seeds=(0, 1))
    apart = [cell for cell in plan.asset_cells if cell.stage != BOTH]
    expected = {
        (stage, who, train_seed, steps, 1, "")
        for stage in (STRUCTURE_THEN_TEACHER, TEACHER_THEN_SLAT)
        for who in ("cm", "vm")
        for train_seed in (0, 1)
        for steps in (1, 2)
    }
    assert sorted(map(key_of, apart)) == sorted(expected)
    teacher = plan.reference(1, whole=True)
    for cell in apart:
        assert cell.slat is not None
        if cell.stage == STRUCTURE_THEN_TEACHER:
            left, mine = (cell.slat, teacher.slat), "structure"
        else:
            left, mine = (cell.structure, teacher.structure), "slat"
        assert len({(half.who.label, half.sampler) for half in left if half}) == 1
        assert [one.stage for one in cell.students] == [mine] == [cell.own.stage]
    assert len(set(cells(plan).values())) == len(plan.cells)
    plain = planned(*asked[1:], train_seeds=(0, 1))
    assert cells(plain).items() <= cells(plan).items()  # asking for more leaves the others where they are
    fewer = planned(*asked, "evaluate.apart_steps=[1]", train_seeds=(0, 1))
    assert {key_of(one) for one in fewer.asset_cells if one.stage != BOTH} == {key for key in expected if key[3] == 1}


def test_a_line_of_other_steps_than_the_presets_is_left_apart_too(tmp_path: Path):
    mine = preset_of(tmp_path, "steps = [1, 2]            #", "steps = [4]\napart = [0]               #")
    plan = planned(preset=mine, methods=("vm",))
    assert {cell.line.steps for cell in plan.asset_cells if cell.stage == TEACHER_THEN_SLAT} == {1, 2}


def test_names_say_what_a_cell_is():
    plan = planned("evaluate.samplers=['euler']", preset="paper", methods=("vm", "mdt:released"))
    names = [cell.name for cell in plan.asset_cells if cell.seed == 2]
    assert names[:2] == ["teacher-25x2-gen2", "none_cfg-1x2-gen2"]
    assert names[5:7] == ["vm_official-1x2-train0-gen2", "vm_official-1x2-euler-train0-gen2"]
    assert names[-2:] == ["mdt_released-2x2-gen2", "mdt_released-2x2-euler-gen2"]
    assert len(set(names)) == len(names)
    assert plan.structure_cells[0].name == "teacher-25-gen0"


# ------------------------------------------------------------------------------------------------------------ samplers


def used(plan: Plan, stage: str, label: str) -> list[tuple[str, int, bool, bool]]:
    """Sampler, steps, whether it is the method's own and whether it stands beside the protocol's, at the first seed."""
    made = plan.structure_cells if stage == "structure" else plan.asset_cells
    halves = [(cell, cell.structure if stage == "structure" else cell.slat) for cell in made]
    return [
        (half.sampler.name, half.sampler.steps, half.own, cell.extra)
        for cell, half in halves
        if half and half.who.label == label and cell.seed == plan.run_seeds[0]
    ]


@pytest.mark.parametrize("stage", STAGES)
def test_other_samplers_are_used_only_where_they_compute_something_else(stage: str):
    methods = ("vm", "pcm", "vm:official")
    plan = planned("evaluate.samplers=['renoise','euler','phase','euler']", methods=methods)
    for label, own, other in (
        ("vm", "renoise", "euler"),
        ("pcm", "phase", "renoise"),
        ("vm:official", "euler", "renoise"),
    ):
        assert used(plan, stage, label) == [(own, 1, True, False), (own, 2, True, False), (other, 2, False, True)]
    assert used(plan, stage, "none") == [("euler", 1, True, False), ("euler", 2, True, False)]  # teachers keep theirs
    plain = planned(methods=methods)
    assert cells(plain) == {key: address for key, address in cells(plan).items() if not key[5]}
    assert students(plain) == students(plan)
    assert plain.key != plan.key


@pytest.mark.parametrize("stage", STAGES)
def test_a_protocol_can_sample_all_students_alike(stage: str):
    """trellis-v1: with guidance, which is no method's own; beside it what they are made for."""
    plan = planned("evaluate.samplers=['renoise']", preset="paper", methods=("cm", "mdt:released"))
    both = [(name, steps, name == "renoise") for steps in (1, 2) for name in ("euler", "renoise")]
    assert used(plan, stage, "cm") == [(name, steps, extra, extra) for name, steps, extra in both]
    released = [key_of(cell)[3:] for cell in plan.asset_cells if cell.line.label == "mdt:released" and cell.seed == 1]
    assert released == [(steps, 1, name if extra else "") for name, steps, extra in both]
    line = next(line for line in plan.lines if (line.label, line.steps) == ("cm", 2))
    assert plan.sampler(line, stage) == Euler(2, 3.0, 5.0, (0.5, 1.0))
    assert plan.params(stage) == SamplerParams(25, 5.0, (0.5, 1.0), 3.0)
    unguided = planned("protocol.name=trellis-v1+sampler-B", preset="paper", methods=("cm", "gd"))
    assert [one[2] for one in used(unguided, stage, "cm")] == [True, False]  # one step is one step, guided or not
    assert [one[2] for one in used(unguided, stage, "gd")] == [True, True]


def test_a_world_says_how_its_teacher_is_sampled_and_changes_win():
    made = {
        "structure": SamplerParams(12, 3.0, (0.5, 1.0), 4.0),
        "slat": SamplerParams(7, 1.5, (0.0, 0.8), 2.0),
    }
    plan = planned("methods.none.cfg_strength=7.0")
    plan = resolved(plan, world=replace(plan.world, samplers=made))
    by_label = {line.label: line for line in plan.lines}
    for stage, params in made.items():
        who = {label: line.who[stage].method for label, line in by_label.items()}
        assert who["teacher"].sampler(1) == Euler(
            params.steps, params.rescale_t, params.cfg_strength, params.cfg_interval
        )
        assert (who["vm"].cfg_strength, who["vm"].cfg_interval, who["vm"].rescale_t) == (
            params.cfg_strength, params.cfg_interval, params.rescale_t
        )  # fmt: skip
        assert who["none:cfg"].sampler(1).cfg_strength == 7.0
        assert who["none"].sampler(1).cfg_strength == 0.0
    assert by_label["teacher"].steps == 12  # of its line: the structure's


# ----------------------------------------------------------------------------------------------------------- addresses

APART = "evaluate.apart=[0]"


def moved(before: Plan, after: Plan) -> tuple[set, set]:
    """Students whose address is another, by stage and label; cells, by stage of their rows and label."""
    return (
        {key[:2] for key in changed(students(before), students(after))},
        {key[:2] for key in changed(cells(before), cells(after))},
    )


def of(stages: tuple[str, ...], *labels: str) -> set:
    return {(stage, label) for stage in stages for label in labels}


ON_STRUCTURE, ON_SLAT = (STRUCTURE, BOTH, STRUCTURE_THEN_TEACHER), (BOTH, TEACHER_THEN_SLAT)
LEFT = of((STRUCTURE_THEN_TEACHER, TEACHER_THEN_SLAT), "cm", "vm")
EVERY = of((STRUCTURE, BOTH), "none", "none:cfg", "teacher") | of((*ON_STRUCTURE, TEACHER_THEN_SLAT), "cm", "vm")


@pytest.mark.parametrize("key", ["lr=1e-3", "steps=21", "batch=17", "ema=0.5", "warmup=3", "parts=2", "t_min=0.1"])
@pytest.mark.parametrize("stage", STAGES)
def test_training_settings_change_their_stages_students_and_what_these_make(stage: str, key: str):
    before, after = planned(APART), planned(APART, f"{'train' if stage == 'structure' else 'slat'}.{key}")
    where = ON_STRUCTURE if stage == "structure" else ON_SLAT
    assert moved(before, after) == (of((stage,), "cm", "vm"), of(where, "cm", "vm"))
    assert before.key != after.key


@pytest.mark.parametrize(
    ("change", "trained", "made"),
    [
        ("data.train=99", of(STAGES, "cm", "vm"), of((*ON_STRUCTURE, TEACHER_THEN_SLAT), "cm", "vm")),
        ("data.seed=1", of(STAGES, "cm", "vm"), EVERY),  # which is that of the test toys, too
        ("data.test=25", set(), EVERY),
        ("methods.vm.delta=0.02", of(STAGES, "vm"), of((*ON_STRUCTURE, TEACHER_THEN_SLAT), "vm")),
        ("methods.none.cfg_strength=9.0", set(), of((STRUCTURE, BOTH), "none:cfg")),
        ("methods.teacher.cfg_strength=9.0", set(), of((STRUCTURE, BOTH), "teacher") | LEFT),
        ("evaluate.whole=2", set(), of((BOTH,), "none", "none:cfg", "teacher", "cm", "vm") | LEFT),
        ("sweep.lr=[1e-4]", set(), set()),
    ],
)  # fmt: skip
def test_what_decides_a_result_changes_its_address_alone(change: str, trained: set, made: set):
    before, after = planned(APART), planned(APART, change)
    assert moved(before, after) == (trained, made)
    assert before.key != after.key


def test_scores_hang_on_what_they_compare_with():
    """Another teacher: the columns that compare with it, of every line, and all of its own."""
    moved = changed(scores(planned()), scores(planned("methods.teacher.cfg_strength=9.0")))
    columns = {one.name for one in planned().metrics}
    assert {key[0] for key in moved if key[2] == "vm"} == {"IoU_teacher", "MSE_teacher", "MSE_slat"}
    assert {key[0] for key in moved if key[2] == "teacher"} == columns


@pytest.mark.parametrize(
    "changes",
    [
        ["evaluate.batch=3"],
        ["train.lockstep=1", "slat.lockstep=1"],
        ["places.weights=elsewhere", "places.downloads=paper", "places.blender=other"],
        ["estimate.structure_s=9", "estimate.asset_s=9", "estimate.voxels=9"],
        ["evaluate.methods=['mdt']"],  # others are named
        ["methods.kd.lr=1e-3"],  # which does not take part
    ],
)
def test_what_changes_no_result_changes_no_address(changes: list[str]):
    before, after = planned(), planned(*changes)
    assert (students(before), cells(before), scores(before)) == (students(after), cells(after), scores(after))
    assert before.key == after.key


def test_neither_cache_nor_preset_nor_words_are_part_of_the_key(tmp_path: Path):
    text = (PRESETS / "smoke.toml").read_text(encoding="utf-8")
    mine = tmp_path / "mine.toml"
    mine.write_text(text + '[[line]]\nmethod = "gd"\nsteps = 3\noptional = true\n', encoding="utf-8")
    others = [planned(cache=tmp_path), planned(preset=str(mine)), planned(command=("mdtbench", "run"))]
    for other in others:
        assert (other.key, students(other), cells(other)) == (planned().key, students(planned()), cells(planned()))
    named = planned(methods=())
    assert named.key == planned(methods=("cm", "pcm", "scm", "vm", "mdt")).key  # by the preset, or by name


def test_other_networks_change_everything():
    before = planned(APART)
    after = resolved(before, world=replace(before.world, digest="other"))
    assert moved(before, after) == (of(STAGES, "cm", "vm"), EVERY)
    gpus = [replace(before, device=device) for device in ("cuda", "cuda:1")]
    assert moved(before, gpus[0]) == (of(STAGES, "cm", "vm"), EVERY)
    assert students(gpus[0]) == students(gpus[1])
    assert gpus[0].key == gpus[1].key  # another GPU goes on with what one has made
    larger = replace(resolved(before, config=planned(APART, "evaluate.batch=3").config), device="cuda")
    assert (larger.key == gpus[0].key, students(larger) == students(gpus[0])) == (False, True)
    assert len({before.key, after.key, gpus[0].key}) == 3


def test_kernels_of_a_gpu_change_what_it_makes_and_nothing_on_a_cpu(monkeypatch: pytest.MonkeyPatch):
    asked = ("gpu.attention=sdpa", "gpu.convolution=spconv")
    before, after = planned(APART), planned(APART, *asked)
    assert after.config.gpu != before.config.gpu
    assert (after.key, students(after), cells(after)) == (before.key, students(before), cells(before))
    seen: list[Kernels] = []

    def in_use(device: str, kernels: Kernels) -> dict[str, Choice]:
        seen.append(kernels)
        return {"attention": Choice("sdpa" if kernels.attention == "sdpa" else "varlen", f"on {device}")}

    monkeypatch.setattr("mdtbench.harness.plan.plan.in_use", in_use)
    first, second = (replace(one, device="cuda") for one in (before, after))
    assert moved(first, second) == (of(STAGES, "cm", "vm"), EVERY)
    assert set(seen) == {Kernels(), Kernels("sdpa", "spconv")}
    another = replace(planned(APART, "gpu.attention=varlen"), device="cuda:1")
    assert another.key == first.key  # what is in use counts, not what was asked for, nor why


@pytest.mark.parametrize("change", [{"limit": 4}, {"changes": ["evaluate.seeds=[1,3]"]}, {"train_seeds": (0, 1)}])
def test_another_number_of_assets_or_seeds_leaves_the_rest(change: dict):
    before, after = planned(), planned(*change.pop("changes", []), **change)
    same = students(before).keys() & students(after).keys()
    assert {students(before)[key] for key in same} == {students(after)[key] for key in same}
    every = changed(cells(before), cells(after))
    assert every == (set(cells(before)) if after.limit else set())
    assert len(set(cells(after).values())) == len(cells(after))
    assert before.key != after.key


def test_adding_a_method_leaves_the_others_alone():
    before, after = planned(methods=("vm",)), planned(methods=("scm", "vm", "mdt"))
    assert moved(before, after) == (set(), set())
    assert {key[1] for key in students(after)} == {"scm", "vm", "mdt"}
    assert changed(scores(before), scores(after)) == set()
    assert before.key != after.key


def test_the_protocols_sampler_of_students_changes_what_they_make_and_not_what_they_learn():
    names = ("trellis-v1", "trellis-v1+sampler-B")
    before, after = (planned(f"protocol.name={name}", "protocol.extractors=random") for name in names)
    assert moved(before, after) == (set(), of((STRUCTURE, BOTH), "cm", "vm"))
    renamed = resolved(before, protocol=after.protocol)  # a file of the same name with other values
    assert len({before.key, after.key, renamed.key}) == 3


# ------------------------------------------------------------------------------------------------------------ plug-ins

METHOD = """
from dataclasses import dataclass

from mdtbench.flow.samplers import Euler
from mdtbench.methods import METHODS, Distillation, Loss, Method


@METHODS.register("mine", version=1, source="test")
@dataclass(frozen=True, kw_only=True)
class Mine(Distillation):
    def loss(self, step):
        return Loss(0.5 * step.student(step.x_t, step.t).mean())

    def sampler(self, n_steps):
        return Euler(n_steps)

    def cost(self):
        return 5


class Slow(Euler):
    name = "slow"


@METHODS.register("untrained", version=1, source="test")
@dataclass(frozen=True, kw_only=True)
class Untrained(Method):
    def sampler(self, n_steps):
        return Slow(n_steps)
"""
METRIC = """
from mdtbench.metrics import METRICS, Metric
from mdtbench.metrics.contract import known_mean


class Filled(Metric):
    name, version, unit, higher_is_better, level = "Filled", 1, "", True, "structure"
    made = ("occupancy",)

    def score(self, made, against):
        return known_mean(made["occupancy"].mean((1, 2, 3)))


METRICS.register("Filled", version=1, source="test")(Filled())
"""


@pytest.fixture
def plugged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Imports a plug-in of some text in the place of the one before, as a new process would; undone afterwards."""
    shipped = {registry: registry._entries for registry in (METHODS, METRICS)}
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # two texts of one size and second would be the same module
    path = tmp_path / "plugin_of_test_plan.py"

    def load(text: str) -> None:
        path.write_text(text, encoding="utf-8")
        sys.modules.pop(path.stem, None)
        for registry in (METHODS, METRICS):
            monkeypatch.setattr(registry, "_entries", dict(shipped[registry]))
        load_plugin(path)

    yield load
    sys.modules.pop(path.stem, None)


def addresses(plan: Plan) -> tuple[str, dict, dict, dict]:
    return plan.key, students(plan), cells(plan), scores(plan)


def test_a_plug_ins_source_is_part_of_the_address_of_what_it_learns_and_makes(plugged: Callable[[str], None]):
    methods = ("mine", "untrained", "vm")
    found = []
    for text in (METHOD, METHOD, METHOD.replace("0.5 * step", "0.6 * step")):
        plugged(text)
        found.append(addresses(planned(methods=methods)))
    before, same, after = found
    assert before == same
    assert before[0] != after[0]
    assert {key[:2] for key in changed(before[1], after[1])} == of(STAGES, "mine")
    assert {key[:2] for key in changed(before[2], after[2])} == of((STRUCTURE, BOTH), "mine", "untrained")
    assert {key[2] for key in changed(before[3], after[3])} == {"mine", "untrained"}


def test_a_plug_in_metrics_source_is_part_of_the_address_of_its_scores(plugged: Callable[[str], None]):
    found = [addresses(planned())]
    for text in (METRIC, METRIC.replace("mean((1, 2, 3))", "mean((3, 2, 1))")):
        plugged(text)
        found.append(addresses(planned()))
    plain, before, after = found
    assert {key[0] for key in before[3].keys() - plain[3].keys()} == {"Filled"}
    assert {key[0] for key in changed(before[3], after[3])} == {"Filled"}
    assert changed(plain[3], after[3]) == set()
    assert plain[1:3] == before[1:3] == after[1:3]
    assert len({plain[0], before[0], after[0]}) == 3


# --------------------------------------------------------------------------------------------------- budgets and sweeps


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        ("steps", {"cm": 150, "mdt": 150, "gd": 150, "kd": 150}),
        ("forwards", {"cm": 150, "mdt": 69, "gd": 180, "kd": 17}),  # 6, 13, 5, 53 passes
        ("seconds", {"cm": 150, "mdt": 75, "gd": 188, "kd": 38}),
    ],
)
@pytest.mark.parametrize("stage", STAGES)
def test_a_budget_gives_every_method_the_same_amount(stage: str, budget: str, expected: dict[str, int]):
    """The kind of budget is the run's, whatever [slat] says; the steps and the seconds are the stage's own."""
    own = {"structure": ("train", "slat"), "slat": ("slat", "train")}[stage]
    steps = (f"{own[0]}.steps=150", f"{own[1]}.steps=7")
    plan = planned(f"train.budget={budget}", "slat.budget=steps", *steps, methods=tuple(expected))
    if budget == "seconds":
        seconds = {"cm": 0.5, "mdt": 1.0, "gd": 0.4, "kd": 2.0}
        timed = plan.timed(
            {stage: seconds, "slat" if stage == "structure" else "structure": dict.fromkeys(seconds, 1.0)}
        )
        assert timed.key == plan.key
        plan = timed
    assert {one.who.label: one.steps for one in plan.students if one.stage == stage} == expected


def test_measured_seconds_change_students_and_leave_the_run_where_it_is():
    before = planned("train.budget=seconds")
    after = before.timed({"structure": {"cm": 0.5, "vm": 1.0}, "slat": {"cm": 1.0, "vm": 1.0}})
    assert changed(students(before), students(after)) == {("structure", "vm", 0)}
    assert before.key == after.key != planned().key
    assert students(planned()) == students(before)  # cm and vm cost the same: what is trained is the same
    unknown = before.timed({"structure": {"cm": 0.5}, "slat": {"cm": 1.0}})
    assert students(unknown) == students(before)  # a method that could not be timed gets equal passes


@pytest.mark.parametrize(
    ("stage", "changes"),
    [("structure", ["sweep.lr=[1e-4,5e-4,1e-4]"]), ("slat", ["sweep.slat_lr=[1e-4,5e-4]"])],
)
def test_a_sweep_trains_a_student_per_setting_and_the_chosen_one_is_the_runs_own(stage: str, changes: list[str]):
    plan = planned(*changes, "sweep.seed=1", train_seeds=(0, 1))
    other = "slat" if stage == "structure" else "structure"
    assert plan.trials(other) == ()
    trials = plan.trials(stage)
    assert [(one.student.who.label, one.student.who.distillation.lr, one.student.seed) for one in trials] == [
        (label, lr, 1) for label in ("cm", "vm") for lr in (1e-4, 5e-4)
    ]
    for trial in trials:
        cell = trial.cell
        assert (cell.own.student, cell.own.sampler.steps, cell.seed) == (trial.student, 1, 1)
        assert cell.stage == (STRUCTURE if stage == "structure" else TEACHER_THEN_SLAT)
        assert cell.students == (trial.student,)
    settled = plan.settled({(stage, "cm"): {"lr": 5e-4}})
    mine = [one for one in settled.students if one.stage == stage]
    tried = {one.student.folder for one in trials}
    assert [one.folder in tried for one in mine] == [False, True, False, False]  # cm 0, cm 1, vm 0, vm 1
    assert [one.who.distillation.lr for one in mine] == [5e-4, 5e-4, 4e-4, 4e-4]
    assert changed(students(plan), students(settled)) == {(stage, "cm", 0), (stage, "cm", 1)}
    assert {key[1] for key in changed(cells(plan), cells(settled))} == {"cm"}
    assert [one.student for one in settled.trials(stage)] == [one.student for one in trials]
    assert settled.key == plan.key != planned(train_seeds=(0, 1)).key


def test_a_sweep_can_vary_guidance_and_leave_methods_out():
    plan = planned("sweep.cfg_strength=[1.0,3.0]", "sweep.slat_lr=[1e-4]", "sweep.methods=['vm']")
    for stage, lr in (("structure", 4e-4), ("slat", 1e-4)):
        assert [
            (one.student.who.label, one.student.who.distillation.lr, one.student.who.distillation.cfg_strength)
            for one in plan.trials(stage)
        ] == [("vm", lr, 1.0), ("vm", lr, 3.0)]
    settled = plan.settled({("structure", "vm"): {"lr": 4e-4, "cfg_strength": 3.0}})
    assert {label for stage, label, _ in changed(students(plan), students(settled))} == {"vm"}
    assert [one.folder for one in plan.settled({}).students] == [one.folder for one in plan.students]


def test_held_out_training_data_has_no_shapes_to_compare_with():
    sets = {stage: LatentSet(stage, (), 64, 0) for stage in STAGES}
    for metric in ("FD_tiny2d", "IoU_truth", "IoU_law"):
        with pytest.raises(UsageError, match=f"'{metric}' needs shapes.*MSE_teacher"):
            resolved(planned("sweep.lr=[1e-4]", f"sweep.metric={metric}"), sets=sets)
    assert resolved(planned("sweep.lr=[1e-4]"), sets=sets).trials("structure")


# ----------------------------------------------------------------------------------------------------- the preset paper


def test_the_numbers_of_paper_and_release_are_followed():
    """Paper: batch 256, 6000 and 4000 iterations, rates 4e-8 and 1e-8. Release: average of 0.9999, clipping at 1."""
    config, rule = load_config("paper"), load_protocol("trellis-v1").values.calibration
    assert config.slat is not None
    found = [(one.batch, one.steps, one.lr, one.ema, one.clip) for one in (config.train, config.slat)]
    assert found == [(256, 6000, 4e-8, 0.9999, 1.0), (256, 4000, 1e-8, 0.9999, 1.0)]
    assert config.methods == {"pcm": {"phases": 2}}
    teacher = config.line[0]
    assert teacher.tolerance is not None
    assert rule is not None
    assert (teacher.method, teacher.steps, teacher.tolerance.fd_relative, teacher.tolerance.ulip_absolute) == (
        "teacher", rule.steps, rule.fd_relative, rule.ulip_absolute
    )  # fmt: skip


def test_official_students_follow_the_release():
    """Guidance 40 and 100, dt 0.01, lambda 1, logit-normal times; the variant of the paper draws uniform ones."""
    mdt = planned(preset="paper", methods=("mdt:official",)).students[0].who.method
    names = ("cfg_strength", "vd_cfg_strength", "delta", "lambda_vm", "lambda_vd")
    assert [getattr(mdt, name) for name in names] == [40, 100, 0.01, 1, 1]
    assert (mdt.times.mean, mdt.times.std) == (1, 1)  # type: ignore[attr-defined]
    paper = planned(preset="paper", methods=("mdt:paper",)).students[0].who.distillation
    assert (type(paper.times).__name__, paper.cfg_strength) == ("Uniform", 5.0)


def test_published_students_need_no_training_and_have_no_seed():
    plan = planned(preset="paper", methods=("mdt:released",), train_seeds=(0, 1))
    assert (plan.trained, plan.trials("structure")) == ((), ())
    assert [(one.stage, one.given) for one in plan.students] == [("structure", "mdt-dist"), ("slat", "mdt-dist")]
    assert {cell.train_seed for cell in plan.cells} == {None}
    assert len([cell for cell in plan.asset_cells if cell.line.label == "mdt:released"]) == 2 * 3
