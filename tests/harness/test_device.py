"""Networks on another device than the CPU, tried on torch's `meta`: it computes shapes alone, and raises as soon as a
tensor that stayed on the CPU meets one of its own. What asks for a value (`.item()`, `.cpu()`) ends there.

Not reached by this: the extraction of meshes (its shapes are values) and what only CUDA has (its clock, NCCL).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from rich.console import Console
from small_stage import network, objects, pictures, small_stage, structures
from steps import CONTROLS, DISTILLATIONS
from torch import Tensor, nn
from whole_plans import SAMPLER, SLAT_SAMPLER

from mdtbench.assets.toys import ToySource
from mdtbench.base.errors import UsageError
from mdtbench.flow.samplers import Euler, Renoise, Sampler
from mdtbench.harness import assemble, device, generate, jobs, train
from mdtbench.harness.config import Train, load_config
from mdtbench.harness.device import clock, device_of, rank_device, settle
from mdtbench.harness.distributed import Ranks
from mdtbench.harness.parameters import entrant
from mdtbench.harness.parts import Part
from mdtbench.harness.plan import Plan, resolve
from mdtbench.harness.pool import cores, teams
from mdtbench.harness.progress import LineReporter
from mdtbench.harness.provenance import device_name
from mdtbench.harness.references import embed_pictures
from mdtbench.harness.slat_task import SlatTask
from mdtbench.harness.task import ChargedTeacher, Point, StructureTask, Task, TrainingData
from mdtbench.harness.train import Student, train_together
from mdtbench.harness.workshop import Workshop
from mdtbench.harness.world import SecondStage, World, load_world
from mdtbench.trellis.slat_pipeline import SlatPipeline
from mdtbench.trellis.sparse import SparseTensor, Voxels

META = torch.device("meta")
TRAIN = Train(steps=2, batch=4, warmup=0, ema=0.5)
SHORT = {"kd": {"teacher_steps": 2}}
# Every method, with variants that have parts of their own; and in how many parts the batch is cut.
CASES = [("cm:ema", 1), ("pcm:official", 1), ("scm:paper", 1), ("vm", 1), ("mdt", 2), ("mdt:official", 1), ("gd", 1)]
CASES.append(("kd", 1))
NO_DATA = "no data"  # how torch refuses to bring a tensor back from meta: everything before it was done there


@pytest.fixture(scope="module")
def world(tiny_folder: Path) -> World:
    return load_world(tiny_folder, "meta")


@pytest.fixture(scope="module")
def stage() -> SecondStage:
    return small_stage()


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch has no bincount for meta. Its shape is known where it is used here: `minlength`."""
    real = torch.bincount

    def counted(x: Tensor, minlength: int) -> Tensor:
        return x.new_zeros(minlength) if x.is_meta else real(x, minlength=minlength)

    monkeypatch.setattr(torch, "bincount", counted)


def on_meta(pipeline: SlatPipeline) -> SlatPipeline:
    parts = {name: copy.deepcopy(part).to(META) for name, part in vars(pipeline).items() if isinstance(part, nn.Module)}
    return replace(pipeline, mean=pipeline.mean.to(META), std=pipeline.std.to(META), **parts)


def small_flow(world: World) -> nn.Module:
    """In place of the world's, to be quick."""
    flow = world.pipeline.flow
    sizes = {"model_channels": 16, "cond_channels": 64, "num_blocks": 1, "num_heads": 2, "patch_size": 2}
    shape = {"resolution": flow.resolution, "in_channels": flow.in_channels, "out_channels": flow.in_channels}
    return network("SparseStructureFlowModel", {**shape, **sizes}, seed=0).to(world.pipeline.device)


def parts_of(task: Task, count: int) -> list[Part]:
    return train._own_parts(task, TRAIN.model_copy(update={"accumulate": count}), 0, 0, Ranks())


def structure_task(world: World) -> StructureTask:
    latents = torch.randn(5, *world.pipeline.latent_shape, generator=torch.Generator().manual_seed(1))
    images = np.random.Generator(np.random.PCG64(2)).integers(0, 256, (5, 1, 64, 64, 3), np.uint8)
    pipeline = replace(world.pipeline, flow=small_flow(world))
    return StructureTask(pipeline, TrainingData(latents, images, (0.3, 0.55)), TRAIN.batch)


