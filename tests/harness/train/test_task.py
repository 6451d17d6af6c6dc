"""Batches of both stages, the teacher's share in them, when guidance acts, and how samples weigh."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_stage import CHANNELS, IMAGE, SIDE, objects, shapes
from torch import Tensor

from mdtbench.flow.guidance import SharedTeacher, combine
from mdtbench.flow.path import diffuse
from mdtbench.flow.samplers import Euler
from mdtbench.flow.times import UNIFORM, LogitNormal, Uniform
from mdtbench.harness.settings.config import Train
from mdtbench.harness.settings.methods import entrant
from mdtbench.harness.train import loop
from mdtbench.harness.train.batch import Batch
from mdtbench.harness.train.data import SparseData, sparse_samples
from mdtbench.harness.train.loop import Student, train_together
from mdtbench.harness.train.parts import WHOLE, Part, cut
from mdtbench.harness.train.task import ChargedTeacher, Point, Points, StageTask, student_of
from mdtbench.methods.kd import KnowledgeDistillation
from mdtbench.trellis.pipeline import SamplerParams
from mdtbench.trellis.slat_pipeline import VoxelLayout

T_MIN, SEED = 0.01, 7
TRAIN = Train(steps=1, batch=4, warmup=0)
TEACHER = SamplerParams(steps=7, cfg_strength=3.0, cfg_interval=(0.48, 0.8), rescale_t=2.0)


@dataclass(frozen=True)
class Seeing:
    """A pipeline whose condition is the pictures themselves."""

    def condition(self, images: Tensor) -> Tensor:
        return images


def seeing(task: StageTask, batch: int, **changes: object) -> StageTask:
    """Without networks, on changed data."""
    return replace(task, pipeline=Seeing(), data=replace(task.data, **changes), batch_size=batch)  # type: ignore


def numbered_pictures(images: np.ndarray) -> np.ndarray:
    """Each object's show its number."""
    return np.arange(len(images), dtype=np.uint8)[:, None, None, None, None] * np.ones_like(images)


def numbered_cells() -> SparseData:
    """Latents say number, then x, y, z of the cell."""
    made = objects()
    owner = np.repeat(np.arange(len(made.counts)), made.counts)
    latents = torch.from_numpy(np.concatenate([owner[:, None], made.coords], 1).astype(np.float32))
    return replace(made, latents=latents, images=numbered_pictures(made.images))


def point_of(task: StageTask, batch: Batch) -> Point:
    return Points(batch, task.teacher(batch), T_MIN).at(UNIFORM)


def norm(t: Tensor) -> float:
    return float(t.square().mean().sqrt())


# ------------------------------------------------------------------------------------------------------------- batches


def test_a_batch_is_a_function_of_seed_and_step_alone(task: StageTask):
    first = task.draw(0, 5)
    torch.manual_seed(123)
    task.draw(0, 4)
    again = task.draw(0, 5)
    for name in ("x_0", "noise", "u", "cond"):
        assert torch.equal(getattr(first, name), getattr(again, name))
    if isinstance(first.layout, VoxelLayout):
        assert torch.equal(first.layout.voxels.coords, again.layout.voxels.coords)  # type: ignore[attr-defined]
    for other in (task.draw(0, 6), task.draw(1, 5)):
        assert not torch.equal(first.u, other.u)
        assert not torch.equal(first.cond, other.cond)
        assert not torch.equal(first.noise.flatten()[:8], other.noise.flatten()[:8])


def test_a_batch_pairs_latents_with_their_own_pictures(task: StageTask):
    if task.name == "structure":
        numbers = torch.arange(5.0)[:, None, None, None, None] * torch.ones(5, CHANNELS, SIDE, SIDE, SIDE)
        images = numbered_pictures(shapes().images)
        batch = seeing(task, 32, latents=numbers, images=images).draw(3, 0)
        found = batch.x_0[:, 0, 0, 0, 0]
    else:
        data = numbered_cells()
        batch = seeing(task, 32, **vars(data)).draw(3, 0)
        voxels = batch.layout.voxels  # type: ignore[attr-defined]
        assert torch.equal(batch.x_0[:, 1:], voxels.coords[:, 1:].float())
        assert voxels.lengths == [int(data.counts[int(i)]) for i in batch.cond[:, 0, 0, 0]]
        starts = [0, *np.cumsum(voxels.lengths)[:-1].tolist()]
        assert torch.equal(batch.x_0[:, 0], batch.x_0[starts, 0][voxels.sample])
        found = batch.x_0[starts, 0]
    assert torch.equal(batch.cond[:, 0, 0, 0].float(), found)
    assert set(found.tolist()) == {0.0, 1.0, 2.0, 3.0, 4.0}
    assert (batch.cond.shape, batch.cond.dtype) == ((32, 3, IMAGE, IMAGE), torch.uint8)


