"""Students that `mdtbench run --preset paper` trains: on latents on disk, with sweeps, budgets and plug-ins."""

from __future__ import annotations

import copy
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import official_site
import pytest
import torch
from inprocess import in_process
from official_runs import ALWAYS, COLUMNS_OF_PAPER, few, rows_of, students_in, values
from official_site import INSTANCES, OWN, Ended, Site, call
from safetensors.torch import load_file
from torch import Tensor, nn

from mdtbench.assets.trellis_latents import open_latents
from mdtbench.base.files import file_sha256, read_json
from mdtbench.base.seeds import seed_of
from mdtbench.harness.driver.planning import RunOptions, make_plan
from mdtbench.harness.driver.students import train_students
from mdtbench.harness.inputs.cells import one_voxels
from mdtbench.harness.inputs.world import load_world
from mdtbench.harness.protocol.model import load_protocol
from mdtbench.harness.protocol.rules import asset_seed
from mdtbench.harness.protocol.values import Stage
from mdtbench.harness.train.data import CHOICES, split_held_out
from mdtbench.methods import Loss, Step
from mdtbench.methods.cm import ConsistencyDistillation
from mdtbench.results.report import read_run, tables
from mdtbench.results.rows import LATENCY_METRIC
from mdtbench.trellis.end_time import has_end_time

EXAMPLES = Path(__file__).parents[3] / "docs" / "examples"


@pytest.fixture(scope="module")
def trained(site: Site, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ended]:
    """A swept method and one of a plug-in, which brings columns as well; both stages, on latents on disk."""
    out = tmp_path_factory.mktemp("trained") / "out"
    rates, strengths = "[1e-3, 1e9]", "[1.0, 5.0]"
    changes = {"sweep__lr": rates, "sweep__slat_lr": rates, "sweep__cfg_strength": strengths}
    words = ("--samplers", "renoise", "--plugin", OWN)
    with official_site.registries():
        ended = few(site, out, *words, methods="cm,own", sweep__methods='["cm"]', **changes)
    assert ended.code == 0, ended.err
    return out, ended


def test_a_plug_in_stands_in_the_tables(trained: tuple[Path, Ended]):
    out, ended = trained
    rows = rows_of(out)
    shown = {table.name: table for table in tables(read_run(out))}
    for name in ("table_1", "table_2"):
        assert {("own", steps) for steps in (1, 2)} <= {(line.method, line.steps) for line in shown[name].rows}
        assert "brightness" in {column.key for column in shown[name].columns}
    assert "--all" in ended.out
    whole = call("report", out, "--all")
    assert whole.code == 0, whole.err
    assert "brightness" in whole.out
    lines = {(row.method, row.variant, row.steps) for row in rows if row.steps}
    assert lines == {*ALWAYS, *((method, "", steps) for method in ("cm", "own") for steps in (1, 2))}
    for metric, stage in (("cells", "structure"), ("brightness", "both")):
        mine = [row for row in rows if row.metric == metric and row.steps]
        assert {(row.method, row.variant, row.steps) for row in mine} == lines
        assert {row.stage for row in mine} == {stage}
    manifest = read_json(out / "manifest.json")
    assert manifest["methods"]["own"]["code"] == file_sha256(OWN)
    assert manifest["methods"]["cm"]["code"] == ""


def test_methods_of_the_documentation_with_a_critic_and_with_two_times(site: Site, tmp_path: Path):
    """Both stages. The protocol samples all students by Euler; `flow_map` tells those with two times where to jump."""
    out, files = tmp_path / "out", [EXAMPLES / f"{name}.py" for name in ("my_flow_map", "my_critic")]
    plugins = [word for file in files for word in ("--plugin", file)]
    with official_site.registries():
        ended = few(site, out, *plugins, "--samplers", "flow_map", methods="leaps,sharper")
    assert ended.code == 0, ended.err
    rows = [row for row in rows_of(out) if row.method in ("leaps", "sharper")]
    assert rows
    assert all(row.status == "ok" for row in rows)
    for method in ("leaps", "sharper"):
        mine = [row for row in rows if row.method == method and row.stage == "both" and row.steps == 2]
        found = {
            name: {row.metric: row.value for row in mine if row.sampler == name and row.metric in COLUMNS_OF_PAPER}
            for name in ("euler", "flow_map")
        }
        assert found["euler"] != found["flow_map"]
    trained = [read_json(path) for path in (out / "students").glob("*/training.json")]
    assert sorted({one["label"] for one in trained}) == ["leaps", "sharper", "vm"]
    assert len(trained) == 6  # of two stages; vm is what sharper begins as
    ends = [
        path.parent.name for path in (out / "students").glob("*/student.safetensors") if has_end_time(load_file(path))
    ]
    assert len(ends) == 2
    assert all("leaps" in name for name in ends)