def student(label: str, task: Task, folder: Path, settings: Train = TRAIN) -> Student:
    method = entrant(label, SHORT, SAMPLER).distillation
    return Student(label, method, task.student(), settings, settings.steps, folder / label.replace(":", "-"))


def learn(made: Student, task: Task, parts: Sequence[Part]) -> None:
    """A training step as far as meta goes: loss and backward of every part, and the optimiser's update."""
    for part in parts:
        points = train._points(part, task, TRAIN, made.device)
        share = train._share(made, task, part, points, 0, 0)
        with train.CutDraws(share.step.generator, share.cut):
            loss = made.method.loss(share.step)
        assert loss.value.device == META
        assert {value.device for value in loss.diagnostics.values()} == {META}
        made.learner.backward(loss.value * share.weight)
    assert {gradient.device for gradient in made.learner.gradients()} == {META}
    made.learner._update()
    assert len(made.learner.gradients()) > 0


def test_a_world_is_on_one_device(world: World):
    pipeline, second = world.pipeline, world.whole
    networks = (world.pictures.network, world.points.network, world.dual, second.pictures.network, second.dual)
    stages = [
        part for made in (pipeline, second.pipeline) for part in vars(made).values() if isinstance(part, nn.Module)
    ]
    tensors = [tensor for network in (*networks, *stages) for tensor in chain(network.parameters(), network.buffers())]
    assert len(stages) == 9
    assert {tensor.device for tensor in (*tensors, second.pipeline.mean, second.pipeline.std)} == {META}
    assert pipeline.device == second.pipeline.device == META


def test_the_cases_have_every_method():
    assert {label.partition(":")[0] for label, _ in CASES} == {*DISTILLATIONS, *CONTROLS}


@pytest.mark.parametrize(("label", "count"), CASES)
def test_every_method_learns_structures_there(label: str, count: int, world: World, tmp_path: Path):
    task = structure_task(world)
    learn(student(label, task, tmp_path), task, parts_of(task, count))


@pytest.mark.parametrize(("label", "count"), CASES)
def test_every_method_learns_latents_of_cells_there(
    label: str, count: int, stage: SecondStage, tmp_path: Path, counting: None
):
    here, there = (SlatTask(pipeline, objects(), TRAIN.batch) for pipeline in (stage.pipeline, on_meta(stage.pipeline)))
    # Neighbours and windows follow from values: found on the CPU, they move with the batch.
    parts = parts_of(here, count)
    for part in parts:
        for strength in (0.0, 1.0):
            here.teacher(part.batch)(part.batch.x_0, part.batch.u, strength)
    learn(student(label, there, tmp_path), there, parts)


def test_a_batch_is_drawn_alike_for_every_device(tiny_world: World, world: World):
    here, there = (structure_task(made).draw(3, 7) for made in (tiny_world, world))
    for name in ("x_0", "noise", "u"):
        assert torch.equal(getattr(here, name), getattr(there, name))
    assert there.cond.device == META
    moved = there.to(META)
    assert {moved.x_0.device, moved.noise.device, moved.u.device, moved.layout.device} == {META}


def test_a_checkpoint_goes_on_where_the_network_is(tiny_world: World, world: World, tmp_path: Path):
    settings, here = Train(steps=2, batch=2, warmup=0, more_ema=(0.9,)), structure_task(tiny_world)
    saved = student("cm:ema", here, tmp_path, settings)
    saved.learner.step(sum(p.square().sum() for p in saved.network.parameters()))  # type: ignore[arg-type]
    saved.save()
    found = student("cm:ema", structure_task(world), tmp_path, settings)
    [(optimiser, _)] = found.learner.optimisers
    averages = (found.target, found.learner.average, *found.learner.more.values())
    assert found.learner.done == 1
    assert {value.device for values in averages for value in values.values()} == {META}
    for state in optimiser.state.values():
        assert {key: value.device.type for key, value in state.items()} == {
            "step": "cpu",  # as torch's optimisers want it
            "exp_avg": "meta",
            "exp_avg_sq": "meta",
        }
    found.learner.forget()
    found.learner.backward(sum(p.square().sum() for p in found.network.parameters()))  # type: ignore[arg-type]
    found.learner._update()