def test_noise_is_standard_normal_in_the_layout_of_the_batch(task: StageTask):
    batch = replace(task, batch_size=256).draw(0, 0)
    assert batch.noise.shape == batch.x_0.shape
    rows = batch.noise.flatten(1)
    assert len(torch.unique(rows, dim=0)) == len(rows)  # no two samples or cells share theirs
    # 6,000 numbers or more: four standard errors
    assert batch.noise.mean().item() == pytest.approx(0, abs=0.06)
    assert batch.noise.std().item() == pytest.approx(1, abs=0.04)
    assert batch.u.min() >= 0
    assert batch.u.max() < 1
    assert batch.u.mean().item() == pytest.approx(0.5, abs=0.08)


def test_pictures_are_shown_whole_and_every_view_of_them(task: StageTask):
    """Each object's three views, by their first pixels; the rest of a picture is as it was."""
    first = task.data.images[:, :1]  # type: ignore[attr-defined]
    images = np.tile(first, (1, 3, 1, 1, 1))
    images[..., 0, 0, 0] = np.arange(images[..., 0, 0, 0].size).reshape(images.shape[:2])
    shown = seeing(task, 256, images=images).draw(0, 0).cond.numpy().transpose(0, 2, 3, 1)
    found = {int(one[0, 0, 0]) for one in shown}
    assert found == set(range(images.shape[0] * 3))
    for one in shown:
        assert np.array_equal(one, images.reshape(-1, *images.shape[2:])[one[0, 0, 0]])


def test_sparse_samples_lie_one_after_the_other():
    coords = [np.array([[0, 1, 2]], np.int32), np.array([[3, 3, 3], [0, 0, 1]], np.int32)]
    made = sparse_samples(coords, torch.zeros(3, CHANNELS), torch.zeros(2, 3, IMAGE, IMAGE))
    voxels = made.layout.voxels  # type: ignore[attr-defined]
    assert voxels.coords.tolist() == [[0, 0, 1, 2], [1, 3, 3, 3], [1, 0, 0, 1]]
    assert (voxels.coords.dtype, made.layout.batch_size) == (torch.int32, 2)


def test_a_student_has_at_least_float32_weights(structure_task: StageTask):
    """An update of 1e-8 is lost in the weights of a float16 torso."""
    half = student_of(structure_task.pipeline.flow).half()
    made = student_of(half)
    assert {p.dtype for p in made.parameters()} == {torch.float32}
    assert {p.dtype for p in half.parameters()} == {torch.float16}
    assert all(torch.equal(a, b.float()) for a, b in zip(made.parameters(), half.parameters(), strict=True))


# --------------------------------------------------------------------------------------------------------------- parts


def test_a_part_of_a_batch_has_its_own_voxels(slat_task: StageTask):
    """Samples 1 and 2 of four: their rows, numbered from 0, on the cells that they have in the whole batch."""
    batch = slat_task.draw(SEED, 0)
    assert isinstance(batch.layout, VoxelLayout)
    part, rows = batch.layout.part(1, 3)
    lengths = batch.layout.voxels.lengths
    assert part.voxels.lengths == lengths[1:3]
    assert part.voxels.batch_size == part.batch_size == 2
    there = slice(lengths[0], lengths[0] + lengths[1] + lengths[2])
    assert torch.equal(part.voxels.coords[:, 1:], batch.layout.voxels.coords[there, 1:])
    assert torch.equal(part.voxels.coords[:, 0] + 1, batch.layout.voxels.coords[there, 0])
    assert torch.equal(part.sample, part.voxels.sample)
    assert torch.equal(batch.x_0[rows], batch.x_0[there])


def test_velocities_on_parts_are_those_on_the_whole(task: StageTask):
    """A part that kept the cells or the pictures of other samples would be far off."""
    batch = task.draw(SEED, 1)
    point = point_of(task, batch)
    whole = point.teacher(point.x_t, point.t, 1.5)
    points = [point_of(task, cut(batch, Part(i, 2))) for i in range(2)]
    found = torch.cat([at.teacher(at.x_t, at.t, 1.5) for at in points])
    # float32, matrix products of another number of rows
    torch.testing.assert_close(found, whole, rtol=1e-4, atol=1e-4)
    assert whole.std() > 0.1