def test_students_are_reported_with_a_further_sampler(trained: tuple[Path, Ended]):
    """Which has no guidance: half the passes. It is what `own` is made for, and the protocol's is not."""
    rows = [row for row in rows_of(trained[0]) if row.method in ("cm", "own") and row.stage == "both"]
    for method in ("cm", "own"):
        for steps in (1, 2):
            mine = [row for row in rows if (row.method, row.steps) == (method, steps)]
            found = {(row.sampler, row.extra_sampler, row.own_sampler, row.nfe) for row in mine}
            assert found == {("euler", False, False, 4 * steps), ("renoise", True, True, 2 * steps)}
            by_sampler = [
                {row.metric: row.value for row in mine if row.sampler == name and row.metric in COLUMNS_OF_PAPER}
                for name in ("euler", "renoise")
            ]
            assert by_sampler[0] != by_sampler[1]
    assert not any(row.extra_sampler for row in rows_of(trained[0]) if row.method in ("teacher", "none"))


@pytest.mark.parametrize("stage", ["structure", "slat"])
def test_a_sweep_takes_the_saner_rate_on_held_out_latents(stage: str, trained: tuple[Path, Ended]):
    out, ended = trained
    [record] = [one for one in read_run(out).sweeps if one.stage == stage]
    assert (record.metric, record.assets, record.steps) == (f"MSE_{'teacher' if stage == 'structure' else stage}", 2, 1)
    assert [(one.lr, one.cfg_strength) for one in record.trials] == [(1e-3, 1), (1e-3, 5), (1e9, 1), (1e9, 5)]
    sane, absurd = record.trials[:2], record.trials[2:]
    assert all(one.error or one.score > 100 * max(s.score for s in sane) for one in absurd)  # type: ignore[operator]
    best = min(sane, key=lambda one: one.score)  # type: ignore[arg-type,return-value]
    assert [one for one in record.trials if one.chosen] == [best]
    assert all((out / one.address / "student.safetensors").is_file() for one in sane)
    # The chosen student is the run's own: only the other method was trained afterwards.
    assert ended.given["distil"] == 2
    [mine] = [one for one in read_run(out).students if (one.method, one.stage) == ("cm", stage)]
    assert (mine.lr, mine.grid) == (best.lr, 2)
    guided = {row.cfg_strength for row in rows_of(out) if row.method == "cm" and row.stage == "both"}
    assert stage == "slat" or guided == {best.cfg_strength}


@pytest.mark.parametrize("stage", ["structure", "slat"])
def test_a_score_of_a_sweep_is_the_distance_to_the_teachers_own_result(
    stage: Stage, trained: tuple[Path, Ended], site: Site
):
    """Recomputed from its definition: noise by the written rule, raw weights, one step, the teacher's 25."""
    world, values = load_world(site.world), load_protocol(str(site.root / "small.toml")).values
    [record] = [one for one in read_run(trained[0]).sweeps if one.stage == stage]
    [best] = [one for one in record.trials if one.chosen]
    pipeline = world.stage(stage)
    student = copy.deepcopy(pipeline.flow)
    student.load_state_dict(load_file(trained[0] / best.address / "student-ema0.0.safetensors"))
    source = open_latents([site.root / "latents"], CHOICES[stage])
    distances = []
    for name in split_held_out(INSTANCES, 2, 0)[0]:
        shown = source.condition(name, np.random.Generator(np.random.PCG64(seed_of("grid picture", name, 0))))
        images = torch.from_numpy(shown[None]).permute(0, 3, 1, 2)
        seed = asset_seed(values, name, 0)
        layout: Any = world.structure.layout(1)
        noise = layout.randn([torch.Generator().manual_seed(seed)])
        if stage == "slat":
            latent = end_of(world.structure, world.structure.flow, images, layout, noise, 25)
            cells = np.argwhere(world.structure.decode(latent)[0].numpy())
            layout = world.whole.layout(one_voxels(cells.astype(np.int32)))
            noise = layout.randn([torch.Generator().manual_seed(seed + 1)])
        made, wanted = (
            end_of(pipeline, who, images, layout, noise, n) for who, n in ((student, 1), (pipeline.flow, 25))
        )
        distances.append(float(((made - wanted) ** 2).mean()))
    assert best.score == pytest.approx(np.mean(distances), rel=1e-4)  # float32 over 25 steps, in another order


@torch.no_grad()
def end_of(pipeline: Any, network: nn.Module, images: Tensor, layout: Any, noise: Tensor, steps: int) -> Tensor:
    """Euler from noise in steps of rescaled time, guidance 5 from t = 0.5 on."""
    cond = pipeline.condition(images)
    with_cond, without = (pipeline.bind(network, each, layout) for each in (cond, torch.zeros_like(cond)))
    times = [3 * t / (1 + 2 * t) for t in np.linspace(1, 0, steps + 1)]
    x = noise
    for t, t_next in pairwise(times):
        at = torch.full((1,), t, dtype=torch.float32)
        v = with_cond(x, at)
        v = 6 * v - 5 * without(x, at) if t >= 0.5 else v
        x = x - (t - t_next) * v
    return x


