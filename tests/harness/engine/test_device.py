"""Networks on another device than the CPU, tried on torch's `meta`: it computes shapes alone, and raises as soon as a
tensor that stayed on the CPU meets one of its own. What asks for a value (`.item()`, `.cpu()`) ends there.

Not reached by this: the extraction of meshes (its shapes are values) and what only CUDA has (its clock, NCCL).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
import torch
from rich.console import Console
from small_stage import SAMPLER, pictures, small_pipeline, small_structure_pipeline, small_task, structures
from steps import CONTROLS, DISTILLATIONS, MATCHING
from torch import Tensor, nn

from mdtbench.base.errors import UsageError
from mdtbench.flow.samplers import Euler, Renoise, Sampler
from mdtbench.harness.engine import device
from mdtbench.harness.engine.device import clock, device_of, rank_device, settle
from mdtbench.harness.engine.progress import LineReporter
from mdtbench.harness.engine.provenance import device_name
from mdtbench.harness.engine.workers import cores, teams
from mdtbench.harness.generate import made
from mdtbench.harness.inputs.cells import one_voxels
from mdtbench.harness.inputs.world import load_world, world_info
from mdtbench.harness.measure.extractors import TINY, extractors_of
from mdtbench.harness.protocol.values import Stage
from mdtbench.harness.settings.config import ProtocolSection, Train
from mdtbench.harness.settings.methods import entrant
from mdtbench.harness.train import loop
from mdtbench.harness.train.batch import Batch
from mdtbench.harness.train.loop import Student, train_together
from mdtbench.harness.train.parts import Part
from mdtbench.harness.train.task import StageTask, Task
from mdtbench.render.appearance import coarse_coords
from mdtbench.trellis.pipeline import StructurePipeline
from mdtbench.trellis.slat_pipeline import SlatPipeline
from mdtbench.trellis.sparse import SparseTensor, Voxels

META = torch.device("meta")
TRAIN = Train(steps=2, batch=4, warmup=0, ema=0.5)
Pipeline = TypeVar("Pipeline", StructurePipeline, SlatPipeline)
STAGES: tuple[Stage, ...] = ("structure", "slat")
# Every method, with variants that have parts of their own; and in how many parts the batch is cut.
CASES = [("cm:ema", 1), ("pcm:official", 1), ("scm:paper", 1), ("vm", 1), ("mdt", 2), ("mdt:official", 1), ("gd", 1)]
CASES += [
    (label, 1) for label in ("kd", "ect", "tcm", "meanflow", "ayf", "lmd", "shortcut", "dmd2", "ladd", "rcm", "sid")
]
NO_DATA = "no data"  # how torch refuses to bring a tensor back from meta: everything before it was done there


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch has no bincount for meta. Its shape is known where it is used here: `minlength`."""
    real = torch.bincount

    def counted(x: Tensor, minlength: int) -> Tensor:
        return x.new_zeros(minlength) if x.is_meta else real(x, minlength=minlength)

    monkeypatch.setattr(torch, "bincount", counted)


def on_meta(pipeline: Pipeline) -> Pipeline:
    parts = {name: copy.deepcopy(part).to(META) for name, part in vars(pipeline).items() if isinstance(part, nn.Module)}
    numbers = {name: part.to(META) for name, part in vars(pipeline).items() if isinstance(part, Tensor)}
    return replace(pipeline, **parts, **numbers)


def moved(task: StageTask) -> StageTask:
    return replace(task, pipeline=on_meta(task.pipeline))


def batches_of(task: Task, count: int) -> list[Batch]:
    return [task.draw(0, 0, Part(number, count)) for number in range(count)]


def student(label: str, task: StageTask, folder: Path, settings: Train = TRAIN) -> Student:
    method = entrant(label, {"kd": {"teacher_steps": 2}}, SAMPLER).distillation
    return Student(label, method, task.student(), settings, settings.steps, folder / label.replace(":", "-"))


def test_a_world_is_on_one_device(tiny_folder: Path):
    world = load_world(tiny_folder, "meta")
    parts = [part for stage in STAGES for part in vars(world.stage(stage)).values()]
    networks = [part for part in parts if isinstance(part, nn.Module)]
    tensors = [tensor for network in networks for tensor in chain(network.parameters(), network.buffers())]
    assert len(networks) == 9
    assert {tensor.device for tensor in (*tensors, world.whole.mean, world.whole.std)} == {META}
    assert world.structure.device == world.whole.device == META