@pytest.mark.parametrize("sampler", [Euler(2, 3.0, 2.0), Renoise(2)])
def test_structures_are_generated_there(world: World, sampler: Sampler):
    pipeline, images = world.pipeline, np.zeros((2, 64, 64, 3), np.uint8)
    latents, occupancy, nfe, _ = generate.sampled(pipeline, pipeline.flow, sampler, images, ["a", "b"], 0)
    assert nfe == (4 if isinstance(sampler, Euler) else 2)
    assert latents.shape == (2, *pipeline.latent_shape)
    assert (latents.device, occupancy.device) == (META, META)
    assert pipeline.encode(torch.zeros(occupancy.shape, dtype=torch.bool)).device == META


def test_latents_of_cells_are_sampled_and_decoded_there(
    stage: SecondStage, monkeypatch: pytest.MonkeyPatch, counting: None
):
    coords = assemble.coarse_coords(structures([6])[0], stage.pipeline.resolution)
    known = assemble.one_voxels(coords)
    monkeypatch.setattr(assemble, "one_voxels", lambda coords: known)
    sampler, image = Euler(2, 1.0, 2.0), pictures(1)[0]

    def all_of(made: SecondStage) -> list[Tensor]:
        pipeline = made.pipeline
        latents, nfe = assemble.sampled(made, pipeline.flow, sampler, coords, image, "a", 0)
        assert nfe == 4
        voxels = known.to(pipeline.device)
        x = SparseTensor(latents, voxels)
        features = torch.zeros(len(coords), pipeline.encoder.in_channels, device=pipeline.device)
        [gaussians] = pipeline.gaussian_decoder.to_gaussians(pipeline.gaussian_decoder(x))
        return [
            latents,
            pipeline.encode(features, voxels),
            gaussians.means,
            gaussians.colours,
            pipeline.mesh_decoder(x).feats,
        ]

    here = all_of(stage)  # also finds neighbours and windows, which follow from values
    there = all_of(replace(stage, pipeline=on_meta(stage.pipeline)))
    assert {made.device for made in there} == {META}
    assert [made.shape for made in there] == [made.shape for made in here]


def seen_by(world: World) -> list[Callable[[], object]]:
    """Every use of an extractor in a run."""
    stage, points = world.whole, np.zeros((1, 32, 6), np.float32)
    views = np.zeros((2, 3, world.file.observation.picture_size, world.file.observation.picture_size), np.uint8)
    coloured = np.zeros((2, 3, stage.looks.picture_size, stage.looks.picture_size), np.uint8)
    others = replace(world, pictures=len, points=list)  # type: ignore[arg-type]
    return [
        lambda: world.pictures(views),
        lambda: world.points(points),
        lambda: stage.pictures(coloured),
        lambda: embed_pictures(world.dual, np.zeros((1, 64, 64, 3), np.uint8)),
        lambda: generate._features(others, generate.Observation(views, points[0])),
        lambda: assemble.seen(stage, coloured, points[0]),
    ]


@pytest.mark.parametrize("which", range(6))
def test_extractors_look_there_and_bring_their_features_back(which: int, world: World, tiny_world: World):
    with torch.inference_mode():
        seen_by(tiny_world)[which]()
        with pytest.raises(NotImplementedError, match=NO_DATA):
            seen_by(world)[which]()


def test_moved_voxels_keep_what_was_found_out():
    voxels = Voxels(torch.tensor([[0, 0, 0, 1], [0, 1, 1, 1], [1, 2, 0, 3]], dtype=torch.int32), 2)

    def found(of: Voxels) -> dict[str, Tensor | None]:
        coarse, row = of.halved()
        children, _ = of.subdivided()
        return {
            "neighbours": of.neighbours,
            "mask": of.sequences.groups[0].mask,
            "slots": of.sequences.slots,
            "windows": of.windows(2, 1).slots,
            "coarse": coarse.neighbours,
            "row": row,
            "children": children.neighbours,
            "doubled": of.doubled().sample,
        }

    here, moved = found(voxels), voxels.to(META)  # nothing of it can be found out there: all hangs on values
    there = found(moved)
    assert voxels.to("cpu") is voxels
    assert there.keys() == here.keys()
    for name, value in here.items():
        other = there[name]
        assert (value is None) == (other is None)
        if value is not None and other is not None:
            assert (other.device, other.shape, other.dtype) == (META, value.shape, value.dtype)