def test_training_curves_are_in_the_report(trained: tuple[Path, Ended], tmp_path: Path):
    assert call("report", trained[0], "--format", "html", "--out", tmp_path / "pages").code == 0
    index = (tmp_path / "pages" / "index.html").read_text(encoding="utf-8")
    for words in ("own, seed 0", "CM, seed 0", 'class="curve', "Learning rate and guidance of the slat stage"):
        assert words in index


def test_seeds_and_budget_of_structures_alone(site: Site, tmp_path: Path):
    """Forwards: what consistency distillation takes in its steps, 6 passes each; velocity matching takes its own."""
    out = tmp_path / "out"
    words = ("--stages", "structure", "--seeds", "0,1", "--budget", "forwards", "--plugin", OWN)
    with official_site.registries():
        ended = few(site, out, *words, methods="cm,own", train__steps="5")
        refused = few(site, out, *words, "--export", "glb", methods="cm,own", train__steps="5")
    without = few(site, out, *words[:-2])
    assert ended.code == 0, ended.err
    rows = rows_of(out)
    assert {row.stage for row in rows} == {"structure"}
    assert {row.metric for row in rows} == {"cells", LATENCY_METRIC}
    assert {row.train_seed for row in rows if row.method in ("cm", "own")} == {0, 1}
    students = read_run(out).students
    assert {(one.method, one.train_seed, one.steps) for one in students} == {
        *(("cm", seed, 5) for seed in (0, 1)),
        *(("own", seed, 6) for seed in (0, 1)),  # 5 x 6 / 5
    }
    weights = [path.read_bytes() for path in (out / "students").glob("structure-*/student.safetensors")]
    assert len({*weights}) == 4
    assert not list((out / "students").glob("slat-*"))
    assert (refused.code, "--export writes whole assets" in refused.err) == (2, True)
    assert (without.code, "has columns of whole assets alone" in without.err) == (2, True)


def test_a_budget_of_seconds_is_measured_once(site: Site, tmp_path: Path):
    out = tmp_path / "out"
    with official_site.registries():
        words = ("--stages", "structure", "--budget", "seconds", "--plugin", OWN)
        ended = [few(site, out, *words, methods="vm") for _ in range(2)]
    assert [one.code for one in ended] == [0, 0], ended[0].err
    found = read_json(out / "seconds_per_step.json")
    mine, cm = (next(value for key, value in found.items() if f'"{label}"' in key) for label in ("vm:official", "cm"))
    [student] = read_run(out).students
    assert (student.budget, student.steps) == ("seconds", max(1, round(3 * cm / mine)))
    assert [one.given["time structure steps"] for one in ended] == [1, 0]
    assert [one.given["distil"] for one in ended] == [1, 0]


def test_sharing_a_process_changes_no_bit(site: Site, tmp_path: Path):
    """lockstep 1: one student after the other. 2: two at once, on the same passes of the teacher."""
    found = []
    for lockstep in ("1", "2"):
        changes = site.changes(train__lockstep=lockstep, slat__lockstep=lockstep)
        plan = make_plan(RunOptions("paper", ("cm", "vm"), changes=tuple(changes), device="cpu"), site.root / "cache")
        engine, team = in_process()
        assert train_students(plan, plan.trained, tmp_path / lockstep, engine, "distil") == {}
        assert team.given["distil"] == 2 * 2 // int(lockstep)
        files = students_in(tmp_path / lockstep)
        found.append({path.relative_to(tmp_path / lockstep): path.read_bytes() for path in files})
    assert found[0] == found[1]
    assert len(found[0]) == len(set(found[0].values())) == 2 * 2 * 2  # methods, stages, averages


def test_a_method_that_fails_in_one_stage_fails_its_lines_alone(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    out, loss = tmp_path / "out", ConsistencyDistillation.loss

    def broken(self: ConsistencyDistillation, step: Step) -> Loss:
        if step.x_t.ndim == 2:
            raise ValueError("no such thing")
        return loss(self, step)

    monkeypatch.setattr(ConsistencyDistillation, "loss", broken)
    ended = few(site, out, methods="cm,vm")
    assert ended.code == 1
    assert "1 student failed, 0 lost" in ended.err
    assert "ValueError: no such thing" in ended.out
    rows = rows_of(out)
    failed = [row for row in rows if row.status == "failed"]
    assert {(row.method, row.steps, row.metric) for row in failed} == {
        ("cm", steps, metric) for steps in (1, 2) for metric in COLUMNS_OF_PAPER
    }
    assert all("no such thing" in (row.error or "") for row in failed)
    assert {row.train_seed for row in rows if row.method in ("vm", "cm")} == {0}
    assert set(values(rows, "vm", "official", 1)) == COLUMNS_OF_PAPER
    table_3 = next(table for table in tables(read_run(out)) if table.name == "table_3")
    assert [line.method for line in table_3.rows][:2] == ["none", "vm"]
    # What failed through its own code is not tried again.
    again = few(site, out, methods="cm,vm")
    assert (again.code, again.given["distil"]) == (1, 0)