def test_the_cases_have_every_method():
    assert {label.partition(":")[0] for label, _ in CASES} == {*DISTILLATIONS, *MATCHING, *CONTROLS}


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(("label", "count"), CASES)
def test_every_method_learns_there(label: str, count: int, stage: Stage, tmp_path: Path, counting: None):
    """A training step as far as meta goes: loss and backward of every part, and the optimiser's update."""
    here = small_task(stage)
    there, batches = moved(here), batches_of(here, count)
    for batch in batches:  # neighbours and windows follow from values: found on the CPU, they move with the batch
        for strength in (0.0, 1.0):
            here.teacher(batch)(batch.x_0, batch.u, strength)
    one = student(label, there, tmp_path)
    for number, batch in enumerate(batches):
        points = loop._points(batch, there, TRAIN, one.device)
        share = loop._share(one, there, Part(number, count), points, 0, 0)
        loss = one.method.loss(share.step)
        assert loss.value.device == META
        assert {value.device for value in loss.diagnostics.values()} == {META}
        one.learner.backward(loss.value * share.weight)
    assert {gradient.device for gradient in one.learner.gradients()} == {META}
    one.learner._update()
    assert len(one.learner.gradients()) > 0


@pytest.mark.parametrize("stage", STAGES)
def test_a_batch_is_drawn_alike_for_every_device(stage: Stage):
    here, there = small_task(stage).draw(3, 7), moved(small_task(stage)).draw(3, 7)
    for name in ("x_0", "noise", "u"):
        assert torch.equal(getattr(here, name), getattr(there, name))
    assert there.cond.device == META
    batch = there.to(META)
    assert {batch.x_0.device, batch.noise.device, batch.u.device, batch.layout.device} == {META}  # type: ignore


def test_a_checkpoint_goes_on_where_the_network_is(tmp_path: Path):
    settings, here = Train(steps=2, batch=2, warmup=0, more_ema=(0.9,)), small_task("structure")
    saved = student("cm:ema", here, tmp_path, settings)
    saved.learner.step(sum(p.square().sum() for p in saved.network.parameters()))  # type: ignore[arg-type]
    saved.save()
    found = student("cm:ema", moved(here), tmp_path, settings)
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
def test_structures_are_generated_there(sampler: Sampler):
    pipeline = on_meta(small_structure_pipeline())
    latents, nfe = made.structures(pipeline, pipeline.flow, sampler, pictures(2), [0, 1])
    assert nfe == (4 if isinstance(sampler, Euler) else 2)
    assert latents.shape == (2, *pipeline.latent_shape)
    occupancy = pipeline.decode(latents)
    assert (latents.device, occupancy.device) == (META, META)
    assert pipeline.encode(torch.zeros(occupancy.shape, dtype=torch.bool)).device == META


def test_latents_of_cells_are_sampled_and_decoded_there(monkeypatch: pytest.MonkeyPatch, counting: None):
    coords = coarse_coords(structures([6])[0], small_pipeline().resolution)
    known = one_voxels(coords)
    monkeypatch.setattr(made, "one_voxels", lambda coords: known)

    def all_of(pipeline: SlatPipeline) -> list[Tensor]:
        latents, nfe = made.slat(pipeline, pipeline.flow, Euler(2, 1.0, 2.0), coords, pictures(1)[0], 0)
        assert nfe == 4
        voxels = known.to(pipeline.device)
        x = SparseTensor(latents, voxels)
        features = torch.zeros(len(coords), pipeline.encoder.in_channels, device=pipeline.device)
        [gaussians] = pipeline.gaussian_decoder.to_gaussians(pipeline.gaussian_decoder(x))
        encoded, mesh = pipeline.encode(features, voxels), pipeline.mesh_decoder(x).feats
        return [latents, encoded, gaussians.means, gaussians.colours, mesh]

    here = all_of(small_pipeline())  # also finds neighbours and windows, which follow from values
    there = all_of(on_meta(small_pipeline()))
    assert {tensor.device for tensor in there} == {META}
    assert [tensor.shape for tensor in there] == [tensor.shape for tensor in here]


@pytest.mark.parametrize("name", TINY)
def test_extractors_look_there_and_bring_their_features_back(name: str, tiny_folder: Path):
    info = world_info(tiny_folder)
    looks = {"points": np.zeros((1, 32, 6), np.float32), "pictures": np.zeros((2, 3, 64, 64), np.uint8)}
    kinds = {"tiny3d": ["points"], "ulip_tiny": ["points", "pictures"], "ulip_tiny_mesh": ["points", "pictures"]}
    here, there = (
        extractors_of([name], ProtocolSection(), info, Path(), where)[name].load() for where in ("cpu", "meta")
    )
    for kind in kinds.get(name, ["pictures"]):
        seen = here(looks[kind])
        assert (len(seen), seen.ndim) == (len(looks[kind]), 2)
        with pytest.raises(NotImplementedError, match=NO_DATA):
            there(looks[kind])


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


def test_processes_that_train_together_have_a_gpu_each(gpus: list[str], monkeypatch: pytest.MonkeyPatch):
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


def test_students_learn_where_their_networks_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """`train_together` moves every batch to the students."""
    places: list[torch.device] = []
    real = loop._points

    def noted(batch: Batch, task: Task, settings: Train, where: torch.device) -> object:
        places.append(where)
        return real(batch, task, settings, where)

    monkeypatch.setattr(loop, "_points", noted)
    task = small_task("structure")
    assert train_together([student("gd", task, tmp_path)], task, TRAIN, 0) == {}
    assert places == [torch.device("cpu")] * TRAIN.steps