def plan_on(where: str, *changes: str) -> Plan:
    config = load_config("smoke", ["slat.steps=15", "slat.batch=4", "sweep.lr=[1e-4]", *changes])
    test = ToySource("test", 4, 0)
    return resolve(config, ("cm",), (0,), test, None, Path("world"), "w", SAMPLER, SLAT_SAMPLER, where)


def addresses(plan: Plan) -> dict[str, list[str]]:
    assert plan.second is not None
    return {
        "key": [plan.key],
        "students": [training.folder for training in plan.all_trainings],
        "shapes": [cell.folder for cell in (*plan.cells, *plan.grid)],
        "assets": [cell.folder for cell in plan.second.cells],
    }


def test_what_a_gpu_made_has_addresses_of_its_own():
    cpu, gpu = addresses(plan_on("cpu")), addresses(plan_on("cuda"))
    for name in cpu:
        assert not set(cpu[name]) & set(gpu[name])
    assert addresses(plan_on("cuda:1")) == gpu
    assert (plan_on("cpu").networks_sha, plan_on("cuda").world_sha) == ("w", "w")


def test_on_a_gpu_the_batch_of_generation_is_in_the_address_of_shapes():
    for where, changes in (("cpu", set()), ("cuda", {"key", "shapes", "assets"})):
        before, after = addresses(plan_on(where)), addresses(plan_on(where, "evaluate.batch=3"))
        assert {name for name in before if before[name] != after[name]} == changes


class Recording:
    """In place of workers: keeps the jobs."""

    count = 1

    def __init__(self) -> None:
        self.jobs: list[object] = []

    def map(self, function: object, items: Sequence[object], label: str, total: int) -> list[object]:
        self.jobs += items
        return []


def test_jobs_with_networks_go_to_their_own_processes(tiny_folder: Path, tmp_path: Path):
    plan, team, networks = plan_on("cuda:1"), Recording(), Recording()
    assert plan.second is not None
    prepared = SimpleNamespace(
        ids=("a", "b"), images=np.zeros((2, 1, 64, 64, 3), np.uint8), occupancy=np.zeros((2, 8, 8, 8), bool)
    )
    shop = Workshop(
        plan.config,
        tiny_folder,
        plan.networks_sha,
        tmp_path,
        tmp_path,
        team,
        plan.device,
        networks,  # type: ignore[arg-type]
    )
    shop.generate(plan.cells, prepared)  # type: ignore[arg-type]
    shop.assemble(plan.second.cells, prepared)  # type: ignore[arg-type]
    shop._encode(prepared, plan.test)  # type: ignore[arg-type]
    shop._observed("truth", jobs.run_truth, plan.test, prepared)  # type: ignore[arg-type]
    kinds = {type(job).__name__ for job in networks.jobs}
    assert kinds == {"GenerateJob", "AssembleJob", "EncodeJob", "ObserveJob"}
    assert {job.device for job in networks.jobs} == {"cuda:1"}  # type: ignore[attr-defined]
    assert team.jobs == []


def test_one_process_works_on_a_gpu_unless_more_are_asked_for():
    for count, where, expected in ((3, "cpu", (3, 3)), (3, "cuda", (3, 3)), (0, "cuda", (cores(), 1))):
        with teams(count, where, LineReporter(Console(quiet=True))) as (team, networks):
            assert (team.count, networks.count) == expected
            assert (networks is team) == (where == "cpu")


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """As on a machine with two GPUs; a record of what is asked of them."""
    asked: list[str] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda where: asked.append(f"set {where}"))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda where: asked.append(f"wait for {where}"))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda where: f"model of {where}")
    return asked