# ------------------------------------------------------------------------------------------------- teacher and guidance


def test_methods_of_one_time_density_share_a_point(task: StageTask):
    batch = task.draw(0, 0)
    points = Points(batch, task.teacher(batch), T_MIN)
    uniform, shifted = points.at(Uniform()), points.at(LogitNormal(1.0, 1.0))
    assert points.at(Uniform()) is uniform
    assert points.at(LogitNormal(1.0, 1.0)) is shifted
    assert torch.equal(uniform.t, T_MIN + (1 - T_MIN) * batch.u)
    assert torch.equal(shifted.x_t, diffuse(batch.x_0, batch.noise, shifted.t, batch.layout))
    # Both densities rise with u: the shared draw keeps the order of the samples' times.
    assert torch.equal(uniform.t.argsort(), shifted.t.argsort())


def test_the_condition_matters_and_guidance_is_linear_in_its_strength(task: StageTask):
    batch = task.draw(SEED, 0)
    point = point_of(task, batch)
    v_cond, guided = (point.teacher(point.x_t, point.t, s) for s in (0.0, 2.0))
    null = replace(batch, cond=torch.zeros_like(batch.cond))
    v_neg = task.bind(task.pipeline.flow, null)(point.x_t, point.t)
    assert (v_cond - v_neg).abs().max() > 1e-3
    # (1 + s) v_cond - s v_neg with s = 2; float32, a batch of another size
    torch.testing.assert_close(guided, 3 * v_cond - 2 * v_neg, rtol=1e-4, atol=1e-4)


def charged(task: StageTask, batch: Batch, x: Tensor, t: Tensor, interval: tuple[float, float]) -> ChargedTeacher:
    return ChargedTeacher(Point(t, x, SharedTeacher(task.teacher(batch), x, t)), batch.layout, interval)


def test_guidance_acts_at_the_times_at_which_the_teacher_s_sampler_has_it(task: StageTask):
    """At every time of the sampler, both ends of the interval among them, at the shared point and elsewhere."""
    what = Euler(25, 1.0, 3.0, (0.48, 0.8)).computation()
    batch = task.draw(SEED, 0)
    x, found = batch.x_0, []
    with torch.no_grad():
        for time, strength in zip(what.times, what.strengths, strict=False):
            t = torch.full((batch.layout.batch_size,), time)
            expected = combine(*task.teacher(batch).pair(x, t), strength)
            teacher = charged(task, batch, x, t, (0.48, 0.8))
            assert torch.equal(teacher(x, t, 3.0), expected), time
            assert torch.equal(teacher(x.clone(), t, 3.0), expected), time
            found.append(strength)
    assert found.count(3.0) == 9  # 0.48, 0.52, ..., 0.8


def test_every_sample_is_guided_at_its_own_time(task: StageTask):
    batch = task.draw(SEED, 0)
    x, t = batch.x_0, torch.tensor([0.3, 0.48, 0.8, 0.9])
    with torch.no_grad():
        pair = task.teacher(batch).pair(x, t)
        found = charged(task, batch, x, t, (0.48, 0.8))(x, t, 3.0)
        everywhere = charged(task, batch, x, t, (0.0, 1.0))(x, t, 3.0)
    assert torch.equal(found, combine(*pair, batch.layout.expand(torch.tensor([0.0, 3.0, 3.0, 0.0]))))
    assert torch.equal(everywhere, combine(*pair, 3.0))
    assert norm(found - everywhere) > 1e-3


def test_a_shared_pair_belongs_to_one_time(task: StageTask):
    """Another time at the same x is another pair."""
    batch = task.draw(SEED, 0)
    point = point_of(task, batch)
    other = point.t / 2
    teacher = ChargedTeacher(point, batch.layout, (0.0, 1.0))
    with torch.no_grad():
        for t in (point.t, other, point.t):
            assert torch.equal(teacher(point.x_t, t, 2.0), combine(*task.teacher(batch).pair(point.x_t, t), 2.0))


def test_methods_have_the_settings_of_the_teacher_s_sampler():
    for name in ("cm", "ect", "pcm", "scm", "vm", "mdt", "gd", "kd", "teacher"):
        method = entrant(name, {}, TEACHER).method
        assert (method.cfg_strength, method.cfg_interval, method.rescale_t) == (3.0, (0.48, 0.8), 2.0)
    for steps in (7, 12):
        kd = entrant("kd", {}, replace(TEACHER, steps=steps)).method
        assert isinstance(kd, KnowledgeDistillation)
        assert kd.teacher_steps == steps
    assert entrant("kd", {"kd": {"teacher_steps": 3}}, TEACHER).method.teacher_steps == 3  # type: ignore[attr-defined]


