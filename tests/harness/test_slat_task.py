"""Distilling the second stage: batches of sparse latents, every method on them, parts, and how samples weigh."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from small_stage import CHANNELS, COND, IMAGE, objects, pictures, small_pipeline
from torch import Tensor

from mdtbench.flow.times import UNIFORM
from mdtbench.harness.config import Train
from mdtbench.harness.parameters import entrant
from mdtbench.harness.parts import parts_of
from mdtbench.harness.slat_task import SlatData, SlatTask, cells_of
from mdtbench.harness.task import Points
from mdtbench.harness.train import Student, student_file, train_together
from mdtbench.trellis.slat_pipeline import SlatPipeline, VoxelLayout
from mdtbench.trellis.sparse import Voxels

NAMES = ("cm", "pcm", "scm", "vm", "mdt", "gd", "kd")
TRAIN = Train(steps=1, batch=4, warmup=0, ema=0.5, clip=1e9)
SHORT = {"kd": {"teacher_steps": 3}}  # the default of 25 takes time and shows nothing more
SEED = 7


@pytest.fixture(scope="module")
def pipeline() -> SlatPipeline:
    return small_pipeline()


@pytest.fixture(scope="module")
def task(pipeline: SlatPipeline) -> SlatTask:
    return SlatTask(pipeline, objects(), TRAIN.batch)


def trained(
    names: Sequence[str],
    task: SlatTask,
    folder: Path,
    changes: dict[str, dict[str, object]] | None = None,
    train: Train = TRAIN,
) -> dict[str, Student]:
    """Students that trained together."""
    made = {}
    for name in names:
        method = entrant(name, {**SHORT, **(changes or {})}, task.pipeline.sampler).distillation
        made[name] = Student(name, method, task.student(), train, train.steps, folder / name)
    assert train_together(list(made.values()), task, train, SEED) == {}
    return made


def tensors(made: Student) -> dict[str, Tensor]:
    """Weights, their average, Adam's moments, and the file it wrote."""
    return {**made.learner.state(), **{f"file/{k}": v for k, v in load_file(student_file(made.folder)).items()}}


def log_of(made: Student) -> dict[str, float]:
    """The first step's entry."""
    return json.loads((made.folder / "log.jsonl").read_text().splitlines()[0])


@pytest.fixture(scope="module")
def together(task: SlatTask, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Student]:
    return trained(NAMES, task, tmp_path_factory.mktemp("together"), train=TRAIN.model_copy(update={"steps": 2}))


@dataclass(frozen=True)
class Seeing:
    """A pipeline whose condition is the pictures themselves."""

    pipeline: SlatPipeline

    def condition(self, images: Tensor) -> Tensor:
        return images

    def layout(self, voxels: Voxels) -> VoxelLayout:
        return self.pipeline.layout(voxels)


def numbered() -> SlatData:
    """Objects whose pictures show their number and whose latents say number, then x, y, z of the cell."""
    made = objects()
    owner = np.repeat(np.arange(len(made.counts)), made.counts)
    latents = torch.from_numpy(np.concatenate([owner[:, None], made.coords], 1).astype(np.float32))
    images = np.arange(len(made.counts), dtype=np.uint8)[:, None, None, None, None] * np.ones_like(made.images)
    return replace(made, latents=latents, images=images, window=(1.0, 1.0))


def test_a_batch_is_a_function_of_seed_and_step_alone(task: SlatTask):
    first = task.draw(0, 5)
    torch.manual_seed(123)
    task.draw(0, 4)
    again = task.draw(0, 5)
    assert torch.equal(first.layout.voxels.coords, again.layout.voxels.coords)
    for name in ("x_0", "noise", "u", "cond"):
        assert torch.equal(getattr(first, name), getattr(again, name))
    for other in (task.draw(0, 6), task.draw(1, 5)):
        assert not torch.equal(first.u, other.u)
        assert not torch.equal(first.cond, other.cond)
        assert not torch.equal(first.noise.flatten()[:8], other.noise.flatten()[:8])