def test_auto_is_a_gpu_where_there_is_one(gpus: list[str], monkeypatch: pytest.MonkeyPatch):
    assert [device_of(name) for name in ("auto", "cpu", "cuda", "cuda:1")] == ["cuda", "cpu", "cuda", "cuda:1"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device_of("auto") == "cpu"


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "cpu:0", "", "cuda:-1"])
def test_another_name_is_no_device(name: str):
    with pytest.raises(UsageError, match=r"--device.*auto.*cpu.*cuda"):
        device_of(name)


def test_a_gpu_that_there_is_not_is_an_error(gpus: list[str], monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(UsageError, match=r"no device cuda:2 \(torch sees 2"):
        device_of("cuda:2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match=r"no device cuda \(torch sees 0"):
        device_of("cuda")


def test_every_process_of_torchrun_has_the_gpu_of_its_local_rank(gpus: list[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert rank_device("cuda:1") == "cuda:1"
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert (rank_device("cpu"), rank_device("cuda")) == ("cpu", "cuda:1")
    with pytest.raises(UsageError, match="got cuda:0"):
        rank_device("cuda:0")
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(UsageError, match="no device cuda:2"):
        rank_device("cuda")


@pytest.fixture
def flags(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], tuple[bool, ...]]]:
    """Reads the arithmetic's settings; they are put back afterwards."""
    matmul, cudnn, fill = torch.backends.cuda.matmul, torch.backends.cudnn, torch.utils.deterministic

    def read() -> tuple[bool, ...]:
        strict = (
            torch.are_deterministic_algorithms_enabled() and not torch.is_deterministic_algorithms_warn_only_enabled()
        )
        return matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark, strict, fill.fill_uninitialized_memory

    before = read()
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")  # so that what `settle` sets is taken back
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    yield read
    matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark = before[:3]
    torch.use_deterministic_algorithms(before[3])
    fill.fill_uninitialized_memory = before[4]


def test_arithmetic_on_a_gpu_is_that_of_float32_and_repeats(flags: Callable[[], tuple[bool, ...]], gpus: list[str]):
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.benchmark = True
    settle("cuda:1")
    assert flags() == (False, False, False, True, False)
    assert device.os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert gpus == ["set cuda:1"]


def test_nothing_is_set_for_the_cpu(flags: Callable[[], tuple[bool, ...]], gpus: list[str]):
    before = flags()
    settle("cpu")
    assert flags() == before
    assert gpus == []


def test_the_clock_waits_for_the_gpu(gpus: list[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(device.time, "perf_counter", lambda: gpus.append("read") or 1.0)
    assert clock(torch.device("cuda:1")) == 1.0
    assert clock(torch.device("cpu")) == 1.0
    assert gpus == ["wait for cuda:1", "read", "read"]


def test_rows_name_the_device_that_was_used(gpus: list[str]):
    assert device_name("cuda:1") == "model of cuda:1"
    assert device_name("cpu").startswith("cpu (")  # though there are GPUs


def test_only_the_kept_pair_of_the_teacher_is_timed(monkeypatch: pytest.MonkeyPatch):
    """A teacher that is asked elsewhere must not make a GPU wait."""
    times: list[float] = []
    monkeypatch.setattr("mdtbench.harness.task.clock", lambda where: times.append(0.0) or float(len(times)))
    t, x = torch.ones(1), torch.zeros(1, 2)
    teacher = ChargedTeacher(Point(t, x, lambda x, t, cfg_strength: x))  # type: ignore[arg-type]
    teacher(x + 1, t, 1.0)
    assert times == []
    teacher(x, t, 1.0)
    teacher(x, t, 2.0)
    assert len(times) == 2


def test_students_of_a_run_learn_where_their_world_is(
    tiny_world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """`train_together` moves every batch to the students."""
    moved: list[torch.device] = []
    real = train._points

    def noted(part: Part, task: Task, settings: Train, where: torch.device) -> object:
        moved.append(where)
        return real(part, task, settings, where)

    monkeypatch.setattr(train, "_points", noted)
    task = structure_task(tiny_world)
    assert train_together([student("gd", task, tmp_path)], task, TRAIN, 0) == {}
    assert moved == [torch.device("cpu")] * TRAIN.steps