def test_kd_learns_where_the_teacher_s_own_sampler_ends(task: StageTask, tmp_path: Path):
    made = Student("kd", entrant("kd", {}, TEACHER).distillation, task.student(), TRAIN, 1, tmp_path)
    batch = task.draw(SEED, 0)
    points = Points(batch, task.teacher(batch), T_MIN)
    step = loop._share(made, task, WHOLE, points, SEED, 0).step
    assert isinstance(made.method, KnowledgeDistillation)
    end = made.method.teacher_end(step)
    ends = {}
    for steps, interval in ((7, TEACHER.cfg_interval), (7, (0.0, 1.0)), (25, TEACHER.cfg_interval)):
        sampler = Euler(steps, TEACHER.rescale_t, TEACHER.cfg_strength, interval)
        with torch.no_grad():
            ends[steps, interval] = sampler.sample(task.teacher(batch), batch.noise, batch.layout, [])
    gaps = [norm(end - other) / norm(end) for other in ends.values()]
    assert gaps[0] < 1e-4  # float32, a batch of another size where there is no guidance
    assert min(gaps[1:]) > 1e-3


@pytest.mark.parametrize("reduction", ["per_sample", "per_voxel"])
@pytest.mark.parametrize("interval", [(0.0, 1.0), (0.3, 0.7)])
def test_the_loss_of_a_student_that_starts_as_its_teacher_is_that_of_guidance(
    reduction: str, interval: tuple[float, float], task: StageTask, tmp_path: Path
):
    """`gd`'s first one: of guidance inside of the interval alone, where objects or voxels weigh the same."""
    sampler = replace(TEACHER, cfg_interval=interval)
    method = entrant("gd", {"gd": {"reduction": reduction}}, sampler).distillation
    made = Student("gd", method, task.student(), TRAIN, 1, tmp_path)
    assert train_together([made], task, TRAIN, SEED) == {}
    batch = task.draw(SEED, 0)
    point = Points(batch, task.teacher(batch), TRAIN.t_min).at(method.times)
    with torch.no_grad():
        v_cond, v_neg = task.teacher(batch).pair(point.x_t, point.t)
    inside = (interval[0] <= point.t) & (point.t <= interval[1])
    assert inside.all() == (interval == (0.0, 1.0))
    error = batch.layout.expand(3.0 * inside) * (v_cond - v_neg)
    lengths = batch.layout.voxels.lengths if isinstance(batch.layout, VoxelLayout) else [1] * len(error)
    of_samples = torch.stack([part.square().mean() for part in error.split(lengths)])
    expected = of_samples.mean() if reduction == "per_sample" else error.square().mean()
    logged = json.loads((made.folder / "log.jsonl").read_text().splitlines()[0])["loss"]
    assert logged == pytest.approx(expected.item(), rel=1e-4)  # float32, other batch sizes
    assert expected > 1e-4
    if task.name == "slat":
        assert of_samples.mean().item() != pytest.approx(error.square().mean().item(), rel=1e-2)


def test_whoever_asks_first_the_pair_is_charged_to_all_who_use_it(task: StageTask):
    batch = task.draw(SEED, 0)
    point = point_of(task, batch)
    first, second, third, fourth = (ChargedTeacher(point, batch.layout, (0.0, 1.0)) for _ in range(4))
    for teacher in (first, second, second):
        teacher(point.x_t, point.t, 1.0)
    third(point.x_t + 1, point.t, 1.0)  # points of their own: paid for when they are computed
    fourth(point.x_t, point.t / 2, 1.0)
    assert point.pair_s > 0
    assert [teacher.owed_s for teacher in (first, second, third, fourth)] == [0, point.pair_s, 0, 0]


def test_only_the_kept_pair_is_timed(monkeypatch: pytest.MonkeyPatch, structure_task: StageTask):
    """A teacher that is asked elsewhere must not make a GPU wait."""
    times: list[float] = []
    monkeypatch.setattr("mdtbench.harness.train.task.clock", lambda where: times.append(0.0) or float(len(times)))
    batch = structure_task.draw(SEED, 0)
    point = point_of(structure_task, batch)
    teacher = ChargedTeacher(point, batch.layout, (0.0, 1.0))
    teacher(point.x_t + 1, point.t, 1.0)
    assert times == []
    teacher(point.x_t, point.t, 1.0)
    teacher(point.x_t, point.t, 2.0)
    assert len(times) == 2