def test_a_batch_pairs_latents_with_their_own_cells_and_pictures(pipeline: SlatPipeline):
    data = numbered()
    batch = SlatTask(Seeing(pipeline), data, 32).draw(3, 0)  # type: ignore[arg-type]
    voxels = batch.layout.voxels
    shown = batch.cond[:, 0, 0, 0].float()
    assert batch.cond.shape == (32, 3, IMAGE, IMAGE)
    assert torch.equal(batch.x_0[:, 0], shown[voxels.sample])
    assert torch.equal(batch.x_0[:, 1:], voxels.coords[:, 1:].float())
    assert voxels.lengths == [int(data.counts[int(i)]) for i in shown]
    assert len(set(shown.tolist())) == len(data.counts)


def test_noise_is_standard_normal_in_the_layout_of_the_batch(pipeline: SlatPipeline):
    batch = SlatTask(pipeline, objects(), 256).draw(0, 0)
    assert batch.noise.shape == batch.x_0.shape == (len(batch.layout.voxels), CHANNELS)
    assert batch.cond.shape == (256, (IMAGE // 8) ** 2, COND)
    assert len(torch.unique(batch.noise, dim=0)) == len(batch.noise)  # no two cells share theirs
    # 6,000 numbers: four standard errors
    assert batch.noise.mean().item() == pytest.approx(0, abs=0.06)
    assert batch.noise.std().item() == pytest.approx(1, abs=0.04)
    assert batch.u.min() >= 0
    assert batch.u.max() < 1
    assert batch.u.mean().item() == pytest.approx(0.5, abs=0.08)


def test_cells_of_takes_objects_in_the_order_asked_for():
    data = numbered()
    rows, voxels = cells_of(data.counts, data.coords, np.array([2, 0, 2]))
    assert voxels.batch_size == 3
    assert voxels.lengths == [3, 5, 3]
    assert data.latents[rows][:, 0].tolist() == [2.0] * 3 + [0.0] * 5 + [2.0] * 3
    assert torch.equal(data.latents[rows][:, 1:], voxels.coords[:, 1:].float())
    assert voxels.coords.dtype == torch.int32


def test_a_part_of_a_batch_has_its_own_voxels(task: SlatTask):
    """Samples 1 and 2 of four: their rows, numbered from 0, on the cells that they have in the whole batch."""
    batch = task.draw(SEED, 0)
    layout = batch.layout
    part, rows = layout.part(1, 3)
    lengths = layout.voxels.lengths
    assert isinstance(part, VoxelLayout)
    assert part.voxels.lengths == lengths[1:3]
    assert part.voxels.batch_size == part.batch_size == 2
    whole = layout.voxels.coords[lengths[0] : lengths[0] + lengths[1] + lengths[2]]
    assert torch.equal(part.voxels.coords[:, 1:], whole[:, 1:])
    assert torch.equal(part.voxels.coords[:, 0] + 1, whole[:, 0])
    assert torch.equal(part.sample, part.voxels.sample)
    assert torch.equal(batch.x_0[rows], batch.x_0[lengths[0] : lengths[0] + lengths[1] + lengths[2]])


def test_velocities_on_parts_are_those_on_the_whole(task: SlatTask):
    """A part that kept the cells or the pictures of other samples would be far off."""
    batch = task.draw(SEED, 1)
    points = Points(batch, task.teacher(batch), TRAIN.t_min).at(UNIFORM)
    whole = points.teacher(points.x_t, points.t, 1.5)
    found = []
    for part in parts_of(batch, 2, range(2)):
        at = Points(part.batch, task.teacher(part.batch), TRAIN.t_min).at(UNIFORM)
        found.append(at.teacher(at.x_t, at.t, 1.5))
    # float32, matrix products of another number of rows
    torch.testing.assert_close(torch.cat(found), whole, rtol=1e-4, atol=1e-4)
    assert whole.std() > 0.1


def test_the_condition_matters_and_guidance_is_linear_in_its_strength(task: SlatTask):
    batch = task.draw(SEED, 0)
    point = Points(batch, task.teacher(batch), TRAIN.t_min).at(UNIFORM)
    v_cond, guided = (point.teacher(point.x_t, point.t, s) for s in (0.0, 2.0))
    null = replace(batch, cond=torch.zeros_like(batch.cond))
    v_neg = task.bind(task.pipeline.flow, null)(point.x_t, point.t)
    assert (v_cond - v_neg).abs().max() > 1e-3
    # (1 + s) v_cond - s v_neg with s = 2; float32, a batch of another size
    torch.testing.assert_close(guided, 3 * v_cond - 2 * v_neg, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_every_method_takes_steps_that_move_its_student(
    name: str, together: dict[str, Student], pipeline: SlatPipeline
):
    made, start = together[name], pipeline.flow.state_dict()
    assert made.learner.skipped == 0
    assert np.isfinite(log_of(made)["loss"])
    assert log_of(made)["grad_norm"] > 0
    written = load_file(student_file(made.folder))
    assert set(written) == set(start)
    for key in ("out_layer.weight", "input_layer.weight", "blocks.0.cross_attn.to_q.weight"):
        assert not torch.equal(written[key], start[key]), key
    assert all(value.isfinite().all() for value in written.values())


def test_methods_differ_and_the_teacher_stays(together: dict[str, Student], pipeline: SlatPipeline):
    weights = [load_file(student_file(made.folder))["out_layer.weight"] for made in together.values()]
    for i, one in enumerate(weights):
        assert all(not torch.equal(one, other) for other in weights[i + 1 :])
    fresh = small_pipeline().flow.state_dict()
    assert all(torch.equal(fresh[key], value) for key, value in pipeline.flow.state_dict().items())


@pytest.mark.parametrize("name", NAMES)
def test_lockstep_equals_solo_bit_for_bit(name: str, together: dict[str, Student], task: SlatTask, tmp_path: Path):
    alone = trained([name], task, tmp_path, train=TRAIN.model_copy(update={"steps": 2}))[name]
    expected, found = tensors(together[name]), tensors(alone)
    assert set(found) == set(expected)
    assert [key for key in expected if not torch.equal(found[key], expected[key])] == []


@pytest.mark.parametrize("name", NAMES)
def test_two_parts_have_the_gradient_of_the_whole_batch(name: str, task: SlatTask, tmp_path: Path):
    """Samples are of different size, and some methods draw numbers of their own: parts must not draw them anew."""
    whole = trained([name], task, tmp_path / "1")[name]
    cut = trained([name], task, tmp_path / "2", train=TRAIN.model_copy(update={"accumulate": 2}))[name]
    pairs = zip(gradients(whole), gradients(cut), strict=True)
    gap = sum((a - b).square().sum() for a, b in pairs).sqrt() / norm(gradients(whole))
    # float32 sums in another order; methods that divide differences by delta = 0.01 enlarge them to 1e-5
    assert gap < 1e-4


def gradients(made: Student) -> list[Tensor]:
    return [p.grad for p in made.network.parameters() if p.grad is not None]


def norm(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat([part.flatten() for part in parts]).norm()


@pytest.mark.parametrize("reduction", ["per_sample", "per_voxel"])
def test_reduction_says_whether_objects_or_voxels_weigh_the_same(reduction: str, task: SlatTask, tmp_path: Path):
    """The student of `gd` starts as its teacher, so its first loss is that of guidance alone."""
    made = trained(["gd"], task, tmp_path, {"gd": {"reduction": reduction}})["gd"]
    batch = task.draw(SEED, 0)
    point = Points(batch, task.teacher(batch), TRAIN.t_min).at(made.method.times)
    with torch.no_grad():
        error = task.bind(task.pipeline.flow, batch)(point.x_t, point.t)
        error = error - point.teacher(point.x_t, point.t, made.method.cfg_strength)
    of_samples = [part.square().mean() for part in error.split(batch.layout.voxels.lengths)]
    expected = {"per_sample": torch.stack(of_samples).mean(), "per_voxel": error.square().mean()}
    assert log_of(made)["loss"] == pytest.approx(expected[reduction].item(), rel=1e-4)  # float32, other batch sizes
    assert expected["per_sample"].item() != pytest.approx(expected["per_voxel"].item(), rel=1e-2)


def test_pictures_are_windowed_by_the_draw(pipeline: SlatPipeline):
    """Of a white picture, a window of 0.5 leaves a quarter white and the rest grey."""
    data = objects()
    white = replace(data, images=np.full_like(data.images, 255), window=(0.5, 0.5))
    batch = SlatTask(Seeing(pipeline), white, 8).draw(0, 0)  # type: ignore[arg-type]
    assert ((batch.cond == 255).float().mean((1, 2, 3)) == 0.25).all()
    assert ((batch.cond == 128) | (batch.cond == 255)).all()
    assert pictures(1).shape == (1, IMAGE, IMAGE, 3)
